"""Digests of what every subcommand writes, to hold two versions of the source against each other.

``python tests/digests.py OUT.tsv [--data FOLDER] [--only TEXT]`` runs the commands below with one thread, one seed
and without provenance, and writes a line for each: command, file, sha256 of what the file holds. An HDF5 file counts
by its objects, values and attributes, not by how it is laid out; a report without its times, memory, versions,
paths and sentences. Two such tables of two versions that compute the same are equal: ``diff before.tsv after.tsv``.
"""
# ruff: noqa: E501

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = "--device cpu --threads 1 --seed 3 --no-provenance --no-html --progress none -q"

VOLATILE = re.compile(
    r"seconds|_s$|, s$|timing|started|time|memory|_mb$|bytes|version|path|command|argv|sha256|created|host|platform|python|rate"
)

DEMO = "demo/rna.h5ad demo/prot.h5ad --links demo/rna-prot.tsv"
MULTIOME = "demo/multiome.h5mu --links demo/rna-atac.tsv"
CITE = "{data}/citeseq_pbmc10x_2batch.h5mu --links {data}/citeseq_pbmc10x_2batch.links.tsv"
ATAC = "{data}/multiome_bmmc_2batch.h5mu --links {data}/multiome_bmmc_2batch.links.tsv"

COMMANDS = {
    **{
        f"integrate-{model}": f"integrate {DEMO} -m {model} --label-key cell_type --max-steps 12 -o {{out}}.h5mu"
        for model in ("scmodal", "sccross")
    },
    **{
        f"integrate-paired-{model}": f"integrate {MULTIOME} -m {model} --label-key cell_type --batch-key batch"
        " --max-steps 12 -o {out}.h5mu"
        for model in ("multigrate", "multidgd", "sccross")
    },
    **{
        f"cite-{model}": f"integrate {CITE} -m {model} --pairing {pairing} --max-steps 12 -o {{out}}.h5mu"
        for model, pairing in (
            ("scmodal", "unpaired"),
            ("multigrate", "paired"),
            ("multidgd", "paired"),
            ("sccross", "paired"),
        )
    },
    "multiome-multigrate": f"integrate {ATAC} -m multigrate --max-steps 12 -o {{out}}.h5mu",
    "map": "integrate rna=demo/rna.h5ad --reference integrate-paired-multigrate.model --transfer-labels cell_type"
    " --max-steps 5 -o {out}.h5mu",
    **{
        f"impute-{model}": f"impute {CITE} -m {model} --pairing {pairing} --from rna --to prot --evaluate"
        " --max-steps 12 -o {out}.h5mu"
        for model, pairing in (("scmodal", "unpaired"), ("multigrate", "paired"), ("multidgd", "paired"))
    },
    "impute-model": "impute demo/multiome.h5mu::atac --from-model integrate-paired-sccross.model --to rna -o {out}.h5ad",
    **{
        f"simulate-{model}": f"simulate demo/multiome.h5mu --from-model integrate-paired-{model}.model"
        " --label cell_type=lymph_a -o {out}.h5mu"
        for model in ("multigrate", "multidgd", "sccross")
    },
    "perturb-scmodal": f"perturb {DEMO} -m scmodal --from cell_type=lymph_a --to cell_type=lymph_b --screen all"
    " --direction both --max-steps 12 -o {out}.tsv",
    "perturb-kang": "perturb {data}/kang_ifnb_pbmc_labelled.h5ad -m multigrate --from condition=ctrl"
    " --to condition=stim --screen all --effect log-shift=1 --direction up --max-steps 12 -o {out}.tsv",
    "perturb-sccross": "perturb demo/multiome.h5mu::rna --from-model integrate-paired-sccross.model"
    " --features CD4,CD8A --direction down --target-modality atac -o {out}.tsv",
    "perturb-multidgd": "perturb demo/multiome.h5mu --from-model integrate-paired-multidgd.model"
    " --features CD4,CD8A --direction down --target-modality atac -o {out}.tsv",
    "gene2peak-correlation": f"gene2peak {MULTIOME} -m scmodal --pairing unpaired --gtf demo/genes.tsv"
    " --group-key cell_type --max-steps 12 -o {out}.tsv",
    "gene2peak-silencing": "gene2peak demo/multiome.h5mu --from-model integrate-paired-multidgd.model"
    " --gtf demo/genes.tsv --genes CD4,CD8A -o {out}.tsv",
    "benchmark": "benchmark demo/multiome.h5mu --links demo/rna-atac.tsv --label-key cell_type --models"
    " scmodal,multigrate --max-steps 12 -o {out}.tsv",
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("out", type=Path)
    options.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    options.add_argument(
        "--only", default="", help="Only commands whose name holds this text, and what they need"
    )
    asked = options.parse_args()
    out = asked.out.resolve()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run(["demo", "demo"], work)
        lines = []
        for name, command in COMMANDS.items():
            needed = any(asked.only in n and f"{name}.model" in c for n, c in COMMANDS.items())
            if asked.only not in name and not needed:
                continue
            settings = SETTINGS.replace("--seed ", "--seeds ") if name == "benchmark" else SETTINGS
            words = f"{command} {settings}".format(data=asked.data.resolve(), out=name).split()
            code, tail = run(words, work)
            lines += [f"{name}\texit {code}\t{tail if code else ''}"]
            lines += [f"{name}\t{file.relative_to(work)}\t{digest(file)}" for file in written(work, name)]
            print("\n".join(line for line in lines if line.startswith(name)), flush=True)
    out.write_text("\n".join(lines) + "\n")


def run(words: list[str], work: Path) -> tuple[int, str]:
    """Exit code and last line of one command of this checkout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mocli", *words],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


def written(work: Path, name: str) -> list[Path]:
    """Files of one command, but for logs, pictures and checkpoints."""
    files = [p for p in work.rglob("*") if p.is_file() and p.relative_to(work).parts[0].split(".")[0] == name]
    kept = {".h5mu", ".h5ad", ".tsv", ".json", ".safetensors", ".bedpe"}
    return sorted(p for p in files if p.suffix in kept and ".runs" not in str(p))


def digest(file: Path) -> str:
    if file.suffix in {".h5mu", ".h5ad"}:
        return of_hdf5(file)
    if file.suffix == ".json":
        text = json.dumps(without_volatile(json.loads(file.read_text())), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
    if file.suffix == ".tsv":
        rows = [line.split("\t") for line in file.read_text().splitlines()]
        columns = [i for i, head in enumerate(rows[0]) if not VOLATILE.search(head)] if rows else []
        rows = [r for r in rows if not any(VOLATILE.search(word) for word in r)]
        return hashlib.sha256(
            repr([[r[i] for i in columns if i < len(r)] for r in rows]).encode()
        ).hexdigest()[:16]
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def of_hdf5(file: Path) -> str:
    total = hashlib.sha256()

    def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
        total.update(name.encode())
        for key in sorted(item.attrs):
            total.update(f"{key}={np.asarray(item.attrs[key]).tolist()}".encode())
        if isinstance(item, h5py.Dataset):
            value = item[()]
            array = np.asarray(value)
            total.update(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())

    with h5py.File(file) as handle:
        handle.visititems(add)
    return total.hexdigest()[:16]


def without_volatile(value: object) -> object:
    if isinstance(value, dict) and {"columns", "rows"} <= value.keys():
        kept = [i for i, head in enumerate(value["columns"]) if not VOLATILE.search(head)]
        value = {**value, "rows": [[row[i] for i in kept] for row in value["rows"]]}
    if isinstance(value, dict):
        return {k: without_volatile(v) for k, v in value.items() if not VOLATILE.search(k)}
    if isinstance(value, list):
        return [without_volatile(v) for v in value]
    words = isinstance(value, str) and (" " in value or "/" in value or VOLATILE.search(value))
    return "" if words else value


if __name__ == "__main__":
    main()
