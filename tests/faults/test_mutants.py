"""Damaged inputs end in an answer: a documented exit code, one message, no traceback, no hang, no rest."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from attack import FILES, WITHOUT_DRY_RUN, import_once, try_mutant

QUICK = 12  # mutants a format in the default suite
FIRST, _, MANY = os.environ.get("MOCLI_TEST_MUTANTS", "150").rpartition("+")
"""How many a format in the slow part; `1000+500` for 500 of them from the seed 1,000 on."""


EVERY = 3
"""Of so many seeds one is run as well, where its dry run passes: a run takes four times as long."""


@pytest.mark.parametrize("kind", list(FILES))
def test_what_is_not_damaged_is_taken(kind, good, tmp_path):
    """Or else the tests below would look at another fault."""
    answer = try_mutant(kind, None, good, tmp_path, dry=True)
    assert (answer.code, answer.wrong) == (0, "")


@pytest.mark.parametrize("kind", list(FILES))
def test_a_damaged_file_gets_an_answer(kind, good, tmp_path):
    answers = [try_mutant(kind, seed, good, tmp_path, dry=True) for seed in range(QUICK)]
    wrong = [answer.wrong for answer in answers if answer.wrong]
    assert wrong == [], "\n".join(wrong)


@pytest.fixture(scope="module")
def imported(good, tmp_path_factory):
    """Make everything ready that forked processes need."""
    import_once(good, tmp_path_factory.mktemp("once"))


@pytest.mark.slow
@pytest.mark.usefixtures("imported")
@pytest.mark.parametrize("kind", list(FILES))
def test_many_damaged_files_get_an_answer_and_a_dry_run_keeps_its_promise(kind, good, tmp_path, capsys):
    wrong, codes, after = [], Counter(), Counter()
    longest = held = 0
    first = int(FIRST or QUICK)
    for seed in range(first, first + int(MANY)):
        answers = [try_mutant(kind, seed, good, tmp_path, dry=True)]
        codes[answers[0].code] += 1
        if answers[0].code == 0 and seed % EVERY == 0 and kind not in WITHOUT_DRY_RUN:
            answers.append(try_mutant(kind, seed, good, tmp_path, dry=False))
            after[answers[1].code] += 1
            if answers[1].code:
                told = f"the dry run passed, the run ended with {answers[1].code}"
                wrong.append(f"{kind} {seed} ({answers[0].damage}): {told}")
        wrong += [answer.wrong for answer in answers if answer.wrong]
        longest, held = (max(longest, *(a.seconds for a in answers)), max(held, *(a.held for a in answers)))
    with capsys.disabled():
        told = [", ".join(f"{code}: {n}" for code, n in sorted(c.items())) for c in (codes, after)]
        print(f"\n| {kind} | {MANY} | {told[0]} | {told[1]} | {longest:.1f} | {held >> 20} | {len(wrong)} |")
    assert wrong == [], "\n".join([f"{len(wrong)} of {MANY}", *wrong])
