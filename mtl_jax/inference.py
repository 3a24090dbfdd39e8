"""Online inference: frame after frame through the network and the tracker, each feeding the other.

The network sees the frame, the one before, and where the tracker saw objects in it; the tracker sees the network's
detections. Both are jitted and stay on the device.
"""

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from mtl_jax import tracking
from mtl_jax.config import TrackerConfig, build
from mtl_jax.data.mot_format import MotRows
from mtl_jax.errors import UserError
from mtl_jax.models.network import Frames, initial_memory
from mtl_jax.structures import Detections, Tracks
from mtl_jax.tasks import STRIDE, decode
from mtl_jax.tasks.targets import render_heatmap
from mtl_jax.tracking import Tracker, estimate_motion
from mtl_jax.tracking.camera import STILL
from mtl_jax.tracking.detections import to_rows
from mtl_jax.tracking.tracker import TrackerState
from mtl_jax.training.checkpoint import Checkpoints
from mtl_jax.training.loop import build_experiment
from mtl_jax.training.step import Experiment, TrainState, init_state, network_inputs
from mtl_jax.training.workdir import read_classes, read_config


class FrameResult(NamedTuple):
    """What was found in one frame, as padded numpy arrays; boxes in pixels of the network's input.

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
        self.frames = 0
        self._compiled = False

    def add(self, detector: float, tracker: float, frames: int = 1) -> None:
        """Counts frames; the tracker's time is 0 where the two are one call."""
        if self._compiled:
            self.frames += frames
            self.detector += detector
            self.tracker += tracker
        self._compiled = True

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
        self.tracker = build_tracker(experiment.config.tracker)
        self._memories: dict[tuple[int, ...], Any] = {}
        self._detect = jax.jit(self._detect_frame)
        self._detect_batch = jax.jit(self._detect_frames)
        self._follow_batch = jax.jit(self._follow_frames)

    def video(
        self,
        frames: Iterable[UInt8[np.ndarray, "height width 3"]],
        timing: Timing | None = None,
        batch: int = 1,
    ) -> Iterator[FrameResult]:
        """Yields what is found in each frame of a video.

        Args:
            frames: RGB frames of the network's input size.
            timing: Counts the time spent; waits for the device after each part, which a little slows the whole.
            batch: Frames that go to the device in one call. More than one save calls, and fill a large device where the
                network does not look at what the tracker saw; but each waits for the last of them. Frames go one by one
                in any case where the tracker wants to know how the camera moved.
        """
        if batch > 1 and not self.tracker.camera_motion:
            yield from self._video_in_batches(frames, timing, batch)
            return
        state = self._initial_state()
        previous = before = boxes = memory = None
        tracks_boxes = jnp.zeros((self.tracker.capacity, 4))
        tracks_mask = jnp.zeros(self.tracker.capacity, bool)
        for frame in frames:
            image = jnp.asarray(frame)
            start = time.perf_counter()
            inputs = (image, image if previous is None else previous, tracks_boxes, tracks_mask)
            if memory is None:
                memory = self._initial_memory(image)
            detections, memory = self._detect(self._variables, memory, *inputs)
            if timing is not None:
                jax.block_until_ready(detections)
            middle = time.perf_counter()
            camera = None
            if self.tracker.camera_motion:
                camera = jnp.asarray(STILL if before is None else estimate_motion(before, frame, boxes))
            state, tracks = self.tracker.step(state, detections, camera)
            if timing is not None:
                jax.block_until_ready(tracks)
                timing.add(middle - start, time.perf_counter() - middle)
            previous, tracks_boxes, tracks_mask = image, tracks.boxes, tracks.mask
            result = FrameResult(*jax.device_get((detections, tracks)))
            before, boxes = frame, result.tracks.boxes[result.tracks.mask]
            yield result

    def _video_in_batches(
        self, frames: Iterable[UInt8[np.ndarray, "height width 3"]], timing: Timing | None, batch: int
    ) -> Iterator[FrameResult]:
        state = self._initial_state()
        previous = memory = None
        boxes, mask = jnp.zeros((self.tracker.capacity, 4)), jnp.zeros(self.tracker.capacity, bool)
        frames = iter(frames)
        while group := list(itertools.islice(frames, batch)):
            # The last batch is filled up, or it would be compiled anew; what follows from that is passed over.
            images = jnp.asarray(np.stack(group + [group[-1]] * (batch - len(group))))
            start = time.perf_counter()
            if previous is None:
                previous = images[0]
                memory = self._initial_memory(previous)
            independent = self._experiment.config.model.inputs != "pair_heatmap" and not memory
            if independent:
                detections = self._detect_batch(self._variables, images, previous)
                previous = images[-1]
                if timing is not None:
                    jax.block_until_ready(detections)
            middle = time.perf_counter()
            if independent:
                state, tracks = self.tracker.scan(state, detections)
            else:
                carry = (state, memory, previous, boxes, mask)
                carry, (detections, tracks) = self._follow_batch(self._variables, carry, images)
                state, memory, previous, boxes, mask = carry
            if timing is not None:
                jax.block_until_ready(tracks)
                end = time.perf_counter()
                parts = (middle - start, end - middle) if independent else (end - start, 0.0)
                timing.add(*parts, len(group))
            found = jax.device_get((detections, tracks))
            for i in range(len(group)):
                yield FrameResult(*jax.tree.map(lambda x, i=i: x[i], found))

    def _initial_state(self) -> TrackerState:
        config = self._experiment.config
        features = config.model.embedding_dim if "identity" in config.tasks else 0
        # Where the detections will be, or the second call is compiled anew.
        return jax.device_put(self.tracker.init(features), jax.tree.leaves(self._variables)[0].sharding)

    def _initial_memory(self, image: UInt8[Array, "height width 3"]) -> Any:
        if image.shape not in self._memories:  # finding out takes as long as several frames
            boxes, mask = jnp.zeros((self.tracker.capacity, 4)), jnp.zeros(self.tracker.capacity, bool)
            frames = self._inputs(image, image, boxes, mask)
            memory = initial_memory(self._experiment.network, self._variables, frames)
            self._memories[image.shape] = jax.device_put(memory, jax.tree.leaves(self._variables)[0].sharding)
        return self._memories[image.shape]

    def _detect_frame(
        self, variables: dict[str, Any], memory: Any, image: Array, previous: Array, boxes: Array, mask: Array
    ) -> tuple[Detections, Any]:
        network = self._experiment.network
        features, updated = network.apply(
            {**variables, "memory": memory},
            *self._inputs(image, previous, boxes, mask),
            mutable=["memory"],
            method="trunk",
        )
        outputs: Any = network.apply(variables, features, method="predict")
        # The tracker looks at the best of them; the rest is for the precision-recall curve.
        capacity = 2 * self._experiment.config.data.max_objects
        detections = decode({task: output[0] for task, output in outputs.items()}, capacity=capacity)
        return detections, updated.get("memory", {})

    def _detect_frames(
        self, variables: dict[str, Any], images: UInt8[Array, "time height width 3"], previous: Array
    ) -> Detections:
        """Returns the detections of frames that need nothing of the tracker, all at once."""
        network, config = self._experiment.network, self._experiment.config
        before = jnp.concatenate([previous[None], images[:-1]])
        frames = network_inputs(config.model, images, before, before)
        features = network.apply(variables, *frames, method="trunk")
        outputs: Any = network.apply(variables, features, method="predict")
        return jax.vmap(lambda outputs: decode(outputs, capacity=2 * config.data.max_objects))(outputs)

    def _follow_frames(
        self, variables: dict[str, Any], carry: Any, images: UInt8[Array, "time height width 3"]
    ) -> tuple[Any, tuple[Detections, Tracks]]:
        """Goes through frames one by one, network and tracker feeding each other, in one call."""

        def follow(carry: Any, image: Array) -> tuple[Any, tuple[Detections, Tracks]]:
            state, memory, previous, boxes, mask = carry
            detections, memory = self._detect_frame(variables, memory, image, previous, boxes, mask)
            state, tracks = self.tracker.step(state, detections)
            return (state, memory, image, tracks.boxes, tracks.mask), (detections, tracks)

        return jax.lax.scan(follow, carry, images)

    def _inputs(self, image: Array, previous: Array, boxes: Array, mask: Array) -> Frames:
        height, width = image.shape[:2]
        heatmap = render_heatmap(boxes, mask, (height // STRIDE, width // STRIDE))
        config = self._experiment.config.model
        return network_inputs(config, image[None], previous[None], heatmap[None, ..., None])


def build_tracker(config: TrackerConfig) -> Tracker:
    """Returns the tracker that a configuration describes.

    Raises:
        UserError: If there is none of this name, or an option is unknown, of the wrong type, or not for this one.
    """
    if config.name not in tracking.TRACKERS:
        raise UserError(f"tracker.name: found {config.name!r}; choose from {', '.join(tracking.TRACKERS)}")
    tracker: Tracker = build(tracking.TRACKERS[config.name], config.options, config.name, "tracker.")
    if tracker.camera_motion and not tracker.space.affine:
        raise UserError(
            f"tracker.camera_motion: {config.name} cannot follow a moving camera; use botsort or joint, or leave it out"
        )
    return tracker


def average_variables(state: TrainState) -> dict[str, Any]:
    """Returns the network's variables to evaluate: the moving average of the run."""
    return state.average


def load_run(workdir: Path) -> tuple[Experiment, TrainState]:
    """Returns the parts and the best state of a run, or its last one where none was selected.

    Raises:
        UserError: If this is not a run, or it has no checkpoint that can be read.
    """
    experiment = build_experiment(read_config(workdir), len(read_classes(workdir)))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        jax.eval_shape(lambda: init_state(experiment)),
    )
    checkpoints = Checkpoints(workdir)
    try:
        return experiment, checkpoints.restore(like, best=True)[0]
    finally:
        checkpoints.close()


def to_mot_rows(tracks: Sequence[Tracks]) -> MotRows:
    """Returns tracks, one entry a frame, as the rows of a MOTChallenge result file."""
    return to_rows(jax.tree.map(lambda *frames: np.stack(frames), *tracks))
