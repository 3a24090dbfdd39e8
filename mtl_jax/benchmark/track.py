"""How fast a video is followed from end to end: decoding, network, tracker, writing; online and in batches."""

import itertools
import statistics
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtl_jax.benchmark.timing import machine
from mtl_jax.config import Config
from mtl_jax.data import synthetic
from mtl_jax.data.datasets import dataset_path, open_dataset
from mtl_jax.data.mot_format import write_results
from mtl_jax.data.transforms import letterbox, warp
from mtl_jax.data.video import FrameSource, open_frames
from mtl_jax.inference import Predictor, Timing, average_variables, load_run, to_mot_rows
from mtl_jax.progress import Progress
from mtl_jax.reporting.overlay import FrameTracks, annotate_video
from mtl_jax.reporting.video import write_video
from mtl_jax.structures import Tracks
from mtl_jax.track import follow_video
from mtl_jax.training.loop import build_experiment
from mtl_jax.training.step import Experiment, init_state
from mtl_jax.training.workdir import read_classes

_RENDERED = 64  # frames
_FRAME_RATE = 25


def run(
    trained: Path | Config,
    source: str | None = None,
    batches: Sequence[int] = (1, 8, 32),
    frames: int = 200,
    render: tuple[int, int] = (576, 768),
    repeats: int = 3,
) -> dict[str, Any]:
    """Returns latency and throughput of following a video.

    Args:
        trained: Directory of a run; or a configuration, whose network has random weights: then what it finds, if
            anything, is noise.
        source: The video, see `open_frames`; None: one that is rendered.
        batches: Frames that go to the device at once; 1: each goes all the way before the next one is read.
        frames: Frames that are followed; a shorter video is begun again.
        render: Height and width of the rendered video.
        repeats: Runs of which medians are taken.

    Returns:
        The machine, the video, whether the weights are trained, what drawing and writing take of a frame (`write_ms`),
        and of each batch size: `latency_ms`, from when the decoder is asked for a frame until its tracks are on the
        host, with nothing else going on; `stages_ms`, where that time goes, as means over the frames, where `tracker`
        is part of `network` if the two are one call, and `rest` is transfers and calls; and `frames_per_second`, of
        what `mtl-jax track` does, with reading and drawing in threads, without and with the annotated video.

    Raises:
        UserError: If the run or the video cannot be read.
    """
    experiment, variables, names = _load(trained)
    size = experiment.config.data.image_size
    predictor = Predictor(experiment, variables)
    with tempfile.TemporaryDirectory() as folder, Progress("benchmark", len(batches)) as progress:
        if source is None:
            source = str(write_video(Path(folder) / "rendered.mp4", _render(*render), _FRAME_RATE))
            name = f"rendered {render[1]}x{render[0]}"
        else:
            name = source
        video = _repeated(open_frames(source), frames)
        cases = []
        for batch in batches:
            cases.append(
                {"batch": batch} | _case(predictor, video, size, batch, names, Path(folder), repeats)
            )
            progress.advance()
        tracks = follow_video(predictor, video, size)
        return {
            "benchmark": "track",
            **machine(),
            "source": name,
            "frame_size": [video.height, video.width],
            "image_size": list(size),
            "network": experiment.config.model.backbone,
            "inputs": experiment.config.model.inputs,
            "weights": "trained"
            if isinstance(trained, Path)
            else "random: what is found, if anything, is noise",
            "tracks_per_frame": float(np.mean([t.mask.sum() for t in tracks])),
            "frames": frames,
            "repeats": repeats,
            "write_ms": _writing(video, tracks, names, Path(folder)),
            "cases": cases,
        }


def _load(trained: Path | Config) -> tuple[Experiment, Any, Sequence[str]]:
    if isinstance(trained, Path):
        experiment, state = load_run(trained)
        return experiment, average_variables(state), read_classes(trained)
    data = trained.data
    prepared = dataset_path(data.dataset, data.data_dir).exists()
    names = open_dataset(data.dataset, data.data_dir).class_names if prepared else ("object",)
    experiment = build_experiment(trained, len(names))
    return experiment, average_variables(init_state(experiment)), names


def _case(
    predictor: Predictor,
    video: FrameSource,
    size: tuple[int, int],
    batch: int,
    names: Sequence[str],
    folder: Path,
    repeats: int,
) -> dict[str, Any]:
    few = _repeated(video, 2 * batch + 1)
    follow_video(predictor, few, size, batch=batch)  # compiles
    runs = [_online(predictor, video, size, batch) for _ in range(repeats)]
    latencies = np.concatenate([latencies for latencies, _ in runs])
    stages = {name: statistics.median(stages[name] for _, stages in runs) for name in runs[0][1]}
    speeds = defaultdict(list)
    for _ in range(repeats):
        for name, file in {"tracks": None, "annotated": folder / "annotated.mp4"}.items():
            begin = time.perf_counter()
            tracks = follow_video(predictor, video, size, file, names, batch=batch)
            write_results(folder / "tracks.txt", to_mot_rows(tracks))
            speeds[name].append(len(tracks) / (time.perf_counter() - begin))
    return {
        "latency_ms": {
            name: float(np.percentile(latencies, percent))
            for name, percent in {"median": 50, "p90": 90, "p99": 99}.items()
        },
        "stages_ms": stages,
        "frames_per_second": {name: statistics.median(values) for name, values in speeds.items()},
    }


def _online(
    predictor: Predictor, video: FrameSource, size: tuple[int, int], batch: int
) -> tuple[list[float], dict[str, float]]:
    """Returns the milliseconds from asking for each frame to its tracks; and means of the stages."""
    affine = letterbox((video.height, video.width), size)
    spent = {"decode": 0.0, "resize": 0.0}
    asked: deque[float] = deque()

    def frames() -> Iterator[np.ndarray]:
        source = video.frames()
        while True:
            asked.append(begin := time.perf_counter())
            frame = next(source, None)
            decoded = time.perf_counter()
            if frame is None:
                return
            image = warp(frame, affine, size)
            spent["decode"] += decoded - begin
            spent["resize"] += time.perf_counter() - decoded
            yield image

    timing = Timing()
    latencies = []
    for _ in predictor.video(frames(), timing, batch):
        latencies.append(1e3 * (time.perf_counter() - asked.popleft()))
    # The timing leaves the first call out, which here has nothing to compile.
    stages = {name: 1e3 * seconds / len(latencies) for name, seconds in spent.items()}
    stages["network"] = 1e3 * timing.detector / max(timing.frames, 1)
    stages["tracker"] = 1e3 * timing.tracker / max(timing.frames, 1)
    if batch == 1:
        stages["rest"] = statistics.mean(latencies) - sum(stages.values())
    return latencies, stages


def _writing(
    video: FrameSource, tracks: Sequence[Tracks], names: Sequence[str], folder: Path
) -> dict[str, float]:
    """Returns the milliseconds a frame that the result file takes, and drawing and encoding the annotated video."""
    begin = time.perf_counter()
    write_results(folder / "tracks.txt", to_mot_rows(tracks))
    written = time.perf_counter()
    shown = list(itertools.islice(video.frames(), min(len(tracks), _RENDERED)))
    rows = [
        FrameTracks(t.boxes[t.mask], t.track_ids[t.mask], t.classes[t.mask], t.scores[t.mask]) for t in tracks
    ]
    start = time.perf_counter()
    annotate_video(shown, rows[: len(shown)], names, folder / "annotated.mp4", video.frame_rate)
    end = time.perf_counter()
    return {"tracks": 1e3 * (written - begin) / len(tracks), "annotated": 1e3 * (end - start) / len(shown)}


def _render(height: int, width: int) -> Iterator[np.ndarray]:
    return iter(synthetic.render_video(synthetic.enlarged("standard", height, width), 0, _RENDERED).frames)


def _repeated(video: FrameSource, frames: int) -> FrameSource:
    """Returns a video of so many frames, which begins again where it ends."""

    def read() -> Iterator[np.ndarray]:
        again = itertools.chain.from_iterable(video.frames() for _ in itertools.count())
        return itertools.islice(again, frames)

    return video._replace(length=frames, frames=read)
