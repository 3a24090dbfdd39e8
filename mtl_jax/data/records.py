"""What is stored for a frame, alike in all data sets, and the table of sequences that goes with the frames."""

import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


class Sequence(NamedTuple):
    """A video of a data set.

    Attributes:
        name: Its name, unique in the data set.
        split: The split it belongs to.
        first: Index of its first frame, counted over all frames of the data set.
        length: Number of frames.
        frame_rate: Frames per second.
        width: Width of the frames in pixels.
        height: Height of the frames in pixels.
        excused: Whether a track in an ignore region is neither right nor wrong, as in MOT16 and later; MOT15 counts
            it as wrong.
    """

    name: str
    split: str
    first: int
    length: int
    frame_rate: float
    width: int
    height: int
    excused: bool = True


class Objects(NamedTuple):
    """The objects and ignore regions of a frame, in rows without order.

    Attributes:
        boxes: Amodal boxes: the whole extent, as far as it is known.
        visible_boxes: Boxes around the visible part; zero where nothing is seen.
        classes: Class index, from 0.
        track_ids: Identity, unique over the data set, from 0; -1 where it is not known, as in ignore regions.
        visibility: Visible fraction, 0 to 1.
        velocity: Motion of the centre of `boxes`, in pixels per frame.
        depth: Rank in depth among the objects of the video, 0 nearest; -1 where it is not known.
        ignore: True for regions to be ignored.
    """

    boxes: Float[np.ndarray, "objects 4"]
    visible_boxes: Float[np.ndarray, "objects 4"]
    classes: Int[np.ndarray, "objects"]
    track_ids: Int[np.ndarray, "objects"]
    visibility: Float[np.ndarray, "objects"]
    velocity: Float[np.ndarray, "objects 2"]
    depth: Int[np.ndarray, "objects"]
    ignore: Bool[np.ndarray, "objects"]


class Record(NamedTuple):
    """A stored frame.

    Attributes:
        image: JPEG or PNG bytes.
        sequence: Index of its video in the table of sequences.
        frame: Number of the frame in the video, from 1.
        objects: What is to be seen.
        masks: PNG bytes of a label map: row of `objects` + 1 where it is seen, else 0. None where there is
            none.
    """

    image: bytes
    sequence: int
    frame: int
    objects: Objects
    masks: bytes | None = None


class Contents(NamedTuple):
    """What a data set holds, kept beside the frames so that nobody has to look through them.

    Attributes:
        class_names: Names of the classes.
        sequences: The videos, in the order of their frames.
        max_objects: Most rows in a frame, ignore regions included.
        num_tracks: Number of identities.
    """

    class_names: tuple[str, ...]
    sequences: tuple[Sequence, ...]
    max_objects: int
    num_tracks: int


def features(masks: bool) -> "tfds.features.FeaturesDict":
    """Returns the TFDS features of a record, with or without the label map."""
    import tensorflow_datasets as tfds  # slow to import, and only data sets that are written need it

    image = {"image": tfds.features.Image(shape=(None, None, 3))}
    if masks:
        image["masks"] = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
    return tfds.features.FeaturesDict(
        {
            **image,
            "sequence": np.int32,
            "frame": np.int32,
            "objects": {
                "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
                "visible_boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
                "classes": tfds.features.Tensor(shape=(None,), dtype=np.int32),
                "track_ids": tfds.features.Tensor(shape=(None,), dtype=np.int32),
                "visibility": tfds.features.Tensor(shape=(None,), dtype=np.float32),
                "velocity": tfds.features.Tensor(shape=(None, 2), dtype=np.float32),
                "depth": tfds.features.Tensor(shape=(None,), dtype=np.int32),
                "ignore": tfds.features.Tensor(shape=(None,), dtype=np.bool_),
            },
        }
    )


def to_example(record: Record) -> dict[str, Any]:
    """Returns a record as the example that TFDS is given to write; images stay encoded."""
    example = record._asdict() | {"image": io.BytesIO(record.image), "objects": record.objects._asdict()}
    masks = example.pop("masks")
    return example if masks is None else example | {"masks": io.BytesIO(masks)}


def from_bytes(data: bytes) -> Record:
    """Returns a record from the bytes that TFDS has stored; images stay encoded.

    TFDS would do it, too, but takes three times as long to find out for each frame what is here known of all.
    """
    from tensorflow_datasets.proto import tf_example_pb2

    fields = tf_example_pb2.Example.FromString(data).features.feature

    def column(name: str, dtype: type, *shape: int) -> np.ndarray:
        field = fields[f"objects/{name}"]
        values = field.float_list.value if dtype is np.float32 else field.int64_list.value
        array: np.ndarray = np.array(values, dtype)
        return array.reshape(-1, *shape) if shape else array

    return Record(
        image=fields["image"].bytes_list.value[0],
        sequence=fields["sequence"].int64_list.value[0],
        frame=fields["frame"].int64_list.value[0],
        objects=Objects(
            boxes=column("boxes", np.float32, 4),
            visible_boxes=column("visible_boxes", np.float32, 4),
            classes=column("classes", np.int32),
            track_ids=column("track_ids", np.int32),
            visibility=column("visibility", np.float32),
            velocity=column("velocity", np.float32, 2),
            depth=column("depth", np.int32),
            ignore=column("ignore", np.bool_),
        ),
        masks=fields["masks"].bytes_list.value[0] if "masks" in fields else None,
    )
