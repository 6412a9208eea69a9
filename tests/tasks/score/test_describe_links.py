"""Links that the integrated cells contradict are named; sound ones are not."""

import numpy as np

from mocli.metrics.embedding import Embedding
from mocli.metrics.matching import concordance_by_link
from mocli.tasks.score.evaluate import WORST_LINKS, LinkScores, Scores, describe_links


class FakeRun:
    def __init__(self):
        self.warnings, self.report = [], type("R", (), {"tables": {}})()

    def warn(self, message):
        self.warnings.append(message)


def describe(concordance, *, n_cells=400, n_links=None):
    names = tuple(f"link{i}" for i in range(len(concordance)))
    links = LinkScores(names, np.asarray(concordance), n_cells, n_links or len(names))
    run = FakeRun()
    describe_links(run, Scores({}, {}, {}, {("rna", "prot"): links}))
    return run


def test_a_flipped_link_is_found_in_the_latent():
    rng = np.random.default_rng(0)
    kind = rng.normal(size=(300, 3)).astype(np.float32)
    x = kind + 0.3 * rng.normal(size=kind.shape).astype(np.float32)
    y = kind + 0.3 * rng.normal(size=kind.shape).astype(np.float32)
    y[:, 1] *= -1
    linked = {("rna", "prot"): (x, y, ("a", "b", "c"))}
    found = concordance_by_link(Embedding(z={"rna": kind, "prot": kind}, linked=linked))["rna", "prot"]
    assert found[1] < -0.5
    assert min(found[0], found[2]) > 0.5
    run = describe(found)
    (warning,) = run.warnings
    assert "1 of 3 links of rna and prot (link1)" in warning
    assert next(row[0] for row in run.report.tables["links_rna_prot"]["rows"]) == "link1"


def test_chance_and_constant_links_are_no_contradiction():
    run = describe([-0.15, 0.0, 0.4, np.nan])
    assert not run.warnings
    assert [row[0] for row in run.report.tables["links_rna_prot"]["rows"]] == ["link0", "link1", "link2"]
    assert not describe([np.nan]).report.tables


def test_the_table_is_bounded_and_says_so():
    run = describe(np.linspace(0.1, 0.9, 200), n_links=5000)
    table = run.report.tables["links_rna_prot"]
    assert len(table["rows"]) == WORST_LINKS
    assert "of 200 drawn" in table["sentence"]
