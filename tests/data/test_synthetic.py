import dataclasses

import numpy as np
import pytest

from mtl_jax.data import sprites, synthetic

CONFIG = dataclasses.replace(synthetic.PRESETS["quickstart"], num_classes=8, objects=(5, 8))


@pytest.fixture(scope="module")
def videos() -> list[synthetic.Video]:
    return [synthetic.render_video(CONFIG, seed, 16) for seed in range(6)]


def test_seed_decides_everything():
    first, again, other = (synthetic.render_video(CONFIG, seed, 4) for seed in (3, 3, 4))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.frames, other.frames)


def test_visible_boxes_are_those_of_the_masks(videos):
    checked = 0
    for video in videos:
        for t, k in np.argwhere(video.present):
            y, x = np.nonzero(video.masks[t] == k + 1)
            box = (x.min(), y.min(), x.max() + 1, y.max() + 1) if len(x) else np.zeros(4)
            np.testing.assert_array_equal(video.visible_boxes[t, k], box)
            assert (video.visibility[t, k] > 0) == (len(x) > 0)
            checked += 1
        assert set(np.unique(video.masks)) <= {0, *(np.flatnonzero(video.present.any(0)) + 1)}
    assert checked > 200


def test_fully_visible_objects_fill_their_amodal_boxes(videos):
    checked = 0
    for video in videos:
        for t, k in np.argwhere(video.visibility == 1):
            np.testing.assert_allclose(video.visible_boxes[t, k], video.boxes[t, k], atol=1.6)
            checked += 1
        # What is seen of an object lies in its amodal box.
        seen = video.visibility > 0
        assert (video.visible_boxes[seen][:, :2] >= video.boxes[seen][:, :2] - 1).all()
        assert (video.visible_boxes[seen][:, 2:] <= video.boxes[seen][:, 2:] + 1).all()
    assert checked > 50


def test_objects_leave_and_are_hidden(videos):
    size = np.array([CONFIG.width, CONFIG.height])
    boxes = np.concatenate([v.boxes[v.present] for v in videos])
    visibility = np.concatenate([v.visibility[v.present] for v in videos])
    inside = (boxes[:, :2] >= 0).all(1) & (boxes[:, 2:] <= size).all(1)
    assert (~inside).any()  # entries and exits
    assert (visibility[inside] < 0.7).any()  # occlusion
    assert ((visibility >= 0) & (visibility <= 1)).all()
    # Rows are present where the amodal box meets the frame.
    for video in videos:
        meets = (video.boxes[..., 2:] > 0).all(-1) & (video.boxes[..., :2] < size).all(-1)
        np.testing.assert_array_equal(video.present, meets)


def test_velocity_is_the_central_difference_of_the_boxes(videos):
    for video in videos:
        centers = (video.boxes[..., :2] + video.boxes[..., 2:]) / 2
        np.testing.assert_allclose(video.velocity[1:-1], (centers[2:] - centers[:-2]) / 2, atol=1e-9)


def test_nearer_objects_hide_farther_ones(videos):
    checked = 0
    for video in videos:
        rank = np.argsort(np.argsort(video.depth))
        np.testing.assert_array_equal(rank, video.depth)
        for t in range(len(video.masks)):
            nearest = np.flatnonzero(video.present[t] & (video.depth == video.depth[video.present[t]].min()))
            x0, y0, x1, y1 = video.boxes[t, nearest[0]]
            if x0 >= 0 and y0 >= 0 and x1 <= CONFIG.width and y1 <= CONFIG.height:
                assert video.visibility[t, nearest[0]] == 1
                checked += 1
    assert checked > 10


def test_masks_show_the_object_in_its_own_colors():
    """The pixels of an object differ from what is there without it, and the others do not."""
    config = dataclasses.replace(CONFIG, objects=(1, 1), noise=0.0, pan=0.0, light=0.0, shutter=0.0)
    for seed in range(20):
        video = synthetic.render_video(config, seed, 12)
        shown = np.flatnonzero((video.masks > 0).any((1, 2)))
        area = [(video.masks[t] > 0).sum() for t in shown]
        first, last = shown[np.argmin(area)], shown[np.argmax(area)]
        outside = (video.masks[first] == 0) & (video.masks[last] == 0)
        edge = np.zeros_like(outside)
        for t in (first, last):
            y, x = np.nonzero(video.masks[t])
            edge[max(y.min() - 2, 0) : y.max() + 3, max(x.min() - 2, 0) : x.max() + 3] = True
        # Ground that neither frame's object comes near is the same in both frames.
        np.testing.assert_array_equal(
            video.frames[first][outside & ~edge], video.frames[last][outside & ~edge]
        )
        only_last = (video.masks[last] > 0) & (video.masks[first] == 0)
        if only_last.sum() > 20:
            change = np.abs(video.frames[last].astype(int) - video.frames[first]).max(-1)
            assert np.median(change[only_last]) > 15


def test_class_is_the_shape_and_not_the_color():
    rng = np.random.default_rng(0)
    areas = {}
    for name in sprites.CLASSES:
        pictures = [sprites.make_sprite(name, rng).levels[0] for _ in range(8)]
        alphas = np.stack([p[..., 3] for p in pictures])
        np.testing.assert_allclose(alphas, alphas[:1].repeat(8, 0))
        colors = np.stack([(p[..., :3].sum((0, 1)) / p[..., 3].sum()) for p in pictures])
        assert colors.std(axis=0).max() > 0.1
        areas[name] = alphas[0].mean()
    assert len(sprites.CLASSES) >= 6
    assert areas["ring"] < areas["disc"]


def test_motion_blur_keeps_the_mean_and_smears_along_the_way():
    image = np.zeros((21, 21), np.float32)
    image[10, 10] = 1
    blurred = sprites.motion_blur(image, np.array([6.0, 0.0]))
    assert blurred.sum() == pytest.approx(1, abs=1e-5)
    assert (blurred[10, 8:13] > 0.1).all()
    assert blurred[10, 6:15].sum() == pytest.approx(1, abs=1e-5)
    assert blurred[10].sum() == pytest.approx(1, abs=1e-5)
    assert (blurred * np.arange(21)).sum() == pytest.approx(10, abs=0.05)


def test_presets_get_harder():
    sizes = [c.height * c.width for c in synthetic.PRESETS.values()]
    assert list(synthetic.PRESETS) == ["tiny", "quickstart", "standard", "hard"]
    assert sizes == sorted(sizes)
    assert all(c.num_classes <= len(sprites.CLASSES) for c in synthetic.PRESETS.values())
