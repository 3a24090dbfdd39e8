"""The stand-alone experiments, shortened; each leaves a table and, but for one, a picture."""

import json
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def load(name):
    return runpy.run_path(str(EXPERIMENTS / f"{name}.py"))


@pytest.fixture(scope="module")
def toy():
    return load("toy_two_objectives")


def test_objectives_of_the_plane(toy):
    objectives = toy["objectives"]
    for point in toy["STARTS"]:
        assert (objectives(jnp.array(point)) > 0).all()
    # Far below: half a tanh is one, and the bowls are left, at their centres 10 * 2 below the added constant.
    np.testing.assert_allclose(
        objectives(jnp.array([7.0, -30.0]))[0], 0.1 * (0.1 * 22**2 / 10 - 20 + 21), rtol=1e-5
    )
    # The Pareto set is where no direction lowers both.
    for x1 in (-6.0, 0.0, 6.0):
        jacobian = jax.jacobian(objectives)(jnp.array([x1, -8.36]))
        assert jacobian[0, 0] < 0 < jacobian[1, 0]
        assert jnp.abs(jacobian[:, 1]).max() < 0.02 * jnp.abs(jacobian[:, 0]).max()


def test_paths_go_down_and_are_drawn(toy, tmp_path):
    toy["main"](tmp_path, steps=20, schemes=("sum", "famo"))
    rows = json.loads((tmp_path / "results.json").read_text())
    assert {row["scheme"] for row in rows} == {"sum", "famo"}
    assert (tmp_path / "trajectories.png").stat().st_size > 10_000
    paths = toy["descend"](["sum"], 200, keep=2)["sum"]
    assert paths.shape == (5, 3, 2)
    sums = np.array([[float(toy["objectives"](jnp.asarray(x)).sum()) for x in path] for path in paths])
    assert (sums[:, -1] < sums[:, 0]).all()


def test_distance_to_the_pareto_set(toy):
    found = toy["distance"](np.array([[0.0, -8.36], [7.0, -7.36], [10.0, -8.36]]))
    np.testing.assert_allclose(found, [0, 1, 3], atol=1e-9)


def test_uncertainty_learns_what_the_model_does_not_explain(tmp_path):
    experiment = load("toy_uncertainty")
    experiment["main"](tmp_path, seeds=2, steps=6000)
    for row in json.loads((tmp_path / "results.json").read_text()):
        assert row["learned"] == pytest.approx(row["residual"], rel=0.02)
        assert row["learned"] == pytest.approx(row["noise"], rel=0.1)
    assert (tmp_path / "sigmas.png").exists()


def test_multimnist_compares_and_goes_on(tmp_path, capsys):
    experiment = load("multimnist")
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "digits.npz",
        images=rng.integers(0, 256, (200, 28, 28), dtype=np.uint8),
        labels=rng.integers(0, 10, 200, dtype=np.uint8),
    )
    arguments = {"schemes": ("upgrad",), "seeds": 2, "steps": 2, "batch": 8}
    experiment["main"](tmp_path / "digits.npz", tmp_path / "out", **arguments)
    first = (tmp_path / "out" / "results.json").read_text()
    rows = {row["scheme"]: row for row in json.loads(first)}
    assert rows["single"]["Δm"] == pytest.approx(0)
    stamp = (tmp_path / "out" / "upgrad.json").stat().st_mtime_ns
    experiment["main"](tmp_path / "digits.npz", tmp_path / "out", **arguments)
    assert (tmp_path / "out" / "upgrad.json").stat().st_mtime_ns == stamp
    assert (tmp_path / "out" / "results.json").read_text() == first
    with pytest.raises(Exception, match=r"no\.npz: .*give an \.npz file"):
        experiment["main"](tmp_path / "no.npz", tmp_path / "out")


def test_multimnist_trains_and_tests_on_all_digits(tmp_path):
    path = tmp_path / "sorted.npz"
    np.savez(path, images=np.zeros((1000, 28, 28), np.uint8), labels=np.repeat(np.arange(10), 100))
    for digits, number in zip(load("multimnist")["load"](path), (900, 100), strict=True):
        assert len(digits.labels) == number
        assert set(digits.labels.tolist()) == set(range(10))


def test_multimnist_pairs(tmp_path):
    experiment = load("multimnist")
    images = jnp.zeros((2, 28, 28), jnp.uint8).at[0].set(255).at[1].set(51)
    pairs = experiment["draw"](jax.random.key(0), experiment["Digits"](images, jnp.array([3, 7])), 50)
    left = pairs.images[:, 0, 0, 0]
    right = pairs.images[:, -1, -1, 0]
    np.testing.assert_allclose(left, jnp.where(pairs.labels[:, 0] == 3, 1, 0.2))
    np.testing.assert_allclose(right, jnp.where(pairs.labels[:, 1] == 3, 1, 0.2))
    np.testing.assert_allclose(pairs.images[:, 0, -1, 0], 0)


def test_architectures_are_ranked_against_single_networks():
    experiment = load("sharing")
    worse = {"AP": 20.0, "HOTA": 40.0, "rank1": 80.0, "motion_error": 2.0}
    better = {"AP": 22.0, "HOTA": 44.0, "rank1": 88.0, "motion_error": 1.8}
    results = {
        "single": [{"scores": worse, "ms per step": 30.0}] * 2,
        "hard": [{"scores": better, "ms per step": 10.0}] * 2,
    }
    costs = {name: {"parameters": 10, "GFLOPs": 1.0} for name in results}
    hard, single = experiment["table"](results, costs)
    assert (hard["sharing"], single["sharing"]) == ("hard", "single")
    assert single["Δm"] == pytest.approx(0)
    assert hard["Δm"] == pytest.approx(-10)


@pytest.mark.slow
def test_architectures_are_compared_and_gone_on_with(tmp_path):
    experiment = load("sharing")
    arguments = {"sharing": ("mmoe",), "seeds": 1, "steps": 4}
    experiment["main"](tmp_path, **arguments)
    first = (tmp_path / "results.json").read_text()
    assert {row["sharing"] for row in json.loads(first)} == {"single", "mmoe"}
    stamp = (tmp_path / "mmoe" / "seed0" / "result.json").stat().st_mtime_ns
    experiment["main"](tmp_path, **arguments)
    assert (tmp_path / "mmoe" / "seed0" / "result.json").stat().st_mtime_ns == stamp
    assert (tmp_path / "results.json").read_text() == first


def test_the_first_network_is_as_it_was():
    experiment = load("multitask_net")
    network = experiment["build"]("hard")
    images = jnp.zeros((2, 64, 64, 3), jnp.uint8)
    variables = jax.eval_shape(network.init, jax.random.key(0), images, images)
    assert variables["params"]["backbone"]["stem"]["conv"]["kernel"].shape == (7, 7, 3, 16)
    outputs = jax.eval_shape(network.apply, variables, images, images)
    assert {task: x.shape for task, x in outputs.items()} == {
        "bbox_reg": (2, 4),
        "cls_score": (2, 4),
        "tracking": (2, 2),
    }
    for task in outputs:
        assert variables["params"]["heads"][task]["kernel"].shape[0] == 512


def test_clips_of_one_object_are_what_they_say():
    experiment = load("multitask_net")
    clips = experiment["render"](6, seed=0)
    assert clips.frames.shape == (6, 64, 64, 3)
    # It moves on as it moved: the next centre is a velocity away from this one.
    np.testing.assert_allclose(clips.boxes[:, 0] + clips.tracking[:, 1], clips.tracking[:, 0], atol=1e-6)
    assert (clips.boxes[:, 2:] > 0.1).all() and (np.abs(clips.tracking[:, 1]) < 0.15).all()
    assert not np.array_equal(clips.before, clips.frames)


@pytest.mark.slow
def test_the_first_network_is_compared_and_gone_on_with(tmp_path):
    experiment = load("multitask_net")
    arguments = {"schemes": ("upgrad", "uncertainty"), "seeds": 1, "steps": 2, "batch": 4, "clips": 16}
    experiment["main"](tmp_path, **arguments)
    first = (tmp_path / "results.json").read_text()
    rows = {(row["sharing"], row["weighting"]): row for row in json.loads(first)}
    assert rows["single", "fixed"]["Δm"] == pytest.approx(0)
    assert {("hard", "upgrad"), ("hard", "uncertainty"), ("soft", "fixed"), ("hierarchical", "fixed")} < set(
        rows
    )
    experiment["main"](tmp_path, **arguments)
    assert (tmp_path / "results.json").read_text() == first
