"""How fast trackers are: one stream frame by frame, whole videos, and many streams at once."""

import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mtl_jax import tracking
from mtl_jax.benchmark.timing import compile_with, machine, medians
from mtl_jax.progress import Progress
from mtl_jax.structures import Detections
from mtl_jax.tracking.detections import table_sizes

_FRAMES = 300
_SCORE = 0.9
_PEERS = {
    "sort": "SORTTracker",
    "bytetrack": "ByteTrackTracker",
    "ocsort": "OCSORTTracker",
    "botsort": "BoTSORTTracker",
}


def run(
    objects: Sequence[int] = (7, 100, 300),
    streams: Sequence[int] = (1, 16, 64, 256),
    trackers: Sequence[str] = (),
    repeats: int = 5,
) -> dict[str, Any]:
    """Returns the time that trackers take on objects that move on straight lines, with a pixel of noise.

    Where the library `trackers` is installed, its trackers of the same names take turns with ours.

    Args:
        objects: Numbers of objects.
        streams: Numbers of streams that are followed at once, by ByteTrack, with the first number of objects.
        trackers: Names; all, if empty.
        repeats: Runs of which the median is taken.

    Returns:
        The machine; for each tracker and number of objects `step_us`, microseconds a frame, one call for each, its
        result on the host; `scan_us`, a frame of a whole video; `compile_s`, the first call of each; and of the peer
        `peer_us` and `peer_ratio`, its time over that of `step`. For each number of streams the frames a second of all
        together.

    Raises:
        ValueError: If there is no such tracker.
    """
    names = list(trackers or tracking.names())
    for name in names:
        tracking.make(name)
    cases, many = [], []
    with Progress("benchmark", len(names) * len(objects) + len(streams)) as progress:
        for name in names:
            for number in objects:
                cases.append(_one_stream(name, number, repeats))
                progress.advance()
        for number in streams:
            many.append(_many_streams(number, objects[0], repeats))
            progress.advance()
    return {
        "benchmark": "tracking",
        **machine(),
        "frames": _FRAMES,
        "repeats": repeats,
        "one_stream": cases,
        "many_streams": many,
    }


def moving_boxes(objects: int, frames: int, seed: int) -> Float[np.ndarray, "frames objects 4"]:
    """Returns boxes of objects that cross a picture of 1920 × 1080 pixels on straight lines."""
    random = np.random.default_rng(seed)
    start = random.uniform((0, 0), (1920, 1080), (objects, 2))
    speed = random.uniform(-3, 3, (objects, 2))
    half = random.uniform((15, 30), (30, 70), (objects, 2)) / 2
    center = start + speed * np.arange(frames)[:, None, None] + random.uniform(-1, 1, (frames, objects, 2))
    return np.concatenate([center - half, center + half], axis=-1).astype(np.float32)


def _one_stream(name: str, objects: int, repeats: int) -> dict[str, Any]:
    boxes = moving_boxes(objects, _FRAMES, seed=0)
    rows, capacity = table_sizes(objects)
    tracker = tracking.make(name, capacity=capacity)
    video = _padded(boxes, rows)
    frames = [jax.tree.map(lambda x, t=t: x[t], video) for t in range(_FRAMES)]

    def frame_by_frame(frames: Sequence[Detections] = frames) -> None:
        state = tracker.init()
        for frame in frames:
            state, tracks = tracker.step(state, frame)
            jax.tree.map(np.asarray, tracks)

    def whole() -> None:
        jax.block_until_ready(tracker.scan(tracker.init(), video))

    begin = time.perf_counter()
    frame_by_frame(frames[:1])
    compiled_step = time.perf_counter()
    whole()
    compiled_scan = time.perf_counter()

    functions: dict[str, Callable[[], None]] = {"step_us": frame_by_frame, "scan_us": whole}
    if name in _PEERS and importlib.util.find_spec("trackers") is not None:
        functions["peer_us"] = _peer(name, boxes)
    times = _medians(functions, repeats)
    case: dict[str, Any] = {"tracker": name, "objects": objects, "rows": rows, "capacity": capacity}
    case |= {key: 1e6 * seconds / _FRAMES for key, seconds in times.items()}
    if "peer_us" in case:
        case["peer_ratio"] = case["peer_us"] / case["step_us"]
    case["compile_s"] = {"step": compiled_step - begin, "scan": compiled_scan - compiled_step}
    return case


def _many_streams(streams: int, objects: int, repeats: int) -> dict[str, Any]:
    rows, capacity = table_sizes(objects)
    tracker = tracking.make("bytetrack", capacity=capacity)
    videos = [_padded(moving_boxes(objects, _FRAMES, seed), rows) for seed in range(streams)]
    together = jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *videos)
    states = jax.tree.map(lambda x: jnp.broadcast_to(x, (streams, *x.shape)), tracker.init())
    times = medians({"scan": compile_with(jax.vmap(tracker.scan), states, together)}, repeats)
    return {
        "streams": streams,
        "objects": objects,
        "frames_per_second": streams * _FRAMES / times["scan"] * 1e3,
    }


def _padded(boxes: Float[np.ndarray, "frames objects 4"], rows: int) -> Detections:
    frames, objects, _ = boxes.shape
    padded = np.zeros((frames, rows, 4), np.float32)
    padded[:, :objects] = boxes
    mask = np.broadcast_to(np.arange(rows) < objects, (frames, rows)).copy()
    return Detections(padded, np.where(mask, np.float32(_SCORE), 0), np.zeros((frames, rows), np.int32), mask)


def _peer(name: str, boxes: Float[np.ndarray, "frames objects 4"]) -> Callable[[], None]:
    """Returns the library's tracker, run over the same boxes."""
    import supervision as sv
    import trackers

    make = getattr(trackers, _PEERS[name])
    options = {"enable_cmc": False} if name == "botsort" else {}
    scores = np.full(boxes.shape[1], _SCORE, np.float32)
    frames = [sv.Detections(frame, confidence=scores) for frame in boxes]

    def run() -> None:
        tracker = make(**options)
        for frame in frames:
            tracker.update(frame)

    return run


def _medians(functions: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Returns the median seconds of each; they take turns, and the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values[1:]) for name, values in times.items()}
