"""Good files of every format, shared by what damages them."""

import pytest
from attack import write_good_files


@pytest.fixture(scope="session")
def good(unpaired, paired, tmp_path_factory):
    """Folder with a good file of each format, and a model's folder; not to be changed."""
    folder = tmp_path_factory.mktemp("good")
    write_good_files(folder, unpaired, paired)
    return folder
