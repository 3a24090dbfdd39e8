"""A tiny experiment and batches for it, shared by the tests of training."""

import dataclasses

import numpy as np
import pytest

from mtl_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainingConfig
from mtl_jax.structures import Batch

TINY = Config(
    data=DataConfig(dataset="moving_objects/tiny", image_size=(64, 64), batch_size=8, max_objects=8),
    model=ModelConfig(backbone="tiny", neck_channels=8, head_channels=8, embedding_dim=8),
    optimizer=OptimizerConfig(warmup_steps=2),
    training=TrainingConfig(steps=12, log_every=1, diagnose_every=5, checkpoint_every=4),
)


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    return TINY


def random_batch(config: Config, seed: int) -> Batch:
    """Returns a batch of noise with random objects; every fourth clip has none."""
    rng = np.random.default_rng(seed)
    data = config.data
    shape = (data.batch_size, data.clip_length, data.max_objects)
    height, width = data.image_size
    corner = rng.uniform(0, 40, (*shape, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(8, 24, (*shape, 2))], -1).astype(np.float32)
    mask = np.broadcast_to(np.arange(data.max_objects) < 3, shape).copy()
    mask[::4] = False
    return Batch(
        images=rng.integers(0, 256, (*shape[:2], height, width, 3), dtype=np.uint8),
        boxes=boxes,
        classes=rng.integers(0, 2, shape, dtype=np.int32),
        track_ids=np.where(mask, np.arange(data.max_objects, dtype=np.int32), -1).astype(np.int32),
        velocity=rng.normal(size=(*shape, 2)).astype(np.float32),
        visibility=np.ones(shape, np.float32),
        mask=mask,
        ignore=np.zeros(shape, bool),
        gap=np.broadcast_to(np.arange(data.clip_length, dtype=np.int32), shape[:2]).copy(),
    )


def replace(config: Config, path: str, value: object) -> Config:
    """Returns the configuration with one field, `section.field`, changed."""
    section, field = path.split(".")
    return dataclasses.replace(
        config, **{section: dataclasses.replace(getattr(config, section), **{field: value})}
    )
