import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.errors import UserError
from mtl_jax.models.dependence import shared_paths
from mtl_jax.training.loop import build_experiment
from mtl_jax.training.step import forward, init_state, make_diagnosis, make_step
from mtl_jax.weighting.aggregation import select

from .conftest import random_batch, replace


@pytest.fixture(scope="module")
def trained(tiny_config):
    experiment = build_experiment(tiny_config, num_classes=2)
    state = init_state(experiment)
    step = jax.jit(make_step(experiment))
    metrics = []
    for seed in range(8):
        state, row = step(state, random_batch(tiny_config, seed % 2))
        metrics.append(jax.device_get(row))
    return experiment, state, metrics


def test_losses_fall_and_everything_is_reported(trained, tiny_config):
    _, state, metrics = trained
    for task in tiny_config.tasks:
        assert np.isfinite([row[f"loss/{task}"] for row in metrics]).all()
        assert metrics[-1][f"weight/{task}"] != metrics[0][f"weight/{task}"]
    assert metrics[-1]["loss/classification"] < metrics[0]["loss/classification"]
    assert metrics[-1]["loss/total"] < metrics[0]["loss/total"]
    assert state.step == 8
    assert {k for k in metrics[0] if k.startswith("norm/")} == {
        "norm/gradient",
        "norm/update",
        "norm/parameters",
    }


@pytest.fixture(scope="module")
def two_tasks(tiny_config):
    config = dataclasses.replace(tiny_config, tasks=("classification", "box"))
    return replace(replace(config, "optimizer.warmup_steps", 0), "model.inputs", "frame")


def one_step(config, scheme, **hyperparameters):
    config = replace(config, "weighting.scheme", scheme)
    experiment = build_experiment(replace(config, "weighting.hyperparameters", hyperparameters), 2)
    return jax.jit(make_step(experiment))(init_state(experiment), random_batch(config, 0))


@pytest.fixture(scope="module")
def summed(two_tasks):
    return one_step(two_tasks, "sum")


def test_summed_gradients_are_the_gradient_of_the_sum(two_tasks, summed):
    of_sum, _ = one_step(two_tasks, "equal")
    summed, metrics = summed
    assert all(metrics[f"weight/{task}"] == 1 for task in two_tasks.tasks)
    # Adam's first step is the gradient's sign, so it is the moments that tell.
    for a, b in zip(jax.tree.leaves(of_sum.optimizer), jax.tree.leaves(summed.optimizer), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("sharing", ["cascade", "dselect_k", "recurrent"])
def test_early_predictions_penalties_and_memories_are_trained_either_way(two_tasks, sharing):
    config = replace(two_tasks, "model.sharing", sharing)
    (a, of_sum), (b, summed) = one_step(config, "equal"), one_step(config, "sum")
    for x, y in zip(jax.tree.leaves(a.optimizer), jax.tree.leaves(b.optimizer), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(of_sum["loss/total"], summed["loss/total"], rtol=1e-5)
    penalty = of_sum["loss/total"] - sum(of_sum[f"loss/{task}"] for task in config.tasks)
    np.testing.assert_allclose(of_sum.get("loss/penalty", 0), penalty, atol=1e-4)
    np.testing.assert_allclose(penalty, 1e-3 * 4 * np.log(4) if sharing == "dselect_k" else 0, atol=1e-4)


@pytest.mark.parametrize(
    ("sharing", "scheme", "message"),
    [
        (
            "single",
            "cagrad",
            "cagrad combines the tasks' gradients of what they share, but with .* single that is",
        ),
        ("cascade", "mgda_ub", "one feature map for all tasks, which model.sharing cascade does not have"),
    ],
)
def test_gradients_cannot_be_combined_where_there_are_none_in_common(two_tasks, sharing, scheme, message):
    with pytest.raises(UserError, match=message):
        one_step(replace(two_tasks, "model.sharing", sharing), scheme)


def test_aggregations_train(two_tasks):
    config = replace(two_tasks, "weighting.scheme", "db_mtl")  # which remembers gradients, and has no weights
    config = replace(config, "weighting.gradients", "scan")
    experiment = build_experiment(config, num_classes=2)
    state, step = init_state(experiment), jax.jit(make_step(experiment))
    totals = []
    for _ in range(6):
        state, metrics = step(state, random_batch(config, 0))
        totals.append(float(metrics["loss/total"]))
    assert totals[-1] < totals[0]
    assert "weight/box" not in metrics


def test_sum_at_the_features_is_the_sum(two_tasks, summed):
    other, metrics = one_step(replace(two_tasks, "weighting.gradients", "representation"), "sum")
    for name in ("loss/box", "loss/classification", "norm/gradient"):
        np.testing.assert_allclose(metrics[name], summed[1][name], rtol=1e-4)
    for part in ("optimizer", "batch_stats"):
        a, b = (jax.tree.leaves(getattr(state, part)) for state in (other, summed[0]))
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-6)


def test_mgda_ub_weighs_at_the_features(two_tasks):
    # Classification begins with a gradient of zero in the trunk; these do not. Of their own length, the smallest would
    # have all of the weight in both places; of one length, any two would have a half each.
    config = dataclasses.replace(two_tasks, tasks=("box", "motion", "identity"))
    _, at_features = one_step(config, "mgda_ub", normalization="l2")
    _, at_parameters = one_step(replace(config, "weighting.gradients", "vmap"), "mgda_ub", normalization="l2")
    found, other = (
        np.array([m[f"weight/{task}"] for task in config.tasks]) for m in (at_features, at_parameters)
    )
    np.testing.assert_allclose(found.sum(), 1, rtol=1e-5)
    assert np.abs(found - other).max() > 1e-3


def test_weights_are_kept_between(two_tasks):
    config = replace(replace(two_tasks, "weighting.scheme", "random"), "weighting.every", 3)
    experiment = build_experiment(config, num_classes=2)
    state, step = init_state(experiment), jax.jit(make_step(experiment))
    weights = []
    for _ in range(4):
        state, metrics = step(state, random_batch(config, 0))
        weights.append(float(metrics["weight/box"]))
    assert weights[0] == weights[1] == weights[2] != weights[3]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("every", 0, r"weighting\.every: found 0; expected at least 1"),
        (
            "gradients",
            "representation",
            r"weighting\.gradients: found representation, but moco needs the param",
        ),
    ],
)
def test_wrong_ways_of_combining(two_tasks, key, value, message):
    config = replace(replace(two_tasks, "weighting.scheme", "moco"), f"weighting.{key}", value)
    with pytest.raises(UserError, match=message):
        build_experiment(config, num_classes=2)


def test_aggregations_leave_each_head_its_own_gradient(two_tasks, summed):
    summed, _ = summed
    weighed, _ = one_step(two_tasks, "random", seed=3)

    def moments(state, part):
        leaves = jax.tree.leaves_with_path(state.optimizer)
        return [x for path, x in leaves if f"'{part}'" in jax.tree_util.keystr(path) and x.ndim > 1]

    for a, b in zip(moments(summed, "heads"), moments(weighed, "heads"), strict=True):
        scale = float(jnp.linalg.norm(a) / jnp.maximum(jnp.linalg.norm(b), 1e-30))
        np.testing.assert_allclose(a, scale * b, rtol=1e-3, atol=1e-6)  # but for the common clipping
    assert moments(summed, "neck")
    assert not np.allclose(moments(summed, "neck")[0], moments(weighed, "neck")[0], rtol=0.05)


def test_a_second_forward_pass_does_not_count_in_the_batch_statistics(two_tasks):
    equal, _ = one_step(two_tasks, "equal")
    famo, metrics = one_step(two_tasks, "famo", learning_rate=0.5)
    for a, b in zip(jax.tree.leaves(equal.batch_stats), jax.tree.leaves(famo.batch_stats), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["weight/box"] + metrics["weight/classification"], 1, rtol=1e-5)
    logits = famo.weighting.scheme.logits
    np.testing.assert_allclose(jnp.abs(logits), 0.5, rtol=1e-3)  # Adam's first step
    assert logits[0] * logits[1] < 0


def test_weights_learn_from_the_half_that_is_held_out(two_tasks):
    config = replace(replace(two_tasks, "weighting.learning_rate", 0.05), "weighting.scheme", "predicted")
    experiment = build_experiment(config, num_classes=2)
    state, step = init_state(experiment), jax.jit(make_step(experiment))
    before = jax.device_get(state.params["weighting"])
    for seed in range(3):
        state, metrics = step(state, random_batch(config, seed))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, state.params["weighting"])
    assert max(jax.tree.leaves(moved)) > 0.01
    assert np.isfinite([metrics["weight/box"], metrics["weight/classification"], metrics["loss/total"]]).all()
    one_clip = replace(config, "data.batch_size", 1)
    with pytest.raises(UserError, match=r"data\.batch_size: found 1; predicted holds half"):
        build_experiment(one_clip, num_classes=2)


def test_preferences_are_the_weights(two_tasks):
    config = replace(two_tasks, "weighting.scheme", "pbi")
    with pytest.raises(UserError, match=r"weighting\.weights: found nothing; give classification, box"):
        build_experiment(config, num_classes=2)
    build_experiment(replace(config, "weighting.weights", {"classification": 0.3, "box": 0.7}), num_classes=2)


@pytest.mark.parametrize(
    ("scheme", "hyperparameters", "message"),
    [
        ("nosuch", {}, "weighting.scheme: found 'nosuch'"),
        ("cagrad", {"radius": 1}, "weighting.hyperparameters: cagrad: no hyperparameter 'radius'; it has c"),
        ("cagrad", {"c": -1.0}, "weighting.hyperparameters: cagrad: c is -1"),
        ("upgrad", {"c": 1}, "weighting.hyperparameters: upgrad: no hyperparameter 'c'"),
    ],
)
def test_wrong_weighting(tiny_config, scheme, hyperparameters, message):
    config = replace(tiny_config, "weighting.scheme", scheme)
    with pytest.raises(UserError, match=message):
        build_experiment(replace(config, "weighting.hyperparameters", hyperparameters), num_classes=2)


def test_average_lags_behind_the_parameters(trained):
    _, state, _ = trained
    gap = jax.tree.map(
        lambda a, p: float(jnp.abs(a - p).max()), state.average["params"], state.params["model"]
    )
    assert 0 < max(jax.tree.leaves(gap)) < 1


def test_diagnosis_equals_gradients_taken_one_by_one(trained, tiny_config):
    experiment, state, _ = trained
    batch = jax.tree.map(jnp.asarray, random_batch(tiny_config, 0))
    is_shared = shared_paths(experiment.network).__contains__
    rows = jax.device_get(jax.jit(make_diagnosis(experiment, is_shared))(state, batch))

    @jax.jit
    def gradient(task):
        def loss(params):
            return forward(experiment, params, state, batch)[0][task]

        grads = jax.grad(loss)(state.params["model"])
        return jnp.concatenate([g.ravel() for g in jax.tree.leaves(select(grads, is_shared))])

    gradients = np.stack([gradient(task) for task in range(4)])
    norms = np.linalg.norm(gradients, axis=-1)
    tasks = tiny_config.tasks
    np.testing.assert_allclose([rows[f"gradient_norm/{t}"] for t in tasks], norms, rtol=1e-3)
    cosine = gradients[0] @ gradients[2] / norms[0] / norms[2]
    np.testing.assert_allclose(rows["gradient_cosine/box-motion"], cosine, atol=1e-4)


def test_a_batch_without_objects_trains_only_the_background(tiny_config):
    experiment = build_experiment(tiny_config, num_classes=2)
    state = init_state(experiment)
    batch = random_batch(tiny_config, 0)
    empty = batch._replace(mask=np.zeros_like(batch.mask), track_ids=np.full_like(batch.track_ids, -1))
    state, row = jax.jit(make_step(experiment))(state, empty)
    assert np.isfinite(row["loss/total"])
    assert [float(row[f"weight/{t}"]) for t in ("box", "motion", "identity")] == [0, 0, 0]
    assert row["weight/classification"] > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize("inputs", ["frame", "pair"])
def test_other_inputs_train(tiny_config, inputs):
    config = replace(tiny_config, "model.inputs", inputs)
    experiment = build_experiment(config, num_classes=2)
    _, row = jax.jit(make_step(experiment))(init_state(experiment), random_batch(config, 0))
    assert np.isfinite(row["loss/total"])
