"""What trackers share: noise that grows with the object; the end of twins, and appearance."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_jax.structures import Detections
from mtl_jax.tracking import costs, kalman
from mtl_jax.tracking.tracker import Match, Tracker, TrackerState

NOISY = kalman.RelativeNoise(measurement=1 / 10, position=1 / 40, velocity=1 / 64)
"""Detections are noisier than the papers have it (1/20, 1/20, 1/160), and people turn and stop."""


@dataclasses.dataclass(frozen=True)
class ScaledTracker(Tracker):
    """A tracker by overlap, whose filter's noise is relative to the size of the object."""

    overlap: costs.Overlap = "iou"
    """How overlap is measured; thresholds are on the measure that is chosen."""
    measurement_noise: float = 1 / 20
    """Standard deviation of a detection's place and size, relative to the size."""
    position_noise: float = 1 / 20
    """Standard deviation of what place and size wander in a frame beside their velocity, relative to the size."""
    velocity_noise: float = 1 / 160
    """Standard deviation of what the velocity changes in a frame, relative to the size."""

    @property
    def _noise(self) -> kalman.RelativeNoise:
        return kalman.RelativeNoise(self.measurement_noise, self.position_noise, self.velocity_noise)


@dataclasses.dataclass(frozen=True)
class TwinlessTracker(ScaledTracker):
    """A tracker as ByteTrack and those after it are, that removes tracks of what another track follows."""

    twin_iou: float = 0.85
    """Of a track that is seen and one that is lost and overlap by more than this, the younger is removed."""

    @property
    def space(self) -> kalman.Space:
        """Centre, aspect ratio and height."""
        return kalman.center_aspect(self._noise)

    def _predict(self, state: TrackerState) -> kalman.KalmanState:
        # Who is lost keeps its height; who is tentative waits where it was seen.
        predicted = self._predict_keeping(state, (False, False, False, True))
        return kalman.where(self._confirmed(state), predicted, state.motion)

    def _predict_keeping(
        self, state: TrackerState, kept: tuple[bool, bool, bool, bool]
    ) -> kalman.KalmanState:
        """Returns the tracks' motion one frame later; of those that are lost, the numbers to be kept do not change."""
        still = (state.missed > 0)[:, None] & jnp.array(kept)
        motion = state.motion._replace(velocity=jnp.where(still, 0, state.motion.velocity))
        return kalman.predict(self.space, motion)

    def _tidy(self, state: TrackerState) -> TrackerState:
        # Where a track that is seen lies on a lost one, they are the same object.
        if self.twin_iou >= 1:
            return state
        boxes = self._boxes(state)
        seen, lost = state.alive & (state.missed == 0), state.alive & (state.missed > 0)
        twins = seen[:, None] & lost[None, :] & (costs.overlap(boxes, boxes) > self.twin_iou)
        age = state.frame - state.missed - state.born
        older = age[:, None] > age[None, :]
        gone = jnp.any(twins & ~older, axis=1) | jnp.any(twins & older, axis=0)
        return state._replace(track_ids=jnp.where(gone, 0, state.track_ids))


@dataclasses.dataclass(frozen=True)
class AppearanceTracker(TwinlessTracker):
    """A tracker that remembers what its tracks look like."""

    embedding_momentum: float = 0.9
    """Share of the old embedding in a track's moving average."""

    def _blend(self, state: TrackerState, detections: Detections, match: Match) -> Float[Array, "tracks _"]:
        if detections.embeddings is None:
            return state.embeddings
        mixed = costs.unit(
            self.embedding_momentum * state.embeddings
            + (1 - self.embedding_momentum) * detections.embeddings[match]
        )
        # What is hardly seen does not change what a track looks like.
        clear = detections.scores[match] >= self.high_score
        return jnp.where(clear[:, None], mixed, state.embeddings)
