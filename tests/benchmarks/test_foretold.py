"""Every subcommand foretells its memory within a factor of two on a real set."""

import pytest
from foretold import COMMANDS, DATA, run


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("name", COMMANDS)
def test_memory_is_foretold_within_a_factor_of_two(name):
    if not DATA.is_dir():
        pytest.skip(f"the real data sets are not at {DATA}")
    found = run(name, 20)
    assert 0.5 < found["memory_told"] / found["memory"] < 2
