"""Peaks of another call, by brute force over bases."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mocli.data.features.intervals import by_overlap

peaks = st.lists(
    st.tuples(st.sampled_from(["chr1", "chr2"]), st.integers(0, 60), st.integers(1, 25)),
    min_size=1, max_size=8,
)  # fmt: skip


@given(peaks, peaks)
def test_parts_are_shares_of_the_bases_in_common(own, wanted):
    def names(intervals):
        return [f"{chrom}:{start}-{start + width}" for chrom, start, width in intervals]

    found = by_overlap(names(own), names(wanted)).toarray()
    for i, (chrom, start, width) in enumerate(own):
        mine = set(range(start, start + width))
        shared = np.array([
            len(mine & set(range(s, s + w))) if c == chrom else 0 for c, s, w in wanted
        ], float)  # fmt: skip
        expected = shared / shared.sum() if shared.sum() else shared
        np.testing.assert_allclose(found[i], expected, atol=1e-6)


def test_names_of_other_sorts_overlap_nothing():
    found = by_overlap(["1-100-200", "GATA1", "chr2_10_20"], ["chr1:150-160", "chr2:20-30"])
    assert found.toarray().tolist() == [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]


def test_a_peak_without_bases_overlaps_nothing():
    found = by_overlap(["chr1:100-100", "chr1:100-120"], ["chr1:50-200"]).toarray()
    np.testing.assert_array_equal(found, [[0], [1]])
