"""The arrays that travel between the packages: clips, detections, tracks.

All are pytrees of arrays with fixed shapes: what is ragged in the world (objects in a frame) is padded to a fixed
number of rows, with a `mask` that is true on the rows that exist.

**Boxes**, everywhere in this project, are `(x0, y0, x1, y1)` in continuous pixel coordinates of the image at hand:
`(0, 0)` is the outer corner of the top left pixel, `(width, height)` that of the bottom right one.
"""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int, UInt8


class Batch(NamedTuple):
    """A batch of video clips with their labels, as the input pipeline yields it and the training step takes it.

    Frames of a clip are in time order; a frame and the one before it in the clip may be more than one video frame
    apart (see `gap`). Objects have no order: the same row in two frames may be two different objects, `track_ids`
    tells.

    Attributes:
        images: RGB pixels, 0 to 255.
        boxes: Object boxes in pixels of `images`.
        classes: Class index of each object, from 0.
        track_ids: Identity of each object, unique over the whole data set, from 0; -1 where identity is not
            labelled. Rows without identity take no part in the motion and identity tasks.
        velocity: Motion of the box centre, in pixels of `images` per video frame.
        visibility: Visible fraction of each object, 0 to 1.
        mask: True on rows that hold an object to be found.
        ignore: True on rows that hold an ignore region: nothing there is right or wrong. Never true with `mask`.
        gap: Video frames between a frame and the one before it in the clip; 0 for the first.
        color: How the clip's colours are still to be changed, see `mtl_jax.data.device_augment`; None: not.
        blur: How the clip is still to be blurred; None: not.
    """

    images: UInt8[Array, "*batch time height width 3"]
    boxes: Float[Array, "*batch time objects 4"]
    classes: Int[Array, "*batch time objects"]
    track_ids: Int[Array, "*batch time objects"]
    velocity: Float[Array, "*batch time objects 2"]
    visibility: Float[Array, "*batch time objects"]
    mask: Bool[Array, "*batch time objects"]
    ignore: Bool[Array, "*batch time objects"]
    gap: Int[Array, "*batch time"]
    color: Float[Array, "*batch changes"] | None = None
    blur: Float[Array, "*batch taps"] | None = None


class Detections(NamedTuple):
    """What was found in a frame, a fixed number of rows.

    Attributes:
        boxes: Boxes in pixels.
        scores: Confidence, 0 to 1.
        classes: Class index.
        mask: True on rows that hold a detection.
        embeddings: Unit-length identity embeddings, or None where the detector has none.
        displacement: From the centre now to the centre in the previous frame, in pixels; None without a motion task.
        velocity: Motion of the centre, in pixels per frame; None without a motion task.
    """

    boxes: Float[Array, "*batch detections 4"]
    scores: Float[Array, "*batch detections"]
    classes: Int[Array, "*batch detections"]
    mask: Bool[Array, "*batch detections"]
    embeddings: Float[Array, "*batch detections features"] | None = None
    displacement: Float[Array, "*batch detections 2"] | None = None
    velocity: Float[Array, "*batch detections 2"] | None = None


class Tracks(NamedTuple):
    """What a tracker reports for a frame, a fixed number of rows.

    Attributes:
        boxes: Boxes in pixels.
        scores: Confidence, 0 to 1.
        classes: Class index.
        track_ids: Identity, from 1, never used again for another object.
        mask: True on rows that hold a track reported in this frame.
    """

    boxes: Float[Array, "*batch tracks 4"]
    scores: Float[Array, "*batch tracks"]
    classes: Int[Array, "*batch tracks"]
    track_ids: Int[Array, "*batch tracks"]
    mask: Bool[Array, "*batch tracks"]
