import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import weighting


def losses_of(params, x):
    hidden = jnp.tanh(x @ params["shared"])
    return jnp.stack(
        [jnp.mean(hidden**2), jnp.mean(jnp.sin(hidden) @ params["head"]), jnp.sum(jnp.abs(hidden))]
    )


@pytest.fixture(scope="module")
def problem():
    keys = jax.random.split(jax.random.key(1), 3)
    params = {"shared": jax.random.normal(keys[0], (4, 5)), "head": jax.random.normal(keys[1], (5,))}
    return params, jax.random.normal(keys[2], (7, 4))


def split_losses(params, x):
    """A trunk, three heads of their own parameters, and the same as one function."""

    def trunk(trunk_params, x):
        return jnp.tanh(x @ trunk_params)

    heads = [
        lambda heads, features, x: jnp.mean((features @ heads["a"]) ** 2),
        lambda heads, features, x: jnp.mean(jnp.sin(features) @ heads["b"]),
        lambda heads, features, x: jnp.sum(jnp.abs(features * heads["c"])),
    ]
    return trunk, heads


@pytest.fixture(scope="module")
def split(problem):
    params, x = problem
    heads = {"a": params["head"], "b": params["head"] + 1, "c": params["head"] - 1}
    trunk_fn, head_fns = split_losses(params, x)

    def losses_of(params, x):
        features = trunk_fn(params["trunk"], x)
        return jnp.stack([head(params["heads"], features, x) for head in head_fns])

    return {"trunk": params["shared"], "heads": heads}, x, trunk_fn, head_fns, losses_of


@pytest.fixture(params=["one part", "two parts"])
def either(split, request):
    """The same losses as one function, and as trunk and heads."""
    params, x, trunk_fn, head_fns, losses_of = split
    if request.param == "two parts":
        losses_of = weighting.SplitLoss(lambda params, x: trunk_fn(params["trunk"], x), head_fns)
    return params, x, losses_of


@pytest.mark.parametrize("options", [{}, {"mode": "scan"}, {"mode": "unroll"}, {"chunk": 2}, {"chunk": 8}])
def test_equals_one_gradient_after_the_other(either, options):
    params, x, losses_of = either
    losses, grads = jax.jit(weighting.per_task_value_and_grad(losses_of, **options))(params, x)
    np.testing.assert_allclose(losses, losses_of(params, x), rtol=1e-6)
    for task in range(3):
        expected = jax.grad(lambda p, task=task: losses_of(p, x)[task])(params)
        own = jax.tree.map(lambda leaf, task=task: leaf[task], grads)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), own, expected)


@pytest.mark.parametrize("options", [{}, {"mode": "scan"}, {"mode": "unroll"}, {"chunk": 2}, {"chunk": 8}])
def test_convolutions_one_after_the_other(options):
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 5))

    def loss_fn(kernel):
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.mean(jnp.sin(y), axis=(0, 1, 2))

    expected = jax.jit(jax.jacrev(loss_fn))(kernel)
    _, found = jax.jit(weighting.per_task_value_and_grad(loss_fn, **options))(kernel)
    assert found.shape == (5, 3, 3, 3, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_heads_of_a_split_loss_run_backward_once(split):
    params, x, trunk_fn, head_fns, _ = split
    calls = []

    def counted(head):
        @jax.custom_vjp
        def features_seen(features):
            return features

        def backward(_, cotangent):
            jax.debug.callback(lambda: calls.append(1))
            return (cotangent,)

        features_seen.defvjp(lambda features: (features, None), backward)
        return lambda heads, features, x: head(heads, features_seen(features), x)

    loss_fn = weighting.SplitLoss(
        lambda params, x: (trunk_fn(params["trunk"], x), x.mean()), [counted(head) for head in head_fns]
    )
    (_, aux), _ = weighting.per_task_value_and_grad(loss_fn, has_aux=True)(params, x)
    jax.effects_barrier()
    assert len(calls) == 3  # a call a head; of a function in one part it would be three a head
    np.testing.assert_allclose(aux, x.mean())


def test_forward_runs_once_and_aux_comes_back(problem):
    params, x = problem
    calls = []

    def loss_fn(params, x):
        jax.debug.callback(lambda: calls.append(1))
        return losses_of(params, x), {"seen": x.sum()}

    (losses, aux), grads = weighting.per_task_value_and_grad(loss_fn, has_aux=True)(params, x)
    jax.effects_barrier()
    assert len(calls) == 1
    assert losses.shape == (3,)
    np.testing.assert_allclose(aux["seen"], x.sum())
    assert grads["shared"].shape == (3, 4, 5)


@pytest.mark.parametrize("several", [True, False])
def test_representation_with_the_plain_sum_is_the_plain_gradient(split, several):
    params, x, trunk_fn, head_fns, losses_of = split

    def together(heads, features, x):
        return jnp.stack([head(heads, features, x) for head in head_fns])

    value_and_grad = weighting.representation_value_and_grad(trunk_fn, head_fns if several else together)
    tx = weighting.sum(shared=weighting.is_representation)

    @jax.jit
    def gradients(params, x):
        losses, grads, backward = value_and_grad(params["trunk"], params["heads"], x)
        combined, _ = tx.update(grads, tx.init(grads), losses=losses)
        return losses, grads, backward(combined)

    losses, grads, (trunk, heads) = gradients(params, x)
    np.testing.assert_allclose(losses, losses_of(params, x), rtol=1e-6)
    expected = jax.grad(lambda p: losses_of(p, x).sum())(params)
    np.testing.assert_allclose(trunk, expected["trunk"], rtol=1e-4, atol=1e-5)
    for name, head in heads.items():
        np.testing.assert_allclose(head, expected["heads"][name], rtol=1e-4, atol=1e-5)
    assert grads["representation"].shape == (3, 7, 5)  # not summed over the batch


def test_representation_finds_the_shortest_combination_of_the_features_gradients(split):
    params, x, trunk_fn, head_fns, losses_of = split
    value_and_grad = weighting.representation_value_and_grad(trunk_fn, head_fns)
    losses, grads, backward = value_and_grad(params["trunk"], params["heads"], x)
    tx = weighting.mgda_ub(num_tasks=3, shared=weighting.is_representation)
    combined, state = tx.update(grads, tx.init(grads), losses=losses)
    flat = grads["representation"].reshape(3, -1)
    np.testing.assert_allclose(
        combined["representation"].reshape(-1), weighting.aggregate("mgda", flat), rtol=1e-4, atol=1e-6
    )
    expected = jax.grad(lambda p: state.weights @ losses_of(p, x))(params)
    np.testing.assert_allclose(backward(combined)[0], expected["trunk"], rtol=1e-4, atol=1e-6)


def test_representation_runs_the_trunk_once_and_gives_aux(split):
    params, x, trunk_fn, head_fns, _ = split
    calls = []

    def counting(trunk_params, x):
        jax.debug.callback(lambda: calls.append(1))
        return trunk_fn(trunk_params, x), {"mean": x.mean()}

    value_and_grad = weighting.representation_value_and_grad(counting, head_fns, has_aux=True)
    (_, aux), grads, backward = value_and_grad(params["trunk"], params["heads"], x)
    backward(weighting.sum().update(grads, weighting.sum().init(grads))[0])
    jax.effects_barrier()
    assert len(calls) == 1
    np.testing.assert_allclose(aux["mean"], x.mean())


def is_trunk(path):
    return path.startswith("trunk")


@pytest.mark.parametrize("shared", [None, is_trunk])
def test_steps_between_use_the_last_weights_with_one_backward_pass(either, shared):
    params, x, losses_of = either
    tx = weighting.nash_mtl(num_tasks=3, max_norm=None, **({"shared": shared} if shared else {}))
    step = jax.jit(weighting.aggregated_value_and_grad(losses_of, tx, every=3))
    state, seen = tx.init(params), []
    for i in range(5):
        moved = jax.tree.map(lambda p, i=i: p + 0.1 * i, params)
        losses, grads, state = step(moved, state, x)
        seen.append(np.asarray(state.weights))
        expected = jax.grad(lambda p, w=state.weights: w @ losses_of(p, x))(moved)
        plain = jax.grad(lambda p: losses_of(p, x).sum())(moved)
        np.testing.assert_allclose(losses, losses_of(moved, x), rtol=1e-5)
        np.testing.assert_allclose(grads["trunk"], expected["trunk"], rtol=1e-3, atol=1e-5)
        for name, head in grads["heads"].items():
            wanted = (plain if shared else expected)["heads"][name]
            np.testing.assert_allclose(head, wanted, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[0], seen[2])
    np.testing.assert_array_equal(seen[3], seen[4])
    assert np.abs(seen[3] - seen[0]).max() > 1e-3
    assert int(state.step) == 5


def test_every_step_is_the_aggregation_itself(either):
    params, x, losses_of = either
    tx = weighting.upgrad(num_tasks=3)
    mask = jnp.array([True, False, True])
    losses, grads, state = weighting.aggregated_value_and_grad(losses_of, tx, mode="scan")(
        params, tx.init(params), x, mask=mask
    )
    expected_losses, per_task = weighting.per_task_value_and_grad(losses_of)(params, x)
    expected, expected_state = tx.update(per_task, tx.init(params), losses=losses, mask=mask)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        (grads, state),
        (expected, expected_state),
    )


def test_step_between_leaves_out_a_task_whose_loss_is_no_number(problem):
    params, x = problem
    tx = weighting.mean(num_tasks=3)

    def loss_fn(params, x, poison):
        return losses_of(params, x).at[1].add(poison)

    step = weighting.aggregated_value_and_grad(loss_fn, tx, every=2)
    _, _, state = step(params, tx.init(params), x, 0.0)
    _, grads, state = step(params, state, x, jnp.nan)
    assert int(state.dropped) == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_gradient_functions_say_what_does_not_fit(split):
    params, x, _, _, losses_of = split
    with pytest.raises(ValueError, match="chunk is 0"):
        weighting.per_task_value_and_grad(losses_of, chunk=0)
    with pytest.raises(ValueError, match=r"the losses have shape \(\); expected one scalar for each task"):
        weighting.per_task_value_and_grad(lambda p, x: losses_of(p, x).sum())(params, x)
    with pytest.raises(ValueError, match=r"the losses have shape \(3, 1\); expected one scalar"):
        weighting.per_task_value_and_grad(lambda p, x: losses_of(p, x)[:, None])(params, x)
    wide = weighting.SplitLoss(lambda p, x: x, [lambda p, f, x: f[:, 0]])
    with pytest.raises(ValueError, match=r"the loss of head 0 has shape \(7,\); expected a scalar"):
        weighting.per_task_value_and_grad(wide)(params, x)
    with pytest.raises(ValueError, match="the parameters are trunk; expected a dictionary with `heads`"):
        weighting.per_task_value_and_grad(wide)({"trunk": params["trunk"]}, x)
    with pytest.raises(ValueError, match="every is 0"):
        weighting.aggregated_value_and_grad(losses_of, weighting.mean(), every=0)
    tx = weighting.trimmed_mean(num_tasks=3)
    with pytest.raises(ValueError, match="every is 2, but the aggregation has no weights to keep"):
        weighting.aggregated_value_and_grad(losses_of, tx, every=2)(params, tx.init(params), x)


def test_norms_and_cosines():
    grads = {"a": jnp.array([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), "b": jnp.array([[4.0], [0.0], [0.0]])}
    norms, cosines = weighting.norms_and_cosines(weighting.gramian(grads))
    np.testing.assert_allclose(norms, [5.0, 2.0, 0.0])
    np.testing.assert_allclose(cosines, [[1, 0, 0], [0, 1, 0], [0, 0, 0]], atol=1e-6)


def test_across_devices_only_small_numbers_travel():
    """Batches on eight devices give the update of one; of sharded gradients only K×K numbers cross the network."""
    command = [sys.executable, Path(__file__).with_name("run_sharded.py")]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert found["gramian"] < 1e-3
    assert found["update"] < 1e-5
    assert found["crossed"], "the parts were not summed"
    assert all(kind == "all-reduce" and size == 3 * 3 for kind, size in found["crossed"]), found["crossed"]


def test_imports_no_other_part_of_the_project():
    code = (
        "import sys; from mtl_jax import weighting; "
        "print([m for m in sys.modules if m.startswith(('flax', 'grain', 'tensorflow', 'mtl_jax.'))])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    modules = eval(found)
    assert "mtl_jax.weighting.aggregation" in modules
    assert all(module.startswith("mtl_jax.weighting") for module in modules), modules
