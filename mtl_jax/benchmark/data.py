"""How fast training data comes: the whole pipeline beside decoding alone, by decoder and number of processes."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import io
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from mtl_jax.benchmark.timing import machine
from mtl_jax.config import DataConfig
from mtl_jax.data import pipeline, synthetic
from mtl_jax.data.datasets import Dataset, open_dataset, prepare, select
from mtl_jax.data.pipeline import Decoder
from mtl_jax.data.video import Frame, decode_image, encode_jpeg
from mtl_jax.memory import keep_memory
from mtl_jax.progress import Progress
from mtl_jax.structures import Batch

_RENDERED = 48  # frames
_HELD = 64  # pictures that are decoded over and over


def decode_opencv(data: bytes, reduction: int = 1, rows: int | None = None) -> Frame:
    """Decodes a JPEG to RGB by OpenCV, at one `reduction`-th of width and height; always all rows."""
    reduced = {1: 0, 2: 16, 4: 32, 8: 64}[
        reduction
    ]  # the grey flags IMREAD_REDUCED_*; the next makes them colour
    image = cv2.imdecode(np.frombuffer(data, np.uint8), reduced | cv2.IMREAD_COLOR_RGB)
    assert image is not None, "not an image"
    return image


def decode_pillow(data: bytes, reduction: int = 1, rows: int | None = None) -> Frame:
    """Decodes a JPEG to RGB by Pillow, at one `reduction`-th of width and height; always all rows."""
    from PIL import Image

    image = Image.open(io.BytesIO(data))
    if reduction > 1:
        image.draft("RGB", (-(-image.width // reduction), -(-image.height // reduction)))
    return np.asarray(image.convert("RGB"))


DECODERS: dict[str, Decoder] = {
    "simplejpeg": decode_image,
    "opencv": decode_opencv,
    "pillow": decode_pillow,
}
"""Decoders by name; the first is the pipeline's own, which falls back on OpenCV for what is not a plain JPEG."""


def run(
    config: DataConfig,
    render: tuple[int, int] | None = None,
    decoders: Sequence[str] = (),
    workers: Sequence[int] = (),
    seconds: float = 1.0,
    repeats: int = 3,
) -> dict[str, Any]:
    """Returns frames a second of the training pipeline, and of decoding alone on as many processes.

    Both take turns in one run. Decoding alone has the pictures in memory, encoded, decodes each of them whole, and
    throws it away. Each has the same number of processes, or of threads, and none while the other's turn is.

    Args:
        config: What is loaded, and how it is varied; `workers` does not count.
        render: Height and width of frames that are rendered for this, in place of the data set.
        decoders: Names in `DECODERS`; all, if empty.
        workers: Numbers of worker processes; 0: threads, one for each core. By default 0, 1, 2, 4, ..., the cores.
        seconds: What one run takes at least.
        repeats: Runs of which the median is taken.

    Returns:
        The machine, what is loaded, and a list of `cases`: of each decoder and number of workers frames a second of
        `decode` and of `pipeline`, and `ratio`, the median ratio of two runs that followed each other. Of threads also
        the microseconds of processor time that a frame takes, which other programs on the machine disturb less, and
        `cpu_ratio`, decoding's over the pipeline's. `stages_us` is where that time goes, in one thread.

    Raises:
        ValueError: There is no such decoder.
        UserError: The configuration does not fit the data.
    """
    if unknown := set(decoders) - set(DECODERS):
        raise ValueError(f"no decoder {sorted(unknown)[0]!r}; choose from {', '.join(DECODERS)}")
    names, numbers = list(decoders or DECODERS), list(workers or _numbers_of_workers())
    with _prepared(config, render) as config, Progress("benchmark", len(names) * len(numbers)) as progress:
        dataset = open_dataset(config.dataset, config.data_dir)
        segment = select(dataset, config.train)[0]
        images = [dataset[segment.first + i].image for i in range(min(segment.length, _HELD))]
        cases = []
        for name in names:
            for number in numbers:
                case = _case(dataclasses.replace(config, workers=number), images, name, seconds, repeats)
                cases.append({"decoder": name, "workers": number} | case)
                progress.advance()
        return {
            "benchmark": "data",
            **machine(),
            "cores": _cores(),
            "dataset": f"rendered {render[1]}x{render[0]}" if render else config.dataset,
            "frame_size": [segment.sequence.height, segment.sequence.width],
            "frame_bytes": round(statistics.mean(map(len, images))),
            "clip_size": list(config.clip_size),
            "batch_frames": config.batch_size * config.clip_length,
            "repeats": repeats,
            "stages_us": _stages(config, dataset.path),
            "cases": cases,
        }


def _case(config: DataConfig, images: list[bytes], name: str, seconds: float, repeats: int) -> dict[str, Any]:
    decode = DECODERS[name]
    decoded, produced = [], []
    with _decoding(images, decode, config.workers) as decode_for:
        for _ in range(repeats):
            decoded.append(_measure(lambda: decode_for(seconds)))
            # A new one each time: one that waits goes on filling its buffers, and would slow decoding down.
            with contextlib.closing(pipeline.training_pipeline(config, 0, decode=decode)) as batches:
                next(batches)
                produced.append(_measure(functools.partial(_take_for, batches, seconds)))
    case = {
        "decode": statistics.median(side.frames_per_second for side in decoded),
        "pipeline": statistics.median(side.frames_per_second for side in produced),
        "ratio": _median_ratio(produced, decoded, "frames_per_second"),
    }
    if config.workers == 0:
        case["decode_cpu_us"] = statistics.median(side.cpu_us for side in decoded)
        case["pipeline_cpu_us"] = statistics.median(side.cpu_us for side in produced)
        case["cpu_ratio"] = _median_ratio(decoded, produced, "cpu_us")
    return case


class _Speed(NamedTuple):
    frames_per_second: float
    cpu_us: float  # of this process and all of its threads, for a frame


def _measure(work: Callable[[], int]) -> _Speed:
    """Returns the speed of something that returns its number of frames."""
    begin, cpu = time.perf_counter(), time.process_time()
    frames = work()
    return _Speed(frames / (time.perf_counter() - begin), 1e6 * (time.process_time() - cpu) / frames)


def _median_ratio(sides: Sequence[_Speed], others: Sequence[_Speed], of: str) -> float:
    pairs = zip(sides, others, strict=True)
    return statistics.median(getattr(side, of) / getattr(other, of) for side, other in pairs)


def _take_for(batches: Iterator[Batch], seconds: float) -> int:
    begin, frames = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        frames += next(batches).gap.size
    return frames


@contextlib.contextmanager
def _decoding(images: list[bytes], decode: Decoder, workers: int) -> Iterator[Callable[[float], int]]:
    """Yields a function that decodes for so many seconds, and returns how many frames all processes have done."""
    pool: concurrent.futures.Executor
    if workers:
        pool = concurrent.futures.ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), _hold, (images, decode)
        )
    else:
        _hold(images, decode)
        pool = concurrent.futures.ThreadPoolExecutor(_cores())
    number = workers or _cores()
    with pool:
        list(pool.map(_decode_for, [0.2] * number))  # starts them
        yield lambda seconds: sum(pool.map(_decode_for, [seconds] * number))


_held: tuple[list[bytes], Decoder]


def _hold(images: list[bytes], decode: Decoder) -> None:
    global _held
    _held = images, decode
    keep_memory()  # as training does


def _decode_for(seconds: float) -> int:
    images, decode = _held
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        decode(images[count % len(images)], 1, None)
        count += 1
    return count


def _stages(config: DataConfig, path: Path, clips: int = 50) -> dict[str, float]:
    """Returns the mean microseconds of the stages of one frame, in one thread, and without Grain."""
    spent = dict.fromkeys(("read", "decode"), 0.0)

    def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            begin = time.thread_time()
            result = function(*arguments)
            spent[stage] += time.thread_time() - begin
            return result

        return call

    class TimedDataset(Dataset):
        """Counts the time that reading takes."""

        __getitem__ = timed("read", Dataset.__getitem__)

    dataset = TimedDataset(path)
    loader = pipeline.ClipLoader(
        dataset, select(dataset, config.train), config, timed("decode", decode_image)
    )
    numbers = np.random.default_rng(0).integers(len(loader), size=clips).tolist()

    def load() -> float:
        begin = time.thread_time()
        for i, number in enumerate(numbers):
            loader(number, np.random.default_rng(i))
        return time.thread_time() - begin

    load()  # opens files
    spent.update(dict.fromkeys(spent, 0.0))
    total = load()
    stages = {**spent, "draw, labels": total - sum(spent.values())}
    return {name: 1e6 * seconds / (clips * config.clip_length) for name, seconds in stages.items()}


@contextlib.contextmanager
def _prepared(config: DataConfig, render: tuple[int, int] | None) -> Iterator[DataConfig]:
    """Yields the configuration; with a data set of rendered frames for as long as the block lasts, if asked for."""
    if render is None:
        yield config
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "rendered"
        _write_video(source, *render)
        with warnings.catch_warnings(action="ignore"):  # boxes reach beyond the picture, as they should
            prepare("mot_challenge/rendered", folder, source=source)
        yield dataclasses.replace(
            config, dataset="mot_challenge/rendered", data_dir=folder, train=("all",), max_objects=32
        )


def _write_video(folder: Path, height: int, width: int) -> None:
    """Writes a rendered video in the layout of the MOTChallenge."""
    video = synthetic.render_video(synthetic.enlarged("standard", height, width), 0, _RENDERED)
    for part in ("img1", "gt"):
        (folder / part).mkdir(parents=True)
    for t, frame in enumerate(video.frames, 1):
        (folder / "img1" / f"{t:06d}.jpg").write_bytes(encode_jpeg(frame))
    rows = [
        # The MOTChallenge counts pixels from 1.
        f"{t + 1},{k + 1},{x0 + 1:.2f},{y0 + 1:.2f},{x1 - x0:.2f},{y1 - y0:.2f},1,1,{video.visibility[t, k]:.3f}"
        for t, k in np.argwhere(video.present).tolist()
        for x0, y0, x1, y1 in [video.boxes[t, k].tolist()]
    ]
    (folder / "gt" / "gt.txt").write_text("\n".join(rows) + "\n")
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname={folder.name}\nimDir=img1\nframeRate=25\nseqLength={_RENDERED}\n"
        f"imWidth={width}\nimHeight={height}\nimExt=.jpg\n"
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _numbers_of_workers() -> list[int]:
    """Returns 0, 1, 2, 4, ... and the number of cores."""
    cores = _cores()
    return sorted({0, cores} | {2**i for i in range(cores.bit_length()) if 2**i <= cores})
