"""Colours that people with colour-blindness can tell apart.

Okabe and Ito, "Color Universal Design", 2008; for tracks with three more from Paul Tol's schemes.
"""

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""For lines on white paper, in the order in which they are handed out."""

TRACKS = (
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#CC79A7",
    "#D55E00",
    "#0072B2",
    "#99DDFF",
    "#EE99AA",
    "#BBCC33",
)
"""For boxes and trails on photographs; track `i` has colour `i` modulo their number."""


def text_on(background: str) -> str:
    """Returns black or white, whichever is easier to read on a background such as `#E69F00`."""
    red, green, blue = (int(background[i : i + 2], 16) for i in (1, 3, 5))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return "#000000" if luma > 120 else "#FFFFFF"
