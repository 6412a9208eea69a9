"""Pictures along the genome: the gene that is drawn, its peaks in order, means by group."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mocli.data.features.genes import GeneTable
from mocli.data.features.index import Features
from mocli.data.features.loci import find_vicinity
from mocli.report import featureplots
from mocli.report.ranking import compare
from mocli.tasks.gene2peak.report import conclude, draw_tracks, hold_against, locus_of, mean_by_group
from mocli.types import ModalityKind

PEAKS = ("chr1:60000-60500", "chr1:9000-9500", "chr2:100-400", "chr1:49000-51500")


@pytest.fixture
def near():
    """One gene on the minus strand, whose TSS is base 50,999."""
    row = {"gene": "A", "gene_id": "", "chrom": "chr1", "start": 20_000, "end": 51_000, "strand": "-"}
    frame = pd.DataFrame([{**row, "tss": 50_999}])
    return find_vicinity(
        Features("rna", ModalityKind.RNA, ("A",)),
        Features("atac", ModalityKind.ATAC, PEAKS),
        GeneTable("genes.tsv", frame),
    )


def test_a_gene_lies_where_the_table_says_with_its_peaks_in_order(near):
    locus, peaks = locus_of(near, "A")
    assert (locus.chrom, locus.tss, locus.strand, locus.body) == ("chr1", 50_999, "-", (20_000, 51_000))
    assert [PEAKS[k] for k in peaks] == [PEAKS[1], PEAKS[3], PEAKS[0]]
    assert locus.start.tolist() == [9_000, 49_000, 60_000]


def test_means_are_over_all_cells_and_over_the_largest_groups():
    peaks = sparse.csr_matrix(np.arange(12, dtype=np.float32).reshape(4, 3))
    labels = np.array(["b", "a", None, "b"], dtype=object)
    found = mean_by_group(peaks, labels)
    assert list(found) == ["all", "b", "a"]
    np.testing.assert_allclose(found["all"], [4.5, 5.5, 6.5])
    np.testing.assert_allclose(found["b"], [4.5, 5.5, 6.5])
    np.testing.assert_allclose(found["a"], [3, 4, 5])


@pytest.mark.parametrize("changed", [False, True])
def test_a_picture_has_what_belongs_to_each_peak(near, changed, monkeypatch):
    rows = [
        ("A", PEAKS[j], group, 30, (j + 1) / 10, 0.1 * j, 0.01 * j, 0)
        for group in ("all", "x")
        for j in (3, 1, 0)
    ]
    columns = ["gene", "peak", "group", "n_cells", "score", "change", "fdr", "distance_to_tss"]
    table = pd.DataFrame(rows, columns=columns)
    given = {}

    def look(locus, links, **tracks):
        given.update(tracks, links=links.tolist())
        return featureplots.locus_plot(locus, links, **tracks)

    monkeypatch.setattr("mocli.tasks.gene2peak.report.locus_plot", look)
    openness = {"all": np.arange(4.0), "x": np.arange(4.0) + 1}
    (drawn,) = draw_tracks(near, table, openness, link="score", changed=changed)
    assert drawn.title == "A"
    assert PEAKS[0] in drawn.caption
    assert drawn.picture.startswith("<svg")
    # peaks by place: the second, the fourth, the first
    assert given["links"] == [0.2, 0.4, 0.1]
    assert given["openness"]["x"].tolist() == [2, 4, 1]
    if changed:
        assert given["changes"]["x"].tolist() == pytest.approx([0.1, 0.3, 0])


def test_a_track_has_plain_positions_and_says_where_nothing_is_open(monkeypatch):
    seen = []
    monkeypatch.setattr(featureplots, "to_svg", lambda figure: seen.append(figure) or "<svg")
    start = np.array([95_510_000, 95_525_000])
    locus = featureplots.Locus("chr4", start, start + 500, 95_520_000, "+", (95_520_000, 95_528_000))
    openness = {"all": np.array([0.1, 0.0]), "x": np.zeros(2)}
    featureplots.locus_plot(locus, np.array([0.1, 0.2]), openness=openness)
    (figure,) = seen
    figure.canvas.draw()
    axis = figure.axes[-1].xaxis
    assert axis.get_offset_text().get_text() == ""
    assert any(label.get_text().startswith("95.5") for label in axis.get_ticklabels())
    assert [[t.get_text() for t in axes.texts] for axes in figure.axes[:2]] == [[], [featureplots.EMPTY]]


def said_of(fdr, by):
    said, report = [], SimpleNamespace(metrics={}, baselines={}, conclude=lambda _: None, advice=None)
    run = SimpleNamespace(say=said.append, report=report)
    precision = {"promoter peaks": [{"score": k, "auprc": v, "n_pairs": 40} for k, v in by.items()]}
    hold_against(run, precision, ("metacells",))
    conclude(run, np.array(fdr), precision, "metacells", way="by metacells")
    box = compare(report.metrics, report.baselines, model="this run")
    return said[0], report, box


def test_what_is_no_better_than_chance_is_not_praised():
    below = {"metacells": 0.499, "spearman": 0.45, "nearness": 0.4, "chance": 0.5}
    said, report, box = said_of([0.3, np.nan, 0.05], below)
    assert said.startswith(
        "by metacells: 1 of 2 pairs pass 10 % FDR (1 more has no p value: gene or peak is constant"
    )
    assert "neither better than chance (0.500)" in said
    assert box.losses == [
        "Area under the precision-recall curve, promoter peaks: guessing 0.500, this run 0.499"
    ]
    assert "every metric" not in box.verdict
    assert report.metrics["auprc[promoter peaks]"]["n"] == 40
    assert report.advice is None
    said, report, box = said_of([0.3], below | {"metacells": 0.7})
    assert report.advice.startswith("No pair stands out from chance")
    assert "no p value" not in said
    assert "all 3 baselines on every metric" in box.verdict
