"""Weights that others have published for PyTorch, under the names and in the layouts of this package's backbones."""

import itertools
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util
from safetensors import SafetensorError, safe_open

from mtl_jax.errors import UserError
from mtl_jax.models.backbones import Backbone, build_backbone
from mtl_jax.models.backbones.convnext import ConvNeXt
from mtl_jax.models.backbones.dla import DLA
from mtl_jax.models.backbones.efficientnet_lite import EfficientNetLite, stage_specs
from mtl_jax.models.backbones.resnet import ResNet
from mtl_jax.models.backbones.vit import PYRAMID, ViT
from mtl_jax.models.layers import PREVIOUS_HEATMAP, PREVIOUS_IMAGE
from mtl_jax.models.torch_file import read_tensors

Table = dict[str, str | None]
"""From names of modules and parameters there to those here, the first that fits; None: left out.

`{i}`, `{j}` and `{k}` stand for numbers, `{path}` for anything."""

RESNET: Table = {  # torchvision and timm
    "conv1": "conv1.conv",
    "bn1": "conv1.norm",
    "layer{i}.{j}.conv{k}": "layer{i}_{j}.conv{k}.conv",
    "layer{i}.{j}.bn{k}": "layer{i}_{j}.conv{k}.norm",
    "layer{i}.{j}.downsample.0": "layer{i}_{j}.downsample.conv",
    "layer{i}.{j}.downsample.1": "layer{i}_{j}.downsample.norm",
    "fc": None,
}
DLA34: Table = {  # timm, and the authors'
    "base_layer.0": "base_layer.conv",
    "base_layer.1": "base_layer.norm",
    "level3.project.{i}": None,  # in the authors' files, but never used
    "level4.project.{i}": None,
    "{path}.project.0": "{path}.project.conv",
    "{path}.project.1": "{path}.project.norm",
    "level{i}.0": "level{i}.conv",
    "level{i}.1": "level{i}.norm",
    "{path}.root.conv": "{path}.root.conv",
    "{path}.root.bn": "{path}.root.norm",
    "{path}.conv{i}": "{path}.conv{i}.conv",
    "{path}.bn{i}": "{path}.conv{i}.norm",
    "fc": None,
}
VIT: Table = {  # timm
    "patch_embed.proj": "patch_embed.conv",
    "pos_embed": "position_embedding",
    "blocks.{i}.norm{j}": "block{i}.norm{j}",
    "blocks.{i}.attn.qkv": "block{i}.qkv",
    "blocks.{i}.attn.proj": "block{i}.attention_output",
    "blocks.{i}.mlp.fc1": "block{i}.expand",
    "blocks.{i}.mlp.fc2": "block{i}.project",
    "norm": "final_norm",
    "cls_token": None,
    "head": None,
}


def convnext_table(backbone: ConvNeXt) -> Table:
    """Returns the names of ConvNeXt in torchvision, which counts reductions as stages, and in timm."""
    table: Table = {
        "features.0.0": "stem.conv",
        "features.0.1": "stem.norm",
        "stem.0": "stem.conv",
        "stem.1": "stem.norm",
        "classifier.{path}": None,
        "head.{path}": None,
    }
    for stage in range(len(backbone.depths)):
        block = f"stage{stage}_block{{j}}"
        if stage > 0:
            for there in (f"features.{2 * stage}", f"stages.{stage}.downsample"):
                table |= {f"{there}.0": f"downsample{stage}.norm", f"{there}.1": f"downsample{stage}.conv"}
        there = f"features.{2 * stage + 1}.{{j}}"
        table |= {
            f"{there}.block.0": f"{block}.depthwise",
            f"{there}.block.2": f"{block}.norm",
            f"{there}.block.3": f"{block}.expand",
            f"{there}.block.5": f"{block}.project",
            f"{there}.layer_scale": f"{block}.layer_scale",
        }
        there = f"stages.{stage}.blocks.{{j}}"
        table |= {
            f"{there}.conv_dw": f"{block}.depthwise",
            f"{there}.norm": f"{block}.norm",
            f"{there}.mlp.fc1": f"{block}.expand",
            f"{there}.mlp.fc2": f"{block}.project",
            f"{there}.gamma": f"{block}.layer_scale",
        }
    return table


def efficientnet_lite_table(backbone: EfficientNetLite) -> Table:
    """Returns the names of EfficientNet-lite in efficientnet-lite-pytorch, which counts blocks as we do, and in timm.

    In timm the networks are `tf_efficientnet_lite0` to 4. Those without `tf_` have the same names and shapes but pad
    in another way, and would see badly here.
    """
    table: Table = {
        "_conv_stem": "stem.conv",
        "_bn0": "stem.norm",
        "_conv_head": None,
        "_bn1": None,
        "_fc": None,
        "conv_stem": "stem.conv",
        "bn1": "stem.norm",
        "conv_head": None,
        "bn2": None,
        "classifier": None,
    }
    for i, part in enumerate(("expand", "depthwise", "project")):
        table |= {
            f"_blocks.{{i}}._{part}_conv": f"block{{i}}.{part}.conv",
            f"_blocks.{{i}}._bn{i}": f"block{{i}}.{part}.norm",
        }
    blocks = itertools.count()
    for stage, specs in enumerate(stage_specs(backbone.width, backbone.depth)):
        for i, spec in enumerate(specs):
            there, here = f"blocks.{stage}.{i}", f"block{next(blocks)}"
            convs = {"conv_pw": "expand", "conv_dw": "depthwise", "conv_pwl": "project"}
            if spec.expand == 1:
                convs = {"conv_dw": "depthwise", "conv_pw": "project"}
            for j, (conv, part) in enumerate(convs.items(), start=1):
                table |= {f"{there}.{conv}": f"{here}.{part}.conv", f"{there}.bn{j}": f"{here}.{part}.norm"}
    return table


_TABLES: dict[type[Backbone], Callable[[Any], Table]] = {
    ResNet: lambda _: RESNET,
    DLA: lambda _: DLA34,
    ConvNeXt: convnext_table,
    ViT: lambda _: VIT,
    EfficientNetLite: efficientnet_lite_table,
}
_NORM = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}
_LAYER = {"weight": ("params", "kernel"), "bias": ("params", "bias")}
_BACKBONE = "backbone"
"""Key of a converted file's metadata that tells what it is for."""
_TOLD = 3
"""Arrays that an error tells of each kind."""
_UNUSED = "num_batches_tracked"
"""How long PyTorch averaged; of no use to exponential averages."""


def convert_file(source: Path, backbone: str, output: Path) -> int:
    """Converts a published file to one that `ModelConfig.pretrained` can name.

    Args:
        source: Safetensors file, or a state dictionary of PyTorch; see `torch_file.read_tensors`.
        backbone: Name of the backbone that the weights are for.
        output: Safetensors file to write: the paths of our arrays, joined by slashes, and float32 numbers.

    Returns:
        The number of arrays written.

    Raises:
        UserError: There is no such backbone, the file cannot be read, or its tensors are not those of the backbone;
            or the output cannot be written.
    """
    read = read_safetensors if source.suffix == ".safetensors" else read_tensors
    try:
        variables = convert(read(source), backbone)
    except UserError as error:
        where = "" if str(error).startswith(str(source)) else f"{source}: "
        raise UserError(f"{where}{error}") from None
    # In memory as they are read: the format does not know strides.
    arrays = {
        path: np.ascontiguousarray(array)
        for path, array in traverse_util.flatten_dict(variables, sep="/").items()
    }
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        safetensors.numpy.save_file(arrays, output, metadata={_BACKBONE: backbone})
    except (OSError, SafetensorError) as error:
        raise UserError(f"{output}: cannot be written ({error}); choose another --output") from error
    return len(arrays)


def convert(tensors: Mapping[str, np.ndarray], backbone: str) -> dict[str, Any]:
    """Returns published weights as the variables of a backbone.

    Args:
        tensors: Tensors under the names of torchvision or timm.
        backbone: Name of the backbone.

    Returns:
        "params" and, where there is batch norm, "batch_stats", float32. What nobody has published is not among them:
        the layers for the previous frame, and the pyramid of ViT.

    Raises:
        UserError: There is no such backbone or nothing published for it, or tensors are missing, unexpected or of
            another shape; the message tells them.
    """
    module = build_backbone(backbone)
    if type(module) not in _TABLES:
        raise UserError(f"nobody has published weights for the backbone {backbone!r}")
    rules = [(_pattern(there), here) for there, here in _TABLES[type(module)](module).items()]
    converted = {}
    for name, tensor in tensors.items():
        if not name.endswith(_UNUSED) and (path := _place(name, rules)) is not None:
            converted[path] = _layout(tensor, path[-1]).astype(np.float32)
    images = jnp.zeros((1, 32, 32, 3), jnp.uint8)
    variables = traverse_util.unflatten_dict(converted)
    check_shapes(jax.eval_shape(module.init, jax.random.key(0), images), variables)
    return variables


def check_shapes(expected: dict[str, Any], found: dict[str, Any]) -> None:
    """Compares published weights with a backbone's variables.

    Args:
        expected: "params" and "batch_stats" of the backbone, or their shapes; what is in no published file is ignored.
        found: Those that were published.

    Raises:
        UserError: Arrays are missing, unexpected, or of another shape.
    """
    wanted = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(expected).items()}
    wanted = {"/".join(path): shape for path, shape in wanted.items() if is_published(path)}
    given = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(found, sep="/").items()}
    differences = {
        "missing": [f"{path} {shape}" for path, shape in wanted.items() if path not in given],
        "unexpected": [f"{path} {shape}" for path, shape in given.items() if path not in wanted],
        "of another shape": [
            f"{path} is {given[path]}, expected {shape}"
            for path, shape in wanted.items()
            if path in given and given[path] != shape
        ],
    }
    told = [
        f"{len(paths)} {kind}: {', '.join(paths[:_TOLD])}{', ...' if len(paths) > _TOLD else ''}"
        for kind, paths in differences.items()
        if paths
    ]
    if told:
        raise UserError(
            f"the weights are not those of this backbone ({'; '.join(told)}); choose the backbone that they belong to"
        )


def is_published(path: tuple[str, ...]) -> bool:
    """Whether published weights hold an array: all but the layers that this package adds to the networks."""
    return not any(part in (PREVIOUS_IMAGE, PREVIOUS_HEATMAP) or part.startswith(PYRAMID) for part in path)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a safetensors file.

    Raises:
        UserError: The file is missing or damaged.
    """
    try:
        return safetensors.numpy.load_file(path)
    except (OSError, SafetensorError, KeyError) as error:  # KeyError: a type that NumPy does not have
        raise UserError(f"{path}: no file, damaged or no safetensors file ({error}); get it anew") from error


def read_converted(path: Path, backbone: str) -> dict[str, Any]:
    """Returns the variables that `convert_file` has written for a backbone.

    Raises:
        UserError: The file is missing, damaged, not converted, or for another backbone.
    """
    arrays = read_safetensors(path)
    with safe_open(path, "numpy") as file:
        found = (file.metadata() or {}).get(_BACKBONE)
    if found is None:
        raise UserError(
            f"{path}: not converted yet; mtl-jax convert-weights {path} --backbone {backbone} --output FILE does that"
        )
    if found != backbone:
        raise UserError(f"{path}: holds weights for {found}, not for {backbone}; choose one of the two")
    return traverse_util.unflatten_dict(arrays, sep="/")


def _pattern(there: str) -> re.Pattern[str]:
    """Returns the regular expression of a name with `{i}` for numbers and `{path}` for anything."""
    escaped = re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(there))
    return re.compile(escaped.replace(r"\{path\}", "(?P<path>.+)"))


def _place(name: str, rules: list[tuple[re.Pattern[str], str | None]]) -> tuple[str, ...] | None:
    """Returns the path of a tensor here; None: it is left out. A name that no rule knows is a path by itself."""
    module, _, kind = name.rpartition(".")
    if kind not in _NORM:  # the module's own parameter, such as `pos_embed`
        module, kind = name, ""
    matches = ((pattern.fullmatch(module), here) for pattern, here in rules)
    match, here = next(((match, here) for match, here in matches if match), (None, None))
    if match is None:
        return (name,)
    if here is None:
        return None
    path = here.format(**match.groupdict()).split(".")
    if not kind:
        return ("params", *path)
    collection, leaf = (_NORM if "norm" in path[-1] else _LAYER)[kind]
    return (collection, *path, leaf)


def _layout(tensor: np.ndarray, leaf: str) -> np.ndarray:
    """Returns a tensor as the array of that name has it."""
    if leaf == "kernel" and tensor.ndim == 4:  # (outputs, inputs, height, width)
        return tensor.transpose(2, 3, 1, 0)
    if leaf == "kernel":  # (outputs, inputs)
        return tensor.T
    if leaf == "layer_scale":  # (channels, 1, 1) in torchvision
        return tensor.reshape(-1)
    if (
        leaf == "position_embedding"
    ):  # (1, tokens, channels): perhaps one for the class, then those of a square
        side = math.isqrt(tensor.shape[1])
        return tensor[0, tensor.shape[1] - side**2 :].reshape(side, side, -1)
    return tensor
