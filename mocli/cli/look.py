"""`mocli doctor FILE...`: what files hold, what mocli would do with them, and what prevents it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

from mocli.data.files.inspect import (
    ModalityFacts,
    agreeing_names,
    conditions_told_by,
    inspect_modality,
    nesting,
    perturbed_like,
)
from mocli.errors import MocliError
from mocli.tasks.prepare.choice import choose
from mocli.tasks.prepare.pairing import relate_files
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.prepare.select import choose_model
from mocli.tasks.run.options import AUTO, DataOptions
from mocli.types import ModalityKind, Pairing, Task, ValueKind

WORDS = {
    ValueKind.COUNTS: "counts",
    ValueKind.LOGNORM: "logged values",
    ValueKind.POSITIVE: "positive values",
    ValueKind.REAL: "values below zero too",
}
MOST_COLUMNS = 4


@dataclass
class Prospect:
    """What files hold, and what mocli would do with them.

    Attributes:
        plan: What a run would use, by modality; cells, model and command as lines.
        nested: Columns like batches, and the columns like conditions in which each of their levels lies in
            one.
        screened: Columns that say which feature was perturbed in a cell, with the level of the controls.
        problems: What must be fixed first, and how; `exit_code` of the first.
    """

    modalities: list[ModalityFacts] = field(default_factory=list)
    where: dict[str, str] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    plan: list[str] = field(default_factory=list)
    nested: dict[str, list[str]] = field(default_factory=dict)
    screened: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    exit_code: int = 0

    def mend(self, error: MocliError) -> None:
        """Record what is wrong and how to fix it."""
        where = f"{error.file}: " if error.file else ""
        value = f" (found: {error.found})" if error.found else ""
        self.problems.append(where + error.message + value + (f"; {error.hint}" if error.hint else ""))
        self.exit_code = self.exit_code or error.exit_code


def look_at(inputs: Sequence[str]) -> Prospect:
    """Check files as `mocli integrate` would; problems are reported, not raised."""
    prospect = Prospect()
    data = DataOptions(inputs)
    try:
        files = open_modalities(data)
        prospect.modalities = [inspect_modality(file) for file in files]
    except MocliError as error:
        prospect.mend(error)
        return prospect
    prospect.where = {file.name: file.where for file in files}
    for file, facts in zip(files, prospect.modalities, strict=True):
        told = {batch: conditions_told_by(file.obs, batch) for batch in facts.batches}
        prospect.nested |= {batch: conditions for batch, conditions in told.items() if conditions}
        prospect.screened |= perturbed_like(file.obs, file.var.index)
    names = [list(map(str, file.obs.index)) for file in files]
    relation = relate_files(files, data.pairing)
    for (i, first), (j, second) in combinations(enumerate(files), 2):
        exact, bare = agreeing_names(names[i], names[j])
        if bare > max(exact, 20) and bare > 0.5 * min(first.n_obs, second.n_obs):
            prospect.plan.append(
                f"  {bare:,} names of {first.name} and {second.name} agree but for endings such as -1 or "
                f"samples before the barcode; {exact:,} agree as they are"
            )
    unpaired = relation.pairing is Pairing.UNPAIRED
    cells = f"cells: {relation.pairing} ({relation.reason})" if len(files) > 1 else ""
    try:
        kinds = [file.kind for file in files]
        task = Task.INTEGRATE
        traits, why = choose_model(AUTO, task=task, pairing=relation.pairing, kinds=kinds, links=unpaired)
        prospect.plan.insert(0, f"{cells}; model: {traits.name} ({why})".removeprefix("; "))
    except MocliError as error:
        prospect.plan[:0] = [cells] if cells else []
        prospect.mend(error)
        return prospect
    for file in files:
        try:
            chosen = choose(file, data, traits)
            cut = chosen.n_top is not None and chosen.n_top < file.n_vars
            top = f", {chosen.n_top:,} most variable features" if cut else ", all features"
            values = WORDS[chosen.layer.values]
            prospect.choices[file.name] = f"{values} of {chosen.layer.layer}, {chosen.taken}{top}"
        except MocliError as error:
            prospect.mend(error)
    prospect.plan += _commands(inputs, prospect, links=unpaired and traits.uses_links)
    return prospect


def _commands(inputs: Sequence[str], prospect: Prospect, *, links: bool) -> list[str]:
    """Return what to type next; no batch that is nested in a condition is to be corrected for."""
    modalities = prospect.modalities
    words = ["mocli", "integrate", *inputs]
    lines = []
    if links:
        genes = ["--genes", "GENES.gtf"] if any(m.kind is ModalityKind.ATAC for m in modalities) else []
        ordered = _proteins_first(inputs, modalities)
        lines.append(f"first: {shlex.join(['mocli', 'links', 'build', *ordered, *genes, '-o', 'links.tsv'])}")
        words += ["--links", "links.tsv"]
    for option, columns in (("--batch-key", "batches"), ("--label-key", "labels")):
        column_sets = [set(getattr(m, columns)) for m in modalities]
        # cells measured apart are corrected by the batches of the modality that has some
        enough = any if links and option == "--batch-key" else all
        common = [
            c
            for c in dict.fromkeys(c for m in modalities for c in getattr(m, columns))
            if enough(c in k for k in column_sets) and c not in prospect.nested
        ]
        common.sort(key=lambda c: -sum(c in k for k in column_sets))
        words += [option, common[0]] if common else []
    lines.append(f"next: {shlex.join([*words, '-o', 'out.h5mu'])}")
    for column, control in list(prospect.screened.items())[:1]:
        screen = ["mocli", "perturb", *inputs, "--from", f"{column}={control}", "--truth", column]
        lines.append(f"or: {shlex.join([*screen, '-o', 'screen.tsv'])}")
    return lines


def _proteins_first(inputs: Sequence[str], modalities: Sequence[ModalityFacts]) -> list[str]:
    """Order files as the guide does, from what is linked to what it is linked to; files of several stay."""
    if len(inputs) != len(modalities):
        return list(inputs)
    kinds = [m.kind is not ModalityKind.PROT for m in modalities]
    return [text for _, text in sorted(zip(kinds, inputs, strict=True), key=lambda of: of[0])]


def as_lines(prospect: Prospect) -> list[str]:
    """Return about ten lines for files of two modalities; the last says `ready`, or what to fix."""
    lines: list[str] = []
    for m in prospect.modalities:
        lines.append(
            f"{m.name}: {m.n_obs:,} cells x {m.n_vars:,} {m.kind} features, from {prospect.where[m.name]}"
        )
        lines.append(f"  features: {m.features}" + (f"; genome {m.genome}" if m.genome else ""))
        matrices = ", ".join(f"{k} ({WORDS[v]})" for k, v in m.matrices.items())
        would_use = f"; would use {prospect.choices[m.name]}" if m.name in prospect.choices else ""
        lines.append(f"  matrices: {matrices}{would_use}")
        if m.spatial:
            lines.append("  coordinates in a tissue: obsm spatial")
        lines += [f"  look: {doubt}" for doubt in m.doubts]
    columns = {m.name: _columns(m) for m in prospect.modalities}
    if len(set(columns.values())) == 1:
        columns = {"columns": next(iter(columns.values()))}
    lines += [f"{name}: {line}" for name, line in columns.items()]
    sentences = [nesting(batch, conditions) for batch, conditions in prospect.nested.items()]
    lines += [f"  look: {'; '.join(sentences)}"] if sentences else []
    lines += [f"screen: {', '.join(prospect.screened)} like perturbed features"] if prospect.screened else []
    lines += prospect.plan
    if prospect.problems:
        return [*lines, "to mend:", *(f"- {problem}" for problem in prospect.problems)]
    return [*lines, "ready"]


def _columns(m: ModalityFacts) -> str:
    """Say which columns of obs look like batches, conditions and labels, with their numbers of levels."""
    kinds = {"batches": m.batches, "conditions": m.conditions, "labels": m.labels}
    shown = (
        f"{', '.join(f'{c} ({n})' for c, n in list(columns.items())[:MOST_COLUMNS]) or 'none'} like {what}"
        for what, columns in kinds.items()
        if columns or what != "conditions"
    )
    return "; ".join(shown)
