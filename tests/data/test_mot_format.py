import os
from pathlib import Path

import numpy as np
import pytest

from mtl_jax.data import mot_format
from mtl_jax.data.mot_format import MotRows, SequenceInfo
from mtl_jax.errors import UserError

INFO = SequenceInfo("SEQ", "img1", 25.0, 10, 100, 50, ".jpg")


def write(tmp_path: Path, text: str, name: str = "gt.txt") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_mot16_has_classes_and_visibility(tmp_path):
    rows = mot_format.read_ground_truth(
        write(tmp_path, "1,3,11,21,5,6,1,1,0.25\n2,3,12,21,5,6,0,8,1\n"), INFO
    )
    np.testing.assert_array_equal(rows.boxes, [[10, 20, 15, 26], [11, 20, 16, 26]])
    np.testing.assert_array_equal(rows.classes, [1, 8])
    np.testing.assert_array_equal(rows.visibility, [0.25, 1])
    np.testing.assert_array_equal(rows.confidences, [1, 0])


@pytest.mark.parametrize(
    "text",
    [
        "1,3,11,21,5,6,1,-4.15,-7.3,0\n",  # MOT15: a position in the world
        "1,3,11,21,5,6,1,-1,-1,-1\r\n",
        "1,3,11,21,5,6,1,-1,-1\n",  # nine columns, but no classes
        "1,3,11,21,5,6\n",
        "\ufeff1, 3, 11, 21, 5, 6, 1\n\n",
    ],
)
def test_mot15_objects_are_fully_visible_pedestrians(tmp_path, text):
    rows = mot_format.read_ground_truth(write(tmp_path, text), INFO)
    np.testing.assert_array_equal(rows.boxes, [[10, 20, 15, 26]])
    assert (rows.classes.tolist(), rows.visibility.tolist(), rows.confidences.tolist()) == ([1], [1], [1])


def test_empty_file_is_a_sequence_without_objects(tmp_path):
    rows = mot_format.read_ground_truth(write(tmp_path, "\n"), INFO)
    assert rows.boxes.shape == (0, 4)
    assert rows.frames.shape == rows.visibility.shape == (0,)


GOOD = "1,1,11,21,5,6,1,1,1\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2,1,11,21,5,6,1", r"7 columns; expected 9 as in the lines before"),
        ("2,1,11,21,5,6,1,1,1,0,0", r"11 columns; expected 6 to 10"),
        ("2,1,eleven,21,5,6,1,1,1", r"column 3 is 'eleven'; expected a number"),
        ("2,1,,21,5,6,1,1,1", r"column 3 is ''; expected a number"),
        ("2,1,nan,21,5,6,1,1,1", r"column 3 is nan; expected a finite number"),
        ("2,1,11,21,inf,6,1,1,1", r"column 5 is inf; expected a finite number"),
        ("2,1,11,21,-5,6,1,1,1", r"box is -5 wide and 6 high"),
        ("2,1,11,21,5,0,1,1,1", r"box is 5 wide and 0 high"),
        ("0,1,11,21,5,6,1,1,1", r"frame is 0; frames count from 1"),
        ("11,1,11,21,5,6,1,1,1", r"frame is 11, but seqLength in seqinfo.ini is 10"),
        ("1.5,1,11,21,5,6,1,1,1", r"frame 1.5, id 1; expected whole numbers"),
        ("1,1,12,21,5,6,1,1,1", r"id 1 occurs twice in frame 1 \(before in line 1\)"),
        ("2,-2,11,21,5,6,1,1,1", r"track id is -2"),
        ("2,1,11,21,5,6,1,14,1", r"class \(column 8\) is 14; expected 1 to 13"),
        ("2,1,11,21,5,6,1,1.5,1", r"class \(column 8\) is 1.5"),
        ("2,1,11,21,5,6,1,1,1.01", r"visibility \(column 9\) is 1.01"),
    ],
)
def test_bad_rows_are_named_by_line(tmp_path, line, message):
    with pytest.raises(UserError, match=rf"gt\.txt:3: .*{message}[^\n]*$"):
        mot_format.read_ground_truth(write(tmp_path, f"{GOOD}\n{line}\n"), INFO)


def test_several_bad_rows_are_counted(tmp_path):
    bad = "x,1,11,21,5,6,1,1,1\n"
    with pytest.raises(UserError, match=r"gt\.txt:2: .*'x'.* \(and 2 more\)$"):
        mot_format.read_ground_truth(write(tmp_path, GOOD + bad * 3), INFO)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00binary"])
def test_file_that_is_missing_or_binary(tmp_path, content):
    path = tmp_path / "gt.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"gt\.txt: not "):
        mot_format.read_ground_truth(path, INFO)


def test_boxes_beyond_the_image_are_mended_and_counted(tmp_path):
    text = (
        "1,1,-3,21,8,6\n2,1,96,21,9,6\n3,1,102,21,5,6\n4,1,11,21,5,6\n"  # two cross the edge, one is outside
    )
    warnings = []
    rows = mot_format.read_ground_truth(write(tmp_path, text), INFO, warn=warnings.append)
    np.testing.assert_array_equal(rows.frames, [1, 2, 4])
    np.testing.assert_array_equal(rows.boxes[0], [-4, 20, 4, 26])
    assert len(warnings) == 2
    assert "2 boxes reaching beyond the image kept whole (first in line 1)" in warnings[0]
    assert "1 boxes outside the image dropped (first in line 3)" in warnings[1]


def test_results_survive_writing_and_reading(tmp_path):
    rng = np.random.default_rng(0)
    low = rng.uniform(-5, 50, (20, 2))
    rows = MotRows(
        frames=np.repeat(np.arange(1, 11), 2),
        track_ids=np.tile([4, 8], 10),
        boxes=np.concatenate([low, low + rng.uniform(1, 30, (20, 2))], axis=1),
        confidences=rng.uniform(size=20),
        classes=np.full(20, -1),
        visibility=np.ones(20),
    )
    path = tmp_path / "deeper" / "SEQ.txt"
    mot_format.write_results(path, rows)
    read = mot_format.read_results(path, INFO)
    np.testing.assert_allclose(read.boxes, rows.boxes, atol=2e-3)
    np.testing.assert_allclose(read.confidences, rows.confidences, atol=1e-4)
    np.testing.assert_array_equal(read.frames, rows.frames)
    np.testing.assert_array_equal(read.track_ids, rows.track_ids)
    assert path.read_text().splitlines()[0].endswith(",-1,-1,-1")
    assert [p.name for p in path.parent.iterdir()] == ["SEQ.txt"]


def test_failed_write_keeps_the_file_before(tmp_path, monkeypatch):
    path = write(tmp_path, "before", "SEQ.txt")
    rows = MotRows(*(np.zeros(0, int),) * 2, np.zeros((0, 4)), *(np.zeros(0),) * 3)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=r"SEQ.txt: cannot be written: No space left"):
        mot_format.write_results(path, rows)
    assert path.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_results_with_an_id_twice(tmp_path):
    with pytest.raises(UserError, match=r"SEQ\.txt:2: id 5 occurs twice in frame 1"):
        mot_format.read_results(write(tmp_path, "1,5,1,1,5,5,1\n1,5,2,1,5,5,1\n", "SEQ.txt"))


def test_detections_have_no_identity(tmp_path):
    rows = mot_format.read_detections(write(tmp_path, "1,-1,1,1,5,5,0.9\n1,-1,2,1,5,5,0.8\n", "det.txt"))
    assert rows.track_ids.tolist() == [-1, -1]
    assert rows.confidences.tolist() == [0.9, 0.8]


def test_detections_are_mended_and_counted(tmp_path):
    text = "2,-1,1,1,5,5,0.9\n1,-1,2,1,5,5,1.8\n1,7,3,1,5,5,-0.2\n"
    said = []
    rows = mot_format.read_detections(write(tmp_path, text, "det.txt"), warn=said.append)
    assert rows.frames.tolist() == [1, 1, 2]
    assert rows.track_ids.tolist() == [-1, -1, -1]
    assert rows.confidences.tolist() == [1, 0, 0.9]
    assert [line.split("det.txt: ")[1] for line in said] == [
        "1 identities (column 2) passed over; a detection has -1 (first in line 3)",
        "2 scores (column 7) outside 0 to 1 brought there (first in line 2)",
        "1 frames (column 1) smaller than in the line before put in order (first in line 2)",
    ]


SEQINFO = "[Sequence]\nname=A\nimDir=img1\nframeRate=30\nseqLength=10\nimWidth=100\nimHeight=50\nimExt=.jpg\n"


def test_seqinfo(tmp_path):
    write(tmp_path, SEQINFO, "seqinfo.ini")
    assert mot_format.read_seqinfo(tmp_path) == SequenceInfo("A", "img1", 30.0, 10, 100, 50, ".jpg")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"seqinfo\.ini: not found"),
        ("name=A\n", r"seqinfo\.ini:1: "),
        ("[Other]\nname=A\n", r"section \[Sequence\] is missing"),
        (SEQINFO.replace("seqLength=10\n", ""), "key seqLength is missing"),
        (SEQINFO.replace("seqLength=10", "seqLength=ten"), r"seqinfo\.ini:5: seqLength is 'ten'"),
        (SEQINFO.replace("imWidth=100", "imWidth=-1"), r"seqinfo\.ini:6: imWidth is '-1'"),
        (SEQINFO.replace("frameRate=30", "frameRate=nan"), r"seqinfo\.ini:4: frameRate is 'nan'"),
    ],
)
def test_bad_seqinfo(tmp_path, text, message):
    if text is not None:
        write(tmp_path, text, "seqinfo.ini")
    with pytest.raises(UserError, match=message):
        mot_format.read_seqinfo(tmp_path)


def test_real_ground_truth(shared_data):
    folder = shared_data / "mot" / "PETS09-S2L1"
    rows = mot_format.read_ground_truth(folder / "gt" / "gt.txt", mot_format.read_seqinfo(folder))
    assert len(rows.frames) == 4650
    assert (rows.confidences == 0).sum() == 174
    assert len(np.unique(rows.track_ids)) == 19
    np.testing.assert_allclose(rows.boxes[0], [498, 157, 498 + 31.03, 157 + 75.17])
    assert (rows.classes == 1).all()
