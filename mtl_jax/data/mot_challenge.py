"""TFDS builder `mot_challenge`: any folder in the layout of MOT15, MOT16, MOT17 or MOT20, own videos included.

A sequence is a folder with `seqinfo.ini`, `gt/gt.txt`, and its frames: `img1/*.jpg`, or one video file. The
source is such a folder, or holds some, or holds them in a folder `train`. Image files are stored as they are;
frames of videos as JPEG.

Rows of `gt.txt` with confidence 0, and of the classes that the benchmark neither asks for nor holds against a
detector (persons on vehicles, static persons, distractors, reflections; in MOT20 non-motor vehicles too),
become ignore regions. Pedestrians become objects. Other classes are left out.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from mtl_jax.data import mot_format, records, video
from mtl_jax.errors import UserError
from mtl_jax.progress import track

CLASSES = ("pedestrian",)
SPLIT = "train"  # what the MOTChallenge calls the sequences that come with ground truth
_PEDESTRIAN = 1
_IGNORED = (2, 7, 8, 12)
_IGNORED_MOT20 = (*_IGNORED, 6)


class MotChallenge(tfds.core.GeneratorBasedBuilder):
    """Sequences of a MOTChallenge folder; one example is one frame, in order, all in the split `train`."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "mtl-jax data prepare mot_challenge --source DIR --data-dir DATA"

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=records.features(masks=False),
            description=__doc__,
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        sources = [read_source(folder) for folder in find_sequences(Path(dl_manager.manual_dir))]
        sequences, labels, num_tracks, first = [], [], 0, 0
        for source in sources:
            info = source.info
            objects, tracks = label_frames(source.rows, info, num_tracks)
            labels.append(objects)
            num_tracks += tracks
            sequences.append(
                records.Sequence(
                    info.name,
                    SPLIT,
                    first,
                    info.length,
                    info.frame_rate,
                    info.width,
                    info.height,
                    excused=bool((source.rows.classes != _PEDESTRIAN).any()),
                )
            )
            first += info.length
        max_objects = max(len(frame.classes) for objects in labels for frame in objects)
        contents = records.Contents(CLASSES, tuple(sequences), max_objects, num_tracks)
        self.info.metadata.update(contents._asdict())
        return {SPLIT: self._generate_examples(sources, labels)}

    def _generate_examples(
        self, sources: list["Source"], labels: list[list[records.Objects]]
    ) -> Iterator[tuple[int, dict]]:
        number = 0
        for index, (source, objects) in enumerate(zip(sources, labels, strict=True)):
            name, total = source.info.name, source.info.length
            images = track(encoded_frames(source), f"reading {name}", total)
            for frame, (image, row) in enumerate(zip(images, objects, strict=True), 1):
                yield number, records.to_example(records.Record(image, index, frame, row))
                number += 1


class Source(NamedTuple):
    """A sequence as it lies on disk.

    Attributes:
        info: Its `seqinfo.ini`.
        rows: Its `gt.txt`.
        frames: Folder of images, or video file.
    """

    info: mot_format.SequenceInfo
    rows: mot_format.MotRows
    frames: Path


def find_sequences(source: Path) -> list[Path]:
    """Returns the folders of the sequences in a source.

    MOT17 has every video three times, once for each public detector; only the first is taken.

    Raises:
        UserError: There are none.
    """
    if not source.is_dir():
        raise UserError(f"{source}: not a folder; expected one that holds MOTChallenge sequences")
    if _is_sequence(source):
        return [source]
    parent = source / "train" if (source / "train").is_dir() else source
    folders = sorted(p for p in parent.iterdir() if _is_sequence(p))
    if not folders:
        raise UserError(f"{parent}: holds no sequence; expected folders with seqinfo.ini and gt/gt.txt")
    videos: dict[str, Path] = {}
    for folder in folders:
        name, _, detector = folder.name.rpartition("-")
        videos.setdefault(name if detector in ("DPM", "FRCNN", "SDP") else folder.name, folder)
    return list(videos.values())


def _is_sequence(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("seqinfo.ini", "gt", "img1"))


def read_source(folder: Path) -> Source:
    """Reads the text files of a sequence and looks whether its frames are there.

    Raises:
        UserError: A file is missing or wrong.
    """
    info = mot_format.read_seqinfo(folder)
    rows = mot_format.read_ground_truth(folder / "gt" / "gt.txt", info)
    frames = video.find_frames(folder)
    if frames.is_dir() and (found := len(video.list_images(frames))) != info.length:
        raise UserError(f"{frames}: holds {found} images, but seqLength in seqinfo.ini is {info.length}")
    return Source(info, rows, frames)


def encoded_frames(source: Source) -> Iterator[bytes]:
    """Yields the frames of a sequence as JPEG or PNG bytes, each checked to be whole and of the right size.

    Raises:
        UserError: A frame is damaged, missing, or not of the size in `seqinfo.ini`.
    """
    info, path = source.info, source.frames
    if path.is_dir():
        for image in video.list_images(path):
            _check_size(video.read_image(image), info, image)
            yield image.read_bytes()
        return
    count = 0
    for frame in video.open_frames(path).frames():
        if count == 0:
            _check_size(frame, info, path)
        if count == info.length:
            raise UserError(
                f"{path}: goes on after frame {count}, but seqLength in seqinfo.ini is {info.length}"
            )
        yield video.encode_jpeg(frame)
        count += 1
    if count < info.length:
        raise UserError(f"{path}: ends after frame {count}, but seqLength in seqinfo.ini is {info.length}")


def _check_size(image: np.ndarray, info: mot_format.SequenceInfo, path: Path) -> None:
    height, width, _ = image.shape
    if (width, height) != (info.width, info.height):
        raise UserError(
            f"{path}: is {width}x{height} pixels, but seqinfo.ini says imWidth={info.width}, imHeight={info.height}"
        )


def label_frames(
    rows: mot_format.MotRows, info: mot_format.SequenceInfo, first_track_id: int = 0
) -> tuple[list[records.Objects], int]:
    """Turns the rows of `gt.txt` into the objects and ignore regions of each frame.

    Args:
        rows: Ground truth.
        info: The sequence.
        first_track_id: Identities are numbered from here.

    Returns:
        Objects of each frame, and the number of identities.
    """
    ignored_classes = _IGNORED_MOT20 if info.name.startswith("MOT20") else _IGNORED
    ignore = (rows.confidences == 0) | np.isin(rows.classes, ignored_classes)
    velocity = _velocities(rows)
    keep = ignore | (rows.classes == _PEDESTRIAN)
    rows, ignore, velocity = mot_format.select_rows(rows, keep), ignore[keep], velocity[keep]

    identified = ~ignore & (rows.track_ids >= 0)
    known, numbers = np.unique(rows.track_ids[identified], return_inverse=True)
    track_ids = np.full(len(ignore), -1, np.int32)
    track_ids[identified] = first_track_id + numbers

    visible = np.clip(rows.boxes, 0, [info.width, info.height] * 2)
    inside = np.prod(visible[:, 2:] - visible[:, :2], axis=1) / np.prod(
        rows.boxes[:, 2:] - rows.boxes[:, :2], axis=1
    )
    labelled = records.Objects(
        boxes=rows.boxes.astype(np.float32),
        visible_boxes=visible.astype(np.float32),
        classes=np.zeros(len(ignore), np.int32),
        track_ids=track_ids,
        visibility=np.minimum(rows.visibility, inside).astype(np.float32),
        velocity=velocity.astype(np.float32),
        depth=np.full(len(ignore), -1, np.int32),
        ignore=ignore,
    )
    order = np.argsort(rows.frames, kind="stable")
    bounds = np.searchsorted(rows.frames[order], np.arange(1, info.length + 2))
    frames = [order[start:stop] for start, stop in itertools.pairwise(bounds)]
    return [records.Objects(*(column[rows] for column in labelled)) for rows in frames], len(known)


def _velocities(rows: mot_format.MotRows) -> np.ndarray:
    """Returns the motion of the centres, in pixels per frame.

    It is half the difference between the frame after and the one before; the difference to the one of them
    where there is only one; zero where there is none.
    """
    centers = (rows.boxes[:, :2] + rows.boxes[:, 2:]) / 2
    where = {key: i for i, key in enumerate(zip(rows.frames.tolist(), rows.track_ids.tolist(), strict=True))}
    velocity = np.zeros_like(centers)
    for (frame, track_id), i in where.items():
        before, after = where.get((frame - 1, track_id), i), where.get((frame + 1, track_id), i)
        steps = int(before != i) + int(after != i)
        if track_id >= 0 and steps:
            velocity[i] = (centers[after] - centers[before]) / steps
    return velocity
