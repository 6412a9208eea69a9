"""Too little memory, files or disk, and closed streams: a promised exit code, one message, no halves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = "-m scmodal --max-steps 2 -s n_hidden=8 --n-latent 4 --batch-size 32 --device cpu --threads 1"


def shell(unpaired, out, *, before="", after="", options=OPTIONS):
    """Run one integration in a shell of its own, after and before other words; return what is left of it."""
    files = f"{unpaired}/rna.h5ad {unpaired}/prot.h5ad --links {unpaired}/links.tsv"
    line = f"{before} {sys.executable} -m mocli integrate {files} {options} -o {out}/o.h5mu {after}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-c", line], cwd=out, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def tell(request, capsys):
    """Print a row of the table in RESULTS.md."""

    def row(done):
        with capsys.disabled():
            print(f"\n| {request.node.name.removeprefix('test_')} | {done.returncode} |")
        return done

    return row


def check(done, out, *codes):
    assert done.returncode in codes, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or done.stderr.count("mocli: error:") == 1
    rest = [path.name for path in out.rglob("*") if path.name.endswith(".tmp")]
    assert rest == []
    if done.returncode == 0:
        with h5py.File(out / "o.h5mu") as h5:
            assert "X_scmodal" in h5["mod/rna/obsm"]
    else:
        assert not (out / "o.h5mu").exists()


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [200, 600, 900, 1_100, 1_300, 1_400])
def test_too_little_address_space(unpaired, tmp_path, tell, megabytes):
    """Python, then torch as it is loaded, then the run come to the end of it."""
    done = tell(shell(unpaired, tmp_path, before=f"ulimit -v {megabytes * 1000};"))
    check(done, tmp_path, 0, 137)


@pytest.mark.slow
@pytest.mark.parametrize("files", [5, 8, 12])
def test_too_few_open_files(unpaired, tmp_path, tell, files):
    done = tell(shell(unpaired, tmp_path, before=f"ulimit -n {files};"))
    check(done, tmp_path, 0, 4)
    assert "truncated" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&- <&-", "> /dev/full", "2> /dev/full"])
def test_streams_that_take_nothing(unpaired, tmp_path, tell, streams):
    check(tell(shell(unpaired, tmp_path, after=streams)), tmp_path, 0)


@pytest.fixture
def disk(tmp_path):
    """Return what mounts a disk of some kilobytes."""
    mounted = []

    def mount(kilobytes):
        place = tmp_path / "disk"
        place.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
        if subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("only root may mount a small disk")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [4, 16, 64, 192, 384, 512, 4096])
def test_a_full_disk(unpaired, disk, tell, kilobytes):
    """The log, checkpoints, the model, the cells and the reports come to the end of it."""
    place = disk(kilobytes)
    done = tell(shell(unpaired, place, options=f"{OPTIONS} --checkpoint-every 0.01s"))
    assert done.returncode in {0, 4}, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert [p.name for p in place.rglob("*") if p.name.endswith(".tmp")] == []
    if (place / "o.h5mu").exists():
        # it was written, and then a report was not
        with h5py.File(place / "o.h5mu") as h5:
            assert "X_scmodal" in h5["mod/rna/obsm"]
