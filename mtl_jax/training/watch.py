"""Sees to it that a step that is not finite is told of, and that a run of them ends."""

import logging
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Bool

from mtl_jax.errors import UserError
from mtl_jax.structures import Batch
from mtl_jax.training.step import Experiment, Metrics, TrainState
from mtl_jax.weighting.gradients import path_name

log = logging.getLogger(__name__)

_NAMED = 3  # tensors, the rest is counted


class Watch:
    """Looks at what steps report, one step late.

    Args:
        experiment: The parts.
        state: A state, for the names of its arrays.
        workdir: Where the batch of the last step goes when the run ends for it.
    """

    def __init__(self, experiment: Experiment, state: TrainState, workdir: Path):
        self._training, self._tasks, self._workdir = (
            experiment.config.training,
            experiment.config.tasks,
            workdir,
        )
        checked = {"gradient": state.params, "loss": 0, "statistics": state.batch_stats}
        self._names = [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(checked)[0]]
        self._pending: tuple[int, Array, Metrics, Batch] | None = None

    def add(self, step: int, finite: Bool[Array, "arrays"], metrics: Metrics, batch: Batch) -> None:
        """Takes what a step reports, and looks at the one before.

        Args:
            step: Steps done.
            finite: Whether each array of `{"gradient": ..., "loss": ..., "statistics": ...}` was finite.
            metrics: The step's metrics.
            batch: Its batch, this process's share.

        Raises:
            UserError: If there were more such steps in a row than `training.max_skipped`.
        """
        self.finish()
        self._pending = (step, finite, metrics, batch)

    def finish(self) -> None:
        """Looks at the last step; errors as `add`."""
        if self._pending is None:
            return
        step, finite, metrics, batch = self._pending
        self._pending = None
        in_a_row = int(metrics["skipped_in_a_row"])
        if not in_a_row:  # all is well, or float16 tries a smaller scale
            return
        culprits = self._culprits(np.asarray(finite), jax.device_get(metrics))
        if in_a_row < self._training.max_skipped:
            log.warning("step %d: skipped, not finite: %s", step, culprits)
            return
        path = self._workdir / "not_finite" / f"step{step}_process{jax.process_index()}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **batch._asdict())
        raise UserError(
            f"step {step}: not finite for {in_a_row} steps: {culprits}; lower optimizer.learning_rate or "
            f"optimizer.clip_norm and go on from the last checkpoint, which is intact; the batch is in {path}"
        )

    def _culprits(self, finite: np.ndarray, metrics: dict) -> str:
        """Returns the tasks, as far as their loss or head tells, and the arrays."""
        arrays = [name for name, is_finite in zip(self._names, finite, strict=True) if not is_finite]
        arrays = [name for name in arrays if name != "loss"]  # of which the task is named
        losses = [task for task in self._tasks if not np.isfinite(metrics[f"loss/{task}"])]
        heads = [task for task in self._tasks if any(f"/heads/{task}" in name for name in arrays)]
        found = [f"the loss of {' and '.join(losses)}"] if losses else []
        found += [f"the gradient of {' and '.join(heads)}"] if heads and not losses else []
        found += arrays[:_NAMED]
        more = f" and {len(arrays) - _NAMED} more" if len(arrays) > _NAMED else ""
        return ", ".join(found) + more
