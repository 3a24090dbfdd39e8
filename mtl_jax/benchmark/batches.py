"""Batches of noise with random objects, for what does not depend on what is seen."""

import numpy as np

from mtl_jax.config import DataConfig
from mtl_jax.structures import Batch


def random_batch(config: DataConfig, seed: int, classes: int = 2) -> Batch:
    """Returns a batch of noise with three random objects in each clip; every fourth clip has none.

    Args:
        config: Sizes of the batch.
        seed: Seed of everything in it.
        classes: Number of classes.
    """
    rng = np.random.default_rng(seed)
    shape = (config.batch_size, config.clip_length, config.max_objects)
    height, width = config.clip_size
    corner = rng.uniform(0, 40, (*shape, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(8, 24, (*shape, 2))], -1).astype(np.float32)
    mask = np.broadcast_to(np.arange(config.max_objects) < 3, shape).copy()
    mask[::4] = False
    return Batch(
        images=rng.integers(0, 256, (*shape[:2], height, width, 3), dtype=np.uint8),
        boxes=boxes,
        classes=rng.integers(0, classes, shape, dtype=np.int32),
        track_ids=np.where(mask, np.arange(config.max_objects, dtype=np.int32), -1).astype(np.int32),
        velocity=rng.normal(size=(*shape, 2)).astype(np.float32),
        visibility=np.ones(shape, np.float32),
        mask=mask,
        ignore=np.zeros(shape, bool),
        gap=np.broadcast_to(np.arange(config.clip_length, dtype=np.int32), shape[:2]).copy(),
    )
