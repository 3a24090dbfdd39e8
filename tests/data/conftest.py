"""A rendered data set and folders in the MOTChallenge's layout, small enough to be made anew for each test run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mtl_jax.data import datasets, video

WIDTH, HEIGHT, LENGTH = 64, 48, 5

# Object 7 walks to the right, 2 pixels a frame; object 9 is seen in the last frames only.
GROUND_TRUTH = "".join(f"{t},7,{9 + 2 * t},11,10,20,1,1,1\n" for t in range(1, LENGTH + 1)) + (
    "4,9,41,11,8,16,1,1,0.5\n5,9,42,11,8,16,1,1,0.5\n"
)
SEQINFO = f"""[Sequence]
name={{name}}
imDir=img1
frameRate=12.5
seqLength={LENGTH}
imWidth={WIDTH}
imHeight={HEIGHT}
imExt=.jpg
"""


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of prepared data sets that holds `moving_objects/tiny`."""
    path = tmp_path_factory.mktemp("data")
    datasets.prepare("moving_objects/tiny", path)
    return path


@pytest.fixture
def make_sequence(tmp_path: Path) -> Callable[..., Path]:
    """Returns a function that writes a sequence of five frames in the MOTChallenge's layout."""

    def make(name: str = "SEQ", parent: str = "source", ground_truth: str = GROUND_TRUTH) -> Path:
        folder = tmp_path / parent / name
        (folder / "img1").mkdir(parents=True)
        (folder / "gt").mkdir()
        (folder / "seqinfo.ini").write_text(SEQINFO.format(name=name))
        (folder / "gt" / "gt.txt").write_text(ground_truth)
        for t in range(1, LENGTH + 1):
            (folder / "img1" / f"{t:06d}.jpg").write_bytes(video.encode_jpeg(draw_frame(t)))
        return folder

    return make


def draw_frame(t: int) -> np.ndarray:
    """Draws what GROUND_TRUTH says of object 7 in frame `t`: a white box on grey."""
    image = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    left = 8 + 2 * t
    image[10:30, left : left + 10] = 255
    return image
