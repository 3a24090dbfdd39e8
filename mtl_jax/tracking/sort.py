"""SORT: Kalman filter, overlap, assignment, and nothing else.

Pairs with too little overlap are taken out before the assignment, where the authors' code drops them after it, so that
they cannot stand in the way of better ones. The paper forgets a track after one frame (`max_lost=1`) and leaves the
choice of detections to the detector (`high_score=0, new_score=0`). Two more things differ: the filter's noise grows
with the object, as in `mtl_jax.tracking.botsort` (`noise="pixels"` for the paper's), and a track that was confirmed and
is found again is reported at once (`confirm_again=True` for the authors' rule, which hides it for three frames more).

Reference: Bewley et al., "Simple Online and Realtime Tracking", ICIP 2016 (arXiv:1602.00763).
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from mtl_jax.structures import Detections
from mtl_jax.tracking import costs, kalman
from mtl_jax.tracking.scaled import NOISY, ScaledTracker
from mtl_jax.tracking.tracker import Match, TrackerState, Turns


@dataclasses.dataclass(frozen=True)
class Sort(ScaledTracker):
    """SORT.

    A track is reported from when it was seen in `min_hits` frames in a row after its first, or in the first ones.
    """

    high_score: float = 0.6
    new_score: float = 0.6
    min_hits: int = 3
    match_iou: float = 0.3
    """Least overlap of a pair."""
    confirm_again: bool = False
    """Whether a track that was not seen is only reported after as many frames in a row once more."""
    noise: Literal["scaled", "pixels"] = "scaled"
    """Noise of the filter: relative to the size, as the other options say, or SORT's in pixels."""
    measurement_noise: float = NOISY.measurement
    position_noise: float = NOISY.position
    velocity_noise: float = NOISY.velocity

    @property
    def space(self) -> kalman.Space:
        """Centre, area and ratio."""
        return kalman.center_area(self._noise) if self.noise == "scaled" else kalman.center_area_in_pixels()

    def _predict(self, state: TrackerState) -> kalman.KalmanState:
        # An area that would become negative stops shrinking.
        motion = state.motion
        vanishes = motion.position[:, 2] + motion.velocity[:, 2] <= 0
        velocity = motion.velocity.at[:, 2].multiply(jnp.where(vanishes, 0, 1))
        return kalman.predict(self.space, motion._replace(velocity=velocity))

    def _match(self, state: TrackerState, detections: Detections) -> Match:
        overlap = costs.overlap(self._boxes(state), detections.boxes, self.overlap)
        turns = Turns.begin(state, detections, self.match_classes)
        counts = detections.scores >= self.high_score
        # What counts is the overlap itself, not what it is above the least.
        worth = jnp.where(overlap >= self.match_iou, overlap, -jnp.inf)
        return turns.turn(state.alive, counts, worth, 0.0).match

    def _confirmed(self, state: TrackerState) -> Bool[Array, " tracks"]:
        return state.alive & ((state.hits >= self.min_hits) | (state.frame <= self.min_hits))

    def _kept(self, state: TrackerState) -> Bool[Array, " tracks"]:
        return state.missed <= self.max_lost

    def _follow(self, state: TrackerState, detections: Detections, match: Match) -> TrackerState:
        # Hits count in a row.
        broken = state.missed > 0
        if not self.confirm_again:
            broken &= state.hits < self.min_hits
        state = state._replace(hits=jnp.where(broken, 0, state.hits))
        return super()._follow(state, detections, match)

    def _first_hits(self, frame: Int[Array, ""]) -> Int[Array, ""]:
        return jnp.zeros((), jnp.int32)
