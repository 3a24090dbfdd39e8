"""Steps that are not finite, spikes, float16, and what saves memory without changing what is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_jax.errors import UserError
from mtl_jax.training.guard import init_guard, watch
from mtl_jax.training.loop import build_experiment
from mtl_jax.training.step import init_state, make_step
from mtl_jax.training.watch import Watch

from .conftest import random_batch, replace


def built(config, **changes):
    for path, value in changes.items():
        config = replace(config, path.replace("__", "."), value)
    # Plain gradient descent: Adam divides by small numbers and so makes rounding large.
    experiment = build_experiment(config, num_classes=2)._replace(optimizer=optax.sgd(1e-2))
    return experiment, init_state(experiment), jax.jit(make_step(experiment))


@pytest.fixture(scope="module")
def tiny(tiny_config):
    """Normalises each image by itself, so that a part of a batch is as the whole."""
    return replace(tiny_config, "model.norm", "group")


@pytest.fixture(scope="module")
def plain(tiny):
    return built(tiny)


@pytest.fixture(scope="module")
def stepped(plain, tiny):
    _, state, step = plain
    return step(state, random_batch(tiny, 0))


def assert_same_step(one, other, rtol=1e-4, atol=1e-5):
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize("remat", ["blocks", pytest.param("stages", marks=pytest.mark.slow)])
def test_rematerialisation_changes_nothing_but_memory(tiny, stepped, remat):
    experiment, state, step = built(tiny, model__remat=remat)
    after, _ = step(state, random_batch(tiny, 0))
    assert_same_step(after, stepped[0])
    jaxpr = str(jax.make_jaxpr(make_step(experiment))(state, random_batch(tiny, 0)))
    assert "remat" in jaxpr or "checkpoint" in jaxpr


@pytest.mark.parametrize(
    "scheme",
    ["gls", "upgrad", *(pytest.param(name, marks=pytest.mark.slow) for name in ("uncertainty", "mgda_ub"))],
)
def test_a_batch_in_parts_is_the_whole_batch(tiny, stepped, scheme):
    """Also where the total is no sum of the losses, and where gradients are taken task by task."""
    if scheme == "uncertainty":
        whole, metrics = stepped
    else:
        _, state, step = built(tiny, weighting__scheme=scheme)
        whole, metrics = step(state, random_batch(tiny, 0))
    _, state, step = built(tiny, weighting__scheme=scheme, training__accumulate=4)
    parts, metrics_of_parts = step(state, random_batch(tiny, 0))
    assert_same_step(whole, parts)
    for name in ("loss/identity", "loss/total", "norm/gradient"):
        np.testing.assert_allclose(metrics[name], metrics_of_parts[name], rtol=1e-4)


def test_float16_steps_where_float32_does(tiny, stepped):
    experiment, state, step = built(tiny, model__dtype="float16")
    assert state.guard.scale > 1000
    # The first scale may be too large; a smaller one is found.
    for _ in range(12):
        after, metrics = step(state, random_batch(tiny, 0))
        if after.guard.skipped == state.guard.skipped:
            break
        state = after._replace(step=jnp.zeros((), jnp.int32))
    assert metrics["skipped_in_a_row"] == 0
    whole, _ = stepped
    before = init_state(experiment).params
    moved, expected = (optax.tree.sub(x.params, before)["model"] for x in (after, whole))
    # Half of float16's ten bits; a loss scale that was not taken back would be off by thousands.
    assert optax.tree.norm(optax.tree.sub(moved, expected)) <= 0.05 * optax.tree.norm(expected)


def test_the_loss_scale_falls_at_once_and_grows_slowly():
    guard = init_guard("float16")
    fell = watch(guard, jnp.array(False), jnp.array(jnp.inf), 1.0)
    assert fell.scale == guard.scale / 2
    assert (fell.skipped, fell.in_a_row) == (1, 0)
    grown = watch(fell._replace(good_steps=jnp.array(1999)), jnp.array(True), jnp.array(0.5), 1.0)
    assert grown.scale == guard.scale
    assert grown.good_steps == 0
    lowest = fell._replace(scale=jnp.array(1.0))
    assert watch(lowest, jnp.array(False), jnp.array(jnp.inf), 1.0).in_a_row == 1


def test_spikes_are_counted():
    guard = init_guard("float32")
    assert watch(guard, jnp.array(True), jnp.array(11.0), 10.0).clipped == 1
    assert watch(guard, jnp.array(True), jnp.array(9.0), 10.0).clipped == 0


def test_a_step_that_is_not_finite_changes_nothing(plain, tiny):
    _, state, step = plain
    broken = random_batch(tiny, 0)
    broken = broken._replace(velocity=np.full_like(broken.velocity, np.inf))
    after, _ = step(state, broken)
    assert (after.step, after.guard.skipped, after.guard.in_a_row) == (1, 1, 1)
    for part in ("params", "batch_stats", "optimizer", "weighting", "average"):
        for a, b in zip(
            jax.tree.leaves(getattr(after, part)), jax.tree.leaves(getattr(state, part)), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    good, _ = step(after, random_batch(tiny, 0))
    assert (good.guard.skipped, good.guard.in_a_row) == (1, 0)


def test_who_is_guilty_is_named_and_a_row_of_such_steps_ends_the_run(plain, tiny, tmp_path, caplog):
    experiment, state, step = plain
    watcher = Watch(experiment, state, tmp_path)
    good = random_batch(tiny, 0)
    no_motion = good._replace(velocity=np.full_like(good.velocity, np.inf))
    kernel = state.params["model"]["heads"]["box_output"]["kernel"]
    infinite = jax.tree.map(lambda x: jnp.full_like(x, jnp.inf) if x is kernel else x, state)
    for count, (start, batch) in enumerate([(state, good), (state, no_motion), (infinite, good)]):
        _, metrics = step(start, batch)
        watcher.add(count, metrics.pop("finite"), metrics, batch)
    watcher.finish()
    first, second = (record.getMessage() for record in caplog.records)
    assert first == "step 1: skipped, not finite: the loss of motion"  # whose gradient the weighting left out
    assert "step 2: skipped, not finite: the loss of box" in second

    for count in range(tiny.training.max_skipped):
        state, metrics = step(state, no_motion)
        last = (count, metrics.pop("finite"), metrics, no_motion)
        if count < tiny.training.max_skipped - 1:
            watcher.add(*last)
    watcher.add(*last)
    with pytest.raises(UserError, match="not finite for 10 steps: the loss of motion") as error:
        watcher.finish()
    dumped = np.load(str(error.value).rsplit(" ", 1)[-1])
    np.testing.assert_array_equal(dumped["velocity"], no_motion.velocity)
