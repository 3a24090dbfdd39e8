"""Every aggregation, held to what all promise and to what it promises itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_jax import weighting
from mtl_jax.weighting.properties import AGGREGATIONS as PROPERTIES

EVERY = sorted(weighting.AGGREGATIONS)
SIZES = (2, 3, 5, 8)


def having(**wanted) -> list[str]:
    return [n for n in EVERY if all(getattr(PROPERTIES[n], key) == value for key, value in wanted.items())]


def make(name, num_tasks, **hyperparameters):
    return weighting.make_default(name, num_tasks, **hyperparameters)


def sizes_of(name) -> list[int]:
    return [k for k in SIZES if k >= PROPERTIES[name].min_tasks]


@functools.cache
def compiled(name, num_tasks):
    tx = make(name, num_tasks)
    return tx, jax.jit(lambda grads, state, losses, mask: tx.update(grads, state, losses=losses, mask=mask))


def aggregate(name, matrix, losses=None, mask=None):
    matrix = jnp.asarray(matrix)
    tx, update = compiled(name, len(matrix))
    losses = jnp.arange(1.0, len(matrix) + 1) if losses is None else jnp.asarray(losses)
    mask = jnp.ones(len(matrix), bool) if mask is None else jnp.asarray(mask)
    combined, state = update(matrix, tx.init(matrix[0]), losses, mask)
    return np.asarray(combined), state


def gradients(num_tasks, seed=0, features=20, shift=0.3):
    return np.random.default_rng(seed).normal(shift, 1, (num_tasks, features)).astype(np.float32)


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_the_table_is_complete():
    assert sorted(PROPERTIES) == EVERY
    assert set(weighting.names()) == set(weighting.AGGREGATIONS) | set(weighting.SCALARIZATIONS)


@pytest.mark.parametrize("name", EVERY)
def test_of_a_tree_is_that_of_its_flat_matrix(name):
    matrix = gradients(4)
    tree = {"a": matrix[:, :8].reshape(4, 2, 4), "b": [matrix[:, 8], matrix[:, 9:]]}
    # Its default rate leaves the weights of SDMGrad swinging, which makes much of roundings.
    tx = make(name, 4, **({"learning_rate": 0.1} if name == "sdmgrad" else {}))
    params = jax.tree.map(lambda g: jnp.asarray(g[0]), tree)
    updates, _ = tx.update(jax.tree.map(jnp.asarray, tree), tx.init(params), params, losses=jnp.ones(4))
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    if name == "graddrop":  # draws for each leaf by itself
        return
    flat, _ = tx.update(jnp.asarray(matrix), tx.init(jnp.asarray(matrix[0])), losses=jnp.ones(4))
    found = np.concatenate([updates["a"].reshape(-1), updates["b"][0].reshape(-1), updates["b"][1]])
    np.testing.assert_allclose(found, flat, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_in_a_chain_under_jit_and_vmap(name):
    tx = optax.chain(make(name, 4), optax.adam(1e-2))
    matrices = jnp.stack([gradients(4, seed) for seed in range(3)])

    @jax.jit
    def two_steps(matrix):
        params = jnp.ones(matrix.shape[1])
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(matrix, state, params, losses=jnp.arange(1.0, 5))
            params = optax.apply_updates(params, updates)
        return params

    together = jax.vmap(two_steps)(matrices)
    for one, matrix in zip(together, matrices, strict=True):
        np.testing.assert_allclose(one, two_steps(matrix), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_types_are_kept(name):
    grads = {"w": jnp.asarray(gradients(4), jnp.bfloat16)}
    tx = make(name, 4)
    updates, _ = tx.update(grads, tx.init({"w": grads["w"][0]}), losses=jnp.ones(4))
    assert updates["w"].dtype == jnp.bfloat16
    assert jnp.all(jnp.isfinite(updates["w"]))


@pytest.mark.parametrize("name", [n for n in EVERY if PROPERTIES[n].min_tasks == 1])
def test_a_single_task_is_that_task(name):
    matrix = gradients(1)
    combined, _ = aggregate(name, matrix)
    assert cosine(combined, matrix[0]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_a_masked_task_is_as_if_it_were_not_there(name):
    """Whatever is in its gradient and its loss."""
    matrix, losses = gradients(5), np.arange(1, 6, dtype=np.float32)
    poisoned = matrix.copy()
    poisoned[3] = np.nan
    mask = np.array([True, True, True, False, True])
    found, state = aggregate(name, poisoned, np.where(mask, losses, np.nan).astype(np.float32), mask)
    again, _ = aggregate(name, np.where(mask[:, None], matrix, 1e6).astype(np.float32), losses, mask)
    np.testing.assert_allclose(found, again, rtol=1e-5, atol=1e-6)
    assert np.all(np.isfinite(found)) and np.abs(found).max() > 0
    assert int(state.dropped) == 0
    if state.weights is not None:
        assert state.weights[3] == 0
    if not PROPERTIES[name].remembers and name != "random" and name != "pcgrad":
        without, _ = aggregate(name, matrix[mask], losses[mask])
        np.testing.assert_allclose(found, without, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_is_dropped_and_counted(name, value):
    matrix = gradients(5)
    matrix[2, 7] = value
    combined, state = aggregate(name, matrix)
    assert int(state.dropped) == 1
    assert np.all(np.isfinite(combined)) and np.abs(combined).max() > 0


@pytest.mark.parametrize("name", EVERY)
def test_no_task_at_all_gives_zero(name):
    combined, _ = aggregate(name, gradients(4), mask=np.zeros(4, bool))
    np.testing.assert_array_equal(combined, 0)


@pytest.mark.parametrize("name", EVERY)
def test_zero_gradients_give_zero(name):
    combined, _ = aggregate(name, np.zeros((4, 20), np.float32))
    np.testing.assert_array_equal(combined, 0)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("scale", [1e-10, 1e-4, 1e4, 1e15])
def test_any_scale_is_finite(name, scale):
    for size in sizes_of(name):
        matrix = gradients(size)
        matrix[0] *= scale
        assert np.all(np.isfinite(aggregate(name, matrix)[0]))
        combined, _ = aggregate(name, gradients(size) * np.float32(scale))
        assert np.all(np.isfinite(combined)) and np.abs(combined).max() > 0


@pytest.mark.parametrize("name", having(homogeneous=True))
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_homogeneous(name, scale):
    for size in sizes_of(name):
        matrix = gradients(size)
        combined, _ = aggregate(name, matrix)
        scaled, _ = aggregate(name, matrix * np.float32(scale))
        np.testing.assert_allclose(scaled / scale, combined, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_of_low_rank(name):
    for size in sizes_of(name):
        matrix = np.repeat(gradients(1), size, axis=0)
        combined, _ = aggregate(name, matrix)
        assert np.all(np.isfinite(combined))
        assert cosine(combined, matrix[0]) == pytest.approx(1, abs=1e-3)
        opposed = matrix * np.where(np.arange(size) % 2, -1, 1)[:, None].astype(np.float32)
        assert np.all(np.isfinite(aggregate(name, opposed)[0]))


@pytest.mark.parametrize("name", having(permutation=True))
def test_permutation(name):
    for size in sizes_of(name):
        matrix, losses = gradients(size), np.arange(1, size + 1, dtype=np.float32)
        order = np.random.default_rng(1).permutation(size)
        combined, state = aggregate(name, matrix, losses)
        permuted, permuted_state = aggregate(name, matrix[order], losses[order])
        np.testing.assert_allclose(permuted, combined, rtol=1e-3, atol=1e-4)
        if state.weights is not None:
            np.testing.assert_allclose(permuted_state.weights, state.weights[order], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", having(simplex=True))
def test_weights_on_the_simplex(name):
    for size in sizes_of(name):
        weights = np.asarray(aggregate(name, gradients(size))[1].weights)
        assert weights.min() >= 0
        assert weights.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", having(non_conflicting=True))
@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
def test_no_task_loses(name, shift):
    for size in sizes_of(name):
        for seed in range(5):
            matrix = gradients(size, seed, features=40, shift=shift)
            matrix *= 10 ** np.random.default_rng(seed).uniform(-2, 2, (size, 1)).astype(np.float32)
            combined, _ = aggregate(name, matrix)
            gains = matrix @ combined / np.linalg.norm(matrix, axis=1) / np.linalg.norm(combined)
            assert gains.min() > -1e-4


@pytest.mark.parametrize("name", having(impartial=True))
def test_scaling_one_task_keeps_the_direction(name):
    for size in sizes_of(name):
        matrix = gradients(size)
        combined, _ = aggregate(name, matrix)
        matrix[1] *= 100
        scaled, _ = aggregate(name, matrix)
        assert cosine(combined, scaled) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_determined_by_the_seed(name):
    matrix = gradients(5)
    first, _ = aggregate(name, matrix)
    np.testing.assert_array_equal(first, aggregate(name, matrix)[0])
    if name not in ("random", "pcgrad", "gradvac", "graddrop"):
        return
    matrix = gradients(5, shift=-0.2)
    tx = make(name, 5, seed=1)
    other, state = tx.update(jnp.asarray(matrix), tx.init(jnp.zeros(20)))
    assert np.abs(np.asarray(other) - aggregate(name, matrix)[0]).max() > 1e-3
    again, _ = tx.update(jnp.asarray(matrix), state)
    assert np.abs(np.asarray(again) - np.asarray(other)).max() > 1e-3


@pytest.mark.parametrize("name", EVERY)
def test_the_state_keeps_its_structure_and_survives_a_checkpoint(name, tmp_path):
    import orbax.checkpoint as ocp

    matrix, losses = jnp.asarray(gradients(5)), jnp.arange(1.0, 6)
    tx = make(name, 5)
    state = tx.init(matrix[0])
    _, once = tx.update(matrix, state, losses=losses)
    assert jax.tree.structure(once) == jax.tree.structure(state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), once) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", once)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", once)
    expected, _ = tx.update(matrix, once, losses=losses)
    found, _ = tx.update(matrix, restored, losses=losses)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", having(remembers=False))
def test_num_tasks_may_be_left_out(name):
    tx = weighting.make(name)
    matrix = jnp.asarray(gradients(5))
    updates, state = tx.update(matrix, tx.init(matrix[0]), losses=jnp.ones(5))
    assert state.weights is None
    np.testing.assert_allclose(
        updates, aggregate(name, matrix, np.ones(5, np.float32))[0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", [n for n in having(remembers=True) if n != "cr_mogm"])
def test_schemes_that_remember_ask_for_num_tasks(name):
    with pytest.raises(ValueError, match=f"{name}: num_tasks is missing"):
        weighting.make(name).init(jnp.zeros(3))


# What single schemes promise.


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
