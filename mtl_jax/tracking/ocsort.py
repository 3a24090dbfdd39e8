"""OC-SORT: SORT that trusts what was seen more than what the filter made of it.

1. Overlap plus the agreement of the way to a detection with the track's heading (observation-centric momentum).
2. If asked for, detections of low score by overlap, as ByteTrack has it.
3. What is left by the overlap with the box that was seen last (observation-centric recovery).

A track that is found again is shown the boxes between where it was seen last and now, on a straight line, in place of
what its filter believed meanwhile (observation-centric re-update).

Five things differ from the authors' code. As in `mtl_jax.tracking.sort`, pairs with too little overlap are taken out
before the assignment, the filter's noise grows with the object (`noise="pixels"` for theirs), and a track that is found
again is reported at once (`confirm_again=True` for theirs). A track's first box is an observation like the others. And
what is reported is the filter's box, which lies better on the truth than the detector's (`report="detected"` for
theirs).

Reference: Cao et al., "Observation-Centric SORT: Rethinking SORT for Robust Multi-Object Tracking", CVPR 2023
(arXiv:2203.14360).
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_jax import boxes as box_lib
from mtl_jax.structures import Detections
from mtl_jax.tracking import costs, kalman
from mtl_jax.tracking.sort import Sort
from mtl_jax.tracking.tracker import Match, TrackerState, Turns


class Observations(NamedTuple):
    """What OC-SORT remembers of each track.

    Attributes:
        boxes: Boxes seen in the last frames, the last one first.
        seen: Which of them there are.
        heading: Unit vector along which it moved when it was seen last; zero at first.
        lost: Belief in the first frame in which it was not seen.
    """

    boxes: Float[Array, "tracks frames 4"]
    seen: Bool[Array, "tracks frames"]
    heading: Float[Array, "tracks 2"]
    lost: kalman.KalmanState


@dataclasses.dataclass(frozen=True)
class OcSort(Sort):
    """OC-SORT."""

    low_score: float = 0.1
    """Detections from here on take part in the second turn."""
    low_turn: bool = False
    """Whether there is a second turn, for detections of low score."""
    inertia: float = 0.2
    """Weight of the heading beside the overlap."""
    span: int = 3
    """Frames over which a heading is taken."""

    def _remember(self, boxes: Float[Array, "tracks 4"]) -> Any:
        rows = len(boxes)
        return Observations(
            boxes=jnp.broadcast_to(boxes[:, None], (rows, self.span, 4)),
            seen=jnp.zeros((rows, self.span), bool).at[:, 0].set(True),
            heading=jnp.zeros((rows, 2)),
            lost=kalman.start(self.space, boxes),
        )

    def _match(self, state: TrackerState, detections: Detections) -> Match:
        overlap = costs.overlap(self._boxes(state), detections.boxes, self.overlap)
        momentum = costs.direction(_earlier(state), state.memory.heading, detections.boxes)
        worth = overlap + self.inertia * momentum * detections.scores
        high = detections.scores >= self.high_score

        turns = Turns.begin(state, detections, self.match_classes)
        turns = turns.turn(state.alive, high, jnp.where(overlap >= self.match_iou, worth, -jnp.inf), 0.0)
        if self.low_turn:
            low = ~high & (detections.scores >= self.low_score)
            turns = self._by_overlap(turns, state, low, overlap)
        last = costs.overlap(state.boxes, detections.boxes, self.overlap)
        return self._by_overlap(turns, state, high, last).match

    def _by_overlap(self, turns: Turns, state: TrackerState, candidates: Array, overlap: Array) -> Turns:
        worth = jnp.where(overlap >= self.match_iou, overlap, -jnp.inf)
        return turns.turn(state.alive, candidates, worth, 0.0)

    def _refine(
        self, state: TrackerState, detections: Detections, match: Match
    ) -> tuple[kalman.KalmanState, Any]:
        memory, seen = state.memory, match >= 0
        boxes = detections.boxes[match]
        before = kalman.where(state.missed > 0, memory.lost, state.motion)
        gap = jnp.where(seen, state.missed + 1, 0)
        replayed = kalman.replay(self.space, before, state.boxes, boxes, gap)

        way = box_lib.centers(boxes) - box_lib.centers(_earlier(state))
        return kalman.where(seen, replayed, state.motion), Observations(
            boxes=jnp.concatenate([boxes[:, None], memory.boxes[:, :-1]], axis=1),
            seen=jnp.concatenate([seen[:, None], memory.seen[:, :-1]], axis=1),
            heading=jnp.where(seen[:, None], costs.unit(way), memory.heading),
            lost=kalman.where(state.missed == 0, state.motion, memory.lost),
        )


def _earlier(state: TrackerState) -> Float[Array, "tracks 4"]:
    """Returns the earliest box that is still remembered, or the last one seen."""
    memory = state.memory
    frames = memory.seen.shape[1]
    first = frames - 1 - jnp.argmax(memory.seen[:, ::-1], axis=1)
    earliest = jnp.take_along_axis(memory.boxes, first[:, None, None], axis=1)[:, 0]
    return jnp.where(memory.seen.any(axis=1)[:, None], earliest, state.boxes)
