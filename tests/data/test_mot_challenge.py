import shutil

import av
import numpy as np
import pytest

from mtl_jax.data import datasets, mot_challenge, mot_format, video
from mtl_jax.errors import UserError

from .conftest import HEIGHT, LENGTH, SEQINFO, WIDTH, draw_frame


def write_avi(path, length=LENGTH):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", 12)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj444p"
        for t in range(1, length + 1):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(draw_frame(t), format="rgb24")))
        container.mux(stream.encode())


def test_images_are_stored_untouched_with_their_labels(make_sequence, tmp_path):
    folder = make_sequence()
    dataset = datasets.prepare("mot_challenge", tmp_path / "data", folder.parent)
    assert dataset.name == "mot_challenge/default"
    assert dataset.class_names == ("pedestrian",)
    assert (dataset.max_objects, dataset.num_tracks) == (2, 2)
    assert dataset.sequences[0][:] == ("SEQ", "train", 0, LENGTH, 12.5, WIDTH, HEIGHT, False)
    for t in range(1, LENGTH + 1):
        record = dataset[t - 1]
        assert record.image == (folder / "img1" / f"{t:06d}.jpg").read_bytes()
        assert (record.frame, record.masks) == (t, None)
        np.testing.assert_allclose(record.objects.boxes[0], [8 + 2 * t, 10, 18 + 2 * t, 30])
        # The box sits on the pixels.
        y, x = np.nonzero(video.decode_image(record.image).min(axis=-1) > 150)
        np.testing.assert_allclose([x.min(), y.min(), x.max() + 1, y.max() + 1], record.objects.boxes[0])
        np.testing.assert_allclose(record.objects.velocity[0], [2, 0])
    assert dataset[3].objects.track_ids.tolist() == [0, 1]
    assert dataset[3].objects.visibility.tolist() == [1.0, 0.5]
    np.testing.assert_allclose(dataset[4].objects.velocity[1], [1, 0])


@pytest.mark.parametrize("layout", ["sequence", "folder", "train"])
def test_layouts(make_sequence, tmp_path, layout):
    if layout == "train":
        make_sequence("A", "source/train")
        make_sequence("B", "source/train")
        (tmp_path / "source" / "test" / "C" / "img1").mkdir(parents=True)  # without ground truth
        source, names = tmp_path / "source", ["A", "B"]
    elif layout == "folder":
        make_sequence("A"), make_sequence("B")
        source, names = tmp_path / "source", ["A", "B"]
    else:
        source, names = make_sequence("A"), ["A"]
    dataset = datasets.prepare("mot_challenge/mine", tmp_path / "data", source)
    assert [s.name for s in dataset.sequences] == names
    assert [s.first for s in dataset.sequences] == [0, LENGTH][: len(names)]
    assert dataset.num_tracks == 2 * len(names)
    assert dataset[len(dataset) - 1].objects.track_ids.tolist()[-1] == dataset.num_tracks - 1


def test_one_video_file_a_sequence(make_sequence, tmp_path):
    folder = make_sequence()
    shutil.rmtree(folder / "img1")
    write_avi(folder / "anything.avi")
    dataset = datasets.prepare("mot_challenge", tmp_path / "data", folder)
    for t in (1, LENGTH):
        image = video.decode_image(dataset[t - 1].image)
        assert np.abs(image.astype(int) - draw_frame(t)).mean() < 4


def test_mot17_is_taken_once(make_sequence):
    for detector in ("DPM", "FRCNN", "SDP"):
        folder = make_sequence(f"MOT17-02-{detector}")
    make_sequence("Own-Video")
    names = [p.name for p in mot_challenge.find_sequences(folder.parent)]
    assert names == ["MOT17-02-DPM", "Own-Video"]


def label(text: str, tmp_path, name: str = "SEQ"):
    path = tmp_path / "gt.txt"
    path.write_text(text)
    info = mot_format.SequenceInfo(name, "img1", 25.0, 3, 100, 50, ".jpg")
    rows = mot_format.read_ground_truth(path, info, warn=lambda _: None)
    return mot_challenge.label_frames(rows, info, first_track_id=10)


def test_ignore_rules(tmp_path):
    text = "".join(f"1,{c},11,11,5,5,1,{c},1\n" for c in range(1, 14)) + "1,20,11,11,5,5,0,1,1\n"
    frames, tracks = label(text, tmp_path)
    assert tracks == 1
    assert frames[0].ignore.tolist() == [False, True, True, True, True, True]  # 1; 2, 7, 8, 12; confidence 0
    assert frames[0].track_ids.tolist() == [10, -1, -1, -1, -1, -1]
    assert len(frames[1].ignore) == len(frames[2].ignore) == 0
    frames, _ = label(text, tmp_path, name="MOT20-01")
    assert frames[0].ignore.sum() == 6  # class 6 too


def test_velocity_is_a_central_difference_one_sided_at_the_ends(tmp_path):
    frames, _ = label("1,4,11,11,4,4,1\n2,4,13,11,4,4,1\n3,4,19,11,4,4,1\n3,5,19,11,4,4,1\n", tmp_path)
    assert [f.velocity[0].tolist() for f in frames] == [[2, 0], [4, 0], [6, 0]]
    assert frames[2].velocity[1].tolist() == [0, 0]


def test_boxes_beyond_the_image_stay_whole_and_are_less_visible(tmp_path):
    frames, _ = label("1,1,-9,11,20,10,1\n", tmp_path)
    np.testing.assert_allclose(frames[0].boxes, [[-10, 10, 10, 20]])
    np.testing.assert_allclose(frames[0].visible_boxes, [[0, 10, 10, 20]])
    np.testing.assert_allclose(frames[0].visibility, [0.5])


def damage_image(folder):
    path = folder / "img1" / "000003.jpg"
    path.write_bytes(path.read_bytes()[:300])


def short_video(folder):
    shutil.rmtree(folder / "img1")
    write_avi(folder / "SEQ.avi", LENGTH - 1)


def long_video(folder):
    shutil.rmtree(folder / "img1")
    write_avi(folder / "SEQ.avi", LENGTH + 1)


def truncated_video(folder):
    shutil.rmtree(folder / "img1")
    path = folder / "SEQ.avi"
    write_avi(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def other_size(folder):
    (folder / "seqinfo.ini").write_text(SEQINFO.format(name="SEQ").replace("imWidth=64", "imWidth=60"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damage_image, r"000003\.jpg: does not decode"),
        (short_video, r"SEQ\.avi: ends after frame 4, but seqLength in seqinfo.ini is 5"),
        (long_video, r"SEQ\.avi: goes on after frame 5"),
        (truncated_video, r"SEQ\.avi: \D+ after frame \d of 5"),
        (other_size, r"000001\.jpg: is 64x48 pixels, but seqinfo.ini says imWidth=60"),
        (lambda f: (f / "img1" / "000005.jpg").unlink(), r"img1: holds 4 images, but seqLength .* is 5"),
        (lambda f: shutil.rmtree(f / "img1"), r"SEQ: holds neither images"),
        (lambda f: (f / "gt" / "gt.txt").unlink(), r"gt\.txt: not found"),
        (lambda f: (f / "seqinfo.ini").unlink(), r"seqinfo\.ini: not found"),
        (lambda f: (f / "gt" / "gt.txt").write_text("1,1,x,2,3,4,1\n"), r"gt\.txt:1: column 3 is 'x'"),
        (lambda f: shutil.rmtree(f), r"holds no sequence"),
    ],
)
def test_bad_sources_leave_nothing_behind(make_sequence, tmp_path, spoil, message):
    make_sequence()
    folder = make_sequence("SEQ", "bad")
    spoil(folder)
    with pytest.raises(UserError, match=message) as error:
        datasets.prepare("mot_challenge", tmp_path / "data", folder.parent)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "data").rglob("*.array_record*"))
    # The same command works once the source is mended.
    assert len(datasets.prepare("mot_challenge", tmp_path / "data", tmp_path / "source")) == LENGTH


def test_sequence_without_objects(make_sequence, tmp_path):
    folder = make_sequence(ground_truth="")
    dataset = datasets.prepare("mot_challenge", tmp_path / "data", folder)
    assert (dataset.max_objects, dataset.num_tracks) == (0, 0)
    assert dataset[2].objects.boxes.shape == (0, 4)


@pytest.mark.filterwarnings("ignore:.*reaching beyond the image")
def test_real_sequences(shared_data, tmp_path):
    dataset = datasets.prepare("mot_challenge", tmp_path, shared_data / "mot" / "TUD-Campus")
    assert (len(dataset), dataset.num_tracks) == (71, 8)
    assert sum((~dataset[i].objects.ignore).sum() for i in range(71)) == 359
