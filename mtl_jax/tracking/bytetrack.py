"""ByteTrack: what was seen weakly goes on with a track, but starts none.

1. Confirmed and lost tracks with detections of high score, by overlap times score.
2. Confirmed tracks seen in the frame before with detections of low score, by overlap.
3. Tentative tracks with detections of high score that are left, by overlap times score.

Reference: Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV 2022
(arXiv:2110.06864).
"""

import dataclasses

from jaxtyping import Array, Float

from mtl_jax.structures import Detections
from mtl_jax.tracking import costs
from mtl_jax.tracking.scaled import TwinlessTracker
from mtl_jax.tracking.tracker import Match, TrackerState, Turns


@dataclasses.dataclass(frozen=True)
class ByteTrack(TwinlessTracker):
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
