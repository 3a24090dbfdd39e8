"""Backbones: networks from images to feature maps at strides 4, 8, 16 (and 32), chosen by name."""

import functools
from collections.abc import Callable
from typing import Any

from mtl_jax.errors import UserError
from mtl_jax.models.backbones.backbone import Backbone
from mtl_jax.models.backbones.convnext import ConvNeXt
from mtl_jax.models.backbones.dla import DLA
from mtl_jax.models.backbones.efficientnet_lite import EfficientNetLite
from mtl_jax.models.backbones.resnet import ResNet
from mtl_jax.models.backbones.tiny import Tiny
from mtl_jax.models.backbones.vit import ViT
from mtl_jax.models.layers import Norm

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "tiny": Tiny,
    "resnet18": functools.partial(ResNet, depths=(2, 2, 2, 2)),
    "resnet34": functools.partial(ResNet, depths=(3, 4, 6, 3)),
    "resnet50": functools.partial(ResNet, depths=(3, 4, 6, 3), bottleneck=True),
    "resnet101": functools.partial(ResNet, depths=(3, 4, 23, 3), bottleneck=True),
    "dla34": DLA,
    "convnext_tiny": ConvNeXt,
    "vit_small": ViT,
    "efficientnet_lite0": EfficientNetLite,
    "efficientnet_lite1": functools.partial(EfficientNetLite, width=1.0, depth=1.1),
    "efficientnet_lite2": functools.partial(EfficientNetLite, width=1.1, depth=1.2),
    "efficientnet_lite3": functools.partial(EfficientNetLite, width=1.2, depth=1.4),
    "efficientnet_lite4": functools.partial(EfficientNetLite, width=1.4, depth=1.8),
}


def build_backbone(backbone: str, norm: Norm = "batch", dtype: Any = "float32", **options: Any) -> Backbone:
    """Returns the backbone of that name.

    A backbone is called with `(images, previous_images, previous_heatmap, train)`; the previous frame and its heat
    map may be None, and images are uint8 RGB, which it normalises in its own way.

    Args:
        backbone: A key of `BACKBONES`.
        norm: Kind of normalisation; see `layers.normalization`.
        dtype: Type of the activations.
        **options: What else a Linen module takes, such as its `name`.

    Raises:
        UserError: There is no backbone of that name.
    """
    if backbone not in BACKBONES:
        raise UserError(
            f"model.backbone: no backbone is called {backbone!r}; there are {', '.join(BACKBONES)}"
        )
    return BACKBONES[backbone](norm=norm, dtype=dtype, **options)
