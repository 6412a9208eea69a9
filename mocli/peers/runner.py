"""Run one peer on arrays that mocli wrote. A script for any Python with numpy; it imports nothing of mocli.

    python runner.py PEER.py INPUT.npz OPTIONS.json PLACES.npz ANSWER.json

The answer is written last: if it is there, so are the coordinates.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Given:
    """The data for a peer; of the arrays, only those that it takes.

    Attributes:
        cells: Names, `(n_cells,)`.
        rows: Row of a cell in each modality, `(n_cells, n_modalities)`, -1 where it was not measured.
        kinds: `rna`, `atac`, `prot`, ... by the name of the modality, in order.
        names: Names of each modality's rows.
        counts: Raw counts of each modality's chosen features, `(n_obs, n_vars)`: CSR, but proteins dense.
        features: Normalised, standardised features (of peaks: LSI), dense `(n_obs, n_vars)`.
        linked: Standardised linked features of two modalities, dense `(n_obs, n_links)`: column j of one
            belongs to column j of the other.
        components: Principal components of all modalities side by side, `(n_cells, d)`.
        batch: Batch of each cell, by name, `(n_cells,)`; None where there is none.
        params: Hyper-parameters, None where the package is to choose.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        folder: Folder for its own files.
    """

    cells: NDArray[np.str_]
    rows: Integers
    kinds: dict[str, str]
    names: dict[str, NDArray[np.str_]]
    seed: int
    threads: int
    device: str
    params: dict[str, Any]
    folder: Path
    counts: dict[str, Any] = field(default_factory=dict)
    features: dict[str, Floats] = field(default_factory=dict)
    linked: dict[str, Floats] = field(default_factory=dict)
    components: Floats | None = None
    batch: NDArray[np.str_] | None = None

    def of_kind(self, kind: str) -> str:
        """Return the name of the modality of a kind."""
        return next(name for name, kind_here in self.kinds.items() if kind_here == kind)

    def by_cell(self, arrays: dict[str, Any], name: str) -> Any:
        """Return a modality's rows in the order of `cells`, which all have it."""
        return arrays[name][self.rows[:, list(self.kinds).index(name)]]

    def scvi_device(self) -> dict[str, Any]:
        """Return the device as the `train` of scvi-tools takes it."""
        word, _, number = self.device.partition(":")
        names = {"cuda": "gpu"}
        devices = [int(number)] if number else "auto" if word == "auto" else 1
        return {"accelerator": names.get(word, word), "devices": devices}


def read(source: Path, options: dict[str, Any], folder: Path) -> Given:
    """Read the data that mocli wrote."""
    with np.load(source, allow_pickle=False) as stored:
        x = {key: stored[key] for key in stored.files}
    modalities = [str(name) for name in x["modalities"]]
    levels = x.get("batch_levels")
    return Given(
        cells=x["cells"],
        rows=x["rows"],
        kinds={name: str(x["kinds"][i]) for i, name in enumerate(modalities)},
        names={name: x[f"names{i}"] for i, name in enumerate(modalities)},
        counts={name: _counts(x, i) for i, name in enumerate(modalities) if f"counts{i}" in x},
        features={name: x[f"features{i}"] for i, name in enumerate(modalities) if f"features{i}" in x},
        linked={name: x[f"linked{i}"] for i, name in enumerate(modalities) if f"linked{i}" in x},
        components=x.get("components"),
        # a missing batch is one of its own
        batch=None if levels is None else np.append(levels, "none")[x["batch"]],
        folder=folder,
        **options,
    )


def _counts(x: dict[str, Any], i: int) -> Any:
    values = x[f"counts{i}"]
    if values.ndim == 2:
        return values
    from scipy import sparse

    parts = (values, x[f"indices{i}"], x[f"indptr{i}"])
    return sparse.csr_matrix(parts, shape=tuple(x[f"shape{i}"]))


def check(z: Any, given: Given) -> dict[str, tuple[NDArray[np.str_], Floats]]:
    """Return coordinates with the names of their cells, by modality, or under no name for whole cells."""
    parts = z if isinstance(z, dict) else {"": z}
    checked = {}
    for name, values in parts.items():
        names = given.names[name] if name else given.cells
        places = np.asarray(values, dtype=np.float32)
        if places.ndim != 2 or len(places) != len(names):
            raise SystemExit(
                f"error: coordinates have the shape {places.shape}, but there are {len(names)} cells"
            )
        if not np.isfinite(places).all():
            bad = int((~np.isfinite(places).all(1)).sum())
            raise SystemExit(f"error: {bad} of {len(names)} coordinates are not finite")
        checked[name] = (names, places)
    return checked


def write(path: Path, places: dict[str, tuple[NDArray[np.str_], Floats]]) -> None:
    """Write coordinates; the final file is never incomplete."""
    arrays: dict[str, Any] = {"modalities": np.asarray(list(places), dtype=np.str_)}
    for i, (names, z) in enumerate(places.values()):
        arrays[f"names{i}"], arrays[f"z{i}"] = names, z
    temporary = path.with_name("." + path.name)
    with temporary.open("wb") as stream:
        np.savez(stream, **arrays)
    temporary.replace(path)


def peak_memory() -> int:
    """Return the largest resident set of this process so far, in bytes."""
    try:
        # of this program alone: ru_maxrss begins with the size of the one that started it
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def gpu_peak_memory() -> int | None:
    """Return the most memory that torch held on a CUDA device, if it was used at all."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    peak = max(int(torch.cuda.max_memory_allocated(i)) for i in range(torch.cuda.device_count()))
    return peak or None


def main(arguments: list[str]) -> None:
    """Read the data, run the peer, write the coordinates."""
    begun = time.monotonic()
    peer, source, options, target, answer = map(Path, arguments)
    # a peer's file may be called like the package that it imports
    sys.path[:] = [p for p in sys.path if not p or Path(p).resolve() not in {HERE, peer.resolve().parent}]
    spec = importlib.util.spec_from_file_location("peer_" + peer.stem, peer)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    given = read(source, json.loads(options.read_text(encoding="utf-8")), target.parent)
    started = time.monotonic()
    z = module.place(given)
    seconds = time.monotonic() - started
    write(target, check(z, given))
    costs = {
        "train_s": round(seconds, 3),
        "total_s": round(time.monotonic() - begun, 3),
        "peak_memory_bytes": peak_memory(),
        "gpu_peak_memory_bytes": gpu_peak_memory(),
        "bytes": target.stat().st_size,
        "python": sys.version.split()[0],
    }
    temporary = answer.with_name("." + answer.name)
    temporary.write_text(json.dumps(costs) + "\n", encoding="utf-8")
    temporary.replace(answer)


if __name__ == "__main__":
    main(sys.argv[1:])
