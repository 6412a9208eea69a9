"""`mocli links build` and `mocli links check`."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mocli.cli.output import emit, table
from mocli.cli.parameters import CONTEXT, PlainCommand, PlainGroup, checked, usage
from mocli.parsing import among, positive

if TYPE_CHECKING:
    from mocli.tasks.links.check import Audit, Problem, Side

MODES = ("auto", "antigen", "promoter", "body", "window", "names")
SHOWN = 20

links = typer.Typer(
    cls=PlainGroup, context_settings=CONTEXT, rich_markup_mode="rich", invoke_without_command=True
)

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...",
        help="h5mu, h5ad or 10x h5 files, or folders of a 10x matrix; NAME=FILE, FILE::MODALITY",
    ),
]
VarKey = Annotated[str | None, usage("--var-key COLUMN", "var column with the feature names to use")]
Verbose = Annotated[bool, usage("--verbose -v", "List all of them, not only the first 20")]
Quiet = Annotated[bool, usage("--quiet -q", "Log warnings only")]


@links.callback()
def group(ctx: typer.Context) -> None:
    """Build a feature-link table, or check one against the data."""
    if ctx.invoked_subcommand is None:
        emit(ctx.get_help())


@links.command(cls=PlainCommand, context_settings=CONTEXT)
def build(
    inputs: Inputs,
    *,
    output: Annotated[Path, usage("--output -o FILE", "Link table, .tsv or .tsv.gz; '-' is stdout")],
    mode: Annotated[
        str,
        usage(
            f"--mode {'|'.join(MODES)}",
            "antigen: proteins to their genes or to another panel; promoter, body, window: genes to peaks; "
            "names: same names; auto: by what is measured, body for peaks",
            callback=checked(among(*MODES)),
        ),
    ] = "auto",
    genes: Annotated[
        Path | None,
        usage(
            "--gtf --genes FILE",
            "Gene table, for peaks: GTF, GFF3, BED, or TSV with chrom, start, end, strand, gene",
        ),
    ] = None,
    window: Annotated[
        int | None,
        usage("--window BASES", "Farthest peak from the TSS", min=0, show_default="100000, of --mode window"),
    ] = None,
    decay: Annotated[
        float | None,
        usage(
            "--decay BASES",
            "A peak at distance d of the TSS has the weight exp(-d / decay)",
            callback=checked(positive),
            show_default="50000, of --mode window",
        ),
    ] = None,
    promoter: Annotated[
        int | None,
        usage(
            "--promoter BASES", "Farthest peak from the TSS", min=0, show_default="2000, of --mode promoter"
        ),
    ] = None,
    upstream: Annotated[
        int | None,
        usage(
            "--upstream BASES",
            "Bases before the TSS that count as the gene",
            min=0,
            show_default="2000, of --mode body",
        ),
    ] = None,
    var_key: VarKey = None,
    force: Annotated[bool, usage("--force -f", "Replace a table that exists")] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Propose links between two modalities from the names of their features.

    For example: mocli links build prot.h5ad rna.h5ad -o links.tsv

    or: mocli links build rna.h5ad atac.h5ad --gtf genes.gtf.gz -o links.tsv
    """
    from mocli.tasks.links.build import build_links, say_links

    _logs(quiet=quiet)
    to_stdout = str(output) == "-"
    reach = {"window": window, "decay": decay, "promoter": promoter, "upstream": upstream}
    proposed = build_links(
        inputs,
        output=None if to_stdout else output,
        force=force,
        mode=mode,
        genes=genes,
        reach={name: bases for name, bases in reach.items() if bases is not None},
        var_key=var_key,
    )
    say_links(proposed, log=_say, limit=None if verbose else SHOWN)
    if to_stdout:
        emit(proposed.to_tsv(), data=True)
    else:
        _say(f"wrote {output}; check the links before you use them")


@links.command(cls=PlainCommand, context_settings=CONTEXT)
def check(
    table_file: Annotated[str, typer.Argument(metavar="LINKS", help="Link table; '-' reads stdin; first:N")],
    inputs: Inputs,
    *,
    var_key: VarKey = None,
    as_json: Annotated[bool, usage("--json", "Print JSON")] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Check a link table against the data: what matches, what does not, what carries no information.

    For example: mocli links check links.tsv rna.h5ad prot.h5ad
    """
    from mocli.tasks.links.check import audit_links

    _logs(quiet=quiet)
    audit = audit_links([table_file], inputs, var_key=var_key, log=_say)
    if as_json:
        emit(json.dumps(asdict(audit), indent=2))
    else:
        emit(_as_text(audit, limit=None if verbose else SHOWN))


def _as_text(audit: "Audit", *, limit: int | None) -> str:
    header = ("modality", "features", "linked", "not found", "constant", "many links")
    parts = []
    for edge in audit.edges:
        rows = [_counts(side) for side in (edge.source, edge.target)]
        repeated = f", {edge.n_repeated:,} repeated" if edge.n_repeated else ""
        title = f"{edge.source.modality} <-> {edge.target.modality}"
        parts.append(f"{title}: {edge.n_links:,} links of {edge.n_rows:,} rows{repeated}")
        parts.append(table(header, rows))
        if edge.correlation is not None:
            parts.append(
                f"in {edge.n_cells:,} cells of both, linked features have a median correlation of "
                f"{edge.correlation:.2f}; {edge.n_contradicted:,} are clearly below zero"
            )
    if audit.n_repeated:
        parts.append(f"{audit.n_repeated:,} rows occur in the table more than once")
    if audit.problems:
        parts.append(_problems(audit.problems, limit=limit))
    return "\n\n".join([*parts, audit.verdict()])


def _counts(side: "Side") -> tuple[object, ...]:
    numbers = (side.n_features, side.n_linked, side.n_unmatched, side.n_constant, side.n_many)
    return (side.modality, *(f"{n:,}" for n in numbers))


def _problems(problems: "Sequence[Problem]", *, limit: int | None) -> str:
    """Return a table with the first findings of each sort and modality."""
    groups: dict[tuple[str, str], list[Problem]] = {}
    for each in problems:
        groups.setdefault((each.problem, each.modality), []).append(each)
    rows: list[tuple[str, ...]] = []
    for (problem, modality), group in groups.items():
        rows += [(problem, modality, each.feature, each.detail) for each in group[:limit]]
        if limit is not None and len(group) > limit:
            rows.append((problem, modality, "...", f"{len(group) - limit:,} more (-v lists all)"))
    return table(("problem", "modality", "feature", "detail"), rows)


def _logs(*, quiet: bool) -> None:
    from mocli import log

    log.setup("warning" if quiet else "info")


def _say(message: str) -> None:
    from mocli import log

    if message.startswith("warning: "):
        log.logger.warning("%s", message.removeprefix("warning: "))
    else:
        log.logger.info("%s", message)
