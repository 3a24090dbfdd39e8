"""Sharing architectures: what tasks share between images and heads, chosen by name."""

import functools
from typing import Any

from mtl_jax.config import ModelConfig, Task, build
from mtl_jax.errors import UserError
from mtl_jax.models.backbones import build_backbone
from mtl_jax.models.heads import Heads
from mtl_jax.models.necks.fpn import FPN
from mtl_jax.models.network import MultiTaskNetwork
from mtl_jax.models.sharing.adashare import AdaShare
from mtl_jax.models.sharing.branched import Branched
from mtl_jax.models.sharing.cascade import Cascade
from mtl_jax.models.sharing.cross_stitch import CrossStitch
from mtl_jax.models.sharing.dselect_k import DSelectK
from mtl_jax.models.sharing.hard import Hard
from mtl_jax.models.sharing.hierarchical import Hierarchical
from mtl_jax.models.sharing.mmoe import MMoE
from mtl_jax.models.sharing.mtan import MTAN
from mtl_jax.models.sharing.mti_net import MtiNet
from mtl_jax.models.sharing.nddr import NDDR
from mtl_jax.models.sharing.pad_net import PadNet
from mtl_jax.models.sharing.parallel import Parallel
from mtl_jax.models.sharing.ple import CGC, PLE
from mtl_jax.models.sharing.recurrent import Recurrent
from mtl_jax.models.sharing.sluice import Sluice
from mtl_jax.models.sharing.soft import Soft
from mtl_jax.models.sharing.temporal_attention import TemporalAttention
from mtl_jax.models.sharing.tree import Tree

SHARING: dict[str, type[MultiTaskNetwork]] = {
    "hard": Hard,
    "tree": Tree,
    "single": Parallel,
    "soft": Soft,
    "cross_stitch": CrossStitch,
    "sluice": Sluice,
    "nddr": NDDR,
    "mtan": MTAN,
    "mmoe": MMoE,
    "cgc": CGC,
    "ple": PLE,
    "dselect_k": DSelectK,
    "hierarchical": Hierarchical,
    "cascade": Cascade,
    "pad_net": PadNet,
    "mti_net": MtiNet,
    "branched": Branched,
    "adashare": AdaShare,
    "recurrent": Recurrent,
    "temporal_attention": TemporalAttention,
}


def build_network(
    config: ModelConfig, tasks: tuple[Task, ...], num_classes: int, clip_length: int = 1
) -> MultiTaskNetwork:
    """Returns the network that a configuration describes.

    Args:
        config: The network's part of the configuration.
        tasks: Tasks that get a head.
        num_classes: Classes of objects.
        clip_length: Frames in a training clip.

    Raises:
        UserError: There is no such backbone or architecture, or it has no such option.
    """
    if config.sharing not in SHARING:
        raise UserError(f"model.sharing: found {config.sharing!r}; choose from {', '.join(SHARING)}")
    build_backbone(config.backbone)  # or a wrong name is found out only when the network is first used
    outputs = {"classification": num_classes, "box": 4, "motion": 4, "identity": config.embedding_dim}
    # Nobody has statistics for what is new: where those of the backbone are frozen, it normalises each image.
    norm = "group" if config.norm == "frozen" else config.norm
    parts: dict[str, Any] = {
        "tasks": tuple(tasks),
        "make_backbone": functools.partial(
            build_backbone, config.backbone, config.norm, config.dtype, remat=config.remat
        ),
        "make_neck": functools.partial(FPN, config.neck_channels, norm, config.dtype),
        "heads": Heads({task: outputs[task] for task in tasks}, config.head_channels, config.dtype),
        "inputs": config.inputs,
        "clip_length": clip_length,
        "channels": config.neck_channels,
        "norm": norm,
        "dtype": config.dtype,
        "parent": None,
        "name": None,
    }
    return build(SHARING[config.sharing], config.sharing_options, config.sharing, "model.sharing.", parts)
