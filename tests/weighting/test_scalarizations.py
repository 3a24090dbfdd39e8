"""Every scalarization, held to what all promise and to what it promises itself."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import weighting
from mtl_jax.weighting.properties import SCALARIZATIONS as PROPERTIES

from .conftest import LOSSES, NEEDED, falling, run
from .conftest import make_scalarization as make

every_scheme = pytest.mark.parametrize("name", PROPERTIES)


def promising(**wanted):
    return [
        n for n, p in PROPERTIES.items() if all(getattr(p, key) == value for key, value in wanted.items())
    ]


def test_properties_are_stated_of_every_scheme():
    assert set(PROPERTIES) == set(weighting.SCALARIZATIONS)


@every_scheme
def test_weights_are_the_derivative_of_the_total(name):
    scheme = make(name)
    _, state = run(scheme, falling())
    params, _ = scheme.init(3)
    total, (_, weights) = scheme.apply(params, state, LOSSES)
    assert total.shape == ()
    assert total.dtype == weights.dtype == jnp.float32
    gradient = jax.grad(lambda losses: scheme.apply(params, state, losses)[0])(LOSSES)
    np.testing.assert_allclose(weights, gradient, rtol=1e-6)


@every_scheme
def test_masked_task_counts_for_nothing_even_if_its_loss_is_nan(name):
    scheme = make(name)
    params, state = scheme.init(3)
    mask = jnp.array([True, False, True])

    def total(params, losses):
        return scheme.apply(params, state, losses, mask=mask)[0]

    value, (params_gradient, losses_gradient) = jax.value_and_grad(total, argnums=(0, 1))(
        params, LOSSES.at[1].set(jnp.nan)
    )
    assert value == total(params, LOSSES.at[1].set(7.0))
    assert losses_gradient[1] == 0
    assert (losses_gradient[0] != 0) or name == "predicted"
    for leaf in jax.tree.leaves(params_gradient):
        assert np.isfinite(leaf).all()
        if leaf.shape == (3,):
            assert leaf[1] == 0
    _, (after, weights) = scheme.apply(params, state, LOSSES.at[1].set(jnp.nan), mask=mask)
    assert weights[1] == 0
    assert after.dropped == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


# rlw draws one number for each task, there or not.
@pytest.mark.parametrize("name", [name for name in PROPERTIES if name != "rlw"])
def test_masked_task_is_as_if_it_were_not_there(name):
    masks = [jnp.array([True, True, False])] * 6
    with_masked, _ = run(make(name), falling(), masks)
    without, _ = run(make(name, tasks=2), falling()[:, :2], tasks=2)
    for (total, weights), (total_2, weights_2) in zip(with_masked, without, strict=True):
        np.testing.assert_allclose(total, total_2, rtol=1e-5)
        np.testing.assert_allclose(weights[:2], weights_2, rtol=1e-5)


@every_scheme
def test_nothing_labelled(name):
    rows, state = run(make(name), falling(), [jnp.zeros(3, bool)] * 6)
    for total, weights in rows:
        assert total == 0
        assert not weights.any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@every_scheme
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_loss_that_is_not_finite_is_left_out_and_counted(name, bad):
    sequence = falling().at[3, 1].set(bad)
    rows, state = run(make(name), sequence)
    assert state.dropped == 1
    assert rows[3][1][1] == 0
    for total, weights in rows:
        assert np.isfinite(total)
        assert np.isfinite(weights).all()
    scheme = make(name, nonfinite="raise")
    params, state = scheme.init(3)
    with pytest.raises(ValueError, match=f"{name}: the loss of task 1 is"):
        scheme.apply(params, state, sequence[3])
    scheme.apply(params, state, sequence[3], mask=jnp.array([True, False, True]))


@pytest.mark.parametrize("name", promising(logarithms=True))
def test_negative_loss_where_logarithms_are_taken(name):
    _, state = run(make(name), falling().at[2, 0].set(-1.0))
    assert state.dropped == 1
    scheme = make(name, nonfinite="raise")
    params, state = scheme.init(3)
    with pytest.raises(
        ValueError, match=rf"{name}: the loss of task 0 is -1.0; .* for logarithms, not negative"
    ):
        scheme.apply(params, state, jnp.array([-1.0, 1.0, 1.0]))


@pytest.mark.parametrize("name", promising(logarithms=False))
def test_negative_loss_elsewhere_counts(name):
    _, state = run(make(name), falling().at[2, 0].set(-1.0))
    assert state.dropped == 0


@every_scheme
@pytest.mark.parametrize("scale", [0.0, 1e-10, 1e-5, 1e5, 1e15])
def test_finite_at_every_scale(name, scale):
    scheme = make(name)
    params, state = scheme.init(3)
    for losses in falling() * jnp.array([1.0, scale, 1.0]):
        value, gradient = jax.value_and_grad(lambda losses, state: scheme.apply(params, state, losses)[0])(
            losses, state
        )
        _, (state, _) = scheme.apply(params, state, losses)
        if scheme.observe is not None:
            state = scheme.observe(state, 0.9 * losses)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@every_scheme
def test_single_task(name):
    """One task gets all of the weight there is: its gradient, up to a positive factor."""
    rows, _ = run(make(name, tasks=1), falling(tasks=1), tasks=1)
    for total, weights in rows:
        assert np.isfinite(total)
        assert weights.shape == (1,)
        assert weights[0] > 0
        if PROPERTIES[name].weights_sum_to is not None:
            np.testing.assert_allclose(weights[0], 1, rtol=1e-5)


@pytest.mark.parametrize("name", [*promising(weights_sum_to="1"), *promising(weights_sum_to="K")])
def test_weights_sum_to_what_is_promised(name):
    wanted = PROPERTIES[name].weights_sum_to
    masks = [jnp.ones(3, bool)] * 3 + [jnp.array([True, True, False])] * 3
    rows, _ = run(make(name), falling(), masks)
    for (_, weights), mask in zip(rows, masks, strict=True):
        np.testing.assert_allclose(weights.sum(), mask.sum() if wanted == "K" else 1, rtol=1e-5)
        assert (weights >= 0).all()


@pytest.mark.parametrize("name", promising(permutation=True))
def test_permutation_of_tasks_permutes_weights(name):
    order = jnp.array([2, 0, 1])
    rows, _ = run(make(name), falling())
    scheme = make(name)
    params, state = scheme.init(3)
    for losses, (total, weights) in zip(falling()[:, order], rows, strict=True):
        total_2, (state, weights_2) = scheme.apply(params, state, losses)
        if scheme.observe is not None:
            state = scheme.observe(state, losses * jnp.array([0.9, 0.8, 0.95])[order])
        np.testing.assert_allclose(total, total_2, rtol=1e-5)
        np.testing.assert_allclose(weights[order], weights_2, rtol=1e-5)


@pytest.mark.parametrize("name", promising(scale_invariant=True))
def test_scaling_a_loss_does_not_change_its_share(name):
    """The share of a task is its effective weight times its loss, which is what counts in the gradient."""
    scale = jnp.array([1.0, 1000.0, 0.01])
    rows, _ = run(make(name), falling())
    scaled, _ = run(make(name), falling() * scale)
    for losses, (_, weights), (_, other) in zip(falling(), rows, scaled, strict=True):
        shares, others = weights * losses, other * losses * scale
        np.testing.assert_allclose(shares / shares.sum(), others / others.sum(), rtol=2e-4)


@every_scheme
def test_state_survives_a_checkpoint_and_the_run_goes_on_alike(name):
    scheme = make(name)
    params, _ = scheme.init(3)
    _, state = run(scheme, falling())
    restored = jax.tree.map(jnp.asarray, pickle.loads(pickle.dumps(jax.tree.map(np.asarray, state))))
    first, again = (scheme.apply(params, s, LOSSES) for s in (state, restored))
    jax.tree.map(np.testing.assert_array_equal, first, again)


@every_scheme
def test_vmap_over_losses(name):
    scheme = make(name)
    params, state = scheme.init(3)
    totals, (_, weights) = jax.vmap(lambda losses: scheme.apply(params, state, losses))(falling())
    for losses, total, weight in zip(falling(), totals, weights, strict=True):
        one, (_, w) = scheme.apply(params, state, losses)
        np.testing.assert_allclose(one, total, rtol=1e-5)
        np.testing.assert_allclose(w, weight, rtol=1e-5)


@every_scheme
def test_half_precision_losses_are_weighed_in_single(name):
    scheme = make(name)
    params, state = scheme.init(3)
    total, (state, weights) = scheme.apply(params, state, LOSSES.astype(jnp.bfloat16))
    assert total.dtype == weights.dtype == jnp.float32
    assert state.weights.dtype == jnp.float32


@every_scheme
def test_wrong_arguments(name):
    scheme = make(name)
    params, state = scheme.init(3)
    with pytest.raises(ValueError, match=rf"{name}: losses has shape \(2,\); expected \(3,\)"):
        scheme.apply(params, state, jnp.ones(2))
    with pytest.raises(ValueError, match=rf"{name}: losses has shape \(\); expected \(3,\)"):
        scheme.apply(params, state, jnp.ones(()))
    with pytest.raises(ValueError, match=rf"{name}: mask has shape \(4,\); expected \(3,\)"):
        scheme.apply(params, state, LOSSES, mask=jnp.ones(4, bool))
    with pytest.raises(ValueError, match=f"{name}: no hyperparameter 'nosuch'; it has"):
        make(name, nosuch=1)
    if name in NEEDED:
        with pytest.raises(ValueError, match=f"{name}: made for 3 tasks, found 2"):
            scheme.init(2)
