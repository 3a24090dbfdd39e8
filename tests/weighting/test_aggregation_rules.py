"""Each aggregation, held to its own paper's rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import weighting
from mtl_jax.weighting import make_default as make

from .conftest import aggregate, cosine, gradients


def test_two_tasks_of_nash():
    """For two tasks the weights are `1 / (|g_i| sqrt(1 + cos))`, in the direction of IMTL-G, of squared length K."""
    matrix = gradients(2)
    combined, state = aggregate("fairgrad", matrix)
    norms = np.linalg.norm(matrix, axis=1)
    np.testing.assert_allclose(state.weights, 1 / (norms * np.sqrt(1 + cosine(*matrix))), rtol=1e-4)
    assert combined @ combined == pytest.approx(2, rel=1e-4)
    assert cosine(combined, aggregate("imtl_g", matrix)[0]) == pytest.approx(1, abs=1e-5)
    unclipped = weighting.aggregate("nash_mtl", matrix, max_norm=None)
    np.testing.assert_allclose(unclipped, combined, rtol=1e-4, atol=1e-5)


def test_two_tasks_of_pcgrad_are_twice_upgrad():
    for seed in range(10):
        matrix = gradients(2, seed, shift=0.0, features=4)
        np.testing.assert_allclose(
            aggregate("pcgrad", matrix)[0], 2 * aggregate("upgrad", matrix)[0], rtol=1e-3, atol=1e-4
        )


def test_duplicated_tasks_do_not_change_mgda():
    matrix = gradients(3)
    doubled = np.concatenate([matrix, matrix[:2]])
    np.testing.assert_allclose(
        aggregate("mgda", doubled)[0], aggregate("mgda", matrix)[0], rtol=1e-3, atol=1e-4
    )


def test_cagrad_between_the_mean_and_mgda():
    matrix = gradients(4, shift=0.0)
    mean, _ = aggregate("mean", matrix)
    np.testing.assert_allclose(weighting.aggregate("cagrad", matrix, c=0.0), mean, rtol=1e-5)
    away = [np.linalg.norm(weighting.aggregate("cagrad", matrix, c=c) - mean) for c in (0.2, 0.9)]
    np.testing.assert_allclose(away, np.linalg.norm(mean) * np.array([0.2, 0.9]), rtol=1e-4)
    assert np.min(matrix @ weighting.aggregate("cagrad", matrix, c=1.0)) > -1e-4
    far = weighting.aggregate("cagrad", matrix, c=1e4)
    assert cosine(far, aggregate("mgda", matrix)[0]) == pytest.approx(1, abs=1e-3)


def test_fairness_of_fairgrad():
    matrix = gradients(5)
    for alpha in (0.5, 1.0, 2.0, 5.0):
        weights = np.asarray(_weights("fairgrad", matrix, alpha=alpha))
        np.testing.assert_allclose(matrix @ (matrix.T @ weights), weights ** (-1 / alpha), rtol=1e-3)


def test_projections_of_imtl_g_are_equal():
    matrix = gradients(5)
    combined, state = aggregate("imtl_g", matrix)
    projections = matrix @ combined / np.linalg.norm(matrix, axis=1)
    np.testing.assert_allclose(projections, projections[0], rtol=1e-3)
    assert np.sum(state.weights) == pytest.approx(1, abs=1e-5)


def test_cosines_of_config_are_equal():
    matrix = gradients(5)
    combined, _ = aggregate("config", matrix)
    cosines = [cosine(combined, g) for g in matrix]
    np.testing.assert_allclose(cosines, cosines[0], rtol=1e-3)
    assert np.linalg.norm(combined) == pytest.approx(
        np.sum(matrix @ combined) / np.linalg.norm(combined), rel=1e-4
    )


@pytest.mark.parametrize("scale", ["min", "median", "rmse"])
def test_aligned_gradients_have_equal_singular_values(scale):
    matrix = gradients(3)
    values, vectors = np.linalg.eigh(matrix @ matrix.T)
    size = {"min": values[0], "median": values[1], "rmse": values.mean()}[scale]
    aligned = np.sqrt(size) * vectors @ np.diag(values**-0.5) @ vectors.T @ matrix
    np.testing.assert_allclose(
        weighting.aggregate("aligned_mtl", matrix, scale=scale), aligned.mean(axis=0), rtol=1e-3, atol=1e-4
    )


def test_graddrop_keeps_one_sign():
    matrix = gradients(6, shift=0.0, features=4000)
    combined, _ = aggregate("graddrop", matrix)
    positive, negative = np.maximum(matrix, 0).sum(0), np.minimum(matrix, 0).sum(0)
    kept = np.isclose(combined, positive, atol=1e-5)
    assert np.all(kept | np.isclose(combined, negative, atol=1e-5))
    purity = positive / (positive - negative)
    for low in np.arange(0, 1, 0.25):
        inside = (purity >= low) & (purity < low + 0.25)
        assert kept[inside].mean() == pytest.approx(purity[inside].mean(), abs=0.06)


def test_robust_averages_ignore_one_hostile_task():
    matrix = gradients(6, shift=1.0)
    hostile = matrix.copy()
    hostile[4] = -1000
    for name in ("krum", "trimmed_mean"):
        assert cosine(aggregate(name, hostile)[0], matrix.mean(axis=0)) > 0.5
    np.testing.assert_allclose(
        aggregate("trimmed_mean", matrix)[0], np.sort(matrix, axis=0)[1:-1].mean(axis=0), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("trim", [0, 1, 4, 9])
@pytest.mark.parametrize("left_out", [(), (0,), (1, 4, 5), range(2, 7), range(8), range(9)])
def test_trimmed_mean_is_the_mean_of_the_middle(trim, left_out):
    matrix = gradients(10)
    mask = ~np.isin(np.arange(10), left_out)
    kept = np.sort(matrix[mask], axis=0)
    cut = min(trim, (len(kept) - 1) // 2)
    found = weighting.aggregate("trimmed_mean", matrix, mask=mask, trim=trim)
    np.testing.assert_allclose(found, kept[cut : len(kept) - cut].mean(axis=0), rtol=1e-5, atol=1e-6)


def test_gradnorm_pulls_weighted_norms_together():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(3, 20)) * np.array([[1.0], [3.0], [10.0]])
    tx = make("gradnorm", 3, learning_rate=0.02)
    state = tx.init(jnp.zeros(20))
    update = jax.jit(lambda state: tx.update(jnp.asarray(matrix), state, losses=jnp.ones(3)))
    for _ in range(300):
        _, state = update(state)
    lengths = np.asarray(state.weights) * np.linalg.norm(matrix, axis=1)
    assert lengths.max() / lengths.min() < 1.5
    assert np.sum(state.weights) == pytest.approx(3, abs=1e-4)


def test_gradnorm_gives_more_to_the_task_that_lags():
    matrix = jnp.eye(2, 5)
    tx = make("gradnorm", 2)
    state = tx.init(jnp.zeros(5))
    for losses in ([1.0, 1.0], [0.2, 0.9], [0.1, 0.9], [0.1, 0.9]):
        _, state = tx.update(matrix, state, losses=jnp.array(losses))
    assert state.weights[1] > state.weights[0]


def test_gradvac_reaches_the_target_cosine():
    """With the usual cosine of the pair known, a pair below it is turned until it has it."""
    matrix = np.array([[1.0, 0.0], [-0.6, 0.8]], np.float32)
    tx = make("gradvac", 2)
    state = tx.init(jnp.zeros(2))
    key, _ = state.scheme
    state = state._replace(scheme=(key, jnp.full((2, 2), 0.5)))
    _, after = tx.update(jnp.asarray(matrix), state)
    np.testing.assert_allclose(np.diag(np.flip(after.scheme[1], 0)), 0.5 * 0.5 + 0.5 * -0.6, rtol=1e-5)
    cos, target = -0.6, 0.5
    part = (target * np.sqrt(1 - cos**2) - cos * np.sqrt(1 - target**2)) / np.sqrt(1 - target**2)
    turned = matrix + part * matrix[::-1]
    assert cosine(turned[0], matrix[1]) == pytest.approx(target, abs=1e-5)
    np.testing.assert_allclose(after.weights, 1 + part, rtol=1e-5)


def test_excess_mtl_step_by_step():
    matrices = np.stack([np.array([[1.0, 2.0, 0.0], [0.0, 0.5**step, 3.0 * 0.5**step]]) for step in range(5)])
    tx = make("excess_mtl", 2, step_size=0.1)
    state = tx.init(jnp.zeros(3))
    weights, squares, first = np.ones(2), np.zeros((2, 3)), None
    for matrix in matrices:
        _, state = tx.update(jnp.asarray(matrix, jnp.float32), state)
        squares += matrix**2
        excess = np.sum(matrix**2 / np.sqrt(np.maximum(squares, 1e-12)), axis=1)
        if first is None:
            first = excess
        else:
            weights *= np.exp(0.1 * excess / first)
            weights *= 2 / weights.sum()
    np.testing.assert_allclose(state.weights, weights, rtol=1e-4)
    assert weights[0] > weights[1]


def test_excess_mtl_survives_gradients_that_grow_a_millionfold():
    tx = make("excess_mtl", 2)
    state = tx.init(jnp.zeros(3))
    for length in (1.0, 1e6, 1e6, 1.0):
        _, state = tx.update(jnp.array([[length, 0.0, 0.0], [0.0, 1.0, 0.0]]), state)
    np.testing.assert_allclose(state.weights, [2, 0], atol=1e-6)


def test_db_mtl_makes_the_gradients_of_log_losses_equally_long():
    matrix = np.array([[1.0, 0, 0], [0, 10, 0], [0, 0, 4]], np.float32)
    combined, _ = aggregate("db_mtl", matrix, np.array([1.0, 2.0, 8.0], np.float32))
    np.testing.assert_allclose(combined, np.full(3, 0.1 * 5), rtol=1e-5)


def test_cr_mogm_averages_the_weights_of_another():
    tx = weighting.make("cr_mogm", inner="mgda", alpha=0.9, num_tasks=3)
    first, second = gradients(3, 0), gradients(3, 1)
    state = tx.init(jnp.zeros(20))
    _, state = tx.update(jnp.asarray(first), state)
    combined, state = tx.update(jnp.asarray(second), state)
    weights = 0.9 * _weights("mgda", first) + 0.1 * _weights("mgda", second)
    np.testing.assert_allclose(state.weights, weights, rtol=1e-4)
    np.testing.assert_allclose(combined, weights @ second, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="reports no weights"):
        weighting.make("cr_mogm", inner="trimmed_mean", num_tasks=3).init(jnp.zeros(3))


@pytest.mark.parametrize("name", ["modo", "moco", "sdmgrad"])
def test_followed_weights_come_to_mgda(name):
    """With the same gradients again and again, and no regularisation, what is followed is reached."""
    matrix = gradients(3) * np.array([[1.0], [1.5], [2.0]], np.float32)
    hyperparameters = {
        "modo": {"gamma": 0.01, "rho": 0.0},
        "moco": {"gamma": 0.02, "gamma_sigma": 0.0, "beta_sigma": 0.0},
        "sdmgrad": {"lamda": 0.0, "learning_rate": 0.5},
    }[name]
    tx = make(name, 3, **hyperparameters)

    def step(state, _):
        combined, state = tx.update(jnp.asarray(matrix), state)
        return state, combined

    _, found = jax.jit(lambda state: jax.lax.scan(step, state, length=500))(tx.init(jnp.zeros(20)))
    np.testing.assert_allclose(found[-1], aggregate("mgda", matrix)[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["modo", "sdmgrad"])
def test_independent_batches(name):
    matrix, second, third = (jnp.asarray(gradients(3, seed)) for seed in range(3))
    tx = make(name, 3, **({"gamma": 0.1} if name == "modo" else {}))
    state = tx.init(matrix[0])
    own, _ = tx.update(matrix, state)
    found, _ = tx.update(matrix, state, samples=(second, third))
    assert np.abs(found - own).max() > 1e-3
    same, _ = tx.update(matrix, state, samples=(matrix, matrix))
    np.testing.assert_allclose(same, own, rtol=1e-5)


@pytest.mark.parametrize("normalization", ["l2", "loss", "loss+"])
def test_mgda_normalizations(normalization):
    matrix, losses = gradients(3) * np.array([[1.0], [5.0], [20.0]], np.float32), np.array([1.0, 4.0, 9.0])
    norms = np.linalg.norm(matrix, axis=1)
    size = {"l2": norms, "loss": losses, "loss+": norms * losses}[normalization]
    weights = _weights("mgda", (matrix / size[:, None]).astype(np.float32))
    found = weighting.aggregate("mgda", matrix, losses=jnp.asarray(losses), normalization=normalization)
    np.testing.assert_allclose(found, weights @ matrix, rtol=1e-3, atol=1e-3)


def _weights(name, matrix, **hyperparameters):
    tx = weighting.make(name, num_tasks=len(matrix), **hyperparameters)
    return tx.update(jnp.asarray(matrix), tx.init(jnp.asarray(matrix[0])))[1].weights
