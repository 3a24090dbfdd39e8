"""The network's shapes, parameters and modes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.config import ModelConfig
from mtl_jax.errors import UserError
from mtl_jax.models.dependence import tasks_of_parameters
from mtl_jax.models.layers import he_normal
from mtl_jax.models.network import MultiTaskNetwork, initialize
from mtl_jax.models.sharing import build_network

TASKS = ("box", "classification", "motion", "identity")
CHANNELS = {"box": 4, "classification": 3, "motion": 4, "identity": 8}
SMALL = ModelConfig(neck_channels=8, head_channels=8, embedding_dim=8)


def _inputs(kind: str, size: tuple[int, int] = (32, 64), batch: int = 2) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (2, batch, *size, 3)), jnp.uint8)
    heatmap = jnp.asarray(rng.random((batch, size[0] // 4, size[1] // 4, 1)), jnp.float32)
    return {"frame": (images[0],), "pair": (images[0], images[1]), "pair_heatmap": (*images, heatmap)}[kind]


def _network(**changes: Any) -> tuple[MultiTaskNetwork, dict[str, Any]]:
    network = build_network(dataclasses.replace(SMALL, **changes), TASKS, num_classes=3)
    return network, initialize(network, jax.random.key(0))


def _apply(network: MultiTaskNetwork, variables: Any, *inputs: Any, **options: Any) -> Any:
    return jax.jit(lambda v, *x: network.apply(v, *x, **options))(variables, *inputs)


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _abstract(network: MultiTaskNetwork) -> Any:
    return jax.eval_shape(lambda key: initialize(network, key), jax.random.key(0))


@pytest.mark.parametrize(
    ("inputs", "norm"),
    [
        ("frame", "batch"),
        ("pair", "batch"),
        ("pair_heatmap", "batch"),
        ("frame", "local"),
        ("frame", "group"),
        ("frame", "frozen"),
    ],
)
@pytest.mark.parametrize(
    "backbone",
    ["tiny", "resnet18", "resnet50", "dla34", "convnext_tiny", "vit_small", "efficientnet_lite0"],
)
def test_output_shapes(backbone, inputs, norm):
    network = build_network(
        dataclasses.replace(SMALL, backbone=backbone, inputs=inputs, norm=norm), TASKS, num_classes=3
    )
    variables = _abstract(network)
    outputs, updates = jax.eval_shape(
        lambda v: network.apply(v, *_inputs(inputs), train=True, mutable=["batch_stats"]), variables
    )
    assert {task: output.shape for task, output in outputs.items()} == {
        task: (2, 8, 16, channels) for task, channels in CHANNELS.items()
    }
    assert all(output.dtype == jnp.float32 for output in outputs.values())
    assert ("neck" in updates.get("batch_stats", {})) == (norm in ("batch", "local"))
    layer_norm = backbone in ("convnext_tiny", "vit_small")
    assert ("backbone" in updates.get("batch_stats", {})) == (norm != "group" and not layer_norm)


def test_unknown_backbone_is_refused():
    with pytest.raises(UserError, match=r"'resnet19'.*resnet18"):
        build_network(dataclasses.replace(SMALL, backbone="resnet19"), TASKS, num_classes=3)


def test_image_size_that_does_not_fit_is_refused():
    network = build_network(dataclasses.replace(SMALL, inputs="frame"), TASKS, num_classes=3)
    with pytest.raises(UserError, match=r"data.image_size.*\(32, 40\).*32"):
        jax.eval_shape(network.apply, _abstract(network), *_inputs("frame", size=(32, 40)))


def test_inputs_that_were_not_agreed_are_refused():
    network = build_network(dataclasses.replace(SMALL, inputs="pair"), TASKS, num_classes=3)
    with pytest.raises(ValueError, match="pair"):
        jax.eval_shape(network.apply, _abstract(network), *_inputs("frame"))


def test_batch_statistics_change_in_training_only():
    network, variables = _network()
    inputs = _inputs("pair_heatmap")
    _, evaluated = _apply(network, variables, *inputs, mutable=["batch_stats"])
    _, trained = _apply(network, variables, *inputs, train=True, mutable=["batch_stats"])
    old, same, new = (jax.tree.leaves(v["batch_stats"]) for v in (variables, evaluated, trained))
    assert all(np.array_equal(a, b) for a, b in zip(old, same, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(old, new, strict=True))


def test_frozen_statistics_never_change_and_training_computes_as_evaluation():
    network, variables = _network(norm="frozen")
    inputs = _inputs("pair_heatmap")
    expected = _apply(network, variables, *inputs)
    found, updates = _apply(network, variables, *inputs, train=True, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])


def test_group_norm_does_not_mix_images():
    network, variables = _network(norm="group")
    inputs = _inputs("pair_heatmap")
    together = _apply(network, variables, *inputs, train=True)
    alone = _apply(network, variables, *(x[:1] for x in inputs), train=True)
    for task in TASKS:
        np.testing.assert_allclose(together[task][:1], alone[task], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_bfloat16_keeps_parameters_statistics_and_outputs_in_float32(norm):
    network, variables = _network(norm=norm, dtype="bfloat16")
    inputs = _inputs("pair_heatmap")
    features = _apply(network, variables, *inputs, method="trunk")
    outputs, updates = _apply(network, variables, *inputs, train=True, mutable=["batch_stats"])
    assert features.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((variables, outputs, updates)))
    exact, _ = _network(norm=norm)
    expected = _apply(exact, variables, *inputs)
    found = _apply(network, variables, *inputs)
    for task in TASKS:
        np.testing.assert_allclose(found[task], expected[task], atol=0.05 * np.abs(expected[task]).max())


def test_trunk_and_heads_apart_are_the_whole():
    network, variables = _network()
    inputs = _inputs("pair_heatmap")
    features = _apply(network, variables, *inputs, method="trunk")
    outputs = _apply(network, variables, features, method="predict")
    assert features.shape == (2, 8, 16, SMALL.neck_channels)
    jax.tree.map(np.testing.assert_array_equal, outputs, _apply(network, variables, *inputs))


def test_previous_frame_and_heatmap_reach_the_outputs():
    network, variables = _network()
    image, previous, heatmap = _inputs("pair_heatmap")
    embeddings = _apply(network, variables, image, previous, heatmap)["identity"]
    for other in [(255 - previous, heatmap), (previous, 1 - heatmap)]:
        assert not np.allclose(_apply(network, variables, image, *other)["identity"], embeddings)


def test_classification_starts_at_its_prior():
    network, variables = _network()
    logits = _apply(network, variables, *_inputs("pair_heatmap"))["classification"]
    np.testing.assert_allclose(jax.nn.sigmoid(logits), 0.1, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 3, 16, 64), (1, 1, 64, 32), (5, 5, 1, 256)])
def test_kernels_start_with_the_variance_that_a_relu_needs(shape):
    kernel = he_normal(jax.random.key(0), shape)
    assert kernel.shape == shape
    np.testing.assert_allclose(kernel.var() * np.prod(shape[:3]), 2, rtol=0.1)


def test_heads_are_of_one_task_and_the_rest_of_all():
    network, variables = _network()
    params = variables["params"]
    found = tasks_of_parameters(network)
    leaves = {"is_leaf": lambda x: isinstance(x, tuple)}
    assert jax.tree.structure(found, **leaves) == jax.tree.structure(params)
    assert set(jax.tree.leaves([found["backbone"], found["neck"]], **leaves)) == {TASKS}
    for name, tree in found["heads"].items():
        assert set(jax.tree.leaves(tree, **leaves)) == {(name.split("_")[0],)}

    # It is the truth: a task's loss reaches every shared parameter and no other task's head.
    def loss(params):
        outputs, _ = network.apply(
            {**variables, "params": params}, *_inputs("pair_heatmap"), train=True, mutable=["batch_stats"]
        )
        return jnp.sum(outputs["identity"] ** 2)

    gradients = jax.jit(jax.grad(loss))(params)
    assert all(np.any(g) for g in jax.tree.leaves(gradients["backbone"]))
    reached = {name for name, tree in gradients["heads"].items() if any(map(np.any, jax.tree.leaves(tree)))}
    assert reached == {"identity_hidden", "identity_output"}
