"""The helpers: `models`, `params`, `demo`, `doctor`, `export`. Tables go to stdout."""

import json
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mocli.cli.output import emit, table
from mocli.cli.parameters import checked, usage
from mocli.errors import UsageError
from mocli.parsing import among
from mocli.types import EXPORT_TOOLS, EXPORT_VALUES

if TYPE_CHECKING:
    from mocli.models.base import Traits

AsJson = Annotated[bool, usage("--json", "Print JSON")]


def models(*, as_json: AsJson = False) -> None:
    """Show which data each model takes."""
    from mocli.models.registry import available

    listed = available().values()
    entries = [_model_entry(traits) for traits in listed]
    if as_json:
        emit(json.dumps(entries, indent=2))
        return
    header = ("model", "cells", "data", "modalities", "links", "tasks", "doi")
    rows = [
        (
            entry["name"],
            ", ".join(entry["pairings"]),
            ", ".join(
                kind if need == "any" else f"{kind} ({need})" for kind, need in entry["expects"].items()
            ),
            _span(entry["min_modalities"], entry["max_modalities"]),
            _links_word(traits),
            ", ".join(entry["tasks"]),
            entry["doi"],
        )
        for entry, traits in zip(entries, listed, strict=True)
    ]
    summaries = [f"{entry['name']}: {entry['summary']}" for entry in entries]
    emit("\n".join([table(header, rows), "", *summaries, "", *_auto_lines(listed)]))


def _auto_lines(listed: "Collection[Traits]") -> list[str]:
    """Say which models `auto` takes for each pairing, in their order."""
    lines = ["--model auto takes the first that fits (figures: tests/benchmarks/RESULTS.md):"]
    for pairing in sorted({pairing for traits in listed for pairing in traits.rank}):
        ranked = sorted((t for t in listed if pairing in t.rank), key=lambda t: t.rank[pairing])
        lines.append(f"{pairing} cells: {', '.join(traits.name for traits in ranked)}")
    return lines


def _model_entry(traits: "Traits") -> dict[str, Any]:
    return {
        "name": traits.name,
        "title": traits.title,
        "summary": traits.summary,
        "doi": traits.doi,
        "pairings": sorted(traits.pairings),
        "rank": {pairing.value: place for pairing, place in sorted(traits.rank.items())},
        "expects": {str(kind): need for kind, need in traits.expects.items()},
        "min_modalities": traits.min_modalities,
        "max_modalities": traits.max_modalities,
        "needs_links": traits.needs_links,
        "tasks": sorted(traits.tasks),
    }


def _links_word(traits: "Traits") -> str:
    if not traits.needs_links:
        return "not needed"
    return "needed by unpaired cells" if traits.links_replace_pairs else "needed"


def _span(least: int, most: int | None) -> str:
    if most is None:
        return f"{least} or more"
    return str(least) if least == most else f"{least} to {most}"


def _model_names() -> list[str]:
    from mocli.models.registry import available

    return list(available())


def params(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model that 'mocli models' lists", autocompletion=_model_names
        ),
    ],
    *,
    as_json: AsJson = False,
    as_yaml: Annotated[bool, usage("--yaml", "Print a file for --config")] = False,
) -> None:
    """Show the hyper-parameters of a model: type, default, range, meaning."""
    from mocli.models.registry import describe, traits_of

    if as_json and as_yaml:
        raise UsageError("--json and --yaml exclude each other", field="--yaml", hint="keep one")
    entries = describe(traits_of(model))
    if as_json:
        emit(json.dumps(entries, indent=2))
    elif as_yaml:
        emit(_as_config(model, entries))
    else:
        header = ("name", "type", "default", "range", "meaning")
        emit(table(header, [[e["name"], e["type"], e["default"], e["range"], e["help"]] for e in entries]))


def _as_config(model: str, entries: list[dict[str, Any]]) -> str:
    from mocli.cli.settings import yaml_value

    lines = [f"model: {model}", "set:"]
    for entry in entries:
        meaning = "; ".join(part for part in (entry["help"], entry["range"]) if part)
        lines.append(f"  {entry['name']}: {yaml_value(entry['default'])}  # {meaning}".rstrip(" #"))
    return "\n".join(lines)


def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to; made where absent")],
    *,
    cells: Annotated[int, usage("--cells N", "Cells per modality", min=20)] = 600,
    seed: Annotated[int, usage("--seed N", "Seed of the generator", min=0)] = 0,
    trimodal: Annotated[bool, usage("--trimodal", "Write three modalities per cell as well")] = False,
    force: Annotated[bool, usage("--force -f", "Write into a folder that is not empty")] = False,
) -> None:
    """Write a small data set with links and known ground truth, to try things on."""
    import shlex

    from mocli import log
    from mocli.errors import EnvironmentProblem

    if folder.exists() and not folder.is_dir():
        raise UsageError("the demo needs a folder", file=folder, found="a file", hint="name another DIR")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise UsageError("the folder is not empty", file=folder, hint="name another DIR, or use --force")
    from mocli.data.demo import write_demo

    log.setup()
    try:
        written = write_demo(folder, n_cells=cells, seed=seed, trimodal=trimodal)
    except OSError as error:
        raise EnvironmentProblem("the demo cannot be written", file=folder, found=error.strerror) from error
    for path in written:
        log.logger.info("wrote %s", path)
    names = [str(folder / name) for name in ("rna.h5ad", "prot.h5ad")]
    links = str(folder / "rna-prot.tsv")
    try_next = ["mocli", "integrate", *names, "--links", links, "-o", "out.h5mu"]
    log.logger.info("next, for example: %s", shlex.join(try_next))


def doctor(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE", help="Files to check as mocli would read them; without files, this machine"
        ),
    ] = None,
    *,
    as_json: AsJson = False,
    bench: Annotated[
        bool, usage("--bench", "Measure a training step of each model on this device, in about two minutes")
    ] = False,
    device: Annotated[str, usage("--device auto|cpu|cuda|cuda:N", "Device for --bench")] = "auto",
    versions_yml: Annotated[
        str | None,
        usage("--versions-yml NAME", "Print versions only, as a pipeline's versions.yml under NAME"),
    ] = None,
) -> None:
    """Check files: what they hold, what mocli would do, what to fix; without files, check this machine.

    For example: mocli doctor rna.h5ad prot.h5ad
    """
    from mocli.cli import doctor as doctor_facts

    if files:
        from mocli.cli.look import as_lines, look_at

        prospect = look_at(files)
        emit(json.dumps(asdict(prospect), indent=2) if as_json else "\n".join(as_lines(prospect)))
        raise typer.Exit(prospect.exit_code)
    if bench:
        _bench(device, as_json=as_json)
        return

    if versions_yml is not None:
        emit(doctor_facts.versions_yml(versions_yml))
        return
    facts = doctor_facts.examine()
    emit(json.dumps(facts, indent=2) if as_json else doctor_facts.as_text(facts))


def _bench(device: str, *, as_json: bool) -> None:
    from mocli import log
    from mocli.cli.doctor import step_times

    log.setup("error")
    times = step_times(device)
    if as_json:
        emit(json.dumps(times, indent=2))
        return
    used = times["device"] or {}
    columns = {
        "steps": "steps",
        "ms_per_step": "ms a step",
        "ms_per_step_cuda_graphs": "with --cuda-graphs",
        "train_s": "train s",
        "load_s": "load s",
        "total_s": "total s",
    }
    rows = [(m, *(entry.get(key, "-") for key in columns)) for m, entry in times["models"].items()]
    header = ("model", *columns.values())
    sentence = f"mocli {times['mocli']} on {used.get('used')} ({used.get('name')}), {times['cells']:,} cells"
    reasons = [(model, entry.get("problem") or entry.get("note")) for model, entry in times["models"].items()]
    notes = [f"{model}: {reason}" for model, reason in reasons if reason]
    emit("\n".join([sentence, table(header, rows), *notes]))


def export(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="h5ad with expression, or FILE::MODALITY")],
    *,
    output: Annotated[Path, usage("--output -o PATH", "Folder (cellphonedb) or .h5ad (commot)")],
    to: Annotated[
        str,
        usage(
            f"--to {'|'.join(EXPORT_TOOLS)}", "Tool that will read it", callback=checked(among(*EXPORT_TOOLS))
        ),
    ],
    label_key: Annotated[
        str | None, usage("--label-key COLUMN", "obs column with cell types; cellphonedb needs it")
    ] = None,
    spatial: Annotated[
        str | None,
        usage("--spatial FILE", "File with the cells' coordinates in obsm spatial", show_default="INPUT"),
    ] = None,
    values: Annotated[
        str,
        usage(
            f"--values {'|'.join(EXPORT_VALUES)}",
            "Scale of the values of X; auto recognises imputed values, which are log(1 + x) by default",
            callback=checked(among(*EXPORT_VALUES)),
        ),
    ] = "auto",
    force: Annotated[bool, usage("--force -f", "Replace files that exist")] = False,
) -> None:
    """Write measured or imputed expression for tools of cell-cell communication.

    For example: mocli export imputed.h5ad --to cellphonedb --label-key cell_type -o cpdb

    or: mocli export imputed.h5ad --to commot --spatial spots.h5ad -o commot.h5ad
    """
    from mocli import log
    from mocli.tasks.export import export_expression

    log.setup("info")
    written = export_expression(
        source,
        output,
        to=to,
        label_key=label_key,
        spatial=spatial,
        values=values,
        force=force,
        say=lambda text: log.logger.info("%s", text),
    )
    for path in written:
        log.logger.info("wrote %s", path)
