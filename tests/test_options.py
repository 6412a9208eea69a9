"""An option is declared once: all that follows from it is shown with one that exists only here."""

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from mocli.cli import command as cli
from mocli.errors import UsageError
from mocli.options import Options, declared_in, option, signature_of, sort_into
from mocli.parsing import duration
from mocli.tasks.benchmark.options import BenchmarkOptions
from mocli.tasks.benchmark.plan import untrained, words_of
from mocli.tasks.run import options as shared
from mocli.tasks.run.request import SHARED, Request, Result, subcommand


@dataclass(frozen=True)
class ToyOptions(Options):
    """Do what a toy does.

    For example: mocli toy data.h5ad -o toy.tsv
    """

    PANEL: ClassVar = "Toys"
    LACKS: ClassVar = frozenset({"umap"})
    GONE: ClassVar = {"--doll": "--toy takes its place"}

    toy: int = option("--toy N", "Number of toys", default=2, least=1)
    pause: float = option("--pause TIME", "Time between", default="1m", marks="text", parse=duration)


@pytest.fixture
def toy_of_training(monkeypatch):
    """A group of training options with one more, declared in one place."""

    @dataclass(frozen=True)
    class TrainOptions(shared.TrainOptions):
        dropout_toy: float = option(
            "--dropout-toy X", "Share of toys to drop", default=0.0, marks="trains identifies", shown="none"
        )

    monkeypatch.setattr(shared, "TrainOptions", TrainOptions)
    return TrainOptions


def request_with(train) -> Request:
    return Request(
        shared.DataOptions(("a.h5mu",), links=("l.tsv",)),
        train,
        shared.RunOptions(),
        shared.OutputOptions(Path("o.tsv")),
    )


def test_an_option_of_training_reaches_all_that_depends_on_it(toy_of_training):
    plain, toy = request_with(toy_of_training()), request_with(toy_of_training(dropout_toy=0.5))
    assert plain.of_training == ["--links"]
    assert toy.of_training == ["--links", "--dropout-toy"]
    assert "dropout_toy" not in plain.identity
    assert toy.identity["dropout_toy"] == 0.5
    assert words_of(toy, ["l.tsv"], {}) == ["a.h5mu", "--links", "l.tsv", "--dropout-toy", "0.5"]
    assert words_of(untrained(toy), (), {}) == ["a.h5mu"]
    groups = tuple(toy_of_training if group is shared.TrainOptions else group for group in SHARED)
    assert "dropout_toy" in signature_of((*groups, toy_of_training)).parameters


def test_a_subcommand_is_its_options_and_a_function():
    @subcommand(ToyOptions)
    def toy(request, asked, *, dry_run, command):
        """Play."""
        return Result(request.output.output, {"toys": asked.toy, "pause": asked.pause}, list(command), [])

    assert toy("a.h5ad", output="o.tsv", toy=3, command=["x"]).report == {"toys": 3, "pause": 60.0}
    assert toy(["a.h5ad", Path("b.h5ad")], output="o.tsv", pause=5).report["pause"] == 5.0
    assert "Number of toys." in toy.__doc__
    assert "umap" not in toy.__doc__
    with pytest.raises(UsageError, match="toy has no option 'toys'") as caught:
        toy("a.h5ad", output="o.tsv", toys=3)
    assert "'toy'" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        toy("a.h5ad", output="o.tsv", doll=3)
    assert caught.value.hint == "--toy takes its place"
    with pytest.raises(UsageError, match="--toy must be 1 or more"):
        toy("a.h5ad", output="o.tsv", toy=0)
    with pytest.raises(UsageError, match="--output is needed"):
        toy("a.h5ad")


def test_its_command_line_follows(monkeypatch, capsys):
    import typer

    from mocli.cli.command import command_of
    from mocli.cli.parameters import PlainCommand

    calls = []
    monkeypatch.setattr("mocli.cli.command.load_class", lambda _: lambda *a, **k: calls.append((a, k)))
    app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.command(cls=PlainCommand)(command_of("toys:toy", (ToyOptions, *cli.SHARED), about="Count toys."))
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100"}).output
    assert "Number of toys [default: 2]" in " ".join(text.split()).replace("│ ", "")
    assert "--seen-in" not in text
    assert "--seen-in" in CliRunner().invoke(app, ["--help-all"]).output
    done = CliRunner().invoke(app, ["a.h5ad", "-o", "o.tsv"], env={"MOCLI_TOY": "5"})
    assert done.exit_code == 0, done.output
    assert calls[0][1]["toy"] == 5
    printed = CliRunner().invoke(app, ["--toy", "4", "--print-config"]).output
    assert "toy: 4  # command line" in printed
    assert "pause: 1m  # default" in printed


@pytest.mark.parametrize("group", [*SHARED, *(cli.options_of(task) for task in cli.Task)])
def test_every_option_is_explained(group):
    for name, declared in declared_in(group).items():
        said = declared.option
        assert not said.help.endswith(".") or said.help.endswith("..."), name
        assert said.names == () or said.names[0].startswith("--")
        if declared.long != "INPUT" and declared.cli is not bool:
            assert said.metavar, f"{name} says nothing of its value"


def test_words_of_a_command_line_are_read_back():
    given = shared.RunOptions(
        seed=3, max_time="3h", max_memory="16G", deterministic=True, checkpoint_dir="c d"
    )
    words = given.words()
    assert words == [
        "--seed", "3", "--deterministic", "--checkpoint-dir", "c d", "--max-time", "10800.0",
        "--max-memory", "16000000000.0",
    ]  # fmt: skip
    assert shared.RunOptions(max_time=words[6], max_memory=words[8]).max_time == given.max_time
    data = shared.DataOptions(["a", Path("b")], hvg={"rna": 10}, covariate="sex", seen_in={"rna": 0.01})
    assert data.words() == ["a", "b", "--hvg", "rna=10", "--seen-in", "rna=0.01", "--covariate", "sex"]


def test_named_hyperparameters_join_the_others():
    train = shared.TrainOptions(n_latent=5, lr=0.1, params={"lr": 0.2})
    assert train.params == {"n_latent": 5, "lr": 0.2}
    assert (train.n_latent, train.lr) == (None, None)


def test_groups_sort_the_arguments_of_python():
    data, *_ = sort_into(SHARED, {"inputs": "a.h5mu", "output": "o.h5mu", "kind": {"a": "rna"}}, task="x")
    assert (data.inputs, data.kind) == (("a.h5mu",), {"a": "rna"})
    with pytest.raises(UsageError, match="does not accept"):
        sort_into(SHARED, {"output": "o.h5mu", "kind": {"a": "rnaa"}}, task="x")


def test_a_word_in_place_of_a_mapping_is_refused_by_name():
    with pytest.raises(UsageError, match="--layer takes a mapping") as caught:
        sort_into([shared.DataOptions], {"inputs": ["a.h5ad"], "layer": "counts"}, task="integrate")
    assert caught.value.expected == "{NAME: VALUE}"


@pytest.mark.parametrize(("group", "given"), [(shared.RunOptions, "seed"), (BenchmarkOptions, "seeds")])
def test_a_number_beyond_what_libraries_take_is_refused(group, given):
    """torch and scikit-learn refuse such seeds only once they are drawn from."""
    for value in (2**31, 99999999999999999999):
        with pytest.raises(UsageError, match=f"--{given}"):
            sort_into([group], {given: value}, task="x")
    assert sort_into([group], {given: 2**31 - 1}, task="x")


def test_none_is_a_value_where_the_option_has_one():
    groups = (*SHARED[:1], cli.options_of("integrate"))
    asked = sort_into(groups, {"inputs": "a.h5mu", "clusters": None, "sample": None}, task="x")[1]
    assert (asked.clusters, asked.sample) == (None, 0)
    assert asked.words() == ["--clusters", "none"]
    assert shared.DataOptions(["a.h5ad"], batch_key="").words() == ["a.h5ad", "--batch-key", "none"]
    assert cli.options_of("integrate")(clusters=asked.words()[1]).clusters is None
    assert sort_into(groups, {"inputs": "a.h5mu"}, task="x")[1].clusters == 1.0


def test_what_the_package_offers_is_there_and_documented():
    import mocli

    for name in dir(mocli):
        assert name == "__version__" or getattr(mocli, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'integrat'"):
        _ = mocli.integrat


def test_a_gene_table_may_be_called_genes_as_in_links_build(tmp_path):
    Gene2PeakOptions = cli.options_of("gene2peak")
    table, names = tmp_path / "genes.tsv.gz", tmp_path / "names.txt"
    table.write_bytes(gzip.compress(b"chrom\tstart\tend\tstrand\tgene\nchr1\t1\t9\t+\tCD4\n"))
    names.write_text("CD4\nCD8A\n")
    assert Gene2PeakOptions(genes=table).gtf == table
    assert Gene2PeakOptions(genes=str(table)).genes == ()
    assert Gene2PeakOptions(genes=names, gtf=table).genes == ("CD4", "CD8A")
    assert Gene2PeakOptions(genes="CD4,CD8A").genes == ("CD4", "CD8A")
    with pytest.raises(UsageError, match="the file has columns"):
        Gene2PeakOptions(genes=table, gtf=table)


def test_names_and_files_may_come_as_a_mapping():
    (data,) = sort_into([shared.DataOptions], {"inputs": {"rna": Path("a.h5ad"), "prot": "b.h5ad"}}, task="t")
    assert data.inputs == ("rna=a.h5ad", "prot=b.h5ad")
