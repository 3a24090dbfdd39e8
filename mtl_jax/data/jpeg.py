"""JPEG pictures, decoded at a part of their size, and no further down than they are shown.

Most of the time goes into reading the bits, which come in rows of blocks from the top. So a smaller picture saves a
quarter of it at most; but what lies below the part that is shown need not be read at all.
"""

from typing import NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import UInt8

_BLOCK = 16  # rows of a block, with colour at half resolution
_START, _EXIF, _SCAN = 0xD8, 0xE1, 0xDA
_BASELINE = (0xC0, 0xC1)
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # among 0xC0 to 0xCF, which start frames


class Header(NamedTuple):
    """What a JPEG's header tells.

    Attributes:
        height: Height in pixels.
        width: Width in pixels.
        place: Where the two bytes of the height are.
        by_rows: Whether the picture comes in rows of blocks, once.
        exif: Whether there is Exif data, which may ask for the picture to be turned.
    """

    height: int
    width: int
    place: int
    by_rows: bool
    exif: bool


def read_header(data: bytes) -> Header | None:
    """Returns the header; None where the bytes are no JPEG, or an unusual one."""
    place, marker, exif, frame = 0, _START, False, None
    try:
        while marker != _SCAN:
            place += 2 if marker == _START else 2 + _number(data, place + 2)
            if (data[0], data[1], data[place]) != (0xFF, _START, 0xFF):
                return None
            marker = data[place + 1]
            exif |= marker == _EXIF and data[place + 4 : place + 8] == b"Exif"
            if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
                frame = (place + 5, data[place + 9], marker in _BASELINE)
    except IndexError:
        return None
    if frame is None:
        return None
    start, components, baseline = frame
    height, width = _number(data, start), _number(data, start + 2)
    by_rows = baseline and data[place + 4] == components
    return Header(height, width, start, by_rows, exif) if height else None


def decode(
    data: bytes, header: Header, reduction: int = 1, rows: int | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Decodes a JPEG to RGB.

    Args:
        data: The file's bytes.
        header: Its header.
        reduction: 1, 2, 4 or 8: width and height become one such part, rounded up.
        rows: How many rows of the whole picture are needed; more may come.

    Raises:
        ValueError: The bytes are not a whole picture, or not in colours that are known here.
    """
    # Colours at the lower edge are smoothed with what is beyond, so there is a block more.
    height = header.height if rows is None else min(header.height, rows + _BLOCK)
    cut = header.by_rows and height < header.height
    if cut:
        data = data[: header.place] + height.to_bytes(2, "big") + data[header.place + 2 :]
    else:
        height = header.height
    least = (-(-height // reduction), -(-header.width // reduction))
    # That the data goes on after its last row is an error if one is strict.
    return simplejpeg.decode_jpeg(data, min_height=least[0], min_width=least[1], strict=not cut)


def _number(data: bytes, place: int) -> int:
    return data[place] << 8 | data[place + 1]
