import jax
import numpy as np
import pytest

from mtl_jax.config import Config, DataConfig, ModelConfig, TrackerConfig
from mtl_jax.inference import Predictor, average_variables
from mtl_jax.training.loop import build_experiment
from mtl_jax.training.step import init_state


@pytest.mark.parametrize("inputs", ["frame", "pair", "pair_heatmap"])
def test_batches_of_frames_find_what_single_frames_do(inputs):
    """Whether the frames of a batch are independent of each other or not, and where the last one is not full."""
    config = Config(
        data=DataConfig(image_size=(32, 64), max_objects=4),
        model=ModelConfig(inputs=inputs, neck_channels=8, head_channels=8, embedding_dim=8),
        tracker=TrackerConfig(options={"capacity": 8, "high_score": 0.0, "new_score": 0.0}),
    )
    experiment = build_experiment(config, num_classes=2)
    predictor = Predictor(experiment, average_variables(init_state(experiment)))
    frames = list(np.random.default_rng(0).integers(256, size=(7, 32, 64, 3), dtype=np.uint8))
    single = list(predictor.video(iter(frames)))
    batched = list(predictor.video(iter(frames), batch=3))
    assert len(single) == len(batched) == 7
    assert any(result.tracks.mask.any() for result in single)
    for one, other in zip(single, batched, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), one, other)
