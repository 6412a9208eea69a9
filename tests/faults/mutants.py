"""Damaged files of every format that mocli reads, made from good ones by a list of seeds.

`mutate(path, kind, rng)` damages a copy in place and says how. More than half of the mutations know the
structure of the file (a dataset of another type, an attribute gone, a value that is not finite, a link out of
the file), the others do not (bytes flipped, a block zeroed, the end cut off).
"""

from __future__ import annotations

import gzip
import json
import random
import struct
from contextlib import suppress
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


YAML = [
    "[" * 3000,
    "&a [*a]",
    "!!python/object/apply:os.system [id]",
    "{a: {b: 1}}",
    "[1, [2]]",
    "null",
    "~",
    ".nan",
    "1e999",
    "2001-01-01",
    '"\\x1b[31m"',
    "yes",
    "0o17",
    "99999999999999999999",
    "",
]
HDF5_WAYS = [
    *("delete", "attribute", "retype", "values", "shape", "link", "rename"),
    *("group", "text", "huge", "all"),
]
STORED = ["F32", "F64", "I64", "U8", "BF16", "BOOL", "nonsense"]


def mutate(path: Path, kind: str, rng: random.Random) -> str:
    """Damage `path`, a file or a model's folder of that kind, and return what was done."""
    if path.is_dir():
        inner = sorted(p for p in path.rglob("*") if p.is_file())
        file = rng.choice(inner)
        return f"{file.name}: {mutate(file, file.suffix.lstrip('.'), rng)}"
    ways = {
        "h5ad": _hdf5,
        "h5mu": _hdf5,
        "h5": _hdf5,
        "json": _json,
        "yaml": _yaml,
        "safetensors": _safetensors,
    }.get(kind, _text)
    done = (ways if rng.random() < 0.7 else _bytes)(path, rng)
    if rng.random() < 0.2:
        with suppress(Exception):  # what is damaged already may be beyond a second damage
            done += f"; {ways(path, rng)}"
    return done


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
        way = rng.choice(
            [
                "delete",
                "attribute",
                "retype",
                "values",
                "shape",
                "link",
                "rename",
                "group",
                "text",
                "huge",
                "all",
            ]
        )
        if way == "text" and isinstance(item, h5py.Dataset) and item.dtype.kind == "O" and item.size:
            texts = item.asstr()[()].reshape(-1)
            texts[rng.randrange(len(texts))] = rng.choice([*HOSTILE[:-4], texts[0], "[" * 200])
            item[...] = texts.reshape(item.shape)
            return f"text in {name}"
        if way == "huge" and "shape" in item.attrs:
            item.attrs["shape"] = np.array([rng.choice([0, 1, 2**31, 2**62]), item.attrs["shape"][1]])
            return f"shape {item.attrs['shape']} of {name}"
        if way == "all" and isinstance(item, h5py.Dataset) and item.size and item.dtype.kind in "iuf":
            value = rng.choice([0, 1, -1] if item.dtype.kind == "i" else [0, 1])
            item[...] = np.full(item.shape, value, item.dtype)
            return f"{value} everywhere in {name}"
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
                    [
                        np.array([b"text"]),
                        np.zeros((2, 3, 4)),
                        3,
                        "text",
                        np.array([True, False]),
                        np.asarray(values).astype(np.float64, copy=False) * 1e300
                        if np.asarray(values).dtype.kind in "iuf"
                        else np.zeros(0),
                        np.zeros(np.shape(values), np.complex64),
                        np.zeros(np.shape(values), [("a", "i4"), ("b", "f4")]),
                        h5py.Empty("f4"),
                    ]
                )
            file[name] = values
            file[name].attrs.update({k: v for k, v in attributes.items() if k != "shape"})
            return f"{way} of {name}"
        if way == "link":
            del file[name]
            file[name] = rng.choice(
                [
                    h5py.ExternalLink("/etc/hostname", "/x"),
                    h5py.SoftLink("/nowhere"),
                    h5py.SoftLink("/"),
                    h5py.SoftLink(f"/{name}"),
                    h5py.SoftLink(f"/{rng.choice(names)}"),
                ]
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
    trail = _change(document, rng)
    path.write_text(json.dumps(document))
    return f"changed {trail}"


def _change(document: object, rng: random.Random) -> list[str | int]:
    """Change or delete something in a document of JSON, in place, and return where."""
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
    return trail


def _safetensors(path: Path, rng: random.Random) -> str:
    """Change the header, or a number of the tensors; the rest stays well-formed."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, values = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    names = sorted(name for name in header if name != "__metadata__")
    name, way = rng.choice(names), rng.choice(["value", "dtype", "shape", "offsets", "drop", "any", "swap"])
    entry = header[name]
    if way == "value" and entry["dtype"] == "F32" and (span := entry["data_offsets"])[1] > span[0]:
        at = rng.randrange(span[0], span[1], 4)
        values[at : at + 4] = struct.pack("<f", rng.choice([np.nan, np.inf, -1e38, 0.0]))
    elif way == "dtype":
        entry["dtype"] = rng.choice(STORED)
    elif way == "shape":
        entry["shape"] = rng.choice([[], [1], entry["shape"][::-1], [2**40, 2**40], [-1], [0]])
    elif way == "offsets":
        entry["data_offsets"] = rng.choice([[0, 0], [0, 2**40], [4, 2], entry["data_offsets"][:1]])
    elif way == "drop":
        del header[name]
    elif way == "swap":
        other = rng.choice(names)
        header[name], header[other] = header[other], header[name]
    elif way == "any":
        _change(header, rng)
    written = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(written)) + written + bytes(values))
    return f"{way} of {name}"


def _yaml(path: Path, rng: random.Random) -> str:
    lines = path.read_text().splitlines()
    at, way = rng.randrange(len(lines)), rng.choice(["value", "value", "key", "twice", "indent", "add"])
    key = lines[at].partition(":")[0]
    if way == "value":
        lines[at] = f"{key}: {rng.choice(YAML)}"
    elif way == "key":
        lines[at] = f"{rng.choice([*YAML, 'nonsense', 'output', 'max_steps'])}: 3"
    elif way == "twice":
        lines.append(lines[at])
    elif way == "indent":
        lines[at] = "   " + lines[at]
    else:
        options = ["batch-key", "hvg", "n-latent", "threads", "device", "label-key", "max-memory", "layer"]
        lines.append(f"{rng.choice(options)}: {rng.choice(YAML)}")
    path.write_text("\n".join(lines) + "\n")
    return f"{way} in {lines[min(at, len(lines) - 1)][:40]!r}"


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
