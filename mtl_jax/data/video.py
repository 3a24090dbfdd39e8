"""Frames out of video files and folders of images, and the JPEG and PNG bytes they are stored as."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from jaxtyping import UInt8

from mtl_jax.data import jpeg, mot_format
from mtl_jax.errors import UserError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset(
    {".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"}
)
DEFAULT_FRAME_RATE = 25.0
PATIENCE = 10.0
"""Seconds that a stream may take to answer, or to go on."""

Frame = UInt8[np.ndarray, "height width 3"]


class FrameSource(NamedTuple):
    """The frames of a video, read anew each time they are iterated over.

    Attributes:
        name: Name of the file or folder, without suffix.
        frame_rate: Frames per second.
        length: Number of frames, None where the file does not tell.
        width: Width in pixels.
        height: Height in pixels.
        frames: Called to read: returns an iterator of RGB frames.
    """

    name: str
    frame_rate: float
    length: int | None
    width: int
    height: int
    frames: Callable[[], Iterator[Frame]]


def open_frames(source: str | Path, warn: Callable[[str], object] | None = None) -> FrameSource:
    """Opens a video file, a folder of images, a MOTChallenge sequence, a camera, or a stream.

    Args:
        source: A video file; a folder of images, which are taken in natural order (`2.jpg` before `10.jpg`); a folder
            with `img1/` or with one video file; the number of a camera, `0`; or an address, `rtsp://` or `http://`. The
            frame rate of images is that of a `seqinfo.ini` in the folder or the one above it, else 25.
        warn: A video that ends early or turns unreadable, or a stream that falls silent, is an error, unless this is
            given: then it is called with one line of text, and the frames end there.

    Returns:
        The frames, not yet read but for the first.

    Raises:
        UserError: Nothing is there, or it has no frames. Reading raises it where an image or video is
            damaged, or where images differ in size.
    """
    if str(source).isdigit():
        return _open_camera(int(str(source)), warn)
    if is_live(source):
        return _open_video(str(source), warn)
    path = find_frames(Path(source))
    return _open_images(path) if path.is_dir() else _open_video(path, warn)


def is_live(source: str | Path) -> bool:
    """Whether a source is a camera or an address, which may have no end."""
    return str(source).isdigit() or "://" in str(source)


def find_frames(path: Path) -> Path:
    """Returns the video file or the folder of images that holds the frames of a file, folder or sequence.

    Raises:
        UserError: There is none, or more than one video to choose from.
    """
    if not path.exists():
        raise UserError(f"{path}: not found; expected a video file or a folder of images")
    if path.is_file() or list_images(path):
        return path
    has_info = (path / "seqinfo.ini").is_file()
    inner = path / (mot_format.read_seqinfo(path).image_dir if has_info else "img1")
    if inner.is_dir() and list_images(inner):
        return inner
    videos = sorted(p for p in path.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)
    if len(videos) > 1:
        names = ", ".join(p.name for p in videos)
        raise UserError(f"{path}: holds {len(videos)} videos ({names}); name one of them")
    if not videos:
        raise UserError(f"{path}: holds neither images, nor {inner.name}/ with images, nor a video file")
    return videos[0]


def list_images(folder: Path) -> list[Path]:
    """Returns the image files in a folder, numbers in their names sorted as numbers."""
    images = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != "."]
    return sorted(images, key=lambda p: [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", p.name)])


def decode_image(data: bytes, reduction: int = 1, rows: int | None = None) -> Frame:
    """Decodes a JPEG, PNG or other image to RGB.

    Args:
        data: The file's bytes.
        reduction: 2, 4 or 8: width and height become one such part, rounded up. A JPEG is decoded at that size, which
            is faster; a pixel is about the mean of those that it stands for.
        rows: How many rows of the whole image are needed. Those below may be there or not.

    Raises:
        ValueError: The bytes are not a whole image.
    """
    # OpenCV, which yields the same pixels, takes longer; but it turns pictures as their Exif data says, and knows more
    # colour spaces.
    header = jpeg.read_header(data)
    if header is not None and not header.exif:
        with contextlib.suppress(ValueError):
            return jpeg.decode(data, header, reduction, rows)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise ValueError("not an image, or a damaged one")
    return reduce_image(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), reduction)


def reduce_image(image: Frame, reduction: int) -> UInt8[np.ndarray, "reduced_height reduced_width 3"]:
    """Returns means of squares of pixels; at the right and lower edge of what is there of them."""
    if reduction == 1:
        return image
    height, width, _ = image.shape
    beyond = (0, -height % reduction, 0, -width % reduction)
    image = cv2.copyMakeBorder(image, *beyond, cv2.BORDER_REPLICATE)
    size = (image.shape[1] // reduction, image.shape[0] // reduction)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def read_image(path: Path) -> Frame:
    """Reads an image file.

    Raises:
        UserError: It is missing or does not decode.
    """
    try:
        return decode_image(path.read_bytes())
    except ValueError:
        raise UserError(f"{path}: does not decode as an image; replace the file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def encode_jpeg(image: Frame, quality: int = 95) -> bytes:
    """Encodes an RGB image as JPEG."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def encode_png(image: UInt8[np.ndarray, "height width"] | Frame) -> bytes:
    """Encodes a grey or RGB image as PNG, without loss."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    return cv2.imencode(".png", bgr)[1].tobytes()


def _open_images(folder: Path) -> FrameSource:
    paths = list_images(folder)
    if not paths:
        raise UserError(f"{folder}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    height, width, _ = read_image(paths[0]).shape
    info = next((p for p in (folder, folder.parent) if (p / "seqinfo.ini").is_file()), None)

    def frames() -> Iterator[Frame]:
        for path in paths:
            image = read_image(path)
            if image.shape[:2] != (height, width):
                raise UserError(
                    f"{path}: is {image.shape[1]}x{image.shape[0]} pixels, but {paths[0].name} is "
                    f"{width}x{height}; all frames of a video have one size"
                )
            yield image

    return FrameSource(
        name=folder.parent.name if folder.name == "img1" else folder.name,
        frame_rate=mot_format.read_seqinfo(info).frame_rate if info else DEFAULT_FRAME_RATE,
        length=len(paths),
        width=width,
        height=height,
        frames=frames,
    )


def _open_camera(number: int, warn: Callable[[str], object] | None) -> FrameSource:
    def start() -> cv2.VideoCapture:
        # OpenCV numbers cameras on every system. What it tells of its attempts would stand beside our own message.
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            return cv2.VideoCapture(number)
        finally:
            cv2.utils.logging.setLogLevel(level)

    capture = start()
    rate, first = capture.get(cv2.CAP_PROP_FPS), capture.read()[1]
    capture.release()
    if first is None:
        raise UserError(f"camera {number}: gives no picture; check that it is there, and not in use")

    def frames() -> Iterator[Frame]:
        capture, count = start(), 0
        try:
            while (image := capture.read()[1]) is not None:
                yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                count += 1
        finally:
            capture.release()
        _end_early(f"camera {number}: gives no more pictures after frame {count}", warn)

    height, width, _ = first.shape
    return FrameSource(
        f"camera{number}", rate if rate > 0 else DEFAULT_FRAME_RATE, None, width, height, frames
    )


def _open_video(path: Path | str, warn: Callable[[str], object] | None) -> FrameSource:
    file, live = str(path), is_live(path)
    settings: dict[str, Any] = {}
    # Names and messages go further than the password in an address should.
    shown = re.sub("//[^/@]*@", "//", file)
    if live:
        # RTSP sends pictures over its own connection, where the server can: none get lost, and no firewall minds.
        settings = {"timeout": PATIENCE, "options": {"rtsp_flags": "prefer_tcp"}}
    begin = time.monotonic()
    try:
        with av.open(file, **settings) as container:
            if not container.streams.video:
                raise UserError(f"{shown}: has no video stream")
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or DEFAULT_FRAME_RATE)
            length, slack = stream.frames or None, 0
            if length is None and container.duration:
                # Matroska and others tell the duration only, from which the number of frames is an estimate.
                length = round(container.duration / av.time_base * rate)
                slack = 1 + length // 50
            first = next(_decode(container, skip=live), None)
    except (av.FFmpegError, OSError) as error:
        silent = live and time.monotonic() - begin >= PATIENCE
        reason = f"no answer within {PATIENCE:g} s" if silent else error.strerror
        raise UserError(f"{shown}: is not a readable video ({reason})") from None
    if first is None:
        raise UserError(f"{shown}: holds no frames that decode")

    def problem(count: int, what: str) -> None:
        if live:
            _end_early(f"{shown}: breaks off after frame {count}", warn)
        else:
            _end_early(
                f"{shown}: {what} after frame {count} of {length or 'an unknown number'}; "
                "the file is damaged or cut short",
                warn,
            )

    def frames() -> Iterator[Frame]:
        count = 0
        try:
            with av.open(file, **settings) as container:
                for frame in _decode(container, skip=live):
                    yield frame.to_ndarray(format="rgb24")
                    count += 1
        except av.FFmpegError:
            problem(count, "cannot be decoded")
        else:
            if length is not None and count < length - slack:
                problem(count, "ends")

    name = Path(shown.split("?")[0]).stem or "stream"
    return FrameSource(name, rate, length, first.width, first.height, frames)


def _decode(container: av.container.InputContainer, skip: bool) -> Iterator[av.VideoFrame]:
    # A stream does not end with a picture that comes damaged, or without those that it builds on: `skip` it.
    for packet in container.demux(video=0):
        try:
            yield from packet.decode()
        except av.InvalidDataError:
            if not skip:
                raise


def _end_early(message: str, warn: Callable[[str], object] | None) -> None:
    if warn is None:
        raise UserError(message)
    warn(message)
