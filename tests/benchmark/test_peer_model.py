import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.benchmark import peer_model, peer_torch
from mtl_jax.models.network import initialize


@pytest.fixture(scope="module")
def gradients():
    network = peer_model.build_network("tiny", "float32")
    variables = initialize(network, jax.random.key(0))
    batch = peer_model.random_batch(2, (32, 64), seed=1)

    def of(mode, scheme=peer_model.SCHEME):
        init, _ = peer_model.make_step(network, mode, scheme)
        value_and_grad, _ = peer_model.gradient(network, mode, scheme)
        losses, batch_stats, grads, _ = jax.jit(value_and_grad)(init(variables), batch)
        return losses, batch_stats, grads

    return of


def assert_close(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * float(jnp.abs(b).max()) + 1e-7)


def test_exact_gradients_weighed_equally_are_those_of_the_sum(gradients):
    assert_close(gradients("exact", "sum"), gradients("sum"))


def test_at_the_features_a_mean_is_the_same_as_at_the_parameters(gradients):
    assert_close(gradients("representation", "mean"), gradients("exact", "mean"))


def test_every_mode_learns():
    network = peer_model.build_network("tiny", "bfloat16")
    variables = initialize(network, jax.random.key(0))
    batch = peer_model.random_batch(2, (32, 32))
    for mode in peer_model.MODES:
        init, step = peer_model.make_step(network, mode)
        state, first = jax.jit(step)(init(variables), batch)
        for _ in range(5):
            state, losses = jax.jit(step)(state, batch)
        assert jnp.isfinite(first).all() and losses.sum() < first.sum(), mode


@pytest.fixture(scope="module")
def resnet():
    """The networks of both frameworks, with the same weights and statistics away from where they start."""
    pytest.importorskip("torch")
    network = peer_model.build_network(dtype="float32")
    rng = np.random.default_rng(0)

    def disturbed(x):
        return x + (0.1 if x.ndim == 1 else 0.01) * rng.normal(size=x.shape).astype(np.float32)

    variables = jax.tree.map(disturbed, initialize(network, jax.random.key(0)))
    variables["batch_stats"] = jax.tree.map(abs, variables["batch_stats"])
    return network, variables


def torch_network(variables):
    network = peer_torch.build_network()
    peer_torch.load_variables(network, variables)
    return network


@pytest.mark.parametrize("train", [False, True])
def test_torch_computes_the_same(resnet, train):
    network, variables = resnet
    peer = torch_network(variables).train(train)
    assert sum(p.numel() for p in peer.parameters()) == sum(
        x.size for x in jax.tree.leaves(variables["params"])
    )
    batch = peer_model.random_batch(2, (64, 64))
    images, targets = peer_torch.to_torch(batch)

    @jax.jit
    def ours(variables, images):
        features, _ = network.apply(variables, images, train=train, method="trunk", mutable=["batch_stats"])
        return network.apply(variables, features, method="predict")

    features = peer.trunk(images)
    for task, expected in ours(variables, batch.images).items():
        found = peer.heads(features, task)
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(
            found.detach().permute(0, 2, 3, 1).numpy(), expected, rtol=1e-3, atol=1e-4 * scale
        )
        loss = peer_torch.loss(task, found, targets[task]).item()
        assert loss == pytest.approx(
            float(peer_model.loss(task, expected, jnp.asarray(batch.targets[task]))), rel=1e-4
        )


@pytest.mark.parametrize("mode", peer_model.MODES)
def test_torch_s_step_has_the_same_gradient(resnet, mode):
    network, variables = resnet
    batch = peer_model.random_batch(2, (64, 64))
    init, _ = peer_model.make_step(network, mode)
    losses, _, grads, _ = jax.jit(peer_model.gradient(network, mode)[0])(init(variables), batch)
    peer = torch_network(variables)
    found = peer_torch.make_step(peer, mode, batch, "float32")()
    np.testing.assert_allclose(found.cpu().numpy(), losses, rtol=1e-3)
    expected = torch_network({"params": grads, "batch_stats": variables["batch_stats"]})
    for (name, p), (_, g) in zip(peer.named_parameters(), expected.named_parameters(), strict=True):
        ours, theirs = g.detach().numpy().ravel(), p.grad.cpu().numpy().ravel()
        # The same up to rounding, which fifty layers of normalisation over few numbers make much of.
        assert np.linalg.norm(ours - theirs) <= 0.05 * np.linalg.norm(ours) + 1e-6, name
