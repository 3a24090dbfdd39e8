import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_jax import weighting

LOSSES = jnp.array([3.0, 0.2])


def schemes():
    return {
        "fixed": weighting.fixed([0.5, 0.3]),
        "equal": weighting.equal(),
        "uncertainty": weighting.uncertainty(["regression", "classification"]),
    }


@pytest.mark.parametrize("name", list(schemes()))
def test_reported_weights_are_the_gradient_of_the_total(name):
    scheme = schemes()[name]
    params, state = scheme.init(2)
    gradient = jax.grad(lambda losses: scheme.apply(params, state, losses)[0])(LOSSES)
    _, (_, weights) = scheme.apply(params, state, LOSSES)
    np.testing.assert_allclose(weights, gradient, rtol=1e-6)


@pytest.mark.parametrize("name", list(schemes()))
def test_masked_task_contributes_nothing_even_if_its_loss_is_nan(name):
    scheme = schemes()[name]
    params, state = scheme.init(2)

    def total(params, losses):
        return scheme.apply(params, state, losses, mask=jnp.array([True, False]))[0]

    losses = jnp.array([3.0, jnp.nan])
    value, (params_gradient, losses_gradient) = jax.value_and_grad(total, argnums=(0, 1))(params, losses)
    alone = scheme.apply(params, state, jnp.array([3.0, 0.0]), mask=jnp.array([True, False]))[0]
    assert value == alone
    assert losses_gradient[1] == 0
    assert losses_gradient[0] > 0
    for leaf in jax.tree.leaves(params_gradient):
        assert leaf[1] == 0
        assert np.isfinite(leaf).all()
    assert scheme.apply(params, state, losses, mask=jnp.array([True, False]))[1][1][1] == 0


def test_fixed_follows_a_schedule():
    scheme = weighting.fixed([1.0, optax.linear_schedule(0.0, 1.0, 4)])
    params, state = scheme.init(2)
    seen = []
    for _ in range(6):
        _, (state, weights) = scheme.apply(params, state, LOSSES)
        seen.append(float(weights[1]))
    assert seen == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_uncertainty_forms_of_the_paper():
    scheme = weighting.uncertainty(["regression", "classification"])
    total, (_, weights) = scheme.apply({"log_variance": jnp.array([1.0, -1.0])}, (), LOSSES)
    regression = 0.5 * np.exp(-1.0) * 3.0 + 0.5 * 1.0
    classification = np.exp(1.0) * 0.2 + 0.5 * -1.0
    np.testing.assert_allclose(total, regression + classification, rtol=1e-6)
    np.testing.assert_allclose(weights, [0.5 * np.exp(-1.0), np.exp(1.0)], rtol=1e-6)


def test_uncertainty_recovers_the_noise_of_two_regressions():
    """The toy problem of Kendall's example code: noise of standard deviation 10 and 1."""
    key_x, key_1, key_2 = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(key_x, (500, 1))
    noise = jnp.concatenate(
        [10 * jax.random.normal(key_1, (500, 1)), jax.random.normal(key_2, (500, 1))], axis=1
    )
    y = jnp.concatenate([2 * x + 8, 3 * x + 3], axis=1) + noise
    scheme = weighting.uncertainty(["regression", "regression"])
    params = {"model": {"w": jnp.zeros((1, 2)), "b": jnp.zeros(2)}, "weighting": scheme.init(2)[0]}
    optimizer = optax.adam(0.05)

    def total(params):
        residual = x @ params["model"]["w"] + params["model"]["b"] - y
        return scheme.apply(params["weighting"], (), jnp.mean(residual**2, axis=0))[0]

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(total)(params), state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=2000)
    residual = x @ params["model"]["w"] + params["model"]["b"] - y
    learned = jnp.exp(params["weighting"]["log_variance"] / 2)
    np.testing.assert_allclose(learned, jnp.std(residual, axis=0), rtol=0.02)
    np.testing.assert_allclose(learned, [10.0, 1.0], rtol=0.1)


def test_errors_say_what_was_found():
    with pytest.raises(ValueError, match="2 weights for 3 tasks"):
        weighting.fixed([1.0, 1.0]).init(3)
    with pytest.raises(ValueError, match="not negative, found -1"):
        weighting.fixed([-1.0])
    with pytest.raises(ValueError, match="unknown kind 'ranking'"):
        weighting.uncertainty(["ranking"])
    with pytest.raises(ValueError, match="choose from fixed, equal, uncertainty"):
        weighting.make("uncertain")
