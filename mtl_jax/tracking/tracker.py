"""What all trackers share: a pure function from a state and a frame's detections to the next state and tracks.

In each frame a tracker predicts where its tracks are, matches detections to them, brings those up to date, forgets who
was unseen for too long, and starts tracks from detections that are left. A track is *tentative* until it was seen often
enough, then *confirmed*; a confirmed track that is not seen is *lost*, and after a time *removed*. The trackers differ
in how they match, which each says in a file of its own.
"""

import abc
import dataclasses
import functools
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtl_jax.structures import Detections, Tracks
from mtl_jax.tracking import costs, kalman
from mtl_jax.tracking.assignment import assign

Match = Int[Array, " tracks"]
"""For each track the row of its detection, or -1."""
_Table = TypeVar("_Table", Tracks, Detections)


class TrackerState(NamedTuple):
    """All that a tracker remembers, in a fixed number of rows.

    Attributes:
        track_ids: Identity of the track in each row; 0 where the row is free.
        classes: Class index.
        motion: Belief about box and velocity.
        scores: Score of the detection in which it was seen last.
        boxes: Box of that detection.
        embeddings: Moving average of the embeddings, of unit length.
        hits: Frames in which the track was seen; what counts is up to the tracker.
        missed: Frames since it was last seen.
        born: Frame in which it was first seen.
        frame: Frames so far.
        next_id: Identity of the next new track.
        memory: What one kind of tracker remembers beside.
    """

    track_ids: Int[Array, " tracks"]
    classes: Int[Array, " tracks"]
    scores: Float[Array, " tracks"]
    motion: kalman.KalmanState
    boxes: Float[Array, "tracks 4"]
    embeddings: Float[Array, "tracks features"]
    hits: Int[Array, " tracks"]
    missed: Int[Array, " tracks"]
    born: Int[Array, " tracks"]
    frame: Int[Array, ""]
    next_id: Int[Array, ""]
    memory: Any = ()

    @property
    def alive(self) -> Bool[Array, " tracks"]:
        """True on rows that hold a track."""
        return self.track_ids > 0


@dataclasses.dataclass(frozen=True)
class Tracker(abc.ABC):
    """A tracker with its options; holds no state, so one object serves any number of videos.

    Example:
        ```python
        tracker = tracking.make("bytetrack", capacity=64)
        state = tracker.init()
        state, tracks = tracker.step(state, detections)  # one frame
        state, tracks = tracker.scan(tracker.init(), video)  # detections with a leading time axis
        state, tracks = jax.vmap(tracker.scan)(states, videos)  # many videos
        ```
    """

    capacity: int = 256
    """Tracks that can be alive at once."""
    high_score: float = 0.6
    """Detections from here on count; where there are turns, these take part in the first."""
    new_score: float = 0.7
    """Detections from here on start a track when unmatched."""
    max_lost: int = 30
    """Frames a lost track is kept."""
    min_hits: int = 2
    """Frames in which a track is seen before it is confirmed."""
    match_classes: bool = True
    """Associate only within a class."""
    duplicate_iou: float = 1.0
    """A detection that overlaps a better one by more than this, of whatever class, is passed over; 1: none is."""
    camera_motion: bool = False
    """Whether the camera's motion is estimated from the frames of a video; not where there are detections alone."""
    report: Literal["filtered", "detected"] = "filtered"
    """Box of a track that is seen: `filtered`, what the filter believes, which is steadier, or `detected`."""

    @property
    def space(self) -> kalman.Space:
        """Which four numbers of a box its filter follows, and with what noise."""
        return kalman.center_size()

    def init(self, features: int = 0) -> TrackerState:
        """Returns the state before the first frame.

        Args:
            features: Length of the detections' embeddings; 0 where they have none.
        """
        rows = self.capacity
        nothing = jnp.zeros(rows, jnp.int32)
        return TrackerState(
            track_ids=nothing,
            classes=nothing,
            scores=jnp.zeros(rows),
            motion=kalman.start(self.space, jnp.zeros((rows, 4))),
            boxes=jnp.zeros((rows, 4)),
            embeddings=jnp.zeros((rows, features)),
            hits=nothing,
            missed=nothing,
            born=nothing,
            frame=jnp.zeros((), jnp.int32),
            next_id=jnp.ones((), jnp.int32),
            memory=self._remember(jnp.zeros((rows, 4))),
        )

    @functools.partial(jax.jit, static_argnums=0)
    def step(
        self, state: TrackerState, detections: Detections, camera: Float[Array, "2 3"] | None = None
    ) -> tuple[TrackerState, Tracks]:
        """Follows the objects into one more frame.

        Args:
            state: State after the frame before.
            detections: Detections of the frame, in any order. Rows that are not finite are passed over.
            camera: Map from the pixels of the frame before to those of this one, where the camera moved.

        Returns:
            The state, and the confirmed tracks that were seen in this frame.
        """
        return self._step(state, detections, camera)

    @functools.partial(jax.jit, static_argnums=0)
    def scan(
        self, state: TrackerState, video: Detections, camera: Float[Array, "time 2 3"] | None = None
    ) -> tuple[TrackerState, Tracks]:
        """Follows the objects through a video: `step` for each frame.

        Args:
            state: State before the first frame.
            video: Detections with a leading time axis. Frames without detections at the end do no harm, so videos
                can be padded to one length.
            camera: For each frame the map from the pixels of the one before.

        Returns:
            The state after the last frame, and tracks with a leading time axis.
        """
        return self._scan(state, video, camera)

    @abc.abstractmethod
    def _match(self, state: TrackerState, detections: Detections) -> Match:
        """Returns the row of each track's detection in this frame; the tracks are where they are predicted."""

    def _boxes(self, state: TrackerState) -> Float[Array, "tracks 4"]:
        """Returns where the tracks are believed to be."""
        return self.space.to_boxes(state.motion.position)

    def _predict(self, state: TrackerState) -> kalman.KalmanState:
        """Returns the tracks' motion one frame later."""
        return kalman.predict(self.space, state.motion)

    def _refine(
        self, state: TrackerState, detections: Detections, match: Match
    ) -> tuple[kalman.KalmanState, Any]:
        """Returns motion and memory of the tracks after each saw the detection it is matched with, if it is."""
        seen = kalman.update(self.space, state.motion, detections.boxes[match])
        return kalman.where(match >= 0, seen, state.motion), state.memory

    def _remember(self, boxes: Float[Array, "tracks 4"]) -> Any:
        """Returns what tracks that start with these boxes remember beside."""
        return ()

    def _confirmed(self, state: TrackerState) -> Bool[Array, " tracks"]:
        """Returns which tracks are believed."""
        return state.alive & (state.hits >= self.min_hits)

    def _kept(self, state: TrackerState) -> Bool[Array, " tracks"]:
        """Returns which tracks live on after a frame: confirmed ones for a while, others only where they are seen."""
        return (state.missed == 0) | (self._confirmed(state) & (state.missed <= self.max_lost))

    def _first_hits(self, frame: Int[Array, ""]) -> Int[Array, ""]:
        """Returns the hits of a new track. In the first frame there was no chance to be seen before: it is believed."""
        return jnp.where(frame == 1, self.min_hits, 1)

    def _scan(
        self, state: TrackerState, video: Detections, camera: Float[Array, "time 2 3"] | None = None
    ) -> tuple[TrackerState, Tracks]:
        return jax.lax.scan(lambda state, frame: self._step(state, *frame), state, (video, camera))

    def _step(
        self, state: TrackerState, detections: Detections, camera: Float[Array, "2 3"] | None
    ) -> tuple[TrackerState, Tracks]:
        detections = distinct(finite(detections), self.duplicate_iou)
        state = state._replace(motion=self._predict(state), frame=state.frame + 1)
        if camera is not None:
            state = state._replace(motion=self._warp(state.motion, camera))
        match = self._match(state, detections)
        state = self._follow(state, detections, match)
        state, match = self._begin(state, detections, match)
        state = self._tidy(state)

        reported = self._confirmed(state) & (state.missed == 0)
        tracks = Tracks(
            boxes=state.boxes if self.report == "detected" else self._boxes(state),
            scores=state.scores,
            classes=state.classes,
            track_ids=state.track_ids,
            mask=reported,
        )
        return state, only(reported, tracks)

    def _warp(self, motion: kalman.KalmanState, camera: Float[Array, "2 3"]) -> kalman.KalmanState:
        if not self.space.affine:
            raise ValueError(
                f"{type(self).__name__}: cannot follow a moving camera; use a tracker that can, such as botsort"
            )
        return kalman.warp(motion, camera)

    def _follow(self, state: TrackerState, detections: Detections, match: Match) -> TrackerState:
        """Brings each track up to date with its detection, and forgets those that went unseen for too long."""
        motion, memory = self._refine(state, detections, match)
        state = state._replace(motion=motion, memory=memory)
        seen = state._replace(
            classes=detections.classes[match],
            scores=detections.scores[match],
            boxes=detections.boxes[match],
            embeddings=self._blend(state, detections, match),
            hits=state.hits + 1,
            missed=jnp.zeros_like(state.missed),
        )
        state = where(match >= 0, seen, state._replace(missed=state.missed + 1))
        return state._replace(track_ids=jnp.where(self._kept(state), state.track_ids, 0))

    def _tidy(self, state: TrackerState) -> TrackerState:
        """Returns the state at the end of a frame, without tracks that should not be there."""
        return state

    def _blend(self, state: TrackerState, detections: Detections, match: Match) -> Float[Array, "tracks _"]:
        """Returns the tracks' embeddings after each saw its detection's."""
        return state.embeddings

    def _begin(self, state: TrackerState, detections: Detections, match: Match) -> tuple[TrackerState, Match]:
        """Starts tracks from the detections left over, the best first, in free rows, then in those longest lost."""
        rows = detections.mask.shape[0]
        wanted = detections.mask & (detections.scores >= self.new_score) & ~taken(match, rows)
        candidates = jnp.argsort(jnp.where(wanted, -detections.scores, jnp.inf))
        places = jnp.argsort(jnp.where(state.alive, -state.missed, jnp.iinfo(jnp.int32).min))

        count = min(rows, self.capacity)
        candidates, places = candidates[:count], places[:count]
        starts = wanted[candidates] & (match[places] < 0)
        places = jnp.where(starts, places, self.capacity)
        match = match.at[places].set(candidates, mode="drop")
        new = jnp.zeros(self.capacity, bool).at[places].set(True, mode="drop")

        ids = state.next_id + jnp.cumsum(starts, dtype=jnp.int32) - 1
        boxes = detections.boxes[match]
        started = state._replace(
            track_ids=state.track_ids.at[places].set(ids, mode="drop"),
            classes=detections.classes[match],
            scores=detections.scores[match],
            motion=kalman.start(self.space, boxes),
            boxes=boxes,
            embeddings=state.embeddings if detections.embeddings is None else detections.embeddings[match],
            hits=jnp.broadcast_to(self._first_hits(state.frame), state.hits.shape).astype(jnp.int32),
            missed=jnp.zeros_like(state.missed),
            born=jnp.broadcast_to(state.frame, state.born.shape),
            memory=self._remember(boxes),
        )
        return where(new, started, state)._replace(next_id=state.next_id + starts.sum(dtype=jnp.int32)), match


@dataclasses.dataclass(frozen=True)
class Turns:
    """Matching in turns: each assigns what the turns before left over.

    Attributes:
        possible: Pairs of a living track and a detection that may belong together at all.
        match: What is matched so far.
    """

    possible: Bool[Array, "tracks detections"]
    match: Match

    @classmethod
    def begin(cls, state: TrackerState, detections: Detections, match_classes: bool) -> "Turns":
        """Returns the matching before the first turn."""
        possible = detections.mask[None, :] & state.alive[:, None]
        if match_classes:
            possible &= costs.same_class(state.classes, detections.classes)
        return cls(possible, jnp.full(len(state.alive), -1, jnp.int32))

    def turn(
        self,
        tracks: Bool[Array, " tracks"],
        candidates: Bool[Array, " detections"],
        similarity: Float[Array, "tracks detections"],
        least: Float[Array, "tracks detections"] | float,
    ) -> "Turns":
        """Returns the matching after one more turn: the best assignment of what is at least so similar.

        `maximise Σ (similarity - least)`, as in assignment with a limit on the cost: a pair at the limit is worth
        nothing, so that two poor pairs do not stand against a good one.

        Args:
            tracks: Which tracks take part, of those that have no detection yet.
            candidates: Which detections take part, of those that have no track yet.
            similarity: Of every pair.
            least: Below this, pairs are not made.
        """
        allowed = self.open(tracks, candidates)
        return dataclasses.replace(
            self, match=jnp.maximum(self.match, assign(similarity - least, allowed).astype(jnp.int32))
        )

    def open(
        self, tracks: Bool[Array, " tracks"], candidates: Bool[Array, " detections"]
    ) -> Bool[Array, "tracks detections"]:
        """Returns the pairs of tracks without a detection and detections without a track."""
        tracks = tracks & (self.match < 0)
        candidates = candidates & ~taken(self.match, len(candidates))
        return self.possible & tracks[:, None] & candidates[None, :]


def finite(detections: Detections) -> Detections:
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
    return only(usable, detections._replace(mask=usable))


def distinct(detections: Detections, duplicate_iou: float) -> Detections:
    """Takes rows out that overlap a better one, of whatever class: an object is where it is but once.

    All in one go: what overlaps a better row goes, whether that one stays or not.

    Reference: Bolya et al., "YOLACT", ICCV 2019 (arXiv:1904.02689), for suppressing in one go.
    """
    if duplicate_iou >= 1:
        return detections
    scores = jnp.where(detections.mask, detections.scores, -jnp.inf)
    order = jnp.arange(len(scores))
    better = (scores[:, None] > scores) | ((scores[:, None] == scores) & (order[:, None] < order))
    again = jnp.any(better & (costs.overlap(detections.boxes, detections.boxes) > duplicate_iou), axis=0)
    stays = detections.mask & ~again
    return only(stays, detections._replace(mask=stays))


def taken(match: Match, rows: int) -> Bool[Array, " detections"]:
    """Returns which of the detections have a track."""
    return jnp.zeros(rows, bool).at[jnp.where(match >= 0, match, rows)].set(True, mode="drop")


def only(mask: Bool[Array, " n"], table: _Table) -> _Table:
    """Returns the rows with zeros, or false, where the mask is not true."""
    return jax.tree.map(lambda x: jnp.where(_rows(mask, x), x, jnp.zeros_like(x)), table)


def where(mask: Bool[Array, " tracks"], a: TrackerState, b: TrackerState) -> TrackerState:
    """Returns the rows of `a` where the mask is true, else those of `b`; what is not in rows is the same in both."""
    return jax.tree.map(lambda x, y: jnp.where(_rows(mask, x), x, y) if x.ndim else x, a, b)


def _rows(mask: Bool[Array, " n"], like: Array) -> Array:
    return mask.reshape(mask.shape + (1,) * (like.ndim - 1))
