"""In which order the runs of a benchmark start."""

from types import SimpleNamespace

from mocli.tasks.benchmark.processes import Processes


def runs(seed):
    return [SimpleNamespace(work=m, turn=str(seed), model=m) for m in ("a", "b", "c")]


def test_what_took_longest_starts_first_with_the_next_seed():
    processes = Processes(2, ["cpu"], 1, print)
    waiting = runs(0) + runs(1)
    assert [processes._next(waiting).model for _ in range(3)] == ["a", "b", "c"]
    processes._took |= {"a": 1.0, "b": 9.0}
    # not all are known yet: as planned
    assert processes._next(list(waiting)).model == "a"
    processes._took["c"] = 5.0
    assert [processes._next(waiting).model for _ in range(3)] == ["b", "c", "a"]
    assert waiting == []
