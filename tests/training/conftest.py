"""A tiny experiment and batches for it, shared by the tests of training."""

import dataclasses
from pathlib import Path

import pytest

from mtl_jax.benchmark import batches
from mtl_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainingConfig
from mtl_jax.structures import Batch

from .commands import EXPERIMENT, mtl_jax

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
    return batches.random_batch(config.data, seed)


def replace(config: Config, path: str, value: object) -> Config:
    """Returns the configuration with one field, `section.field`, changed."""
    section, field = path.split(".")
    return dataclasses.replace(
        config, **{section: dataclasses.replace(getattr(config, section), **{field: value})}
    )


@pytest.fixture(scope="session")
def experiment(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    path = folder / "experiment.py"
    path.write_text(EXPERIMENT.format(data_dir=str(folder / "data")))
    return path


@pytest.fixture(scope="session")
def finished(experiment) -> Path:
    """A run that was never interrupted."""
    run = experiment.parent / "finished"
    mtl_jax("train", experiment, "--workdir", run)
    return run
