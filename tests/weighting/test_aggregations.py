"""Every aggregation, held to what all promise and to what it promises itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_jax import weighting
from mtl_jax.weighting import make_default as make
from mtl_jax.weighting.properties import AGGREGATIONS as PROPERTIES

from .conftest import aggregate, cosine, gradients

EVERY = sorted(weighting.AGGREGATIONS)
SIZES = (2, 3, 5, 8)


def having(**wanted) -> list[str]:
    return [n for n in EVERY if all(getattr(PROPERTIES[n], key) == value for key, value in wanted.items())]


def sizes_of(name) -> list[int]:
    return [k for k in SIZES if k >= PROPERTIES[name].min_tasks]


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
