"""Following objects in a video of one's own, or in detections of any detector: result files, annotated video, speed."""

import dataclasses
import itertools
import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtl_jax import tracking
from mtl_jax.config import TrackerConfig
from mtl_jax.data.mot_format import (
    MotRows,
    read_detections,
    read_ground_truth,
    read_seqinfo,
    write_results,
)
from mtl_jax.data.transforms import letterbox, warp
from mtl_jax.data.video import FrameSource, is_live, open_frames
from mtl_jax.errors import UserError
from mtl_jax.evaluation.mot import evaluate_tracks
from mtl_jax.inference import Predictor, Timing, average_variables, build_tracker, load_run, to_mot_rows
from mtl_jax.progress import track as progress
from mtl_jax.reporting.overlay import FrameTracks, annotate_video
from mtl_jax.signals import stop_signals
from mtl_jax.structures import Tracks
from mtl_jax.threads import ahead, beside
from mtl_jax.training.workdir import read_classes

READ_AHEAD = 8
"""Frames that wait, at most, between reading, following, and drawing."""


def track_video(
    run: Path,
    source: Path | str,
    output: Path,
    tracker: TrackerConfig | None = None,
    interpolate: int = 0,
    batch: int = 1,
) -> dict[str, Any]:
    """Follows the objects in a video with a trained run.

    Writes `NAME.txt` (MOTChallenge results), `NAME.mp4` (every object with class, identity and trail) and `NAME.json`
    (what is returned) into `output`. A video that turns unreadable is followed up to there, with a warning.

    Args:
        run: Directory of the run.
        source: A video file, a folder of images, the number of a camera, or an address; see `open_frames`. A camera
            or stream is followed until it ends or the process is interrupted.
        output: Where the files go.
        tracker: The tracker; the run's own, if not given.
        interpolate: Longest gap in a track, in frames, that is filled in the result file; 0: none is.
        batch: Frames that go to the device at once; see `Predictor.video`.

    Returns:
        Frames, tracks, and frames per second of the `detector`, the `tracker` and `both`.

    Raises:
        UserError: If the run or the video cannot be read.
    """
    experiment, state = load_run(run)
    if tracker is not None:
        experiment = experiment._replace(config=dataclasses.replace(experiment.config, tracker=tracker))
    predictor, timing = Predictor(experiment, average_variables(state)), Timing()
    video = open_frames(source, warn=_warn)
    with stop_signals() as stop:
        tracks = follow_video(
            predictor,
            video,
            experiment.config.data.image_size,
            output / f"{video.name}.mp4",
            read_classes(run),
            timing,
            batch,
            stop,
            read_ahead=0 if is_live(source) else READ_AHEAD,
        )
    rows = to_mot_rows(tracks)
    write_results(
        output / f"{video.name}.txt", tracking.interpolate(rows, interpolate) if interpolate else rows
    )
    identities = {int(i) for t in tracks for i in t.track_ids[t.mask]}
    summary = {"frames": len(tracks), "tracks": len(identities), **timing.frames_per_second()}
    (output / f"{video.name}.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def follow_video(
    predictor: Predictor,
    video: FrameSource,
    size: tuple[int, int],
    annotated: Path | None = None,
    class_names: Sequence[str] = (),
    timing: Timing | None = None,
    batch: int = 1,
    stop: threading.Event | None = None,
    read_ahead: int = READ_AHEAD,
) -> list[Tracks]:
    """Follows the objects in a video. Frames are read in a thread, and drawn and written in another one.

    Args:
        predictor: Network and tracker.
        video: The frames.
        size: Height and width of the network's input.
        annotated: MP4 file in which every object has class, identity and trail; None: none is drawn.
        class_names: Name of each class.
        timing: Counts the time spent in network and tracker.
        batch: Frames that go to the device at once.
        stop: Once it is set, no more frames are read.
        read_ahead: Frames that are read before they are asked for; 0: none, as suits what is happening just now.

    Returns:
        The tracks of each frame, boxes in pixels of the video.
    """
    affine = letterbox((video.height, video.width), size)
    waiting: deque[np.ndarray] = deque()  # frames that are read and not yet followed
    found: list[Tracks] = []

    def read() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for frame in video.frames():
            if stop is not None and stop.is_set():
                return
            yield frame, warp(frame, affine, size)

    def frames() -> Iterator[np.ndarray]:
        for frame, image in ahead(read(), read_ahead) if read_ahead else read():
            waiting.append(frame)
            yield image

    def write(pairs: Iterator[tuple[np.ndarray, FrameTracks]]) -> None:
        if annotated is not None:
            # Every frame is read once: a camera does not show it again.
            shown, again = itertools.tee(pairs)
            annotate_video(
                (frame for frame, _ in shown),
                (tracks for _, tracks in again),
                class_names,
                annotated,
                video.frame_rate,
            )
        else:
            deque(pairs, maxlen=0)

    # Who stops a camera gets what was followed so far.
    with beside(write, READ_AHEAD) as put:
        results = predictor.video(frames(), timing, batch)
        for result in progress(results, f"tracking {video.name}", video.length):
            t = result.tracks._replace(boxes=affine.inverse().boxes(np.asarray(result.tracks.boxes)))
            found.append(t)
            rows = FrameTracks(t.boxes[t.mask], t.track_ids[t.mask], t.classes[t.mask], t.scores[t.mask])
            put((waiting.popleft(), rows))
    return found


def track_detections(
    root: Path, tracker: TrackerConfig, output: Path, interpolate: int = 0
) -> dict[str, dict[str, Any]]:
    """Follows the objects in the detections of any detector, in MOTChallenge layout.

    Writes `NAME.txt`, MOTChallenge results, into `output`, for every sequence `NAME` below `root` that has
    `det/det.txt`.

    Args:
        root: Folder of sequences, or one sequence.
        tracker: The tracker. Without a capacity among its options, it has room for what the fullest frame holds.
        output: Where the result files go.
        interpolate: Longest gap in a track, in frames, that is filled on a straight line; 0: none is.

    Returns:
        `sequences`: of each its frames and the microseconds that the tracker took a frame, without compilation;
        `scores`: as `evaluate_mot`, of those sequences that have ground truth; and `compile_s`.

    Raises:
        UserError: There are no detections, a file is wrong, or the tracker is.
    """
    build_tracker(tracker)
    rows, truth, lengths = read_sequences(root)
    most = max(map(tracking.most_in_a_frame, rows.values()))
    count, capacity = tracking.table_sizes(most)
    made = build_tracker(TrackerConfig(tracker.name, {"capacity": capacity} | tracker.options))
    begin = time.perf_counter()
    tracking.follow(made, tracking.pad(next(iter(rows.values())), 1, count).detections)
    compiled = time.perf_counter() - begin

    results, sequences = {}, {}
    for name in progress(list(rows), f"tracking with {tracker.name}", len(rows)):
        detections, dropped = tracking.pad(rows[name], lengths[name], count)
        if dropped:
            _warn(f"{name}: {dropped} detections passed over; of a frame the best {count} are looked at")
        begin = time.perf_counter()
        tracks = tracking.follow(made, detections)
        seconds = time.perf_counter() - begin
        if interpolate:
            tracks = tracking.interpolate(tracks, interpolate)
        write_results(output / f"{name}.txt", tracks)
        results[name] = tracks
        sequences[name] = {"frames": lengths[name], "us_per_frame": 1e6 * seconds / max(lengths[name], 1)}
    summary: dict[str, dict[str, Any]] = {"sequences": sequences, "compile_s": {"scan": compiled}}
    if truth:
        summary["scores"] = evaluate_tracks(truth, results, lengths)
    return summary


def read_sequences(root: Path) -> tuple[dict[str, MotRows], dict[str, MotRows], dict[str, int]]:
    """Returns detections, ground truth where there is some, and number of frames of every sequence below a folder.

    Args:
        root: Folder of sequences in MOTChallenge layout, each with `det/det.txt`, or one sequence.

    Raises:
        UserError: There are no detections, two sequences have one name, or a file is wrong.
    """
    folders = sorted({path.parent.parent for path in root.rglob("det/det.txt")})
    if not folders:
        raise UserError(
            f"{root}: no sequence with det/det.txt; give a folder of sequences in MOTChallenge layout"
        )
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        again = next(name for name in names if names.count(name) > 1)
        raise UserError(
            f"{root}: two sequences are called {again}; give a folder below that holds one of them"
        )

    rows: dict[str, MotRows] = {}
    truth: dict[str, MotRows] = {}
    lengths: dict[str, int] = {}
    for name, folder in zip(names, folders, strict=True):
        info = read_seqinfo(folder) if (folder / "seqinfo.ini").exists() else None
        rows[name] = read_detections(folder / "det" / "det.txt", info, _warn)
        lengths[name] = info.length if info else int(rows[name].frames.max(initial=0))
        if (folder / "gt" / "gt.txt").exists():
            truth[name] = read_ground_truth(folder / "gt" / "gt.txt")
    return rows, truth, lengths


def _warn(line: str) -> None:
    print(f"warning: {line}")
