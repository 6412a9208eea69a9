"""Damaged files of every format that mocli reads, made from good ones by a list of seeds.

`mutate(path, kind, rng)` damages a copy in place and says how. More than half of the mutations know the
structure of the file (a dataset of another type, an attribute gone, a value that is not finite, a link out of
the file), the others do not (bytes flipped, a block zeroed, the end cut off).
"""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import h5py
import numpy as np

HOSTILE = [
    "",
    "nan",
    "-1",
    "1e400",
    "\x1b[31mred",
    "=cmd()",
    "../../x",
    "a/b",
    "\u202e",
    "x" * 4000,
    "\x00",
    "NA",
    "0x10",
    "[" * 200,
]


def mutate(path: Path, kind: str, rng: random.Random) -> str:
    """Damage `path`, a file or a model's folder of that kind, and return what was done."""
    if path.is_dir():
        inner = sorted(p for p in path.rglob("*") if p.is_file())
        file = rng.choice(inner)
        return f"{file.name}: {mutate(file, file.suffix.lstrip('.'), rng)}"
    ways = {"h5ad": _hdf5, "h5mu": _hdf5, "h5": _hdf5, "json": _json}.get(kind, _text)
    return (ways if rng.random() < 0.6 else _bytes)(path, rng)


def _bytes(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    if not data:
        return "empty already"
    way = rng.choice(["flip", "zero", "cut", "repeat", "empty", "insert"])
    at, n = rng.randrange(len(data)), rng.choice([1, 8, 64, 512, 4096])
    if way == "flip":
        for _ in range(n):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif way == "zero":
        data[at : at + n] = bytes(len(data[at : at + n]))
    elif way == "cut":
        del data[at:]
    elif way == "repeat":
        data[at:at] = data[at : at + n]
    elif way == "insert":
        data[at:at] = bytes(rng.randrange(256) for _ in range(n))
    else:
        data.clear()
    path.write_bytes(bytes(data))
    return f"{way} {n} at {at}"


def _hdf5(path: Path, rng: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = rng.choice(names)
        item = file[name]
        way = rng.choice(["delete", "attribute", "retype", "values", "shape", "link", "rename", "group"])
        if way == "attribute" and len(item.attrs):
            key = rng.choice(sorted(item.attrs))
            if rng.random() < 0.5:
                del item.attrs[key]
            else:
                item.attrs[key] = rng.choice([-1, "nonsense", np.array([1, 2, 3]), b"\xff\xfe", 1e308])
            return f"attribute {key} of {name}"
        if way == "values" and isinstance(item, h5py.Dataset) and item.size and item.dtype.kind in "iuf":
            value = (
                rng.choice([np.nan, np.inf, -1, 2**31 - 1, 1e30])
                if item.dtype.kind == "f"
                else rng.choice([-1, 0, 127])
            )
            flat = item[()].reshape(-1).copy()
            flat[rng.randrange(len(flat))] = np.array(value).astype(item.dtype)
            item[...] = flat.reshape(item.shape)
            return f"{value} in {name}"
        if way in {"retype", "shape"} and isinstance(item, h5py.Dataset):
            values, attributes = item[()], dict(item.attrs)
            del file[name]
            if way == "shape" and getattr(values, "ndim", 0):
                values = values[: max(0, len(values) - rng.choice([1, len(values)]))]
            else:
                values = rng.choice(
                    [np.array([b"text"]), np.zeros((2, 3, 4)), 3, "text", np.array([True, False])]
                )
            file[name] = values
            file[name].attrs.update({k: v for k, v in attributes.items() if k != "shape"})
            return f"{way} of {name}"
        if way == "link":
            del file[name]
            file[name] = rng.choice(
                [h5py.ExternalLink("/etc/hostname", "/x"), h5py.SoftLink("/nowhere"), h5py.SoftLink("/")]
            )
            return f"link at {name}"
        if way == "rename":
            file.move(name, name + rng.choice(["_", "x"]))
            return f"{name} renamed"
        del file[name]
        if way == "group":
            file.create_group(name)
        return f"{name} {'made an empty group' if way == 'group' else 'deleted'}"


def _json(path: Path, rng: random.Random) -> str:
    document = json.loads(path.read_text())
    node, trail = document, []
    while isinstance(node, dict | list) and node:
        key = rng.choice(sorted(node)) if isinstance(node, dict) else rng.randrange(len(node))
        trail.append(key)
        inner = node[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.3:
            if rng.random() < 0.4:
                del node[key]
            else:
                node[key] = rng.choice([None, -1, "os:system", [], {}, 1e308, True, "\x1b[2J", [[1]], "nan"])
            break
        node = inner
    path.write_text(json.dumps(document))
    return f"changed {trail}"


def _text(path: Path, rng: random.Random) -> str:
    data = path.read_bytes()
    zipped = data[:2] == b"\x1f\x8b"
    lines = (gzip.decompress(data) if zipped else data).decode("utf-8", "replace").splitlines()
    at = rng.randrange(len(lines))
    cells = lines[at].split("\t")
    way = rng.choice(["cell", "missing", "extra", "header", "twice", "encoding", "separator"])
    if way == "cell":
        cells[rng.randrange(len(cells))] = rng.choice(HOSTILE)
        lines[at] = "\t".join(cells)
    elif way == "missing":
        lines[at] = "\t".join(cells[:-1])
    elif way == "extra":
        lines[at] += "\tmore\tand more"
    elif way == "header":
        lines[0] = rng.choice(["", "#", "a\ta\ta", lines[-1]])
    elif way == "twice":
        lines += lines
    elif way == "separator":
        lines = [line.replace("\t", rng.choice([",", " ", "|"])) for line in lines]
    text = "\n".join(lines) + "\n"
    raw = text.encode(rng.choice(["utf-16", "latin-1"]) if way == "encoding" else "utf-8", "replace")
    path.write_bytes(gzip.compress(raw) if zipped else raw)
    return f"{way} in line {at + 1}"
