"""Writing video files (PyAV); `mtl_jax.data.video` reads them."""

import itertools
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream
from jaxtyping import UInt8

from mtl_jax.errors import UserError


def write_video(
    path: Path | str, frames: Iterable[UInt8[np.ndarray, "height width 3"]], frame_rate: float | int
) -> Path:
    """Writes an MP4 that plays everywhere: H.264, or MPEG-4 where FFmpeg was built without libx264.

    The file appears under its name when it is complete, never before. Odd sizes are padded to even ones, as
    the codecs want. For a progress bar wrap the frames: `write_video(path, track(frames, "writing"), 25)`.

    Args:
        path: File to write; its folder is made.
        frames: RGB frames, all of one size; taken one by one, so a generator of any length does.
        frame_rate: Frames per second.

    Returns:
        The path.

    Raises:
        UserError: If there are no frames, or the frame rate is not positive.
    """
    path = Path(path)
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise UserError(f"{path}: there are no frames to write; check that the source video is not empty")
    if not frame_rate > 0:
        raise UserError(
            f"{path}: the frame rate is {frame_rate}; give a positive number of frames per second"
        )
    height, width, _ = first.shape
    padding = ((0, height % 2), (0, width % 2), (0, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = cast(
                VideoStream, container.add_stream(_codec(), Fraction(frame_rate).limit_denominator(1001))
            )
            stream.width, stream.height = width + width % 2, height + height % 2
            stream.pix_fmt = "yuv420p"
            stream.options = {**_QUALITY[stream.codec.name]}
            for frame in itertools.chain([first], frames):
                if frame.shape != first.shape:
                    raise ValueError(
                        f"frames of one video have one size; got {first.shape}, then {frame.shape}"
                    )
                pixels = np.pad(frame, padding, mode="edge")
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


# Visually lossless, as lines and letters of an overlay suffer first.
_QUALITY = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qscale": "3"}}


def _codec() -> str:
    return "libx264" if "libx264" in av.codecs_available else "mpeg4"
