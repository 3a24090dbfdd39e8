"""Online multi-object tracker: a pure function from a state and a frame's detections to the next state and tracks.

A track is *tentative* until it was seen `min_hits` frames in a row, then *confirmed*; a confirmed track that is not
seen is *lost*, and forgotten after `max_lost` frames. In each frame the tracks find their detections in turns, each an
optimal assignment among what the turns before left over:

1. confirmed and lost tracks, detections of high score: motion and appearance together;
2. lost tracks, detections of high score: appearance alone, within reach of the predicted place;
3. confirmed tracks seen in the frame before, detections of low score: overlap;
4. tentative tracks, detections of high score: overlap.

What is left of the detections starts new tracks if its score is high enough. Before all this, of detections that lie
on one another only the best remains, where that is asked for: a detector that finds each class by itself reports an
object twice that it takes for one of two classes.

References: Zhang et al., "ByteTrack", ECCV 2022 (arXiv:2110.06864), for the turns; Zhang et al., "FairMOT", IJCV 2021
(arXiv:2004.01888), for appearance; Bolya et al., "YOLACT", ICCV 2019 (arXiv:1904.02689), for suppressing in one go.
"""

import dataclasses
import functools
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtl_jax.config import TrackerConfig
from mtl_jax.structures import Detections, Tracks
from mtl_jax.tracking import costs, kalman
from mtl_jax.tracking.assignment import assign

# 99 % of the right pairs are nearer than this (χ², two degrees of freedom).
REACH = 9.21


_Rows = TypeVar("_Rows", Tracks, Detections)


class TrackerState(NamedTuple):
    """All that a tracker remembers, in a fixed number of rows.

    Attributes:
        track_ids: Identity of the track in each row; 0 where the row is free.
        classes: Class index.
        motion: Belief about box and velocity.
        boxes: Box in the last frame: the detection's, or the predicted one where there was none.
        embeddings: Moving average of the embeddings, of unit length.
        hits: Frames in which the track was seen.
        missed: Frames since it was last seen.
        frame: Frames so far.
        next_id: Identity of the next new track.
    """

    track_ids: Int[Array, " tracks"]
    classes: Int[Array, " tracks"]
    motion: kalman.KalmanState
    boxes: Float[Array, "tracks 4"]
    embeddings: Float[Array, "tracks features"]
    hits: Int[Array, " tracks"]
    missed: Int[Array, " tracks"]
    frame: Int[Array, ""]
    next_id: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Tracker:
    """A tracker with its options; holds no state, so one object serves any number of videos.

    Example:
        ```python
        tracker = tracking.make(TrackerConfig(capacity=64))
        state = tracker.init()
        state, tracks = tracker.step(state, detections)  # one frame
        state, tracks = tracker.scan(tracker.init(), video)  # detections with a leading time axis
        state, tracks = jax.vmap(tracker.scan)(states, videos)  # many videos
        ```
    """

    config: TrackerConfig

    def init(self, features: int = 0) -> TrackerState:
        """Returns the state before the first frame.

        Args:
            features: Length of the detections' embeddings; 0 where they have none.
        """
        rows = self.config.capacity
        nothing = jnp.zeros(rows, jnp.int32)
        return TrackerState(
            track_ids=nothing,
            classes=nothing,
            motion=kalman.start(jnp.zeros((rows, 4))),
            boxes=jnp.zeros((rows, 4)),
            embeddings=jnp.zeros((rows, features)),
            hits=nothing,
            missed=nothing,
            frame=jnp.zeros((), jnp.int32),
            next_id=jnp.ones((), jnp.int32),
        )

    @functools.partial(jax.jit, static_argnums=0)
    def step(self, state: TrackerState, detections: Detections) -> tuple[TrackerState, Tracks]:
        """Follows the objects into one more frame.

        Args:
            state: State after the frame before.
            detections: Detections of the frame, in any order. Rows that are not finite are passed over.

        Returns:
            The state, and the confirmed tracks that were seen in this frame: with the box the Kalman filter
            believes in after seeing the detection's, which is steadier, and the detection's score.
        """
        return _step(self.config, state, detections)

    @functools.partial(jax.jit, static_argnums=0)
    def scan(self, state: TrackerState, video: Detections) -> tuple[TrackerState, Tracks]:
        """Follows the objects through a video: `step` for each frame.

        Args:
            state: State before the first frame.
            video: Detections with a leading time axis. Frames without detections at the end do no harm, so videos
                can be padded to one length.

        Returns:
            The state after the last frame, and tracks with a leading time axis.
        """
        return jax.lax.scan(functools.partial(_step, self.config), state, video)


def make(config: TrackerConfig) -> Tracker:
    """Returns the tracker that a configuration describes."""
    return Tracker(config)


def _step(config: TrackerConfig, state: TrackerState, detections: Detections) -> tuple[TrackerState, Tracks]:
    detections = _distinct(_finite(detections), config.duplicate_iou)
    state = state._replace(motion=kalman.predict(state.motion), frame=state.frame + 1)
    match = _match(config, state, detections)
    state = _follow(config, state, detections, match)
    state, match = _begin(config, state, detections, match)
    reported = (match >= 0) & (state.hits >= config.min_hits)
    tracks = Tracks(
        boxes=kalman.to_boxes(state.motion),
        scores=detections.scores[match],
        classes=state.classes,
        track_ids=state.track_ids,
        mask=reported,
    )
    return state, _only(reported, tracks)


def _match(config: TrackerConfig, state: TrackerState, detections: Detections) -> Int[Array, " tracks"]:
    """Returns for each track the row of its detection, or -1."""
    alive = state.track_ids > 0
    confirmed = state.hits >= config.min_hits
    high = detections.scores >= config.high_score
    low = ~high & (detections.scores >= config.low_score)
    compatible = detections.mask[None, :] & alive[:, None]
    if config.match_classes:
        compatible &= costs.same_class(state.classes, detections.classes)

    def turn(match, tracks, candidates, similarity, alike):
        candidates = candidates & ~_taken(match, candidates.shape[0])
        allowed = compatible & (tracks & (match < 0))[:, None] & candidates[None, :] & alike
        return jnp.maximum(match, assign(similarity, allowed))

    overlap = costs.overlap(kalman.to_boxes(state.motion), detections.boxes)
    motion = overlap
    if detections.displacement is not None:
        displaced = costs.displaced_overlap(state.boxes, detections.boxes, detections.displacement)
        motion = _mix(overlap, displaced, config.displacement_weight)
    similarity = motion
    if detections.embeddings is not None:
        appearance = costs.cosine(state.embeddings, detections.embeddings)
        similarity = _mix(motion, appearance, config.appearance_weight)

    match = jnp.full(config.capacity, -1)
    match = turn(match, confirmed, high, similarity, motion >= config.match_iou)
    if detections.embeddings is not None:
        near = kalman.center_distance(state.motion, detections.boxes) < REACH
        lost = confirmed & (state.missed > 0)
        match = turn(match, lost, high, appearance, near & (appearance >= config.match_appearance))
    seen = confirmed & (state.missed == 0)
    match = turn(match, seen, low, overlap, overlap >= config.low_match_iou)
    return turn(match, ~confirmed, high, motion, motion >= config.match_iou)


def _follow(
    config: TrackerConfig, state: TrackerState, detections: Detections, match: Int[Array, " tracks"]
) -> TrackerState:
    """Brings each track up to date with its detection, and forgets those that went unseen for too long."""
    seen = match >= 0
    missed = jnp.where(seen, 0, state.missed + 1)
    keep = seen | ((state.hits >= config.min_hits) & (missed <= config.max_lost))
    updated = state._replace(
        classes=detections.classes[match],
        motion=kalman.update(state.motion, detections.boxes[match]),
        boxes=detections.boxes[match],
    )
    if detections.embeddings is not None:
        average = (
            config.embedding_momentum * state.embeddings
            + (1 - config.embedding_momentum) * detections.embeddings[match]
        )
        updated = updated._replace(embeddings=_unit(average))
    state = _where(seen, updated, state._replace(boxes=kalman.to_boxes(state.motion)))
    return state._replace(
        track_ids=jnp.where(keep, state.track_ids, 0), hits=state.hits + seen, missed=missed
    )


def _begin(
    config: TrackerConfig, state: TrackerState, detections: Detections, match: Int[Array, " tracks"]
) -> tuple[TrackerState, Int[Array, " tracks"]]:
    """Starts tracks from the detections left over, the best first, in free rows, then in those longest lost."""
    rows = detections.mask.shape[0]
    wanted = detections.mask & (detections.scores >= config.new_score) & ~_taken(match, rows)
    candidates = jnp.argsort(jnp.where(wanted, -detections.scores, jnp.inf))
    alive = state.track_ids > 0
    places = jnp.argsort(jnp.where(alive, -state.missed, -(config.max_lost + 1)))

    count = min(rows, config.capacity)
    candidates, places = candidates[:count], places[:count]
    starts = wanted[candidates] & (match[places] < 0)
    places = jnp.where(starts, places, config.capacity)
    match = match.at[places].set(candidates, mode="drop")
    new = jnp.zeros(config.capacity, bool).at[places].set(True, mode="drop")

    # In the first frame there was no chance to be seen before: what is there is believed.
    hits = jnp.where(state.frame == 1, config.min_hits, 1)
    ids = state.next_id + jnp.cumsum(starts) - 1
    started = TrackerState(
        track_ids=state.track_ids.at[places].set(ids, mode="drop"),
        classes=detections.classes[match],
        motion=kalman.start(detections.boxes[match]),
        boxes=detections.boxes[match],
        embeddings=state.embeddings if detections.embeddings is None else detections.embeddings[match],
        hits=jnp.full(config.capacity, hits),
        missed=jnp.zeros_like(state.missed),
        frame=state.frame,
        next_id=state.next_id,
    )
    state = _where(new, started, state)
    return state._replace(next_id=state.next_id + starts.sum()), match


def _finite(detections: Detections) -> Detections:
    """Takes rows that hold no usable box out, so that nothing in them can reach the state."""
    usable = (
        detections.mask
        & jnp.isfinite(detections.boxes).all(axis=-1)
        & (detections.boxes[:, 2:] > detections.boxes[:, :2]).all(axis=-1)
        & jnp.isfinite(detections.scores)
    )
    if detections.embeddings is not None:
        usable &= jnp.isfinite(detections.embeddings).all(axis=-1)
    if detections.displacement is not None:
        usable &= jnp.isfinite(detections.displacement).all(axis=-1)
    return _only(usable, detections._replace(mask=usable))


def _distinct(detections: Detections, duplicate_iou: float) -> Detections:
    """Takes rows out that overlap a better one, of whatever class: an object is where it is but once."""
    scores = jnp.where(detections.mask, detections.scores, -jnp.inf)
    order = jnp.arange(len(scores))
    better = (scores[:, None] > scores) | ((scores[:, None] == scores) & (order[:, None] < order))
    again = jnp.any(better & (costs.overlap(detections.boxes, detections.boxes) > duplicate_iou), axis=0)
    distinct = detections.mask & ~again
    return _only(distinct, detections._replace(mask=distinct))


def _taken(match: Int[Array, " tracks"], rows: int) -> Bool[Array, " detections"]:
    return jnp.zeros(rows, bool).at[jnp.where(match >= 0, match, rows)].set(True, mode="drop")


def _mix(a: Float[Array, "*n"], b: Float[Array, "*n"], share: float) -> Float[Array, "*n"]:
    return (1 - share) * a + share * b


def _unit(embeddings: Float[Array, "*n features"]) -> Float[Array, "*n features"]:
    return embeddings / jnp.maximum(jnp.linalg.norm(embeddings, axis=-1, keepdims=True), 1e-6)


def _only(mask: Bool[Array, " n"], rows: _Rows) -> _Rows:
    """Returns the rows with zeros, or false, where the mask is not true."""
    return jax.tree.map(lambda x: jnp.where(_rows(mask, x), x, jnp.zeros_like(x)), rows)


def _rows(mask: Bool[Array, " n"], like: Array) -> Array:
    return mask.reshape(mask.shape + (1,) * (like.ndim - 1))


def _where(mask: Bool[Array, " tracks"], a: TrackerState, b: TrackerState) -> TrackerState:
    """Returns the rows of `a` where the mask is true, else those of `b`."""
    return jax.tree.map(lambda x, y: jnp.where(_rows(mask, x), x, y) if x.ndim else x, a, b)
