"""Published weights: every tensor finds its place, and the networks then compute what the published ones do."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from mtl_jax import cli
from mtl_jax.errors import UserError
from mtl_jax.models.backbones import build_backbone
from mtl_jax.models.convert import convert, convert_file, read_converted
from tests.models.published import BACKBONES, FOLDER, make_image, make_weights, read_shapes, summary

# How the names begin of what is no part of the backbone.
HEADS = {
    "resnet": ("fc.",),
    "dla": ("fc.",),
    "convnext": ("classifier.", "head."),
    "vit": ("head.", "cls_token"),
    "lite": ("conv_head.", "bn2.", "classifier."),
}
SLOW = {
    "torchvision/resnet34",
    "torchvision/resnet101",
    "timm/convnext_tiny",
    "timm/tf_efficientnet_lite0",
    "timm/tf_efficientnet_lite2",
    "timm/tf_efficientnet_lite3",
    "timm/tf_efficientnet_lite4",
}


@pytest.mark.parametrize(("network", "name"), BACKBONES.items())
def test_every_published_tensor_finds_its_place(network, name):
    shapes = read_shapes(network)
    # Names and shapes are compared in there.
    converted = convert({tensor: np.zeros(shape, np.float32) for tensor, shape in shapes.items()}, name)
    (heads,) = (names for family, names in HEADS.items() if family in network)
    sizes = [math.prod(shape) for tensor, shape in shapes.items() if not tensor.startswith(heads)]
    leaves = jax.tree.leaves(converted)
    assert len(leaves) == len(sizes)
    # Of ViT's positions the class token's is left out.
    assert sum(leaf.size for leaf in leaves) == sum(sizes) - (384 if name == "vit_small" else 0)
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("network", "name"),
    [
        pytest.param(network, name, marks=[pytest.mark.slow] if network in SLOW else [])
        for network, name in BACKBONES.items()
    ],
)
def test_features_equal_the_published_networks(network, name):
    # torch 2.13, torchvision 0.28, timm 1.0.31, float64.
    expected = json.loads((FOLDER / "features.json").read_text())[network]
    variables = convert(make_weights(read_shapes(network)), name)

    def stages(backbone, images):
        outputs = [backbone.stage(0, backbone.entry(images, None, None, False), False)]
        for index in range(1, backbone.num_stages):
            outputs.append(backbone.stage(index, outputs[-1], False))
        # ViT's pyramid has new layers, so that its last norm is asked for by name.
        return [*outputs, backbone.final_norm(outputs[-1])] if name == "vit_small" else outputs

    apply = jax.jit(lambda images: build_backbone(name).apply(variables, images, method=stages))
    found = apply(jnp.asarray(make_image()[None]))
    assert len(found) == len(expected)
    for features, numbers in zip(found, expected, strict=True):
        np.testing.assert_allclose(summary(np.asarray(features[0])), numbers, atol=3e-5 * numbers[0])


def _resnet18() -> dict[str, np.ndarray]:
    return make_weights(read_shapes("torchvision/resnet18"))


def test_a_file_keeps_every_number(tmp_path):
    weights = _resnet18() | {"bn1.num_batches_tracked": np.array(3)}
    safetensors.numpy.save_file(weights, tmp_path / "published.safetensors")
    path = tmp_path / "folder" / "converted.safetensors"
    assert convert_file(tmp_path / "published.safetensors", "resnet18", path) == 100
    found = read_converted(path, "resnet18")
    jax.tree.map(np.testing.assert_array_equal, found, convert(weights, "resnet18"))
    kernel = weights["layer1.0.conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(found["params"]["layer1_0"]["conv1"]["conv"]["kernel"], kernel)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_weights_of_another_type_become_float32(dtype, tmp_path):
    weights = {name: weight.astype(dtype) for name, weight in _resnet18().items()}
    safetensors.numpy.save_file(weights, tmp_path / "published.safetensors")
    convert_file(tmp_path / "published.safetensors", "resnet18", tmp_path / "converted.safetensors")
    scale = read_converted(tmp_path / "converted.safetensors", "resnet18")["params"]["conv1"]["norm"]["scale"]
    assert scale.dtype == np.float32
    np.testing.assert_array_equal(scale, weights["bn1.weight"].astype(np.float32))


def test_the_authors_files_of_dla34_hold_layers_that_are_never_used():
    weights = {name: np.zeros(shape, np.float32) for name, shape in read_shapes("timm/dla34").items()}
    unused = {"level3.project.0.weight": np.zeros((128, 64, 1, 1)), "level3.project.1.bias": np.zeros(128)}
    jax.tree.map(np.testing.assert_array_equal, convert(weights | unused, "dla34"), convert(weights, "dla34"))


def test_positions_without_a_class_token_are_taken_whole():
    weights = {name: np.zeros(s, np.float32) for name, s in read_shapes("timm/vit_small_patch16_224").items()}
    positions = np.arange(197 * 384, dtype=np.float32).reshape(1, 197, 384)
    with_token = convert(weights | {"pos_embed": positions}, "vit_small")
    without = convert(weights | {"pos_embed": positions[:, 1:]}, "vit_small")
    jax.tree.map(np.testing.assert_array_equal, with_token, without)
    np.testing.assert_array_equal(
        with_token["params"]["position_embedding"][2, 3], positions[0, 1 + 2 * 14 + 3]
    )


def test_an_error_tells_every_kind_of_difference_with_shapes():
    weights = _resnet18()
    weights["layer1.0.conv1.weight"] = np.zeros((64, 32, 3, 3), np.float32)
    for block in (0, 1):
        for layer in ("bn1", "bn2"):
            del weights[f"layer4.{block}.{layer}.weight"]
    weights["layer9.gate.weight"] = np.zeros((2, 5), np.float32)
    with pytest.raises(UserError) as error:
        convert(weights, "resnet18")
    message = str(error.value)
    assert "4 missing: params/layer4_0/conv1/norm/scale (512,)" in message
    assert "...; 1 unexpected: layer9.gate.weight (2, 5);" in message
    reshaped = "params/layer1_0/conv1/conv/kernel is (3, 3, 32, 64), expected (3, 3, 64, 64)"
    assert f"1 of another shape: {reshaped})" in message
    assert "\n" not in message


def test_weights_of_another_backbone_are_refused():
    with pytest.raises(UserError, match=r"\d+ missing: .*\d+ unexpected: bn1\.bias"):
        convert(_resnet18(), "dla34")
    with pytest.raises(UserError, match=r"nobody.*'tiny'"):
        convert(_resnet18(), "tiny")
    with pytest.raises(UserError, match=r"'resnet19'.*resnet18"):
        convert(_resnet18(), "resnet19")


def test_the_command_converts_and_tells_what_is_wrong(tmp_path, capsys):
    published, converted = tmp_path / "published.safetensors", tmp_path / "converted.safetensors"
    safetensors.numpy.save_file(_resnet18(), published)
    cli.main(["convert-weights", str(published), "--backbone", "resnet18", "--output", str(converted)])
    assert f"--model.pretrained {converted}" in capsys.readouterr().out
    assert read_converted(converted, "resnet18").keys() == {"params", "batch_stats"}

    def error(source, output=converted, backbone="resnet18") -> str:
        with pytest.raises(SystemExit) as exit_:
            cli.main(["convert-weights", str(source), "--backbone", backbone, "--output", str(output)])
        assert exit_.value.code == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        return message

    assert f"{published}: the weights are not those" in error(published, backbone="resnet34")
    assert f"{tmp_path}: cannot be written" in error(published, output=tmp_path)
    assert "none.pth: no such file" in error(tmp_path / "none.pth")
    (tmp_path / "text.safetensors").write_text("<html>not found</html>")
    assert "text.safetensors" in error(tmp_path / "text.safetensors")
