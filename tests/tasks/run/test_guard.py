"""Nothing is lost and nothing of others is touched: locks, unfinished runs, changed inputs, leftovers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import mocli
from mocli.errors import InputError, Interrupted, UsageError
from mocli.leftovers import left_beside, temporary_beside
from mocli.report.file import Report
from mocli.tasks.run.guard import (
    UNFINISHED,
    check_unchanged,
    clear_mark,
    locked,
    mark,
    remove_leftovers,
    stamp,
    unfinished,
)


@pytest.fixture
def integrate(unpaired, tmp_path, small):
    """Integrate into `tmp_path / o.h5mu`; options as in `mocli.integrate`."""

    def run(**options):
        given = {"model": "scmodal", "max_steps": 6, "html": False, "threads": 1, "device": "cpu"}
        return mocli.integrate(
            [unpaired / "rna.h5ad", unpaired / "prot.h5ad"],
            links=unpaired / "links.tsv",
            **{"output": tmp_path / "o.h5mu", "params": small, "provenance": False, **given, **options},
        )

    return run


def test_two_runs_do_not_write_one_output(tmp_path):
    with locked(tmp_path / "o.h5mu"):
        with pytest.raises(UsageError, match="another run"), locked(tmp_path / "o.tsv"):
            pass
        with locked(tmp_path / "p.h5mu"):
            pass
    with locked(tmp_path / "o.h5mu"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_of_many_runs_that_start_at_once_one_at_a_time_writes(tmp_path):
    holders, most, done = [], [], []

    def run():
        for _ in range(200):
            try:
                with locked(tmp_path / "o.h5mu"):
                    holders.append(1)
                    most.append(len(holders))
                    holders.pop()
            except UsageError:
                continue
        done.append(1)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 6, "a lock that goes away while it is looked at is no error"
    assert max(most) == 1


def test_a_lock_ends_with_its_process_and_no_other_is_deleted(tmp_path):
    hold = "import sys, time; from pathlib import Path; from mocli.tasks.run.guard import locked\n"
    hold += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path / "o.h5mu"], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match="another run"), locked(tmp_path / "o.h5mu"):
        pass
    other.kill()
    other.communicate()
    lock = tmp_path / ".o.lock"
    assert lock.exists()
    with locked(tmp_path / "o.h5mu"):
        lock.unlink()
        lock.write_text("of another run")
    assert lock.exists(), "it is not ours"


def test_outputs_are_those_of_an_unfinished_run_as_long_as_nobody_changes_them(tmp_path):
    out, other = tmp_path / "o.h5mu", tmp_path / "o.tsv"
    for path in (out, other):
        path.write_text("x")
    mark(tmp_path / "o.ckpt", [out, other])
    assert unfinished(tmp_path / "o.ckpt") == {out, other}
    other.write_text("changed")
    assert unfinished(tmp_path / "o.ckpt") == {out}
    clear_mark(tmp_path / "o.ckpt")
    assert unfinished(tmp_path / "o.ckpt") == frozenset()
    (tmp_path / "o.ckpt" / "unfinished.json").write_text("[1")
    assert unfinished(tmp_path / "o.ckpt") == frozenset()


def test_only_what_a_killed_run_left_is_removed(tmp_path):
    out, model = tmp_path / "o.h5mu", tmp_path / "o.model"
    ours = [tmp_path / ".o.h5mu.0123456789ab.tmp", tmp_path / ".o.model.0123456789ab.tmp"]
    theirs = [tmp_path / "o.model.tmp", tmp_path / ".o.h5mu.mine.tmp", tmp_path / ".o.model.ba9876543210.tmp"]
    for path in (ours[0], theirs[1]):
        path.write_text("half")
    for path in (ours[1], theirs[0], theirs[2]):
        path.mkdir()
    (theirs[2] / "notes.txt").write_text("a user's own")
    remove_leftovers([out, model])
    assert not any(p.exists() for p in ours)
    assert all(p.exists() for p in theirs)


@pytest.mark.parametrize("name", ["o.h5mu", "a-long-name-of-an-output-" * 5 + ".h5mu", "é" * 120 + ".h5mu"])
def test_what_is_left_under_a_name_of_any_length_is_removed(tmp_path, name):
    out, other = tmp_path / name, tmp_path / f"{name[:-5]}2.h5mu"
    mine, others = temporary_beside(out), temporary_beside(other)
    for path in (mine, others):
        path.write_text("half")
    remove_leftovers([out])
    assert not mine.exists()
    assert others.exists()


def test_whatever_a_killed_run_has_left_is_known_by_its_name_and_removed(integrate, tmp_path, monkeypatch):
    """Checkpoint, report and calibration too: each is written beside its place and then renamed."""
    places = set()

    def noted(act):
        def rename(path, target):
            if path.is_file() and path.name != f".{UNFINISHED}.tmp":  # the next mark takes the place of that
                assert path in left_beside(Path(target))
                places.add(Path(target))
            return act(path, target)

        return rename

    for name in ("replace", "rename"):
        monkeypatch.setattr(Path, name, noted(getattr(Path, name)))
    integrate(checkpoint_every="0.001s")
    kinds = {"checkpoint.safetensors", "o.report.json", "o_mqc.json", "o.h5mu"}
    assert kinds <= {target.name for target in places}
    left = [temporary_beside(place) for place in places]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    integrate(checkpoint_every="0.001s", force=True)
    assert [path for path in left if path.exists()] == []
    assert not (tmp_path / "o.ckpt").exists()


def test_stopped_from_the_keyboard_after_training_a_run_says_that_it_continues(
    integrate, tmp_path, monkeypatch
):
    import mocli.tasks.integrate.work as work

    with monkeypatch.context() as patch:
        patch.setattr(work, "score", lambda *_, **__: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            integrate()
    assert "repeat the command to continue" in (tmp_path / "o.log").read_text()
    assert integrate().report["training"]["resumed_from_step"] == 6


def test_a_changed_input_is_told(tmp_path):
    path = tmp_path / "rna.h5ad"
    path.write_text("a")
    before = {path: stamp(path)}
    check_unchanged(before)
    path.write_text("bc")
    with pytest.raises(InputError, match="changed while the run"):
        check_unchanged(before)


def test_a_stop_after_the_cells_are_written_loses_nothing(integrate, tmp_path, monkeypatch):
    import mocli.tasks.integrate.work as work

    whole = integrate(output=tmp_path / "whole.h5mu")

    def stopped(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.sigtimedwait([], 0)

    with monkeypatch.context() as patch:
        patch.setattr(work, "score", stopped)
        with pytest.raises(Interrupted):
            integrate()
    assert json.loads((tmp_path / "o.report.json").read_text())["status"] == "interrupted"
    assert (tmp_path / "o.h5mu").exists()
    assert (tmp_path / "o.model" / "weights.safetensors").exists()
    with pytest.raises(UsageError, match="another run"):
        integrate(seed=5)
    done = integrate()
    assert done.report["training"]["resumed_from_step"] == 6
    assert done.report["determinism"] == whole.report["determinism"]
    assert (tmp_path / "o.h5mu").read_bytes() == (tmp_path / "whole.h5mu").read_bytes()
    assert not (tmp_path / "o.ckpt").exists()
    with pytest.raises(UsageError, match="the output exists"):
        integrate()


def test_outputs_that_share_a_stem_are_kept(integrate, unpaired, tmp_path):
    integrate(metrics="none")
    (tmp_path / "o.h5mu").rename(tmp_path / "kept.h5mu")
    with pytest.raises(UsageError, match="the output exists") as error:
        integrate(metrics="none")
    assert "o.report.json" in str(error.value.file)
    shutil.rmtree(tmp_path / "o.model")
    integrate(metrics="none", force=True)


def test_a_signal_that_a_library_catches_ends_the_run_all_the_same(integrate, tmp_path, monkeypatch):
    """scikit-learn makes an error of its own of whatever is raised while it looks at labels."""
    import mocli.tasks.integrate.work as work

    def careless(*_, **__):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except Exception as error:
            raise ValueError("expected an array") from error

    monkeypatch.setattr(work, "score", careless)
    with pytest.raises(Interrupted) as caught:
        integrate()
    assert caught.value.exit_code == 143
    assert json.loads((tmp_path / "o.report.json").read_text())["status"] == "interrupted"


def test_a_run_that_is_stopped_among_its_last_files_is_whole_or_continues(integrate, tmp_path, monkeypatch):
    write = Report.write_multiqc
    monkeypatch.setattr(Report, "write_multiqc", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert integrate(metrics="none").report["status"] == "ok"  # all else is written: the signal is late

    def killed(*_):
        raise SystemExit(137)

    monkeypatch.setattr(Report, "write_multiqc", killed)
    with pytest.raises(SystemExit):
        integrate(metrics="none", force=True)
    assert json.loads((tmp_path / "o.report.json").read_text())["status"] == "ok"
    monkeypatch.setattr(Report, "write_multiqc", write)
    integrate(metrics="none")
    assert (tmp_path / "o_mqc.json").exists()


def test_an_input_replaced_while_training_is_an_error(integrate, unpaired, monkeypatch):
    import mocli.tasks.trained.train as train

    fit = train.fit

    def replaced(*args, **kwargs):
        done = fit(*args, **kwargs)
        os.utime(unpaired / "rna.h5ad", ns=(1, 1))
        return done

    monkeypatch.setattr(train, "fit", replaced)
    with pytest.raises(InputError, match="changed while the run"):
        integrate(metrics="none")


def test_a_closed_terminal_leaves_a_checkpoint():
    from mocli.train.loop import Signals

    old = signal.getsignal(signal.SIGHUP)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.received == signal.SIGHUP
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received is None
    finally:
        signal.signal(signal.SIGHUP, old)
