"""JDE and FairMOT: appearance first, gated by motion; then overlap.

1. Confirmed and lost tracks, by `λ (1 - cos) + (1 - λ) d²` with the Mahalanobis distance `d`, gated by `d`.
2. Confirmed tracks seen in the frame before, by overlap.
3. Tentative tracks, by overlap.

References: Wang et al., "Towards Real-Time Multi-Object Tracking", ECCV 2020 (arXiv:1909.12605); Zhang et al.,
"FairMOT", IJCV 2021 (arXiv:2004.01888).
"""

import dataclasses

import jax.numpy as jnp

from mtl_jax.structures import Detections
from mtl_jax.tracking import costs, kalman
from mtl_jax.tracking.scaled import AppearanceTracker
from mtl_jax.tracking.tracker import Match, TrackerState, Turns

_GATE = 9.4877  # χ² with four degrees of freedom is below this in 95 cases of a hundred


@dataclasses.dataclass(frozen=True)
class Jde(AppearanceTracker):
    """JDE. Without embeddings the first turn is left out, and lost tracks take part in the second."""

    high_score: float = 0.5
    new_score: float = 0.5
    appearance_distance: float = 0.7
    """Largest fused distance in the first turn."""
    appearance_weight: float = 0.98
    """Share λ of appearance in the fused distance."""
    match_iou: float = 0.5
    """Least overlap in the second turn."""
    tentative_match_iou: float = 0.3
    """Least overlap in the third turn."""

    def _match(self, state: TrackerState, detections: Detections) -> Match:
        overlap = costs.overlap(self._boxes(state), detections.boxes, self.overlap)
        confirmed = self._confirmed(state)
        high = detections.scores >= self.high_score
        again = confirmed
        turns = Turns.begin(state, detections, self.match_classes)
        if detections.embeddings is not None:
            squared = kalman.distance(self.space, state.motion, detections.boxes)
            apart = jnp.maximum(1 - state.embeddings @ detections.embeddings.T, 0)
            fused = self.appearance_weight * apart + (1 - self.appearance_weight) * squared
            fused = jnp.where(squared <= _GATE, fused, jnp.inf)
            turns = turns.turn(confirmed, high, -fused, -self.appearance_distance)
            again = confirmed & (state.missed == 0)
        turns = turns.turn(again, high, overlap, self.match_iou)
        return turns.turn(~confirmed, high, overlap, self.tentative_match_iou).match
