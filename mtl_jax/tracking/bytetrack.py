"""ByteTrack: what was seen weakly goes on with a track, but starts none.

1. Confirmed and lost tracks with detections of high score, by overlap times score.
2. Confirmed tracks seen in the frame before with detections of low score, by overlap.
3. Tentative tracks with detections of high score that are left, by overlap times score.

Reference: Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV 2022
(arXiv:2110.06864).
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_jax.structures import Detections
from mtl_jax.tracking import costs, kalman
from mtl_jax.tracking.tracker import Match, Tracker, TrackerState, Turns


@dataclasses.dataclass(frozen=True)
class ByteTrack(Tracker):
    """ByteTrack."""

    low_score: float = 0.1
    """Detections from here on can go on with a track seen in the frame before."""
    match_iou: float = 0.2
    """Least overlap times score in the first turn."""
    low_match_iou: float = 0.5
    """Least overlap in the second turn."""
    tentative_match_iou: float = 0.3
    """Least overlap times score in the third turn."""
    fuse_score: bool = True
    """Multiply overlap by the detection's score in the first and third turn."""
    twin_iou: float = 0.85
    """Of a track that is seen and one that is lost and overlap by more than this, the younger is removed."""
    overlap: costs.Overlap = "iou"
    """How overlap is measured; thresholds are on the measure that is chosen."""
    measurement_noise: float = 1 / 20
    """Standard deviation of a detection's place and size, relative to the size."""
    position_noise: float = 1 / 20
    """Standard deviation of what place and size wander in a frame beside their velocity, relative to the size."""
    velocity_noise: float = 1 / 160
    """Standard deviation of what the velocity changes in a frame, relative to the size."""

    @property
    def space(self) -> kalman.Space:
        """Centre, aspect ratio and height."""
        return kalman.center_aspect(self._noise)

    @property
    def _noise(self) -> kalman.RelativeNoise:
        return kalman.RelativeNoise(self.measurement_noise, self.position_noise, self.velocity_noise)

    def _predict(self, state: TrackerState) -> kalman.KalmanState:
        # Who is lost keeps its height; who is tentative waits where it was seen.
        lost = (state.missed > 0)[:, None] & jnp.array([False, False, False, True])
        motion = state.motion._replace(velocity=jnp.where(lost, 0, state.motion.velocity))
        return kalman.where(self._confirmed(state), kalman.predict(self.space, motion), state.motion)

    def _match(self, state: TrackerState, detections: Detections) -> Match:
        overlap = costs.overlap(self._boxes(state), detections.boxes, self.overlap)
        confirmed = self._confirmed(state)
        high = detections.scores >= self.high_score
        low = ~high & (detections.scores >= self.low_score)

        turns = Turns.begin(state, detections, self.match_classes)
        strong = self._strong(state, detections, overlap)
        turns = turns.turn(confirmed, high, strong, self.match_iou)
        turns = turns.turn(confirmed & (state.missed == 0), low, overlap, self.low_match_iou)
        return turns.turn(~confirmed, high, strong, self.tentative_match_iou).match

    def _strong(
        self, state: TrackerState, detections: Detections, overlap: Float[Array, "tracks detections"]
    ) -> Float[Array, "tracks detections"]:
        """Returns the similarity of tracks and detections of high score."""
        return overlap * detections.scores if self.fuse_score else overlap

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
