import av
import numpy as np
import pytest

from mtl_jax.errors import UserError
from mtl_jax.reporting.heatmap import overlay_heatmap
from mtl_jax.reporting.overlay import FrameTracks, annotate_video, draw_tracks
from mtl_jax.reporting.video import write_video


def _gray(height=96, width=128):
    return np.full((height, width, 3), 120, np.uint8)


def _tracks(*boxes, ids=None):
    count = len(boxes)
    return FrameTracks(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        track_ids=np.arange(1, count + 1) if ids is None else np.array(ids),
        classes=np.zeros(count, int),
        scores=np.full(count, 0.87, np.float32),
    )


def _changed(image, original):
    return np.any(image != original, axis=-1)


def _read(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)], stream.average_rate


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_video_reads_back_with_its_frames_size_and_rate(tmp_path, monkeypatch, codec):
    if codec == "libx264" and codec not in av.codecs_available:
        # mpeg4, to which videos fall back then, is part of every FFmpeg.
        pytest.skip("this FFmpeg was built without the optional libx264")
    monkeypatch.setattr("mtl_jax.reporting.video._codec", lambda: codec)
    frames = [np.full((45, 61, 3), (10 * k, 200 - 10 * k, 90), np.uint8) for k in range(12)]
    path = write_video(tmp_path / "new" / "clip.mp4", iter(frames), 29.97)
    read, rate = _read(path)
    assert len(read) == 12
    assert read[0].shape == (46, 62, 3)  # padded to even sizes
    assert float(rate) == pytest.approx(29.97, abs=1e-3)
    for written, found in zip(frames, read, strict=True):
        np.testing.assert_allclose(found[:45, :61].mean((0, 1)), written.mean((0, 1)), atol=6)


def test_video_can_be_played_while_it_loads(tmp_path):
    content = write_video(tmp_path / "clip.mp4", [_gray()] * 3, 10).read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_a_failed_video_leaves_the_old_one_and_no_rest(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")

    def failing():
        yield _gray()
        raise RuntimeError("decoder failed")

    with pytest.raises(RuntimeError, match="decoder failed"):
        write_video(path, failing(), 10)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_bad_videos_are_refused(tmp_path):
    with pytest.raises(UserError, match="no frames"):
        write_video(tmp_path / "clip.mp4", [], 10)
    with pytest.raises(UserError, match="frame rate"):
        write_video(tmp_path / "clip.mp4", [_gray()], 0)


def test_only_border_and_label_of_a_box_are_drawn():
    (image,) = draw_tracks([_gray()], [_tracks((40, 40, 100, 80))], ["person"], scale=1)
    changed = _changed(image, _gray())
    assert changed[41:80, 40].all() and changed[40:80, 100].all() and changed[80, 40:100].all()
    assert not changed[43:78, 43:98].any()  # inside
    assert not changed[83:].any() and not changed[:, :38].any()  # beneath and beside
    assert changed[30:38, 42:50].any()  # the label, above the top left corner


def test_picture_is_enlarged_before_drawing():
    (image,) = draw_tracks([_gray()], [_tracks((40, 40, 100, 80))], ["person"])
    assert image.shape == (384, 512, 3)
    changed = _changed(image, np.full_like(image, 120))
    assert changed[320, 160:400].all()
    assert not changed[165:315, 165:395].any()


def test_label_at_the_border_stays_inside():
    frame = _gray(200, 300)
    boxes = (0.0, 0.0, 50.0, 100.0), (280.0, 120.0, 300.0, 190.0)
    (image,) = draw_tracks([frame], [_tracks(*boxes)], ["person"], scale=1)
    changed = _changed(image, frame)
    assert changed[4:12, 4:50].mean() > 0.9  # inside the first box, which touches the upper border
    assert changed[106:116, 250:280].mean() > 0.9  # the second label, moved to the left


def test_identity_keeps_its_color():
    frames = [_gray()] * 2
    tracks = [
        _tracks((10, 40, 40, 80), (70, 40, 100, 80), ids=[3, 8]),
        _tracks((75, 40, 105, 80), (15, 40, 45, 80), ids=[8, 3]),
    ]
    first, second = draw_tracks(frames, tracks, ["person"], scale=1)
    np.testing.assert_array_equal(first[60, 10], second[60, 15])
    np.testing.assert_array_equal(first[60, 70], second[60, 75])
    assert (first[60, 10] != first[60, 70]).any()


def test_trail_follows_the_foot_point_fades_and_ends():
    frames = [_gray(200, 400)] * 30
    tracks = [_tracks((10 * k, 50, 10 * k + 20, 100)) for k in range(20)] + [_tracks()] * 10
    images = list(draw_tracks(frames, tracks, ["person"], scale=1, trail_length=10))
    changed = _changed(images[15], frames[15])
    assert changed[100, 70:158].all()  # the foot point of the last ten frames
    assert not changed[95:105, :55].any()  # what is older is gone
    difference = np.abs(images[15][100].astype(int) - 120).sum(-1)
    assert difference[72] < difference[105] < difference[138]
    assert _changed(images[22], frames[22]).any()  # it fades out after the object has gone
    assert not _changed(images[29], frames[29]).any()


def test_ground_truth_and_scores_are_drawn():
    frame, tracks = _gray(), _tracks((40, 40, 100, 80))
    truth = [np.array([[10.0, 20.0, 30.0, 90.0]])]
    (plain,) = draw_tracks([frame], [tracks], ["person"], scale=4)
    (image,) = draw_tracks([frame], [tracks], ["person"], scale=4, ground_truth=truth)
    assert (image[240, 40] == 255).all()
    assert not _changed(image, plain)[:, 125:].any()
    (scored,) = draw_tracks([frame], [tracks], ["person"], scale=4, scores=True)
    assert _changed(scored, plain)[140:160].any()  # a longer label
    assert not _changed(scored, plain)[165:].any()


def test_missing_tracks_are_not_passed_over(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        annotate_video([_gray()] * 3, [_tracks()] * 2, ["person"], tmp_path / "clip.mp4", 10)
    assert not list(tmp_path.iterdir())


def test_real_video(shared_data, tmp_path):
    folder = shared_data / "mot" / "TUD-Campus"
    with av.open(str(folder / "TUD-Campus.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][:10]
    rows = np.loadtxt(folder / "gt" / "gt.txt", delimiter=",")
    tracks = []
    for number in range(1, 11):
        found = rows[rows[:, 0] == number]
        boxes = np.concatenate([found[:, 2:4], found[:, 2:4] + found[:, 4:6]], axis=1)
        tracks.append((boxes, found[:, 1].astype(int), np.zeros(len(found), int), np.ones(len(found))))
    read, rate = _read(annotate_video(frames, tracks, ["person"], tmp_path / "tud.mp4", 25))
    assert (len(read), read[0].shape, rate) == (10, (480, 640, 3), 25)


def test_heatmap_colors_only_what_is_hot():
    image = _gray(60, 80)
    heatmap = np.zeros((15, 20, 2), np.float32)
    heatmap[5, 10, 1] = 1.0
    result = overlay_heatmap(image, heatmap)
    changed = _changed(result, image)
    assert changed[22, 42] and not changed[:15].any() and not changed[:, :35].any()
    np.testing.assert_array_equal(overlay_heatmap(image, np.zeros((15, 20), np.float32)), image)
