"""Online inference: frame after frame through the network and the tracker, each feeding the other.

The network sees the frame, the one before, and where the tracker saw objects in it; the tracker sees the network's
detections. Both are jitted and stay on the device.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from mtl_jax import tracking
from mtl_jax.structures import Detections, Tracks
from mtl_jax.tasks import STRIDE, decode
from mtl_jax.tasks.targets import render_heatmap
from mtl_jax.training.step import Experiment, TrainState, network_inputs


class FrameResult(NamedTuple):
    """What was found in one frame, as numpy arrays of only the rows that exist; boxes in pixels of the network's input.

    Attributes:
        detections: All detections, of any score.
        tracks: Tracks reported in this frame.
    """

    detections: Detections
    tracks: Tracks


class Timing:
    """Seconds spent so far in the detector and in the tracker, without their first call, which compiles."""

    def __init__(self) -> None:
        self.detector = self.tracker = 0.0
        self.frames = -1

    def add(self, detector: float, tracker: float) -> None:
        """Counts a frame."""
        self.frames += 1
        if self.frames:
            self.detector += detector
            self.tracker += tracker

    def frames_per_second(self) -> dict[str, float]:
        """Returns the speed of each part and of both, in frames per second; 0 while unknown."""
        seconds = {"detector": self.detector, "tracker": self.tracker, "both": self.detector + self.tracker}
        return {name: self.frames / s if s > 0 else 0.0 for name, s in seconds.items()}


class Predictor:
    """Finds and follows objects in videos with one trained network.

    Args:
        experiment: The parts of the run.
        variables: The network's `params` and `batch_stats`; `average_variables` takes them from a training state.

    Example:
        >>> predictor = Predictor(experiment, average_variables(state))
        >>> for result in predictor.video(frames):
        ...     print(result.tracks.track_ids, result.tracks.boxes)
    """

    def __init__(self, experiment: Experiment, variables: dict[str, Any]):
        self._experiment = experiment
        self._variables = variables
        self.tracker = tracking.make(experiment.config.tracker)
        self._detect = jax.jit(self._detect_frame)

    def video(
        self, frames: Iterable[UInt8[np.ndarray, "height width 3"]], timing: Timing | None = None
    ) -> Iterator[FrameResult]:
        """Yields what is found in each frame of a video.

        Args:
            frames: RGB frames of the network's input size.
            timing: Counts the time spent; waits for the device after each part, which a little slows the whole.
        """
        config = self._experiment.config
        features = config.model.embedding_dim if "identity" in config.tasks else 0
        state = self.tracker.init(features)
        previous = None
        tracks_boxes = jnp.zeros((config.tracker.capacity, 4))
        tracks_mask = jnp.zeros(config.tracker.capacity, bool)
        for frame in frames:
            image = jnp.asarray(frame)
            start = time.perf_counter()
            detections = self._detect(
                self._variables, image, image if previous is None else previous, tracks_boxes, tracks_mask
            )
            if timing is not None:
                jax.block_until_ready(detections)
            middle = time.perf_counter()
            state, tracks = self.tracker.step(state, detections)
            if timing is not None:
                jax.block_until_ready(tracks)
                timing.add(middle - start, time.perf_counter() - middle)
            previous, tracks_boxes, tracks_mask = image, tracks.boxes, tracks.mask
            yield FrameResult(existing_rows(detections), existing_rows(tracks))

    def _detect_frame(
        self, variables: dict[str, Any], image: Array, previous: Array, boxes: Array, mask: Array
    ) -> Detections:
        config = self._experiment.config
        height, width = image.shape[:2]
        heatmap = render_heatmap(boxes, mask, (height // STRIDE, width // STRIDE))
        inputs = network_inputs(config.model, image[None], previous[None], heatmap[None, ..., None])
        outputs = self._experiment.network.apply(variables, **inputs, train=False)
        # The tracker looks at the best of them; the rest is for the precision-recall curve.
        return decode(
            {task: output[0] for task, output in outputs.items()}, capacity=2 * config.data.max_objects
        )


def average_variables(state: TrainState) -> dict[str, Any]:
    """Returns the network's variables to evaluate: the moving average of the run."""
    return state.average


def existing_rows(rows: Any) -> Any:
    """Returns the rows whose mask is true, as numpy arrays."""
    host = jax.device_get(rows)
    return jax.tree.map(lambda x: x[host.mask], host)
