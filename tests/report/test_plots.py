import io
import subprocess
import sys
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from mocli.report import plots, scatter
from mocli.report.drawing import MAX_LEVELS, colours, keeping, new_figure, show, to_svg
from mocli.report.scatter import MAX_SVG_POINTS, Category, _apart, by_category, by_modality, by_value

PNG = b"\x89PNG\r\n\x1a\n"


def blobs(n: int, n_levels: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, n_levels, n)
    xy = (rng.normal(0, 8, (n_levels, 2))[codes] + rng.normal(size=(n, 2))).astype(np.float32)
    return xy, Category(codes, [f"level {i}" for i in range(n_levels)])


def check_svg(picture: object) -> str:
    assert isinstance(picture, str)
    assert ET.fromstring(picture).tag.endswith("svg")
    return picture


def curves(**values):
    return {"train": {k: {"step": list(range(1, len(v) + 1)), "value": v} for k, v in values.items()}}


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=int)


def n_near(image: np.ndarray, colour: np.ndarray) -> int:
    return int((np.abs(image - 255 * colour).max(axis=2) < 24).sum())


def test_few_points_are_svg_many_are_png() -> None:
    xy, category = blobs(MAX_SVG_POINTS + 1, 3)
    assert by_category(xy, category)[:8] == PNG
    check_svg(by_category(xy[:-1], Category(category.codes[:-1], category.levels)))


def test_no_class_hides_another() -> None:
    """Two classes in one cloud, all of the second listed last, show equally."""
    n = 20_000
    xy = np.random.default_rng(1).normal(size=(n, 2)).astype(np.float32)
    codes = np.repeat([0, 1], n // 2)
    image = pixels(by_category(xy, Category(codes, ["a", "b"])))
    seen = [n_near(image, c) for c in colours(2)]
    assert min(seen) > 0.8 * max(seen)


def test_the_unknown_are_light_grey_and_cells_of_no_level_have_their_name() -> None:
    found = scatter._key(Category(np.array([0, 1, -1]), ["a", "unknown"], "reference"))
    assert found.names == ["a", "unknown", "reference"]
    assert found.colours[1].min() > 0.8
    assert found.colours[0].min() < 0.5


def test_cells_not_known_lie_beneath() -> None:
    n = 20_000
    xy = np.random.default_rng(1).normal(size=(n, 2)).astype(np.float32)
    image = pixels(by_category(xy, Category(np.repeat([0, -1], n // 2), ["a"])))
    alone = pixels(by_category(xy[: n // 2], Category(np.zeros(n // 2, int), ["a"])))
    # points are smaller where there are twice as many, but none is covered
    assert n_near(image, colours(1)[0]) > 0.5 * n_near(alone, colours(1)[0])


@pytest.mark.parametrize("n_levels", [1, 2, 9, MAX_LEVELS, MAX_LEVELS + 20])
def test_any_number_of_levels_draws(n_levels: int) -> None:
    xy, category = blobs(500, n_levels)
    check_svg(by_category(xy, category))
    check_svg(by_modality(xy, Category(category.codes % 2, ["rna", "prot"]), colour_by=category))


def test_empty_layouts_and_missing_points_draw() -> None:
    xy, category = blobs(50, 12)
    xy[::2] = np.nan
    check_svg(by_category(xy, category))
    nothing = Category(np.empty(0, int), ["a"])
    check_svg(by_category(np.empty((0, 2), np.float32), nothing))
    same = np.zeros((50, 2), np.float32)
    check_svg(by_category(same, category))
    check_svg(by_modality(same, Category(category.codes % 2, ["rna", "prot"])))


def test_codes_outside_the_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="codes"):
        Category(np.array([0, 2]), ["a", "b"])


def test_colours_differ_and_are_few() -> None:
    found = colours(MAX_LEVELS)
    assert found.min() >= 0
    assert found.max() <= 1
    distance = np.abs(found[:, None] - found[None]).max(axis=2) + np.eye(len(found))
    assert distance.min() > 0.05
    with pytest.raises(ValueError, match="colours"):
        colours(MAX_LEVELS + 1)


def linear_light(rgb: np.ndarray) -> np.ndarray:
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def test_the_first_colours_differ_for_the_colour_blind() -> None:
    """Simulated with the dichromat matrices of Viénot, Brettel and Mollon (1999)."""
    protan = np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]])
    deutan = np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])
    linear = linear_light(colours(7))
    for matrix in (protan, deutan):
        seen = np.clip(linear @ matrix.T, 0, 1) ** (1 / 2.2)
        distance = np.linalg.norm(seen[:, None] - seen[None], axis=2) + 9 * np.eye(len(seen))
        assert distance.min() > 0.1


def test_numbers_are_pushed_apart() -> None:
    points = np.concatenate([np.zeros((4, 2)), np.random.default_rng(0).uniform(0, 1, (20, 2))])
    moved = _apart(points, gap=0.03)
    distance = np.linalg.norm(moved[:, None] - moved[None], axis=2) + np.eye(len(moved))
    assert distance.min() > 0.028
    alone = np.array([[0.0, 0.0], [1.0, 1.0]])
    np.testing.assert_array_equal(_apart(alone, gap=0.03), alone)


def test_loss_curves_draw_gaps_spans_and_a_resume() -> None:
    rng = np.random.default_rng(0)
    history = curves(
        falling=list(100 * np.exp(-np.arange(300) / 20) + 0.01), negative=list(-rng.random(300)),
        gap=[1.0, None, 3.0], never=[None, None], one=[2.0], constant=[1.0] * 100,
    )  # fmt: skip
    picture = check_svg(plots.loss_curves(history, resumed_from=100))
    assert "stroke-dasharray" in picture
    check_svg(plots.loss_curves({"first": history["train"], "second": history["train"]}, resumed_from=3))


def test_smoothing_is_the_centred_mean() -> None:
    values = np.random.default_rng(0).normal(size=40)
    brute = [values[max(i - 2, 0) : i + 3].mean() for i in range(40)]
    np.testing.assert_allclose(plots._smooth(values, 5), brute)


def test_metric_bars_draw_what_is_missing_negative_and_constant() -> None:
    def metric(value, **more):
        return {"value": value, "better": "higher", "range": [0, 1], "title": "T, a", "n": 3} | more

    metrics = {"a": metric(0.5), "b": metric(-0.3, range=[-1, 1]), "c": metric(None), "d": metric(0.0)}
    baselines = {
        "x": {"title": "x", "metrics": {"a": metric(None), "c": metric(0.1), "e": metric(7, range=None)}}
    }
    check_svg(plots.metric_bars(metrics, baselines, model="m"))


def test_no_line_of_a_title_is_an_arrow_alone() -> None:
    metrics = {
        "a": {"value": 0.5, "better": "lower", "range": [0, 1], "title": "Difference of library sizes, rna"}
    }
    baselines = {"x": {"title": "x", "metrics": metrics}}
    with keeping() as kept:
        bars = plots.metric_bars(metrics, baselines, model="m")
    lines = kept.by_picture[bars].axes[0].get_title(loc="left").split("\n")
    assert lines[-1].endswith("↓")
    assert all(len(line) > 1 for line in lines)


def test_numbers_of_ticks_do_not_overlap() -> None:
    def values(*numbers):
        return {
            str(i): {"value": v, "better": "higher", "range": [None, 1], "title": "R2"}
            for i, v in enumerate(numbers)
        }

    with keeping() as kept:
        bars = plots.metric_bars(
            values(0.6, 0.5, -0.9), {"x": {"title": "x", "metrics": values(-0.008, -0.7, -0.8)}}, model="m"
        )
    ticks = [axes.get_xticks().tolist() for axes in kept.by_picture[bars].axes[:3]]
    assert ticks == [[0, 1], [-0.7, 0, 1], [-0.9, 0, 1]]


def test_names_of_points_do_not_overlap() -> None:
    from mocli.report.featureplots import _name_points

    figure = new_figure(7.2, 3.6)
    axes = figure.subplots()
    x, y = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.001, 1.0]), np.zeros(7)
    axes.plot(x, y, ".")
    _name_points(axes, x, y, [f"GENE{i}" for i in range(7)])
    boxes = [text.get_window_extent() for text in axes.texts]
    assert {"GENE0", "GENE6"} <= {text.get_text() for text in axes.texts}
    assert len(boxes) < 7
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_pictures_side_by_side_have_one_size_and_whole_names() -> None:
    xy = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    codes = np.repeat([0, 1], 10)
    with keeping() as kept:
        short = by_category(xy, Category(codes, ["B", "T"]))
        long = by_category(xy, Category(codes, ["CD16 monocytes and others", "plasmacytoid dendritic"]))
    small, large = (kept.by_picture[picture] for picture in (short, long))
    assert list(small.get_size_inches()) == list(large.get_size_inches())
    said = [" ".join(text.get_text().split()) for text in large.legends[0].get_texts()]
    assert said == ["CD16 monocytes and others (10)", "plasmacytoid dendritic (10)"]


def test_colour_bars_have_their_whole_title_and_layouts_names_of_axes() -> None:
    xy = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    label = "mapping score, cell_type_gated_by_markers"
    with keeping() as kept:
        named = by_value(xy, xy[:, 0], label, axis="UMAP")
        tissue = by_category(xy, Category(np.zeros(20, int), ["a"]))
    layout, bar = kept.by_picture[named].axes
    assert bar.get_title(loc="left").replace("\n", "").replace(" ", "") == label.replace(" ", "")
    assert (layout.get_xlabel(), layout.get_ylabel()) == ("UMAP 1", "UMAP 2")
    assert kept.by_picture[tissue].axes[0].get_xlabel() == ""


def test_heat_map_takes_any_shape() -> None:
    rng = np.random.default_rng(0)
    check_svg(plots.label_heatmap(rng.integers(0, 9, (3, 5)), list("abc"), list("abcde")))
    many = [f"l{i}" for i in range(60)]
    check_svg(plots.label_heatmap(rng.integers(0, 9, (60, 60)), many, many))
    empty_row = np.array([[3, 0], [0, 0]])
    check_svg(plots.label_heatmap(empty_row, ["a", "b"], ["a", "b"]))
    with pytest.raises(ValueError, match="labels"):
        plots.label_heatmap(empty_row, ["a"], ["a", "b"])


HOSTILE = ["CD4$+$ $\\frac{$", "_hidden", "细胞 T", "a\nb", "x" * 200, "<&>'\"", "", "$"]


def test_hostile_names_draw_without_a_warning() -> None:
    xy, category = blobs(200, len(HOSTILE))
    hostile = Category(category.codes, HOSTILE)
    check_svg(by_category(xy, hostile))
    check_svg(by_modality(xy, hostile))
    check_svg(plots.label_heatmap(np.ones((8, 8)), HOSTILE, HOSTILE))
    check_svg(plots.loss_curves(curves(**{name: [1.0, 2.0] for name in HOSTILE})))
    metrics = {name: {"value": 1.0, "better": "lower", "title": name} for name in HOSTILE}
    check_svg(plots.metric_bars(metrics, {"b": {"title": HOSTILE[0], "metrics": metrics}}, model=HOSTILE[2]))


def test_pictures_are_the_same_twice_and_in_threads_and_change_no_setting() -> None:
    xy, category = blobs(3000, 12)
    history = curves(a=[3.0, 2.0, 1.0])

    def draw(_: int = 0):
        return by_category(xy, category), plots.loss_curves(history)

    before = dict(mpl.rcParams)
    first = draw()
    with ThreadPoolExecutor(3) as pool:
        assert all(again == first for again in pool.map(draw, range(3)))
    assert dict(mpl.rcParams) == before


def test_the_callers_style_does_not_show() -> None:
    xy, category = blobs(3000, 3)
    plain = pixels(by_category(xy, category))
    dark = dict.fromkeys(["figure.facecolor", "axes.facecolor", "savefig.facecolor"], "black")
    with mpl.rc_context({**dark, "text.color": "white", "axes.labelcolor": "white", "axes.grid": True}):
        styled = pixels(by_category(xy, category))
    np.testing.assert_array_equal(styled, plain)


def test_importing_is_light_and_drawing_needs_no_pyplot() -> None:
    code = (
        "import sys; from mocli.report import file, html, plots; "
        "heavy = {'matplotlib', 'torch', 'anndata', 'pandas', 'jinja2', 'jsonschema'} & set(sys.modules); "
        "assert not heavy, heavy; "
        "plots.loss_curves({'p': {'t': {'step': [1, 2], 'value': [1, 2]}}}); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pictures_of_an_earlier_run_do_not_stay_and_other_files_do(tmp_path):
    folder = tmp_path / "out.figures"
    with keeping() as kept:
        show(to_svg(new_figure(2, 2)), "A title")
    kept.write(folder, "svg")
    (folder / "notes.svg").write_text("mine")
    kept.write(folder, "png")
    assert {p.name for p in folder.iterdir()} == {"01-a-title.png", "notes.svg"}


def test_clusters_are_numbered_in_the_picture_as_in_the_file() -> None:
    from mocli.report.scatter import _key

    codes = np.arange(24) % 12
    assert _key(Category(codes, [str(k) for k in range(12)])).marks == [str(k) for k in range(12)]
    assert _key(Category(codes, [f"type {k}" for k in range(12)])).marks[:2] == ["1", "2"]


def test_names_of_points_are_whole_in_every_panel() -> None:
    from mocli.report.featureplots import against_truth

    rng = np.random.default_rng(0)
    panels = []
    for title in ("one line",) * 5 + ("a title that takes two lines, r = 0.96",):
        x = np.append(0.2 * rng.normal(size=30), rng.uniform(0.5, 2))
        panels.append((title, x, x, ["TMSB4X"] * 30 + ["HBZ"]))
    with keeping() as kept:
        drawn = against_truth(panels)
    figure = kept.by_picture[drawn]
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for axes in figure.axes for text in axes.texts]
    assert len(boxes) > 6
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in boxes)
