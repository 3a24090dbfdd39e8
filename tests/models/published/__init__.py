"""Names and shapes of published networks, and what they compute with weights that a formula gives.

`shapes.json`, `features.json` and the `.pth` files come from `make.py`, which needs PyTorch; the tests do not.
"""

import json
import math
from pathlib import Path

import numpy as np
from flax import traverse_util

FOLDER = Path(__file__).parent
BACKBONES = {
    "torchvision/resnet18": "resnet18",
    "torchvision/resnet34": "resnet34",
    "torchvision/resnet50": "resnet50",
    "torchvision/resnet101": "resnet101",
    "torchvision/convnext_tiny": "convnext_tiny",
    "timm/convnext_tiny": "convnext_tiny",
    "timm/dla34": "dla34",
    "timm/vit_small_patch16_224": "vit_small",
    "timm/tf_efficientnet_lite0": "efficientnet_lite0",
    "timm/tf_efficientnet_lite1": "efficientnet_lite1",
    "timm/tf_efficientnet_lite2": "efficientnet_lite2",
    "timm/tf_efficientnet_lite3": "efficientnet_lite3",
    "timm/tf_efficientnet_lite4": "efficientnet_lite4",
}
"""Our names of the networks of `shapes.json`."""


def read_shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a network's tensors."""
    shapes = json.loads((FOLDER / "shapes.json").read_text())[network]
    return {name: tuple(shape) for name, shape in traverse_util.flatten_dict(shapes, sep=".").items()}


def make_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Returns weights that look random, but are a formula, so that every layer matters and no number grows large."""
    weights = {}
    for index, (name, shape) in enumerate(sorted(shapes.items())):
        # In (-1, 1): the digits of a sine from the third.
        noise = np.modf(1000 * np.sin(np.arange(math.prod(shape)) + 1000 * index))[0].reshape(shape)
        if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            weights[name] = 1 + 0.3 * noise
        elif name.endswith("weight"):
            weights[name] = noise * math.sqrt(4 / math.prod(shape[1:]))
        else:
            weights[name] = 0.3 * noise
    return {name: weight.astype(np.float32) for name, weight in weights.items()}


def make_image() -> np.ndarray:
    """Returns a picture of 64×96."""
    y, x, channel = np.mgrid[:64, :96, :3]
    return ((5 * x + 3 * y + 40 * channel + x * y // 7) % 256).astype(np.uint8)


def summary(features: np.ndarray) -> list[float]:
    """Returns a few numbers of a feature map (height, width, channels) that change if anything in it does."""
    weights = np.cos(np.arange(features.size)).reshape(features.shape)
    return [float(features.std()), float((weights * features).mean()), *map(float, features[1, -1, :3])]
