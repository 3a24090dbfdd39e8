"""Preparing data sets, opening them, and picking videos and parts of videos from them."""

import contextlib
import errno
import io
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, SupportsIndex

import tensorflow_datasets as tfds

from mtl_jax.data import records, synthetic
from mtl_jax.data.mot_challenge import MotChallenge, find_sequences
from mtl_jax.data.moving_objects import MovingObjects
from mtl_jax.errors import UserError

BUILDERS: dict[str, type[tfds.core.GeneratorBasedBuilder]] = {
    "moving_objects": MovingObjects,
    "mot_challenge": MotChallenge,
}
_DEFAULT_CONFIGS = {"moving_objects": "quickstart", "mot_challenge": "default"}


class Dataset:
    """A prepared data set: its contents, and its frames by index, still encoded.

    Attributes:
        path: Folder of the data set.
        name: `builder/config`.
        class_names: Names of the classes.
        sequences: The videos.
        max_objects: Most rows in a frame, ignore regions included.
        num_tracks: Number of identities.
    """

    def __init__(self, path: Path):
        self.path = path
        self.name = f"{path.parts[-3]}/{path.parts[-2]}"
        try:
            builder = tfds.builder_from_directory(path)
            contents = records.Contents(**builder.info.metadata)
        except (OSError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: not a whole data set; delete it and prepare it anew ({error})"
            ) from error
        self.class_names = tuple(contents.class_names)
        self.sequences = tuple(records.Sequence(*s) for s in contents.sequences)
        self.max_objects = contents.max_objects
        self.num_tracks = contents.num_tracks
        splits = dict.fromkeys(s.split for s in self.sequences)  # in the order of the indices
        self._source = builder.as_data_source(
            "+".join(splits), deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> records.Record:
        return records.from_bytes(self._source[index])

    def __reduce__(self):
        return Dataset, (self.path,)  # worker processes open the files themselves


class Segment(NamedTuple):
    """Frames of a video that follow one another.

    Attributes:
        name: Name of the video, with the frame numbers if this is not all of it.
        sequence: The video.
        first: Index of the first frame in the data set.
        length: Number of frames.
        first_frame: Number of the first frame in the video, from 1.
    """

    name: str
    sequence: records.Sequence
    first: int
    length: int
    first_frame: int


def prepare(dataset: str, data_dir: str | Path, source: str | Path | None = None) -> Dataset:
    """Writes a data set to disk, where `open_dataset` finds it.

    Nothing is left behind where this fails or is interrupted; simply call it again.

    Args:
        dataset: `moving_objects/PRESET`, or `mot_challenge/NAME` with a name of your own.
        data_dir: Folder of all prepared data sets.
        source: For `mot_challenge`: the folder of the sequences.

    Returns:
        The data set.

    Raises:
        UserError: The source has a mistake, the disk is full, or the data set is there already.
    """
    builder_name, config = _parse_name(dataset)
    path = dataset_path(dataset, data_dir)
    if builder_name == "moving_objects":
        if source is not None:
            raise UserError("moving_objects makes its own videos; leave --source out")
        if path.exists():
            return Dataset(path)
    else:
        if path.exists():
            raise UserError(f"{path}: is prepared already; delete this folder, or choose another --name")
        if source is None:
            raise UserError("mot_challenge: --source is missing; give the folder of the sequences")
        find_sequences(Path(source))  # before TFDS complains in its own words
        config = tfds.core.BuilderConfig(name=config)
    try:
        with _quiet_tfds(), tempfile.TemporaryDirectory() as downloads:
            builder = BUILDERS[builder_name](
                data_dir=Path(data_dir).expanduser(), config=config, file_format="array_record"
            )
            builder.download_and_prepare(
                download_dir=downloads, download_config=tfds.download.DownloadConfig(manual_dir=source)
            )
    except (OSError, RuntimeError) as error:
        # ArrayRecord's writer has the operating system's message in a RuntimeError.
        if any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT)):
            raise UserError(f"{data_dir}: the disk is full; make room, or give another --data-dir") from error
        if isinstance(error, OSError):
            raise UserError(f"{error.filename or data_dir}: {error.strerror or error}") from error
        raise
    return Dataset(path)


def open_dataset(dataset: str, data_dir: str | Path) -> Dataset:
    """Opens a data set; rendered ones are prepared first where they are not there yet.

    Args:
        dataset: `builder` or `builder/config`.
        data_dir: Folder of all prepared data sets.

    Raises:
        UserError: There is no such data set, or it has not been prepared.
    """
    builder_name, config = _parse_name(dataset)
    path = dataset_path(dataset, data_dir)
    if not path.exists():
        if builder_name != "moving_objects":
            name = "" if config == _DEFAULT_CONFIGS[builder_name] else f" --name {config}"
            raise UserError(
                f"{path}: not prepared; run `mtl-jax data prepare {builder_name} --source DIR{name} "
                f"--data-dir {data_dir}`"
            )
        return prepare(dataset, data_dir)
    return Dataset(path)


def dataset_path(dataset: str, data_dir: str | Path) -> Path:
    """Returns the folder of a data set, prepared or not."""
    builder_name, config = _parse_name(dataset)
    return Path(data_dir).expanduser() / builder_name / config / str(BUILDERS[builder_name].VERSION)


def select(dataset: Dataset, names: Iterable[str]) -> list[Segment]:
    """Picks videos and parts of videos.

    Args:
        dataset: The data set.
        names: Names of splits (`all` for everything), of sequences, or `SEQUENCE[first:last]` with frame
            numbers from 1, the last included.

    Returns:
        The segments, in the order of the names.

    Raises:
        UserError: There is no such split, sequence or frame.

    Example:
        >>> select(dataset, ["TUD-Campus", "PETS09-S2L1[551:795]"])
    """
    segments = []
    for name in names:
        part = re.fullmatch(r"(.+)\[(\d+):(\d+)\]", name)
        wanted = part[1] if part else name
        found = [s for s in dataset.sequences if s.name == wanted]
        if not found and not part:
            found = [s for s in dataset.sequences if name in (s.split, "all")]
        if not found:
            splits = ", ".join(dict.fromkeys(s.split for s in dataset.sequences))
            sequences = ", ".join(s.name for s in dataset.sequences[:20])
            more = ", ..." if len(dataset.sequences) > 20 else ""
            raise UserError(
                f"{dataset.name} has no {wanted!r}; it has the splits {splits} and the sequences {sequences}{more}"
            )
        for sequence in found:
            first, last = (int(part[2]), int(part[3])) if part else (1, sequence.length)
            if not 1 <= first <= last <= sequence.length:
                raise UserError(f"{name}: {sequence.name} has the frames 1 to {sequence.length}")
            whole = (first, last) == (1, sequence.length)
            label = sequence.name if whole else f"{sequence.name}-{first}-{last}"
            segments.append(Segment(label, sequence, sequence.first + first - 1, last - first + 1, first))
    return segments


def _parse_name(dataset: str) -> tuple[str, str]:
    """Returns the builder's and the configuration's name."""
    builder_name, _, config = dataset.partition("/")
    if builder_name not in BUILDERS:
        raise UserError(f"no data set {dataset!r}; expected one of {', '.join(BUILDERS)}, or BUILDER/CONFIG")
    config = config or _DEFAULT_CONFIGS[builder_name]
    if builder_name == "moving_objects" and config not in synthetic.PRESETS:
        raise UserError(f"moving_objects has no {config!r}; it has {', '.join(synthetic.PRESETS)}")
    if not re.fullmatch(r"[\w.-]*\w[\w.-]*", config):
        raise UserError(f"{config!r} is no name for a data set; use letters, digits, '_', '-' and '.'")
    return builder_name, config


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Keeps TFDS from announcing downloads of unknown size; the builders show progress of their own."""
    tfds.disable_progress_bar()
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        log.setLevel(level)
