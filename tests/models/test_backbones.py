"""Backbones: shapes, published sizes, and what must hold for each of them whatever its layers are."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.models.backbones import BACKBONES, build_backbone
from mtl_jax.models.backbones.backbone import Backbone
from mtl_jax.models.backbones.convnext import ConvNeXt
from mtl_jax.models.backbones.dla import DLA
from mtl_jax.models.backbones.efficientnet_lite import EfficientNetLite
from mtl_jax.models.backbones.resnet import ResNet
from mtl_jax.models.backbones.tiny import Tiny
from mtl_jax.models.backbones.vit import ViT

# Of each family one that compiles quickly, with every kind of layer that the family has.
SMALL = {
    "tiny": lambda **options: Tiny(channels=(8, 8, 16), **options),
    "resnet": lambda **options: ResNet(depths=(1, 1, 1, 1), **options),
    "resnet_bottleneck": lambda **options: ResNet(depths=(1, 1, 1, 1), bottleneck=True, **options),
    "dla": lambda **options: DLA(channels=(8, 8, 8, 16, 16, 16), depths=(1, 2, 1, 1), **options),
    "convnext": lambda **options: ConvNeXt(channels=(8, 16, 16, 24), depths=(1, 1, 1, 1), **options),
    "vit": lambda **options: ViT(channels=32, depth=4, heads=2, grid=(3, 3), **options),
    "efficientnet_lite": lambda **options: EfficientNetLite(width=0.25, depth=0.3, **options),
}


def _inputs(size: tuple[int, int] = (32, 64), batch: int = 2) -> tuple[jax.Array, jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (2, batch, *size, 3)), jnp.uint8)
    return *images, jnp.asarray(rng.random((batch, size[0] // 4, size[1] // 4, 1)), jnp.float32)


def _random_variables(backbone: Backbone, inputs: tuple[jax.Array, ...]) -> Any:
    """Returns variables near one (scales, variances) or zero (all else), none of them exactly."""
    shapes = jax.eval_shape(lambda key: backbone.init(key, *inputs), jax.random.key(0))
    rng = np.random.default_rng(1)

    def draw(path: tuple, leaf: Any) -> jax.Array:
        level = 1.0 if path[-1].key in ("scale", "var", "layer_scale") else 0.0
        deviation = 1 / np.sqrt(np.prod(leaf.shape[:-1])) if path[-1].key == "kernel" else 0.1
        return jnp.asarray(level + deviation * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_features_lie_at_their_strides(name):
    images, *_ = _inputs()
    features, _ = jax.eval_shape(
        lambda key: build_backbone(name).init_with_output(key, images), jax.random.key(0)
    )
    strides = [(32 // f.shape[1], 64 // f.shape[2]) for f in features]
    assert strides == [(4, 4), (8, 8), (16, 16), (32, 32)][: len(features)]
    assert len(features) == (3 if name == "tiny" else 4)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # torchvision's and timm's counts for ImageNet, less the classifier's.
        ("resnet18", 11_689_512 - 513_000),
        ("resnet34", 21_797_672 - 513_000),
        ("resnet50", 25_557_032 - 2_049_000),
        ("resnet101", 44_549_160 - 2_049_000),
        ("dla34", 15_742_104 - 513_000),
        ("convnext_tiny", 28_589_128 - 769_000 - 2 * 768),
        # Less the class token and its position.
        ("vit_small", 22_050_664 - 385_000 - 2 * 384),
        # ... less the 1280-channel head with its norm.
        ("efficientnet_lite0", 4_652_008 - 1_281_000 - (320 + 2) * 1280),
        ("efficientnet_lite1", 5_416_680 - 1_281_000 - (320 + 2) * 1280),
        ("efficientnet_lite2", 6_092_072 - 1_281_000 - (352 + 2) * 1280),
        ("efficientnet_lite3", 8_197_096 - 1_281_000 - (384 + 2) * 1280),
        ("efficientnet_lite4", 13_006_568 - 1_281_000 - (448 + 2) * 1280),
    ],
)
def test_parameter_counts_are_the_published_ones(name, published):
    images = jnp.zeros((1, 32, 32, 3), jnp.uint8)
    params = jax.eval_shape(build_backbone(name).init, jax.random.key(0), images)["params"]
    params = {layer: tree for layer, tree in params.items() if not layer.startswith("pyramid")}
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == published


@pytest.mark.parametrize("family", list(SMALL))
def test_stages_one_by_one_are_the_whole(family):
    backbone = SMALL[family]()
    inputs = _inputs()

    def by_hand(module: Backbone, *inputs: jax.Array) -> tuple[jax.Array, ...]:
        outputs = [module.stage(0, module.entry(*inputs, False), False)]
        for index in range(1, module.num_stages):
            outputs.append(module.stage(index, outputs[-1], False))
        return module.pyramid(outputs, False)

    variables = jax.eval_shape(lambda key: backbone.init(key, *inputs), jax.random.key(0))
    expected = jax.make_jaxpr(lambda v: backbone.apply(v, *inputs))(variables)
    found = jax.make_jaxpr(lambda v: backbone.apply(v, *inputs, method=by_hand))(variables)
    assert str(found) == str(expected)


@pytest.mark.parametrize("family", list(SMALL))
def test_a_gradient_reaches_every_parameter(family):
    backbone = SMALL[family]()
    inputs = _inputs()
    variables = _random_variables(backbone, inputs)

    @jax.jit
    def gradients(params: Any, state: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            outputs, _ = backbone.apply(
                {"params": params, **state}, *inputs, train=True, mutable=["batch_stats"]
            )
            return sum(jnp.sum(jnp.sin(jnp.arange(x.size)).reshape(x.shape) * x) for x in outputs)

        return jax.grad(loss)(params)

    state = {name: tree for name, tree in variables.items() if name != "params"}
    reached = jax.tree_util.tree_map_with_path(
        lambda path, gradient: bool(jnp.any(jnp.abs(gradient) > 1e-6)) or jax.tree_util.keystr(path),
        gradients(variables["params"], state),
    )
    assert set(jax.tree.leaves(reached)) == {True}


@pytest.mark.parametrize("family", list(SMALL))
def test_bfloat16_computes_about_the_same(family):
    inputs = _inputs()
    variables = _random_variables(SMALL[family](), inputs)
    expected = jax.jit(SMALL[family]().apply)(variables, *inputs)
    found = jax.jit(SMALL[family](dtype=jnp.bfloat16).apply)(variables, *inputs)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.05 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("family", list(SMALL))
def test_previous_frame_and_heatmap_are_seen(family):
    backbone = SMALL[family]()
    image, previous, heatmap = _inputs()
    variables = _random_variables(backbone, (image, previous, heatmap))
    apply = jax.jit(backbone.apply)
    features = apply(variables, image, previous, heatmap)
    for others in ((255 - previous, heatmap), (previous, 1 - heatmap)):
        changed = apply(variables, image, *others)
        assert not any(np.allclose(a, b) for a, b in zip(features, changed, strict=True))


def test_positions_are_resampled_to_the_image():
    backbone = SMALL["vit"]()
    # A slope from left to right.
    variables = {"params": {"position_embedding": jnp.broadcast_to(jnp.arange(3.0)[:, None], (3, 3, 32))}}

    def positions(rows: int, columns: int) -> jax.Array:
        return backbone.apply(variables, rows, columns, method="positions")

    np.testing.assert_array_equal(positions(3, 3), variables["params"]["position_embedding"])
    for rows, columns in [(2, 4), (6, 4), (14, 14)]:
        resampled = positions(rows, columns)
        np.testing.assert_allclose(
            resampled, jnp.broadcast_to(resampled[:1, :, :1], resampled.shape), atol=1e-5
        )
        assert np.all(np.diff(resampled[0, :, 0]) > -0.1)
        np.testing.assert_allclose([resampled[0, 0, 0], resampled[0, -1, 0]], [0, 2], atol=0.25)


def test_local_norm_is_batch_norm_on_each_devices_share(tmp_path):
    output = tmp_path / "out.npz"
    subprocess.run(
        [sys.executable, Path(__file__).with_name("run_local_norm.py"), output], check=True, timeout=300
    )
    found = np.load(output)
    np.testing.assert_allclose(found["local"], found["shares"], rtol=1e-5, atol=1e-5)
    assert not np.allclose(found["local"], found["global"], atol=0.1)
    np.testing.assert_allclose(found["mean"], found["shares_mean"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["var"], found["shares_var"], rtol=1e-5, atol=1e-6)
    # Nothing but the running averages travels between devices, and without training nothing at all.
    assert found["moved"] <= 2
    assert found["moved_in_evaluation"] == 0
    np.testing.assert_allclose(found["alone"], found["global"], rtol=1e-5, atol=1e-5)
