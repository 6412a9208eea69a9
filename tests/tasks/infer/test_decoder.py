"""Imputation through a model's own decoder: against its networks, scales, batches, blocks, hidden values."""

from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse, stats

import mocli
from mocli.data.files.inputs import open_inputs
from mocli.errors import InputError, UsageError
from mocli.tasks.infer import decoder as decoded
from mocli.tasks.infer.align import align, project
from mocli.tasks.infer.decoder import ValueDecoder, cannot_decode, decode_batch, mean_log1p
from mocli.tasks.infer.predictor import choose_predictor
from mocli.tasks.trained.calibration import load_calibrations
from mocli.tasks.trained.saved import load_model
from mocli.tasks.trained.stack import WAYS
from mocli.types import Route

N, GENES, PROTEINS, DECODED = 240, 60, 10, 40
SMALL = {
    "n_hidden": 24,
    "n_latent": 4,
    "batch_size": 64,
    "n_covariate": 3,
    "lr": 5e-3,
    "weight_kl": 0.01,
    "weight_latent": 10.0,
}
QUICK = {
    "params": SMALL,
    "max_steps": 200,
    "threads": 1,
    "device": "cpu",
    "html": False,
    "model": "multigrate",
}
USED = {"threads": 1, "device": "cpu", "html": False}
CPU = torch.device("cpu")


def counts():
    """Genes and proteins that follow the same two hidden numbers, and the batch a little."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(N, 2))
    batch = np.array(["a", "b", "c"])[np.arange(N) % 3]
    shift = (np.arange(N) % 3)[:, None] * 0.2
    tables = {}
    for name, p, depth in (("rna", GENES, 4.0), ("prot", PROTEINS, 60.0)):
        weights, level = rng.normal(size=(2, p)), rng.normal(size=p) * 0.5
        rate = depth * np.exp(0.8 * hidden @ weights + level + shift * rng.normal(size=p))
        tables[name] = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    return tables, batch


def adata(name, x, rows, batch):
    obs = pd.DataFrame({"batch": batch[rows]}, index=[f"c{i}" for i in rows])
    return ad.AnnData(x[rows], obs=obs, var=pd.DataFrame(index=[f"{name}{j}" for j in range(x.shape[1])]))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Cells of batch c have no proteins; the RNA of every fourth of the others is hidden."""
    folder = tmp_path_factory.mktemp("decoded")
    x, batch = counts()
    everyone = np.arange(N)
    measured = everyone[batch != "c"]
    adata("rna", x["rna"], everyone, batch).write_h5ad(folder / "rna.h5ad")
    adata("prot", x["prot"], measured, batch).write_h5ad(folder / "prot.h5ad")
    hidden = np.isin(everyone, measured[::4])
    adata("rna", x["rna"], everyone[~hidden], batch).write_h5ad(folder / "some.h5ad")
    return folder


@pytest.fixture(scope="module")
def imputed(files):
    """Proteins for the cells of batch c, and some held out."""
    output = files / "filled.h5mu"
    result = mocli.impute(
        [f"rna={files / 'rna.h5ad'}", f"prot={files / 'prot.h5ad'}"],
        output=output, source="rna", target="prot", batch_key="batch", hvg={"rna": DECODED}, **QUICK,
    )  # fmt: skip
    return result, output.with_suffix(".model")


@pytest.fixture
def model(imputed):
    """Its folder."""
    return imputed[1]


def latent(n=37):
    return np.random.default_rng(1).normal(size=(n, 4)).astype(np.float32)


def decoder_of(saved, modality, level=None):
    return ValueDecoder.of(saved, modality, decode_batch(saved, modality, level, lambda _: None), CPU)


def heads(saved, modality, z, code):
    """The decoder's last layer, step by step."""
    net = saved.model.module
    position = list(saved.modalities).index(modality)
    with torch.no_grad():
        side = net.covariates.tables[0].weight[code].expand(len(z), -1)
        h = torch.from_numpy(z)
        for i, block in enumerate(net.decoders[position].blocks):
            h = block(h, side if i == 0 else None)
        return net.decoders[position].head(h).double().numpy()


def test_values_of_a_normal_likelihood_are_the_mean_over_batches_that_measured_it(model):
    saved, z, columns = load_model(model), latent(), np.arange(PROTEINS)
    decoder = decoder_of(saved, "prot")
    assert decoder.batch.levels == ("a", "b")
    each = [np.maximum(heads(saved, "prot", z, code), 0) for code in (0, 1)]
    log = decoder.predict(z, "log", columns)
    np.testing.assert_allclose(log, np.mean(each, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(decoder_of(saved, "prot", "b").predict(z, "log", columns), each[1], rtol=1e-4,
                               atol=1e-5)  # fmt: skip
    # CLR leaves the total open: the median depth of the training cells settles it
    x, batch = counts()
    depth = saved.readouts["prot"].depth
    assert depth == pytest.approx(np.median(np.asarray(x["prot"][batch != "c"].sum(1))), rel=0.05)
    shares = [np.expm1(v) / np.expm1(v).sum(1, keepdims=True) for v in each]
    found = decoder.predict(z, "counts", columns)
    np.testing.assert_allclose(found, depth * np.mean(shares, 0), rtol=1e-3, atol=1e-4)
    mean, deviation = saved.readouts["prot"].moments("log")
    np.testing.assert_allclose(decoder.predict(z, "scaled", columns), (log - mean) / deviation, rtol=1e-3,
                               atol=1e-4)  # fmt: skip


def test_counts_are_proportions_at_the_median_depth(model):
    saved, z = load_model(model), latent()
    decoder, readout = decoder_of(saved, "rna"), saved.readouts["rna"]
    known = saved.recipes["rna"].selected
    assert len(known) == DECODED
    assert readout.depth == pytest.approx(np.median(np.asarray(counts()[0]["rna"].sum(1))), rel=0.05)
    # of that depth, what the readout expects the features decoded to have
    library = readout.predict(z, "counts", known).sum(1, keepdims=True)
    assert (library < 1.2 * readout.depth).all()
    proportions = []
    for code in range(3):
        head = np.exp(heads(saved, "rna", z, code))
        proportions.append(head / head.sum(1, keepdims=True))
    expected = library * np.mean(proportions, 0)
    np.testing.assert_allclose(decoder.predict(z, "counts", known), expected, rtol=1e-3, atol=1e-5)
    # the mean of log1p, not log1p of the mean
    k = np.arange(2000)
    brute = np.mean(
        [[[stats.poisson.pmf(k, m) @ np.log1p(k) for m in row[:5]] for row in library[:3] * p[:3]]
         for p in proportions], 0,
    )  # fmt: skip
    np.testing.assert_allclose(decoder.predict(z[:3], "log", known[:5]), brute, rtol=2e-3, atol=1e-4)
    # what the model was not trained on, the readout gives
    others = np.setdiff1d(np.arange(GENES), known)
    assert decoder.decoded(others).size == 0
    for scale in ("log", "counts", "scaled"):
        np.testing.assert_array_equal(decoder.predict(z, scale, others), readout.predict(z, scale, others))


def test_where_all_features_are_decoded_cells_have_the_median_depth(model):
    saved = load_model(model)
    found = decoder_of(saved, "prot").predict(latent(), "counts", np.arange(PROTEINS))
    np.testing.assert_allclose(found.sum(1), saved.readouts["prot"].depth, rtol=1e-5)


@pytest.mark.parametrize("mean", [0.0, 1e-5, 0.03, 0.7, 4.2, 99.0, 101.0, 2000.0])
def test_the_mean_of_log1p_over_poisson_counts(mean):
    k = np.arange(5000)
    assert mean_log1p(np.float32([[mean]]))[0, 0] == pytest.approx(
        stats.poisson.pmf(k, mean) @ np.log1p(k), rel=2e-3, abs=1e-8
    )


@pytest.mark.parametrize("scale", ["log", "counts", "scaled"])
def test_blocks_of_cells_and_features_change_nothing(model, monkeypatch, scale):
    saved, z, columns = load_model(model), latent(100), np.arange(GENES)
    decoder = decoder_of(saved, "rna")
    whole = decoder.predict(z, scale, columns)
    monkeypatch.setattr(decoded, "BLOCK", DECODED * 17)
    np.testing.assert_allclose(decoder.predict(z, scale, columns), whole, rtol=1e-4, atol=1e-5)
    shuffled = np.random.default_rng(2).permutation(GENES)
    parts = [decoder.predict(z[r], scale, c) for r in (slice(0, 60), slice(60, 100)) for c in (shuffled[:7],)]
    np.testing.assert_allclose(np.concatenate(parts), whole[:, shuffled[:7]], rtol=1e-4, atol=1e-5)


# batches


def test_a_batch_that_is_not_known_is_refused_with_those_that_are(model):
    saved = load_model(model)
    with pytest.raises(UsageError, match="no batch 'A'") as error:
        decode_batch(saved, "prot", "A", print)
    assert error.value.expected == "own, average, a, b, c"
    assert "'a'" in error.value.hint
    said = []
    assert decode_batch(saved, "prot", "c", said.append).codes == (2,)
    assert "no cell of batch = c had prot measured" in said[0]
    assert "measured in a, b" in said[0]


def test_every_cell_is_decoded_under_its_own_batch(model):
    saved, z = load_model(model), latent()
    own = np.arange(len(z)) % 4 - 1
    for name, n_vars in (("rna", GENES), ("prot", PROTEINS)):
        columns = np.arange(n_vars)
        decoder = decoder_of(saved, name, "own").of_cells(own)
        assert decoder.name == "decoder=own"
        for scale in ("log", "counts"):
            found = decoder.predict(z, scale, columns)
            for code, level in ((-1, None), (0, "a"), (1, "b"), (2, "c")):
                mine = own == code
                expected = decoder_of(saved, name, level).predict(z[mine], scale, columns)
                np.testing.assert_allclose(found[mine], expected, rtol=1e-4, atol=1e-5)
    # by hand, layer by layer
    known = own >= 0
    manual = np.stack([np.maximum(heads(saved, "prot", z[[i]], own[i])[0], 0) for i in np.flatnonzero(known)])
    found = decoder.predict(z, "log", columns)[known]
    np.testing.assert_allclose(found, manual, rtol=1e-4, atol=1e-5)
    # where each is not decoded under its own, batches of cells change nothing
    assert decoder_of(saved, "prot", "b").of_cells(own).batch_codes is None
    assert decode_batch(saved, "prot", "average", print) == decode_batch(saved, "prot", None, print)


def test_a_batch_called_own_is_meant(model):
    saved = load_model(model)
    entries = [
        {**m, "batches": {**m["batches"], "levels": ["own", "b"]}} if m["name"] == "prot" else m
        for m in saved.description["modalities"]
    ]
    levels = {**saved.description["levels"], "batch": ["own", "b", "c"]}
    other = replace(saved, description={**saved.description, "modalities": entries, "levels": levels})
    found = decode_batch(other, "prot", "own", print)
    assert (found.codes, found.by_cell) == ((0,), False)


def test_models_that_did_not_note_what_batches_measured_take_all(model):
    saved = load_model(model)
    entries = [{k: v for k, v in m.items() if k != "batches"} for m in saved.description["modalities"]]
    old = replace(saved, description={**saved.description, "modalities": entries})
    assert decode_batch(old, "prot", None, print).levels == ("a", "b", "c")
    alone = replace(old, description={**old.description, "spec": {**old.model.spec(), "has_batch": False}})
    assert decode_batch(alone, "prot", None, print) is None
    with pytest.raises(UsageError, match="has no batches") as error:
        decode_batch(alone, "prot", "a", print)
    assert "--batch-key" in error.value.hint


def test_batches_are_refused_before_anything_is_trained(files, tmp_path):
    def run(**options):
        inputs = [f"rna={files / 'rna.h5ad'}", f"prot={files / 'prot.h5ad'}"]
        given = {"source": "rna", "target": "prot", "output": tmp_path / "o.h5mu", **options}
        mocli.impute(inputs, dry_run=True, **given)

    with pytest.raises(UsageError, match="has no batches"):
        run(decode_batch="a")
    with pytest.raises(UsageError, match="no batch 'd'"):
        run(decode_batch="d", batch_key="batch")
    for route in ("readout", "stack"):
        with pytest.raises(UsageError, match="values depend on the batch"):
            run(decode_batch="a", batch_key="batch", route=route)
    with pytest.raises(UsageError, match="--route") as error:
        run(route="decode")
    assert "decoder" in error.value.hint
    for word in ("a", "own", "average"):
        run(decode_batch=word, batch_key="batch")


# which route


def test_a_readout_of_cells_placed_by_the_source_alone_goes_before_the_decoder(model):
    def chosen(source, target, warn=print, route="auto", batch=None):
        return choose_predictor(
            load_model(model), source, target, route=Route(route), batch=batch, device=CPU, warn=warn
        )[0].name

    readouts = load_model(model).readouts
    assert readouts["prot"].source == "rna"
    assert readouts["rna"].source is None
    assert chosen("rna", "prot") == "stack"
    assert chosen("rna", "prot", route="readout") == "readout"
    with pytest.raises(UsageError, match="has no stack"):
        chosen("prot", "rna", route="stack")
    assert chosen("prot", "rna") == "decoder"
    assert chosen("rna", "prot", route="decoder") == "decoder"
    warnings = []
    assert chosen("rna", "prot", warnings.append, batch="b") == "decoder=b"
    assert not warnings  # there is a stack: who names a batch wants the decoder
    assert chosen("prot", "rna", warnings.append, route="readout") == "readout"
    assert "encoded from all modalities measured in them" in warnings[0]


def test_what_has_no_values_is_not_decoded(model):
    saved = load_model(model)
    assert cannot_decode(saved, "prot") is None
    entries = [{**m, "likelihood": "bernoulli"} for m in saved.description["modalities"]]
    seen = replace(saved, description={**saved.description, "modalities": entries})
    assert "is detected, not how much" in cannot_decode(seen, "rna")
    options = {"batch": None, "device": CPU, "warn": print}
    with pytest.raises(UsageError, match="rna cannot be decoded") as error:
        choose_predictor(seen, "prot", "rna", route=Route.DECODER, **options)
    assert "log, scaled and counts" in error.value.hint
    found, why = choose_predictor(seen, "prot", "rna", route=Route.AUTO, **options)
    assert found.name == "readout"
    assert "is detected" in why


# from files to files


def test_a_run_says_how_values_were_made_and_keeps_intervals_by_route(imputed, files, tmp_path, check_report):
    result, model = imputed
    check_report(files / "filled.report.json")
    assert result.report["model"]["name"] == "multigrate"
    assert [row[0] for row in result.report["tables"]["route"]["rows"]] == list(WAYS)
    assert "by the stack" in result.report["outputs"][0]["what"]
    assert {key[3] for key in load_calibrations(model)} == {"stack"}
    assert result.report["metrics"]["imputation_pearson_median[rna->prot]"]["value"] > 0.5
    query = [f"rna={files / 'rna.h5ad'}"]
    again = mocli.impute(query, from_model=model, target="prot", output=tmp_path / "q.h5ad", **USED)
    found = ad.read_h5ad(tmp_path / "q.h5ad")
    assert {"lower", "upper"} == set(found.layers)
    assert again.report["tables"]["route"]["rows"][0][0] == WAYS[0]
    # intervals of one route are not those of another
    other = mocli.impute(query, from_model=model, target="prot", route="decoder", output=tmp_path / "d.h5ad",
                         **USED)  # fmt: skip
    assert any("for the stack, not for the decoder" in w for w in other.report["warnings"])
    through = ad.read_h5ad(tmp_path / "d.h5ad")
    assert not through.layers
    assert set(through.var["imputed_by"]) == {"decoder"}
    saved = load_model(model)
    (file,) = open_inputs(query, kinds={})
    z = project(saved, "rna", align(saved, "rna", file, layers={}, warn=print), "cpu")
    direct = np.mean([np.maximum(heads(saved, "prot", z, code), 0) for code in (0, 1)], 0)
    np.testing.assert_allclose(through.X, direct, rtol=1e-3, atol=1e-3)


def test_own_batches_from_files_to_files(files, model, tmp_path):
    cells = ad.read_h5ad(files / "rna.h5ad")
    cells.obs["sample"] = cells.obs["batch"].astype(str)
    cells.obs.iloc[:6, cells.obs.columns.get_loc("sample")] = "z"
    del cells.obs["batch"]
    cells.write_h5ad(tmp_path / "rna.h5ad")
    given = {"from_model": model, "target": "prot", "decode_batch": "own", **USED}
    with pytest.raises(InputError, match="column 'batch' of --batch-key"):
        mocli.impute(f"rna={tmp_path / 'rna.h5ad'}", output=tmp_path / "no.h5ad", **given)
    output = tmp_path / "own.h5ad"
    result = mocli.impute(f"rna={tmp_path / 'rna.h5ad'}", output=output, batch_key="sample", **given)
    saved = load_model(model)
    (file,) = open_inputs([f"rna={tmp_path / 'rna.h5ad'}"], kinds={})
    z = project(saved, "rna", align(saved, "rna", file, layers={}, warn=print), "cpu")
    each = [np.maximum(heads(saved, "prot", z, code), 0) for code in (0, 1, 2)]
    expected = np.choose(np.arange(N)[:, None] % 3, each)
    expected[:6] = np.mean(each[:2], 0)[:6]
    np.testing.assert_allclose(ad.read_h5ad(output).X, expected, rtol=1e-3, atol=1e-3)
    (row,) = result.report["tables"]["route"]["rows"]
    assert row[3] == "each cell's own batch; where it is unknown, the mean over batch = a, b"
    said = " ".join(result.report["warnings"])
    assert f"6 of {N} cells have no batch that the model knows" in said
    assert "no cell of batch = c had prot measured" in said


def test_hidden_expression_of_a_mosaic_is_told_better_than_by_its_mean(files, tmp_path):
    inputs = [f"rna={files / 'some.h5ad'}", f"prot={files / 'prot.h5ad'}"]
    truth = ad.read_h5ad(files / "rna.h5ad")
    for route in ("decoder", "readout"):
        output = tmp_path / f"{route}.h5ad"
        given = {**USED, "from_model": tmp_path / "decoder.model"}
        if route == "decoder":
            given = {"hold_out": 0.0, "batch_key": "batch", **QUICK}
        result = mocli.impute(inputs, source="prot", target="rna", output=output, route=route, **given)
        assert result.report["tables"]["route"]["rows"][0][0] == route
        new = ad.read_h5ad(output)
        assert new.n_obs == 40
        depth = load_model(tmp_path / "decoder.model").readouts["rna"].depth
        x = truth.X.toarray()
        log = np.log1p(x / x.sum(1, keepdims=True) * depth)
        hidden = truth.obs_names.get_indexer(new.obs_names)
        mean = np.delete(log, hidden, axis=0).mean(0)
        errors = np.square(new.X - log[hidden]).sum(0) / np.square(mean - log[hidden]).sum(0)
        assert np.median(errors) < 0.9, route
