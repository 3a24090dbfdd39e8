"""Every loss weighting on the embedded video, with the same data, steps, seeds and optimizer.

    mtl-jax sweep experiments/weighting_comparison.py --workdir SWEEP --seeds 3 --only fixed uncertainty cagrad
    mtl-jax runs SWEEP

The setting is that of the quickstart, whose learning rate was chosen under the fixed weights.
"""

import dataclasses

from mtl_jax import weighting
from mtl_jax.config import Config, DataConfig, WeightingConfig
from mtl_jax.quickstart import WEIGHTINGS
from mtl_jax.quickstart import config as quickstart_config

WEIGHTS = {"box": 0.25, "classification": 0.25, "motion": 0.25, "identity": 0.25}
"""What `cosmos` and `pbi` prefer: nothing."""


def experiment(scheme: str) -> Config:
    """Returns the quickstart's experiment under a scheme, with the scheme's own defaults."""
    config = quickstart_config("fixed", DataConfig().data_dir)
    chosen = WEIGHTINGS.get(scheme) or WeightingConfig(
        scheme=scheme, weights=WEIGHTS if scheme in ("cosmos", "pbi") else {}
    )
    return dataclasses.replace(config, name=scheme, weighting=chosen)


configs = [experiment(scheme) for scheme in weighting.names()]
