"""CenterTrack: each detection, moved back by its learned displacement, takes the nearest track.

No filter and no overlap: detections choose in the order of their scores, among tracks whose last centre is nearer than
the square root of either box's area.

Reference: Zhou et al., "Tracking Objects as Points", ECCV 2020 (arXiv:2004.01177).
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_jax import boxes as box_lib
from mtl_jax.structures import Detections
from mtl_jax.tracking import kalman
from mtl_jax.tracking.assignment import greedy
from mtl_jax.tracking.tracker import Match, Tracker, TrackerState, Turns


@dataclasses.dataclass(frozen=True)
class CenterTrack(Tracker):
    """CenterTrack. Without displacements, detections are taken to have been where they are."""

    high_score: float = 0.4
    new_score: float = 0.4
    max_lost: int = 0
    min_hits: int = 1

    def _boxes(self, state: TrackerState) -> Float[Array, "tracks 4"]:
        return state.boxes

    def _predict(self, state: TrackerState) -> kalman.KalmanState:
        return state.motion

    def _refine(
        self, state: TrackerState, detections: Detections, match: Match
    ) -> tuple[kalman.KalmanState, Any]:
        return state.motion, state.memory

    def _match(self, state: TrackerState, detections: Detections) -> Match:
        centers = box_lib.centers(detections.boxes)
        if detections.displacement is not None:
            centers = centers + detections.displacement
        squared = jnp.sum((box_lib.centers(state.boxes)[:, None] - centers[None, :]) ** 2, axis=-1)
        reach = jnp.minimum(box_lib.areas(state.boxes)[:, None], box_lib.areas(detections.boxes)[None, :])
        turns = Turns.begin(state, detections, self.match_classes)
        allowed = turns.open(state.alive, detections.scores >= self.high_score) & (squared <= reach)
        order = jnp.argsort(-detections.scores)
        place = greedy(-squared[:, order], allowed[:, order])
        return jnp.where(place >= 0, order[place], -1).astype(jnp.int32)

    def _kept(self, state: TrackerState) -> Bool[Array, " tracks"]:
        return state.missed <= self.max_lost
