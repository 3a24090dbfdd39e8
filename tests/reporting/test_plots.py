import numpy as np

from mtl_jax.data.video import read_image
from mtl_jax.reporting import plots


def _rows(scale=1.0, tasks=("box", "motion")):
    rng = np.random.default_rng(0)
    rows = []
    for step in range(1, 101):
        row = {"step": step, "learning_rate": 1e-3 / step}
        for task in tasks:
            row[f"loss/{task}"] = scale * (10 / step + rng.uniform(0.1, 0.2))
            row[f"weight/{task}"] = -scale
        rows.append(row)
        if step % 25 == 0:
            rows.append({"step": step, "validation/HOTA": 0.5 * step})
    return rows


def _labelled(panel):
    return [line.get_label() for line in panel.lines if not line.get_label().startswith("_")]


def test_one_panel_a_task_one_line_a_run():
    figure = plots.draw(plots.PLOTS["losses"], {"fixed": _rows(), "learned": _rows(2.0)})
    assert [panel.get_title() for panel in figure.axes] == ["box", "motion"]
    for panel in figure.axes:
        assert _labelled(panel) == ["fixed", "learned"]
        assert panel.get_yscale() == "log"
    styles = [
        [line.get_color() for line in panel.lines if line.get_label() in ("fixed", "learned")]
        for panel in figure.axes
    ]
    assert styles[0] == styles[1] and styles[0][0] != styles[0][1]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["fixed", "learned"]


def test_a_task_that_one_run_lacks_has_one_line():
    figure = plots.draw(plots.PLOTS["losses"], {"both": _rows(), "box only": _rows(tasks=("box",))})
    assert [_labelled(panel) for panel in figure.axes] == [["both", "box only"], ["both"]]


def test_negative_values_are_drawn_on_a_linear_axis():
    figure = plots.draw(plots.PLOTS["weights"], {"run": _rows()})
    assert all(panel.get_yscale() == "linear" for panel in figure.axes)
    assert figure.legends == []


def test_missing_keys_skip_the_figure(tmp_path):
    assert plots.draw(plots.PLOTS["gradient_cosines"], {"run": _rows()}) is None
    written = plots.write_plots({"run": _rows()}, tmp_path / "plots")
    assert list(written) == ["losses", "weights", "norms", "validation"]
    for path in written.values():
        picture = read_image(path)
        assert min(picture.shape[:2]) > 200 and picture.std() > 5
    assert plots.write_plots({"run": []}, tmp_path / "none") == {}


def test_series_takes_the_later_row_and_leaves_out_what_is_not_finite():
    rows = [
        {"step": 3, "loss/box": 3.0},
        {"step": 1, "loss/box": 1.0},
        {"step": 2, "loss/box": float("nan")},
        {"step": 3, "loss/box": 4.0},
        {"step": 4, "loss/box": None},
        {"step": 5, "other": 1.0},
    ]
    steps, values = plots.series(rows, "loss/box")
    np.testing.assert_array_equal(steps, [1, 3])
    np.testing.assert_array_equal(values, [1, 4])


def test_smooth_keeps_constants_and_lines_and_removes_noise():
    steps = np.arange(200.0)
    np.testing.assert_allclose(plots.smooth(steps, np.full(200, 3.0)), 3.0)
    np.testing.assert_allclose(plots.smooth(steps, steps)[30:-30], steps[30:-30], atol=0.1)
    noise = np.random.default_rng(0).normal(size=400)
    assert plots.smooth(np.arange(400.0), noise).std() < 0.3
    assert plots.smooth(np.array([1.0]), np.array([5.0])) == 5.0


def test_smooth_goes_by_steps_and_not_by_rows():
    """Where rows are close together, as where gradients are measured, a curve has no kink."""
    rare, often = np.arange(0.0, 1000, 20), np.arange(480.0, 520, 1)
    steps = np.sort(np.unique(np.concatenate([rare, often])))
    np.testing.assert_allclose(plots.smooth(steps, steps)[15:-15], steps[15:-15], atol=2)
    np.testing.assert_allclose(plots.smooth(rare, rare)[10:-10], rare[10:-10], atol=1)
