import numpy as np
import pytest

from mtl_jax.data import datasets, inspect, video
from mtl_jax.errors import UserError


def test_sheet_shows_the_frames_asked_for(data_dir, tmp_path):
    path = inspect.contact_sheet(
        "moving_objects/tiny", data_dir, tmp_path / "new" / "sheet.png", ("test",), 3, 2
    )
    sheet = video.read_image(path)
    assert sheet.shape == (3 * 484, 2 * 484, 3)
    dataset = datasets.open_dataset("moving_objects/tiny", data_dir)
    first = inspect.draw_objects(
        video.decode_image(dataset[72].image), dataset[72].objects, dataset.class_names, 480
    )
    np.testing.assert_array_equal(sheet[20:480, :480], first[20:])  # below the frame's name


def test_boxes_are_drawn_where_they_are(make_sequence, tmp_path):
    text = "1,1,21,21,20,16,1,1,1\n1,2,51,21,10,16,0,1,1\n"
    dataset = datasets.prepare("mot_challenge", tmp_path / "data", make_sequence(ground_truth=text))
    blank = np.zeros((48, 64, 3), np.uint8)
    image = inspect.draw_objects(blank, dataset[0].objects, dataset.class_names, 640)
    assert not blank.any()
    x0, y0, x1, y1 = 200, 200, 400, 360
    colored = np.ptp(image.astype(int), axis=-1) > 50
    assert colored[y0, x0:x1].all()
    assert colored[y1, x0:x1].all()
    assert colored[y0:y1, x0].all()
    assert colored[y0:y1, x1].all()
    assert not image[y0 + 5 : y1 - 5, x0 + 5 : x1 - 5].any()
    hatched = (image[205:355, 505:595] == 190).all(axis=-1)
    assert 0.15 < hatched.mean() < 0.35


def test_sheet_that_cannot_be_written(data_dir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        inspect.contact_sheet("moving_objects/tiny", data_dir, tmp_path / "file" / "sheet.png")
