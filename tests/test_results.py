"""The page of results names tests that exist, and has every row of the papers."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
OF_PAPERS = {1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19, 20, 22, 23, 24}


def test_tests_that_the_page_names_exist():
    """A name may end in dots: then it is the beginning of one."""
    files = {path.name: path for path in TESTS.rglob("test_*.py")}
    named = set(re.findall(r"`(?:[\w/]+/)?(test_\w+\.py)(?:::(test_\w+))?", PAGE))
    assert len(named) > 40
    lost = [
        (file, name)
        for file, name in named
        if file not in files or (name and f"def {name}" not in files[file].read_text(encoding="utf-8"))
    ]
    assert not lost


def test_every_row_of_the_papers_has_a_line():
    section = PAGE.split("## Rows of the papers")[1].split("\n## ")[0]
    told = [line.split("|")[1] for line in section.splitlines() if line.startswith("| P")]
    assert {int(n) for cell in told for n in re.findall(r"\bP(\d+)\b", cell)} == OF_PAPERS
    assert all(line.count("|") == 5 for line in section.splitlines() if line.startswith("| P"))
