import cv2
import numpy as np
import pytest

from mtl_jax.data import jpeg, video


def picture(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(256, size=(height, width, 3)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


def encode(image: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(".jpg", image[..., ::-1], list(options))[1].tobytes()


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(144, 208), (131, 75), (9, 200)])
def test_pixels_are_those_of_opencv(size, reduction):
    data = encode(picture(*size))
    flags = {1: cv2.IMREAD_COLOR, 2: 17, 4: 33, 8: 65}[reduction]
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), flags)[..., ::-1]
    np.testing.assert_array_equal(video.decode_image(data, reduction), expected)


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(144, 208), (131, 75)])
def test_reduced_pixels_lie_where_their_means_do(size, reduction):
    image = picture(*size)
    for data in (encode(image), video.encode_png(image)):
        reduced = video.decode_image(data, reduction)
        assert reduced.shape == (-(-size[0] // reduction), -(-size[1] // reduction), 3)
        full = video.decode_image(data).astype(float)
        rows, columns = size[0] // reduction, size[1] // reduction
        means = full[: rows * reduction, : columns * reduction].reshape(
            rows, reduction, columns, reduction, 3
        )
        assert np.abs(reduced[:rows, :columns] - means.mean(axis=(1, 3))).mean() < 2.5


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("rows", [1, 16, 17, 63, 64, 100, 140, 144])
@pytest.mark.parametrize("progressive", [0, 1])
def test_rows_that_are_needed_are_those_of_the_whole_picture(rows, reduction, progressive):
    data = encode(picture(144, 208), cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
    assert jpeg.read_header(data).by_rows == (not progressive)
    whole = video.decode_image(data, reduction)
    part = video.decode_image(data, reduction, rows)
    needed = -(-rows // reduction)
    np.testing.assert_array_equal(part[:needed], whole[:needed])
    if not progressive:
        assert len(part) == min(len(whole), -(-(rows + 16) // reduction))


def test_headers():
    data = encode(picture(40, 60))
    assert jpeg.read_header(data)[:2] == (40, 60)
    assert jpeg.read_header(video.encode_png(picture(40, 60))) is None
    assert jpeg.read_header(b"") is None
    for length in range(0, 600, 7):
        header = jpeg.read_header(data[:length])
        assert header is None or header[:2] == (40, 60)


def test_pictures_are_turned_as_their_exif_data_says():
    data = encode(picture(40, 60))
    tags = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # a quarter turn
    segment = b"Exif\0\0" + tags
    turned = data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]
    image = video.decode_image(turned)
    assert image.shape == (60, 40, 3)
    np.testing.assert_array_equal(image, np.rot90(video.decode_image(data), -1))


def test_grey_pictures_and_damaged_ones():
    grey = cv2.imencode(".jpg", picture(40, 60)[..., 0])[1].tobytes()
    image = video.decode_image(grey)
    assert image.shape == (40, 60, 3) and (image[..., :1] == image).all()
    with pytest.raises(ValueError, match="damaged"):
        video.decode_image(encode(picture(40, 60))[:100])
