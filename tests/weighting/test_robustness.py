"""What training throws at any scheme: tasks that come and go, losses that are no numbers, loops, donation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_jax import weighting
from mtl_jax.weighting.properties import AGGREGATIONS

MATRIX = np.random.default_rng(0).normal(0.3, 1, (4, 6)).astype(np.float32)


def types(tree):
    return [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in map(jax.typeof, jax.tree.leaves(tree))]


def aggregation_step(name, num_tasks=4, **hyperparameters):
    tx = weighting.make_default(name, num_tasks, **hyperparameters)
    return tx, tx.init({"w": jnp.zeros(6)})


@pytest.mark.parametrize("name", weighting.AGGREGATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_aggregation_states_go_round_in_loops(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        tx, state = aggregation_step(name)
        losses, grads = jnp.ones(4, dtype), {"w": jnp.asarray(MATRIX, dtype)}
        after = jax.eval_shape(lambda s: tx.update(grads, s, losses=losses)[1], state)
        assert [(x.shape, x.dtype) for x in jax.tree.leaves(after)] == [t[:2] for t in types(state)]
        assert not any(weak for *_, weak in types(state))


@pytest.mark.parametrize("name", weighting.SCALARIZATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_scalarization_states_go_round_in_loops(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        scheme = weighting.make_default(name, 4)
        params, state = scheme.init(4)
        after = jax.eval_shape(lambda s: scheme.apply(params, s, jnp.ones(4, dtype))[1][0], state)
        assert [(x.shape, x.dtype) for x in jax.tree.leaves(after)] == [t[:2] for t in types(state)]
        assert not any(weak for *_, weak in types(state))


@pytest.mark.parametrize("name", weighting.names())
def test_first_states_may_be_donated(name):
    scheme = weighting.make_default(name, 4)
    state = scheme.init(4) if name in weighting.SCALARIZATIONS else scheme.init({"w": jnp.zeros(6)})
    arrays = [leaf for leaf in jax.tree.leaves(state) if leaf.size]
    assert len({leaf.unsafe_buffer_pointer() for leaf in arrays}) == len(arrays)


# The others are held to it in one step, by test_aggregations; GradVac draws for each task, also for one left out.
@pytest.mark.parametrize("name", [n for n, p in AGGREGATIONS.items() if p.remembers and n != "gradvac"])
def test_masked_task_is_as_if_there_were_none(name):
    """Over several steps, in which others are learned and remembered."""
    fewer, fewer_state = aggregation_step(name, 3)
    tx, state = aggregation_step(name, 4)
    mask = jnp.array([True, True, False, True])
    kept = np.flatnonzero(mask)
    for step in range(5):
        grads = MATRIX * (1 + 0.3 * step) + step * np.roll(MATRIX, 1, axis=0)
        losses = np.array([1.0, 2.0, np.nan, 4.0], np.float32) / (1 + step)
        expected, fewer_state = fewer.update(
            {"w": jnp.asarray(grads[kept])}, fewer_state, losses=losses[kept]
        )
        found, state = tx.update({"w": jnp.asarray(grads)}, state, losses=losses, mask=mask)
        np.testing.assert_allclose(found["w"], expected["w"], rtol=2e-3, atol=1e-4)
    assert int(state.dropped) == 0


def test_gradient_that_is_no_number_is_noticed_wherever_it_is():
    bad = {"neck": jnp.ones((2, 3)), "back": jnp.ones((2, 3)).at[1, 0].set(jnp.nan)}
    for options in ({"params": lambda path: path == "neck"}, {"shared": lambda path: path == "neck"}):
        tx = weighting.mean(num_tasks=2, **options)
        combined, state = tx.update(bad, tx.init(bad))
        assert int(state.dropped) == 1
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(combined))
    tx = weighting.mean(num_tasks=2, nonfinite="raise", shared=lambda path: path == "neck")
    with pytest.raises(ValueError, match="mean: the loss or gradient of task 1 is not finite"):
        tx.update(bad, tx.init(bad))


def test_samples_that_are_no_numbers_spoil_nothing():
    tx, state = aggregation_step("modo")
    good = {"w": jnp.asarray(MATRIX)}
    _, state = tx.update(good, state, samples=({"w": good["w"].at[2].set(jnp.nan)}, good))
    combined, state = tx.update(good, state)
    assert int(state.dropped) == 1
    assert np.isfinite(combined["w"]).all() and np.isfinite(state.weights).all()


def test_samples_are_looked_at_where_params_says():
    grads = {"neck": jnp.eye(2) * jnp.array([[1.0], [3.0]]), "back": jnp.eye(2) * jnp.array([[9.0], [1.0]])}
    tx = weighting.sdmgrad(num_tasks=2, params=lambda path: path == "neck")
    _, own = tx.update(grads, tx.init(grads))
    _, sampled = tx.update(grads, tx.init(grads), samples=(grads, grads))
    np.testing.assert_allclose(sampled.weights, own.weights, rtol=1e-5)


def test_params_reach_an_inner_scheme_and_are_refused_where_unused():
    grads = {"neck": jnp.eye(2) * jnp.array([[1.0], [3.0]]), "back": jnp.eye(2) * jnp.array([[9.0], [1.0]])}
    options = {"num_tasks": 2, "params": lambda path: path == "neck"}
    plain, wrapped = weighting.mgda(**options), weighting.cr_mogm(weighting.mgda(num_tasks=2), **options)
    (_, expected), (_, found) = (tx.update(grads, tx.init(grads)) for tx in (plain, wrapped))
    np.testing.assert_allclose(found.weights, expected.weights)
    for name in ("moco", "db_mtl", "excess_mtl"):
        with pytest.raises(ValueError, match=f"{name}: params is given"):
            weighting.make(name, **options)
    with pytest.raises(ValueError, match="graddrop: weigh_heads is set"):
        weighting.graddrop(weigh_heads=True)


@pytest.mark.parametrize(
    "losses", [[0.0, 1.0, 2.0], [-0.5, 1.0, 2.0], [np.nan, 1.0, 2.0], [1e-25, 1.0, 1e25]]
)
@pytest.mark.parametrize("name", weighting.names())
def test_a_strange_loss_does_no_lasting_harm(name, losses):
    if AGGREGATIONS.get(name) is not None and AGGREGATIONS[name].min_tasks > 3:
        losses = [*losses, 1.0]
    usual, strange = jnp.ones(len(losses)), jnp.array(losses, jnp.float32)
    scheme = weighting.make_default(name, len(losses))
    aggregates = name in weighting.AGGREGATIONS
    params, state = ((), scheme.init(jnp.zeros(6))) if aggregates else scheme.init(len(losses))
    for step in (strange, usual, strange, usual, usual, usual):
        if aggregates:
            result, state = scheme.update(jnp.asarray(MATRIX[: len(losses)]), state, losses=step)
            weights = state.weights if state.weights is not None else result
        else:
            result, (state, weights) = scheme.apply(params, state, step)
            if scheme.observe is not None:
                state = scheme.observe(state, step)
        assert np.isfinite(result).all()
    assert np.isfinite(weights).all()
    assert np.abs(weights).max() < 1e3
    assert np.abs(weights[1]) > 0 or name in ("mgda", "mgda_ub", "cr_mogm", "krum")


def test_famo_goes_on_where_a_loss_is_zero():
    scheme = weighting.famo()
    params, state = scheme.init(2)
    _, (_, weights) = scheme.apply(params, state, jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(weights, [0, 1], rtol=1e-5)


def test_masks_and_matrices_of_integers():
    scheme = weighting.predicted()
    params, state = scheme.init(2)
    _, (of_bools, _) = scheme.apply(params, state, jnp.array([2.0, 3.0]), mask=jnp.array([True, True]))
    _, (of_numbers, _) = scheme.apply(params, state, jnp.array([2.0, 3.0]), mask=np.array([1, 1]))
    jax.tree.map(np.testing.assert_array_equal, of_numbers, of_bools)
    found = weighting.aggregate("upgrad", np.array([[1, 0], [-1, 2]]), mask=np.array([1, 1]))
    np.testing.assert_allclose(found, [0.4, 1.2], rtol=1e-5)


def quadratic(params, target):
    return jnp.stack([jnp.sum((params["trunk"] - t) ** 2) * params["heads"][i] for i, t in enumerate(target)])


def test_task_masked_when_weights_are_found_keeps_its_own():
    params = {"trunk": jnp.zeros(2), "heads": jnp.ones(2)}
    target = jnp.array([[1.0, 2.0], [-2.0, 1.0]])
    tx = weighting.nash_mtl(num_tasks=2)
    step = weighting.aggregated_value_and_grad(quadratic, tx, every=2)
    state = tx.init(params)
    _, _, state = step(params, state, target)
    first = np.asarray(state.weights)
    _, _, state = step(params, state, target)
    _, grads, state = step(params, state, target, mask=jnp.array([True, False]))
    assert state.weights[1] == first[1]
    assert grads["heads"][1] == 0
    _, grads, _ = step(params, state, target)
    assert grads["heads"][1] != 0
    # One that never had a weight gets what the others have.
    _, _, state = step(params, tx.init(params), target, mask=jnp.array([True, False]))
    assert state.weights[1] == state.weights[0] > 0


@pytest.mark.parametrize("weigh_heads", [True, False])
def test_heads_are_treated_alike_in_steps_between(weigh_heads):
    params = {"trunk": jnp.zeros(2), "heads": jnp.ones(2)}
    target = jnp.array([[1.0, 2.0], [-2.0, 1.0]])
    tx = weighting.upgrad(num_tasks=2, shared=lambda path: path == "trunk", weigh_heads=weigh_heads)
    step = weighting.aggregated_value_and_grad(quadratic, tx, every=2)
    _, found, state = step(params, tx.init(params), target)
    _, between, _ = step(params, state, target)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, between)
    expected = np.array([5.0, 5.0]) * (state.weights if weigh_heads else 1)
    np.testing.assert_allclose(found["heads"], expected, rtol=1e-5)


def test_held_out_losses_without_labels_do_not_count():
    scheme = weighting.auto_lambda()
    learned, state = scheme.init(2)
    params = {"trunk": jnp.zeros(2), "heads": jnp.ones(2)}
    batch, mask = jnp.array([[1.0, 2.0], [-2.0, 1.0]]), jnp.array([True, False])
    gradient = weighting.hypergradient(scheme, quadratic, step_size=0.1)
    far = gradient(learned, state, params, batch, batch.at[1].set(1e3), mask)
    near = gradient(learned, state, params, batch, batch, mask)
    np.testing.assert_array_equal(far["weights"], near["weights"])
    init, update = weighting.make_step(scheme, lambda p, t, c: quadratic(p, t) + c, optax.sgd(0.1))
    held_out = (batch, jnp.array([0.0, jnp.nan]))
    after, *_ = update(init(params, 2), batch, jnp.zeros(2), held_out=held_out, mask=mask)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after.params, after.learned)))


def test_what_is_no_scheme_is_refused():
    chain = optax.chain(weighting.mgda(num_tasks=2), optax.sgd(0.1))
    for refused in (chain, optax.sgd(0.1)):
        with pytest.raises(ValueError, match="expected one of weighting"):
            weighting.aggregated_value_and_grad(quadratic, refused)
        with pytest.raises(ValueError, match="expected one of weighting"):
            weighting.make_step(refused, quadratic, optax.sgd(0.1))
    init, _ = weighting.make_step(weighting.mgda(num_tasks=3), quadratic, optax.sgd(0.1))
    with pytest.raises(ValueError, match="made for 3 tasks, found 2"):
        init({"trunk": jnp.zeros(2), "heads": jnp.ones(2)}, 2)
    with pytest.raises(ValueError, match="inner is 'famo'"):
        weighting.make("cr_mogm", inner="famo", num_tasks=2)
    with pytest.raises(ValueError, match=r"max_norm is -1\.0"):
        weighting.nash_mtl(max_norm=-1.0)
    with pytest.raises(ValueError, match="kinds is 'regression'"):
        weighting.uncertainty(kinds="regression")


def test_cosines_of_short_gradients():
    _, cosines = weighting.norms_and_cosines(weighting.gramian(jnp.eye(2) * 1e-16 + 1e-17))
    np.testing.assert_allclose(jnp.diagonal(cosines), 1, rtol=1e-5)
