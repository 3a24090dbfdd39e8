"""Joint: all that a multi-task network says of an object, at once.

1. Confirmed and lost tracks with detections of high score: overlap with the predicted place, overlap in the previous
   frame after the learned displacement, and appearance, mixed.
2. Lost tracks with detections of high score: appearance alone, within reach of the predicted place.
3. Confirmed tracks seen in the frame before with detections of low score: overlap.
4. Tentative tracks with detections of high score: overlap.

Cues that the detections do not have are left out; without all of them it is close to ByteTrack.

References: Zhang et al., "ByteTrack", ECCV 2022 (arXiv:2110.06864), for the turns; Zhang et al., "FairMOT", IJCV 2021
(arXiv:2004.01888), for appearance.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_jax.structures import Detections
from mtl_jax.tracking import costs, kalman
from mtl_jax.tracking.scaled import NOISY, AppearanceTracker
from mtl_jax.tracking.tracker import Match, TrackerState, Turns

_REACH = 9.21  # χ² with two degrees of freedom is below this in 99 cases of a hundred


@dataclasses.dataclass(frozen=True)
class Joint(AppearanceTracker):
    """Overlap, learned displacement and appearance together; the filter is BoT-SORT's."""

    new_score: float = 0.6
    low_score: float = 0.1
    """Detections from here on can go on with a track seen in the frame before, but not find a lost one."""
    match_iou: float = 0.2
    """Least overlap in the first turn."""
    low_match_iou: float = 0.5
    """Least overlap in the third turn."""
    tentative_match_iou: float = 0.2
    """Least overlap in the fourth turn."""
    match_appearance: float = 0.7
    """Least cosine of the embeddings by which a lost track is found again where boxes do not overlap."""
    appearance_weight: float = 0.3
    """Share of the embeddings' cosine in the first turn, beside the overlap."""
    displacement_weight: float = 0.5
    """Share of the displaced box's overlap with the track's last box, beside the predicted box's overlap."""
    measurement_noise: float = NOISY.measurement
    position_noise: float = NOISY.position
    velocity_noise: float = NOISY.velocity

    @property
    def space(self) -> kalman.Space:
        """Centre, width and height."""
        return kalman.center_size(self._noise)

    def _predict(self, state: TrackerState) -> kalman.KalmanState:
        return self._predict_keeping(state, (False, False, True, True))

    def _remember(self, boxes: Float[Array, "tracks 4"]) -> Any:
        # Where each track was in the frame before: what was seen, or the predicted box.
        return boxes

    def _refine(
        self, state: TrackerState, detections: Detections, match: Match
    ) -> tuple[kalman.KalmanState, Any]:
        motion, _ = super()._refine(state, detections, match)
        here = jnp.where((match >= 0)[:, None], detections.boxes[match], self.space.to_boxes(motion.position))
        return motion, here

    def _match(self, state: TrackerState, detections: Detections) -> Match:
        confirmed = self._confirmed(state)
        high = detections.scores >= self.high_score
        low = ~high & (detections.scores >= self.low_score)

        overlap = costs.overlap(self._boxes(state), detections.boxes, self.overlap)
        motion = overlap
        if detections.displacement is not None:
            displaced = costs.displaced_overlap(state.memory, detections.boxes, detections.displacement)
            motion = _mix(overlap, displaced, self.displacement_weight)
        similarity = motion
        if detections.embeddings is not None:
            appearance = costs.cosine(state.embeddings, detections.embeddings)
            similarity = _mix(motion, appearance, self.appearance_weight)

        turns = Turns.begin(state, detections, self.match_classes)
        turns = turns.turn(confirmed, high, _at_least(similarity, motion >= self.match_iou), 0.0)
        if detections.embeddings is not None:
            near = kalman.distance(self.space, state.motion, detections.boxes, numbers=2) < _REACH
            lost = confirmed & (state.missed > 0)
            turns = turns.turn(lost, high, _at_least(appearance, near), self.match_appearance)
        seen = confirmed & (state.missed == 0)
        turns = turns.turn(seen, low, overlap, self.low_match_iou)
        return turns.turn(~confirmed, high, motion, self.tentative_match_iou).match


def _mix(a: Float[Array, "*n"], b: Float[Array, "*n"], share: float) -> Float[Array, "*n"]:
    return (1 - share) * a + share * b


def _at_least(similarity: Float[Array, "*n"], allowed: Array) -> Float[Array, "*n"]:
    return jnp.where(allowed, similarity, -jnp.inf)
