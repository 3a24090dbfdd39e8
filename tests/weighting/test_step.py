"""One step function trains under any scheme."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_jax import weighting

TARGETS = jnp.array([[1.0, 0.0], [0.0, 1.0]])


def losses_of(params, targets):
    """Two paraboloids of unlike scale, above one, so that logarithms are harmless."""
    return 1 + jnp.array([1.0, 10.0]) * jnp.sum((params["x"] - targets) ** 2, axis=1)


# One of each way through the step: plain, learned, observing, held out, and aggregations with and without weights.
KINDS = ["equal", "uncertainty", "famo", "auto_lambda", "predicted", "cagrad", "db_mtl"]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_scheme_comes_down(name):
    scheme = weighting.make_default(name, num_tasks=2)
    init, update = weighting.make_step(scheme, losses_of, optax.adam(0.05))
    state = init({"x": jnp.array([2.0, -1.0])}, num_tasks=2)
    before = losses_of(state.params, TARGETS)
    step = jax.jit(lambda state: update(state, TARGETS, held_out=(TARGETS + 0.1,)))
    for _ in range(40):
        state, losses, weights = step(state)
    assert (losses < before).all()
    assert (weights is None) == (name == "db_mtl")
    # What is learned is learned.
    fresh, _ = scheme.init(2) if name in weighting.SCALARIZATIONS else ((), None)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), fresh, state.learned)
    assert all(x > 1e-3 for x in jax.tree.leaves(moved)[-1:])


def test_plain_sum_is_plain_descent():
    for name in ("equal", "sum"):
        init, update = weighting.make_step(weighting.make_default(name, 2), losses_of, optax.sgd(0.01))
        state, losses, weights = update(init({"x": jnp.array([2.0, -1.0])}, 2), TARGETS)
        gradient = jax.grad(lambda p: losses_of(p, TARGETS).sum())({"x": jnp.array([2.0, -1.0])})
        np.testing.assert_allclose(
            state.params["x"], jnp.array([2.0, -1.0]) - 0.01 * gradient["x"], rtol=1e-6
        )
        np.testing.assert_allclose(losses, losses_of({"x": jnp.array([2.0, -1.0])}, TARGETS))
        np.testing.assert_allclose(weights, 1)


def test_masked_task_does_not_move_anything():
    for name in ("equal", "upgrad"):
        init, update = weighting.make_step(weighting.make_default(name, 2), losses_of, optax.sgd(0.01))
        state = init({"x": jnp.array([2.0, -1.0])}, 2)
        mask = jnp.array([True, False])
        first, _, _ = update(state, TARGETS, mask=mask)
        second, _, _ = update(state, TARGETS.at[1].set(100.0), mask=mask)
        np.testing.assert_allclose(first.params["x"], second.params["x"])


def test_default_schemes_prefer_no_task():
    for name in weighting.names():
        if name != "krum":
            weighting.make_default(name, num_tasks=3)
    with pytest.raises(ValueError, match="no weighting scheme 'nosuch'"):
        weighting.make_default("nosuch", num_tasks=3)


def test_readme_names_every_scheme():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert [name for name in weighting.names() if f"`{name}`" not in readme] == []


@pytest.mark.parametrize("name", weighting.names())
def test_docstrings_have_a_line_when_to_use_and_a_source(name):
    doc = (weighting.SCALARIZATIONS | weighting.AGGREGATIONS)[name].__doc__
    assert doc.splitlines()[0].endswith((".", "`"))
    assert "When to use: " in doc
    assert "Args:" in doc
    own = {"fixed", "equal", "mean", "predicted", "sum"}  # the baselines, and our own design
    assert name in own or "Reference: " in doc
