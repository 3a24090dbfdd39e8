"""The optimizer: AdamW with warm-up and cosine decay, and a learning rate of its own for learned loss weights."""

from typing import Any

import jax
import optax

from mtl_jax.config import Config


def learning_rate(config: Config) -> optax.Schedule:
    """Returns the schedule of the network's learning rate: linear warm-up, then cosine decay."""
    optimizer, steps = config.optimizer, config.training.steps
    warmup = min(optimizer.warmup_steps, max(steps - 1, 0))
    peak = optimizer.learning_rate
    return optax.warmup_cosine_decay_schedule(
        0.0 if warmup else peak, peak, warmup, steps, peak * optimizer.final_factor
    )


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Returns the optimizer of `{"model": ..., "weighting": ...}` parameters.

    The network: clipping by global norm, then AdamW, whose decay leaves out biases and norms; backbones at
    `optimizer.backbone_factor` of the rate. The weighting: Adam at its own rate, no decay, and out of the clipping, so
    that a large gradient of the network does not slow it.
    """
    schedule = learning_rate(config)

    def adamw(factor: float) -> optax.GradientTransformation:
        return optax.adamw(
            lambda step: factor * schedule(step),
            weight_decay=config.optimizer.weight_decay,
            mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
        )

    model = optax.chain(
        optax.clip_by_global_norm(config.optimizer.clip_norm),
        optax.partition(
            {"backbone": adamw(config.optimizer.backbone_factor), "rest": adamw(1.0)}, _part_labels
        ),
    )
    return optax.partition(
        {"model": model, "weighting": optax.adam(config.weighting.learning_rate)},
        lambda params: jax.tree_util.tree_map_with_path(lambda path, _: path[0].key, params),
    )


def _part_labels(params: Any) -> Any:
    def label(path: tuple, _: Any) -> str:
        # Some architectures have several: `backbone_box`, `backbone_expert0`, ...
        names = (str(getattr(key, "key", "")) for key in path)
        return "backbone" if any(name.startswith("backbone") for name in names) else "rest"

    return jax.tree_util.tree_map_with_path(label, params)
