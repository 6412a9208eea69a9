"""`mocli export`."""

from pathlib import Path
from typing import Annotated

import typer

from mocli.cli.command import checked, usage
from mocli.parsing import among

TOOLS = ("cellphonedb", "commot")
VALUES = ("auto", "counts", "log", "normalised")


def export(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="h5ad with expression, or FILE::MODALITY")],
    *,
    output: Annotated[Path, usage("--output -o PATH", "Folder (cellphonedb) or .h5ad (commot)")],
    to: Annotated[
        str, usage(f"--to {'|'.join(TOOLS)}", "Tool that will read it", callback=checked(among(*TOOLS)))
    ],
    label_key: Annotated[
        str | None, usage("--label-key COLUMN", "obs column with cell types; cellphonedb needs it")
    ] = None,
    spatial: Annotated[
        str | None,
        usage("--spatial FILE", "File whose obsm spatial says where cells lie", show_default="INPUT"),
    ] = None,
    values: Annotated[
        str,
        usage(
            f"--values {'|'.join(VALUES)}",
            "What the values of X are; imputed ones are log(1 + x) by default, which auto sees",
            callback=checked(among(*VALUES)),
        ),
    ] = "auto",
    force: Annotated[bool, usage("--force -f", "Replace files that exist")] = False,
) -> None:
    """Write measured or imputed expression as tools of cell-cell communication read it.

    For example: mocli export imputed.h5ad --to cellphonedb --label-key cell_type -o cpdb

    or: mocli export imputed.h5ad --to commot --spatial spots.h5ad -o commot.h5ad
    """
    from mocli import log
    from mocli.tasks.export.communication import export_expression

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
