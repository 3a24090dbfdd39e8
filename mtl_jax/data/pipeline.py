"""From stored frames to batches: the Grain pipeline for training, and whole videos in order for evaluation."""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import grain
import jax
import numpy as np
from absl import flags

from mtl_jax.config import DataConfig
from mtl_jax.data import transforms
from mtl_jax.data.datasets import Dataset, Segment, open_dataset, select
from mtl_jax.data.records import Objects
from mtl_jax.data.transforms import Affine, Clip
from mtl_jax.data.video import Frame, decode_image
from mtl_jax.errors import UserError
from mtl_jax.memory import keep_memory
from mtl_jax.structures import Batch

# Grain's threads and processes share the work out; threads of OpenCV's own would only fight with them.
cv2.setNumThreads(0)

_STRIDE = 32
_READ_AHEAD = 4  # batches


Decoder = Callable[[bytes, int, int | None], Frame]
"""Takes an image's bytes, the part of width and height at which it is wanted, and how many rows are."""


class EvaluationClip(NamedTuple):
    """A video, or part of one, to evaluate on.

    Attributes:
        segment: Which part of which video, with its name, frame rate and size.
        affine: From pixels of the video to pixels of the images; `affine.inverse().boxes(...)` leads back.
        batches: The frames in order, with their objects, in batches of `[frames, ...]`; can be read once.
    """

    segment: Segment
    affine: Affine
    batches: Iterator[Batch]


def training_pipeline(
    config: DataConfig,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    decode: Decoder = decode_image,
) -> grain.DatasetIterator:
    """Returns an endless iterator of training batches.

    Every clip of T frames that the selected segments hold is seen once an epoch, in an order that is drawn
    anew for each. The order, the gaps and the augmentation depend on the seed and the number of the clip
    only: the same batches come out whatever the number of threads, workers or processes.

    Args:
        config: What to load.
        seed: Seed of order and augmentation.
        process_index: Which of the training processes this is.
        process_count: Number of training processes. Each gets its part of every batch, in order.
        decode: Decodes images; see `decode_image`.

    Returns:
        Iterator of `Batch` with NumPy arrays of `[batch_size / process_count, clip_length, ...]`.
        `get_state()` returns a dict of plain numbers, from which `set_state()` continues bit for bit.

    Raises:
        UserError: The configuration does not fit the data.
    """
    _check(config)
    if config.batch_size % process_count:
        raise UserError(
            f"data.batch_size is {config.batch_size}; expected a multiple of {process_count} processes"
        )
    dataset = _open(config)
    loader = ClipLoader(dataset, select(dataset, config.train), config, decode)
    if len(loader) == 0:
        raise UserError(f"data.train: no video has data.clip_length={config.clip_length} frames")
    clips = grain.MapDataset.range(len(loader)).seed(seed).shuffle().repeat().random_map(loader)
    # Sharing out comes last, so that a batch over all processes is the same whatever their number.
    share = config.batch_size // process_count
    if process_count > 1:
        clips = _Share(clips, config.batch_size, process_index * share, share)
    batches = clips.batch(share, drop_remainder=True)
    if config.workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers ask for flags, which only absl's own main() parses
        options = grain.MultiprocessingOptions(num_workers=config.workers, per_worker_buffer_size=_READ_AHEAD)
        return iter(batches.to_iter_dataset(_read_options(threads=1)).mp_prefetch(options, _start_worker))
    return iter(batches.to_iter_dataset(_read_options(os.cpu_count() or 1)))


def evaluation_clips(config: DataConfig, names: tuple[str, ...], chunk: int = 32) -> Iterator[EvaluationClip]:
    """Yields videos, whole and in order, letterboxed to the network's input.

    Args:
        config: What to load; `image_size`, `max_objects`, `min_visibility` and `boxes` count here.
        names: Splits, sequences or parts of them, such as `config.validation`.
        chunk: Frames in a batch; the last one of a video may be shorter.

    Raises:
        UserError: The configuration does not fit the data.
    """
    _check(config)
    dataset = _open(config)
    for segment in select(dataset, names):
        source = segment.sequence
        affine = transforms.letterbox((source.height, source.width), config.image_size)

        def load(index: int, affine: Affine = affine) -> Batch:
            record = dataset[index]
            image = decode_image(record.image)
            clip = transforms.place_clip(Clip(image[None], [record.objects]), affine, config.image_size)
            return jax.tree.map(lambda field: field[0], _to_batch(clip, [0], config))

        frames = grain.MapDataset.range(segment.first, segment.first + segment.length).map(load)
        yield EvaluationClip(segment, affine, _read(frames.batch(chunk)))


class ClipLoader:
    """Loads and augments training clips by number; a function of the number and the random generator alone."""

    def __init__(
        self,
        dataset: Dataset,
        segments: list[Segment],
        config: DataConfig,
        decode: Decoder = decode_image,
    ):
        self._dataset = dataset
        self._config = config
        self._decode = decode
        # A clip may start wherever its frames, one apart, still fit in.
        starts = np.array([max(0, s.length - config.clip_length + 1) for s in segments], int)
        self._segments = [s for s, count in zip(segments, starts, strict=True) if count]
        self._ends = np.cumsum(starts[starts > 0])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __call__(self, index: int, rng: np.random.Generator) -> Batch:
        """Returns clip number `index`, augmented."""
        config = self._config
        augment = config.augment
        segment, start = self._locate(index)
        gaps = self._draw_gaps(segment.length - start, rng)
        clip = self._load(segment, start, gaps, rng)
        if rng.random() < augment.mosaic:
            others = (self._locate(i) for i in rng.integers(len(self), size=3).tolist())
            # Where the gaps are too wide for another clip's video, this one takes its place.
            corners = [(s, k) if s.length > sum(gaps) else (segment, start) for s, k in others]
            mosaic = transforms.mosaic(
                [self._load(*corner, gaps, rng, parts=2) for corner in [(segment, start), *corners]]
            )
            # Four clips may hold more objects than a batch has rows; then the one has to do.
            if max(len(objects.classes) for objects in mosaic.objects) <= config.max_objects:
                clip = mosaic
        clip = transforms.cutout(clip, augment.cutout, rng)
        color, blur = transforms.draw_color(augment, rng), transforms.draw_blur(augment, rng)
        return _to_batch(clip, gaps, config)._replace(color=color, blur=blur)

    def _locate(self, index: int) -> tuple[Segment, int]:
        """Returns the segment of a clip, and the place of its first frame there."""
        k = int(np.searchsorted(self._ends, index, side="right"))
        return self._segments[k], int(index - (self._ends[k - 1] if k else 0))

    def _draw_gaps(self, frames: int, rng: np.random.Generator) -> list[int]:
        """Draws how far apart the frames of a clip are, so that they fit in as many frames."""
        gaps = [0]
        for left in reversed(range(self._config.clip_length - 1)):
            room = frames - 1 - sum(gaps) - left
            gaps.append(int(rng.integers(1, min(self._config.max_gap, room) + 1)))
        return gaps

    def _load(
        self, segment: Segment, start: int, gaps: list[int], rng: np.random.Generator, parts: int = 1
    ) -> Clip:
        """Loads a clip and draws it, augmented, at one `parts`-th of the width and height of a training clip."""
        config = self._config
        target = (config.image_size[0] // parts, config.image_size[1] // parts)
        size = (config.clip_size[0] // parts, config.clip_size[1] // parts)
        places = start + np.cumsum(gaps)
        # The gaps of another clip may be too wide here: move it back.
        places = np.maximum(places - max(0, places[-1] - (segment.length - 1)), 0)
        source = segment.sequence
        frames = [self._dataset[segment.first + int(place)] for place in places]
        centers = np.concatenate([_centers(frame.objects) for frame in frames])
        shape = (source.height, source.width)
        affine = transforms.random_affine(shape, target, config.augment, rng, centers, size)
        placement = transforms.place(affine, shape, size)
        images = np.empty((len(frames), *size, 3), np.uint8)
        rows = placement.source[3] * placement.reduction
        for frame, image in zip(frames, images, strict=True):
            transforms.draw(self._decode(frame.image, placement.reduction, rows), placement, image)
        return Clip(images, [transforms.move_objects(f.objects, placement.affine, size) for f in frames])


class _Share(grain.MapDataset):
    """The part of each batch that a process has: `size` clips from `first` on, in order."""

    def __init__(self, clips: grain.MapDataset, batch_size: int, first: int, size: int):
        super().__init__(clips)
        self._batch_size, self._first, self._size = batch_size, first, size

    def __len__(self) -> int:
        return len(self.parents[0]) // self._batch_size * self._size

    def __getitem__(self, index: int) -> Batch:
        """Returns the process's clip of that number."""
        batch, place = divmod(index, self._size)
        return self.parents[0][batch * self._batch_size + self._first + place]


def _centers(objects: Objects) -> np.ndarray:
    """Returns the centres of the objects that are not to be ignored."""
    boxes = objects.boxes[~objects.ignore]
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _to_batch(clip: Clip, gaps: list[int], config: DataConfig) -> Batch:
    """Pads and masks the objects of a clip; what is hardly seen becomes an ignore region."""
    shape = (len(gaps), config.max_objects)
    batch = Batch(
        images=clip.images,
        boxes=np.zeros((*shape, 4), np.float32),
        classes=np.zeros(shape, np.int32),
        track_ids=np.full(shape, -1, np.int32),
        velocity=np.zeros((*shape, 2), np.float32),
        visibility=np.zeros(shape, np.float32),
        mask=np.zeros(shape, bool),
        ignore=np.zeros(shape, bool),
        gap=np.array(gaps, np.int32),
    )
    for t, objects in enumerate(clip.objects):
        boxes = objects.boxes if config.boxes == "amodal" else objects.visible_boxes
        has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # the visible part of a hidden object has none
        if not has_area.all():
            objects, boxes = transforms.select_objects(objects, has_area), boxes[has_area]
        rows = slice(len(boxes))
        batch.boxes[t, rows] = boxes
        for name in ("classes", "track_ids", "velocity", "visibility"):
            getattr(batch, name)[t, rows] = getattr(objects, name)
        batch.ignore[t, rows] = objects.ignore | (objects.visibility < config.min_visibility)
        batch.mask[t, rows] = ~batch.ignore[t, rows]
    return batch


def _read(batches: grain.MapDataset) -> Iterator[Batch]:
    """Reads ahead in threads, which end with the data."""
    iterator = iter(batches.to_iter_dataset(_read_options(os.cpu_count() or 1)))
    try:
        yield from iterator
    finally:
        iterator.close()


def _open(config: DataConfig) -> Dataset:
    dataset = open_dataset(config.dataset, config.data_dir)
    if dataset.max_objects > config.max_objects:
        raise UserError(
            f"data.max_objects is {config.max_objects}, but {dataset.name} has frames with {dataset.max_objects} "
            "objects and ignore regions; set it at least so high"
        )
    return dataset


def _check(config: DataConfig) -> None:
    for name in ("clip_length", "max_gap", "max_objects", "batch_size"):
        if getattr(config, name) < 1:
            raise UserError(f"data.{name} is {getattr(config, name)}; expected at least 1")
    for name, size in {"image_size": config.image_size, "crop_size": config.clip_size}.items():
        if any(side < 1 or side % _STRIDE for side in size):
            raise UserError(f"data.{name} is {size}; expected multiples of {_STRIDE}")
    if any(side > whole for side, whole in zip(config.clip_size, config.image_size, strict=True)):
        raise UserError(
            f"data.crop_size is {config.crop_size}; expected no more than data.image_size, {config.image_size}"
        )


def _start_worker(number: int, count: int) -> None:
    del number, count
    keep_memory()


def _read_options(threads: int) -> grain.ReadOptions:
    return grain.ReadOptions(num_threads=min(threads, 16), prefetch_buffer_size=max(threads, _READ_AHEAD))
