import functools
import http.server
import threading
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from mtl_jax.data import video
from mtl_jax.errors import UserError
from tests.data import rtsp

LENGTH = 12


def frame(t: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Returns a frame whose red tells its number, and whose green and blue tell the channels' order."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:] = (20 * t, 100, 30)
    return image


def write_video(path: Path, codec: str = "mjpeg", pixels: str = "yuvj444p") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, 10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for t in range(LENGTH):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame(t), format="rgb24")))
        container.mux(stream.encode())
    return path


def write_images(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True)
    for t, name in enumerate(names):
        (folder / name).write_bytes(video.encode_png(frame(t)))
    return folder


def numbers(source: video.FrameSource) -> list[int]:
    return [round(image[..., 0].mean() / 20) for image in source.frames()]


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mjpeg"), ("a.mkv", "mjpeg"), ("a.mp4", "mpeg4")])
def test_video_file(tmp_path, name, codec):
    pixels = "yuvj444p" if codec == "mjpeg" else "yuv420p"
    source = video.open_frames(write_video(tmp_path / name, codec, pixels))
    assert (source.name, source.width, source.height, source.length) == ("a", 64, 48, LENGTH)
    assert source.frame_rate == pytest.approx(10)
    assert numbers(source) == list(range(LENGTH))
    assert numbers(source) == list(range(LENGTH))  # may be read again
    assert np.abs(next(source.frames()).astype(int) - frame(0)).max() < 12


def test_images_are_taken_in_natural_order(tmp_path):
    folder = write_images(tmp_path / "clip", ["1.png", "2.png", "10.png", "11.png"])
    source = video.open_frames(folder)
    assert (source.name, source.length, source.frame_rate) == ("clip", 4, 25.0)
    assert numbers(source) == [0, 1, 2, 3]


def test_mot_sequences(tmp_path):
    folder = write_images(tmp_path / "A" / "img1", ["1.png", "2.png"]).parent
    (folder / "seqinfo.ini").write_text(
        "[Sequence]\nframeRate=7\nseqLength=2\nimWidth=64\nimHeight=48\nimDir=img1\n"
    )
    assert video.open_frames(folder)[:3] == ("A", 7.0, 2)
    (tmp_path / "B").mkdir()
    write_video(tmp_path / "B" / "B.avi")
    assert video.open_frames(tmp_path / "B").length == LENGTH
    write_video(tmp_path / "B" / "C.avi")
    with pytest.raises(UserError, match=r"holds 2 videos \(B.avi, C.avi\)"):
        video.open_frames(tmp_path / "B")


def test_truncated_video(tmp_path):
    path = write_video(tmp_path / "a.avi")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"a\.avi: \D+ after frame \d of 12; .* cut short"):
        list(video.open_frames(path).frames())
    warnings = []
    seen = numbers(video.open_frames(path, warn=warnings.append))
    assert 0 < len(seen) < LENGTH
    assert len(warnings) == 1
    assert f"after frame {len(seen)} of 12" in warnings[0]


def test_truncated_video_of_estimated_length(tmp_path):
    path = write_video(tmp_path / "a.mkv")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"a\.mkv: \D+ after frame \d of 12"):
        list(video.open_frames(path).frames())


def test_damaged_image_is_named(tmp_path):
    folder = write_images(tmp_path / "clip", ["1.png", "2.png", "3.png"])
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:60])
    frames = video.open_frames(folder).frames()
    next(frames)
    with pytest.raises(UserError, match=r"2\.png: does not decode"):
        next(frames)


def test_images_of_different_sizes(tmp_path):
    folder = write_images(tmp_path / "clip", ["1.png"])
    (folder / "2.png").write_bytes(video.encode_png(frame(0, width=32)))
    with pytest.raises(UserError, match=r"2\.png: is 32x48 pixels, but 1\.png is 64x48"):
        list(video.open_frames(folder).frames())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.mp4", None, "not found"),
        ("text.mp4", b"no video", "not a readable video"),
        ("empty.mp4", b"", "not a readable video"),
        ("empty_folder/readme.txt", b"x", "holds neither images, nor img1/ with images, nor a video file"),
    ],
)
def test_what_is_no_video(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        video.open_frames(path.parent if "/" in name else path)


def test_encoded_images(tmp_path):
    image = np.random.default_rng(0).integers(256, size=(20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(video.decode_image(video.encode_png(image)), image)
    smooth = frame(5)
    assert np.abs(video.decode_image(video.encode_jpeg(smooth)).astype(int) - smooth).max() <= 3
    for data in (b"", b"text", video.encode_jpeg(image)[:200]):
        with pytest.raises(ValueError, match="not an image"):
            video.decode_image(data)


def test_real_video(shared_data):
    source = video.open_frames(shared_data / "mot" / "TUD-Campus")
    assert (source.length, source.width, source.height) == (71, 640, 480)
    assert sum(1 for _ in source.frames()) == 71


def test_address_of_a_stream(tmp_path):
    write_video(tmp_path / "a.avi")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a.avi?token=1"
        source = video.open_frames(address)
        assert (source.name, source.width, source.height) == ("a", 64, 48)
        assert numbers(source) == list(range(LENGTH))
        with pytest.raises(UserError, match=r"b\.avi.* is not a readable video"):
            video.open_frames(address.replace("a.avi", "b.avi"))
        server.shutdown()


@pytest.mark.parametrize(("transport", "end"), [("tcp", "bye"), ("tcp", "lost"), ("udp", "lost")])
def test_rtsp(transport, end):
    with rtsp.serve([frame(t) for t in range(LENGTH)], transport=transport, end=end) as address:
        source = video.open_frames(address.replace("//", "//me:secret@"))
        assert source[:5] == ("live", 10.0, None, 64, 48)
        assert numbers(source) == list(range(LENGTH))


def test_rtsp_goes_on_after_a_damaged_frame():
    with rtsp.serve([frame(t) for t in range(LENGTH)], damaged=5) as address:
        seen = numbers(video.open_frames(address))
    assert seen[:5] + seen[-4:] == [0, 1, 2, 3, 4, 8, 9, 10, 11]


def test_rtsp_that_stalls(monkeypatch):
    monkeypatch.setattr(video, "PATIENCE", 0.5)
    with rtsp.serve([frame(t) for t in range(LENGTH)], end="stalled") as address:
        warnings = []
        assert numbers(video.open_frames(address, warn=warnings.append)) == list(range(LENGTH))
        assert warnings == [f"{address}: breaks off after frame 12"]
        with pytest.raises(UserError, match="breaks off after frame 12"):
            numbers(video.open_frames(address))


def test_server_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(video, "PATIENCE", 0.5)
    with rtsp.serve([frame(0)], end="silent") as address:
        for kind in ("rtsp", "http"):
            secret = address.replace("rtsp://", f"{kind}://me:secret@")
            with pytest.raises(UserError) as caught:
                video.open_frames(secret)
            message = f"{kind}{address[4:]}: is not a readable video (no answer within 0.5 s)"
            assert str(caught.value) == message
    with pytest.raises(UserError, match=r"rtsp://\S+: is not a readable video \(Connection refused\)"):
        video.open_frames(address)


def test_camera(monkeypatch):
    opened = []

    class Camera:
        def __init__(self, number):
            opened.append(number)
            self.images = iter([frame(t)[..., ::-1] for t in range(3)])

        def get(self, what):
            return 30.0 if what == cv2.CAP_PROP_FPS else 0.0

        def read(self):
            image = next(self.images, None)
            return image is not None, image

        def release(self):
            opened.append("released")

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    warnings = []
    source = video.open_frames("2", warn=warnings.append)
    assert source[:5] == ("camera2", 30.0, None, 64, 48)
    assert numbers(source) == [0, 1, 2]
    assert np.array_equal(next(source.frames()), frame(0))
    assert warnings == ["camera 2: gives no more pictures after frame 3"]
    assert opened == [2, "released"] * 3


def test_camera_that_is_not_there(capfd):
    with pytest.raises(
        UserError, match="camera 97: gives no picture; check that it is there, and not in use"
    ):
        video.open_frames("97")
    assert capfd.readouterr() == ("", "")
