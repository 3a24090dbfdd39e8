import cv2
import numpy as np
import pytest

from mtl_jax.config import AugmentConfig
from mtl_jax.data import transforms
from mtl_jax.data.records import Objects
from mtl_jax.data.transforms import Affine, Clip
from mtl_jax.data.video import reduce_image

STRONG = AugmentConfig(flip=0.5, scale=(0.5, 2.0), aspect=0.3, translate=0.2)


def make_objects(boxes: list, **columns) -> Objects:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    count = len(boxes)
    default = {
        "boxes": boxes,
        "visible_boxes": boxes,
        "classes": np.zeros(count, np.int32),
        "track_ids": np.arange(count, dtype=np.int32),
        "visibility": np.ones(count, np.float32),
        "velocity": np.zeros((count, 2), np.float32),
        "depth": np.full(count, -1, np.int32),
        "ignore": np.zeros(count, np.bool_),
    }
    return Objects(**(default | columns))


def draw(boxes: list, height: int, width: int) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    for x0, y0, x1, y1 in boxes:
        image[y0:y1, x0:x1] = 255
    return image


def white_box(image: np.ndarray) -> np.ndarray:
    """Returns the box of the pixels that a white object on black covers by half or more."""
    y, x = np.nonzero((image > 127).all(axis=-1))
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])


def test_letterbox_keeps_the_aspect_ratio_and_maps_back():
    affine = transforms.letterbox((576, 768), (288, 512))
    np.testing.assert_allclose(affine.scale, 0.5)
    boxes = np.array([[10.0, 20.0, 110.0, 220.0], [-5.0, 0.0, 768.0, 576.0]])
    moved = affine.boxes(boxes)
    np.testing.assert_allclose(moved[1], [-2.5, 0, 384, 288])
    np.testing.assert_allclose(affine.inverse().boxes(moved), boxes)


def test_inverse_of_a_mirroring_map():
    affine = Affine(np.array([-2.0, 0.5]), np.array([100.0, 3.0]))
    boxes = np.array([[1.0, 2.0, 11.0, 22.0]])
    np.testing.assert_allclose(affine.boxes(boxes), [[78, 4, 98, 14]])
    np.testing.assert_allclose(affine.inverse().boxes(affine.boxes(boxes)), boxes)


@pytest.mark.parametrize("seed", range(30))
def test_boxes_stay_on_their_pixels(seed):
    """An augmented picture shows the object where the augmented box says that it is."""
    rng = np.random.default_rng(seed)
    box = [60, 40, 90, 80]
    image = draw([box], 120, 160)
    affine = transforms.random_affine((120, 160), (96, 128), STRONG, rng)
    moved = transforms.place_clip(Clip(image[None], [make_objects([box])]), affine, (96, 128))
    visible = moved.objects[0].visible_boxes[0]
    np.testing.assert_allclose(white_box(moved.images[0]), visible, atol=0.6)
    # The rest is bookkeeping: how much of it is left.
    whole = moved.objects[0].boxes[0]
    left = np.prod(visible[2:] - visible[:2]) / np.prod(whole[2:] - whole[:2])
    np.testing.assert_allclose(moved.objects[0].visibility[0], left, rtol=1e-4)


@pytest.mark.parametrize("scale", [0.11, 0.25, 1 / 3, 0.5, 0.77, 1.0, 2.3])
def test_warp_neither_shifts_nor_aliases(scale):
    rng = np.random.default_rng(0)
    coarse = rng.integers(256, size=(12, 16, 3)).astype(np.uint8)
    image = coarse.repeat(20, axis=0).repeat(20, axis=1)  # 240 x 320
    size = (round(240 * scale), round(320 * scale))
    warped = transforms.warp(image, Affine(np.full(2, scale), np.zeros(2)), size)
    y, x = ((np.arange(12) + 0.5) * 20 * scale).astype(int), ((np.arange(16) + 0.5) * 20 * scale).astype(int)
    assert np.abs(warped[np.ix_(y, x)].astype(int) - coarse).mean() < (40 if scale < 0.2 else 3)
    noise = rng.integers(2, size=(240, 320, 1)).astype(np.uint8).repeat(3, axis=2) * 255
    if scale <= 0.5:
        small = transforms.warp(noise, Affine(np.full(2, scale), np.zeros(2)), size)
        assert (
            small.std() < 1.4 * 127.5 * scale
        )  # averaging 1 / scale^2 pixels divides the deviation by 1 / scale


def test_identity_changes_nothing():
    image = np.random.default_rng(0).integers(256, size=(32, 64, 3), dtype=np.uint8)
    config = AugmentConfig(flip=0.0)
    affine = transforms.random_affine((32, 64), (32, 64), config, np.random.default_rng(0))
    np.testing.assert_array_equal(transforms.warp(image, affine, (32, 64)), image)
    assert transforms.draw_color(config, np.random.default_rng(0)) is None
    assert transforms.draw_blur(config, np.random.default_rng(0)) is None


def test_no_augmentation_is_the_letterbox():
    for seed in range(3):
        affine = transforms.random_affine(
            (90, 200), (96, 128), AugmentConfig(flip=0.0), np.random.default_rng(seed)
        )
        expected = transforms.letterbox((90, 200), (96, 128))
        np.testing.assert_allclose(affine.scale, expected.scale)
        np.testing.assert_allclose(affine.offset, expected.offset, atol=1e-9)


def test_random_affine_keeps_to_its_ranges():
    rng = np.random.default_rng(0)
    config = AugmentConfig(flip=0.5, scale=(0.5, 2.0), aspect=0.3)
    maps = [transforms.random_affine((96, 128), (96, 128), config, rng) for _ in range(400)]
    zoom = np.array([np.sqrt(np.abs(np.prod(m.scale))) for m in maps])
    ratio = np.array([abs(m.scale[0] / m.scale[1]) for m in maps])
    assert (zoom >= 0.5).all()
    assert (zoom <= 2).all()
    assert zoom.min() < 0.6
    assert zoom.max() > 1.8
    assert (ratio <= 1.3 + 1e-9).all()
    assert (ratio >= 1 / 1.3 - 1e-9).all()
    flipped = np.mean([m.scale[0] < 0 for m in maps])
    assert 0.4 < flipped < 0.6
    for m in maps:  # a picture that is reduced lies within, one that is enlarged leaves nothing empty
        x0, y0, x1, y1 = m.boxes(np.array([[0.0, 0.0, 128.0, 96.0]]))[0]
        assert min(x0, 0) + max(x1, 128) == pytest.approx(x0 + x1 if x1 - x0 > 128 else 128)
        assert (y0 >= -1e-9) == (y1 <= 96 + 1e-9)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_focus_leaves_an_object_in_the_picture(flip):
    source, target = (90, 200), (96, 128)
    centers = np.array([[3.0, 5.0], [190.0, 80.0]], np.float32)
    zoomed = AugmentConfig(flip=flip, scale=(4.0, 4.0), focus=1.0)
    covered = transforms.letterbox(source, target).scale * np.array(source[::-1])
    seen = np.zeros(2, int)
    for seed in range(40):
        affine = transforms.random_affine(source, target, zoomed, np.random.default_rng(seed), centers)
        inside = np.all(
            (centers * affine.scale + affine.offset >= -1e-3)
            & (centers * affine.scale + affine.offset <= covered + 1e-3),
            axis=1,
        )
        assert inside.any()
        seen += inside
        # The picture fills what it covered.
        corners = np.sort(np.array([[0, 0], source[::-1]]) * affine.scale + affine.offset, axis=0)
        assert (corners[0] <= 1e-3).all() and (corners[1] >= covered - 1e-3).all()
    assert (seen > 5).all()
    # Without objects it is as without focus.
    rng = np.random.default_rng(0)
    nothing = transforms.random_affine(source, target, zoomed, rng, np.zeros((0, 2), np.float32))
    plain = AugmentConfig(flip=flip, scale=(4.0, 4.0))
    expected = transforms.random_affine(source, target, plain, np.random.default_rng(0))
    np.testing.assert_array_equal(nothing.offset, expected.offset)


def test_a_crop_shows_part_of_the_picture_at_its_scale():
    source, target, crop = (96, 128), (192, 256), (64, 96)
    rng = np.random.default_rng(0)
    corners = np.array([[0.0, 0.0, 128.0, 96.0]])
    plain = AugmentConfig(flip=0.5)
    boxes = np.array(
        [
            transforms.random_affine(source, target, plain, rng, crop=crop).boxes(corners)[0]
            for _ in range(200)
        ]
    )
    # The whole picture is as large as without a crop, and covers all of it; every part of it is shown some time.
    np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], [[256, 192]] * 200)
    assert (boxes[:, :2] <= 1e-9).all() and (boxes[:, 2:] >= np.array([96, 64]) - 1e-9).all()
    assert (boxes[:, :2].min(axis=0) < [-145, -115]).all() and (boxes[:, :2].max(axis=0) > [-15, -13]).all()
    # What is reduced to less than the crop lies within it.
    small = transforms.random_affine(source, target, AugmentConfig(scale=(0.25, 0.25)), rng, crop=crop).boxes(
        corners
    )[0]
    assert (small[:2] >= -1e-9).all() and (small[2:] <= np.array([96, 64]) + 1e-9).all()


def test_objects_outside_vanish_and_cut_ones_are_less_visible():
    objects = make_objects(
        [[0, 0, 10, 10], [20, 0, 40, 10], [50, 0, 60, 10]], velocity=np.ones((3, 2), np.float32)
    )
    moved = transforms.move_objects(objects, Affine(np.array([2.0, 1.0]), np.array([-60.0, 0.0])), (20, 40))
    assert moved.track_ids.tolist() == [1]
    np.testing.assert_allclose(moved.boxes, [[-20, 0, 20, 10]])
    np.testing.assert_allclose(moved.visible_boxes, [[0, 0, 20, 10]])
    np.testing.assert_allclose(moved.visibility, [0.5])
    np.testing.assert_allclose(moved.velocity, [[2, 1]])


def test_mirroring_turns_velocities():
    objects = make_objects([[0, 0, 10, 10]], velocity=np.array([[3.0, 1.0]], np.float32))
    moved = transforms.move_objects(objects, Affine(np.array([-1.0, 1.0]), np.array([40.0, 0.0])), (20, 40))
    np.testing.assert_allclose(moved.boxes, [[30, 0, 40, 10]])
    np.testing.assert_allclose(moved.velocity, [[-3, 1]])


def test_mosaic_puts_boxes_on_pixels_and_nobody_in_two_places():
    box = [3, 4, 13, 10]
    images = [np.stack([draw([box], 16, 24)] * 2) for _ in range(4)]
    ids = [[5, 5], [6, 6], [6, 5], [7, 7]]
    tiles = [
        Clip(image, [make_objects([box], track_ids=np.array([i], np.int32)) for i in pair])
        for image, pair in zip(images, ids, strict=True)
    ]
    clip = transforms.mosaic(tiles)
    assert clip.images.shape == (2, 32, 48, 3)
    for t in range(2):
        expected = draw(clip.objects[t].boxes.astype(int).tolist(), 32, 48)
        np.testing.assert_array_equal(clip.images[t], expected)
    assert [o.track_ids.tolist() for o in clip.objects] == [[5, 6, -1, 7], [5, 6, -1, 7]]


def test_cutout_hides_a_part_and_says_how_much():
    box = [20, 20, 40, 50]
    images = np.stack([draw([box], 64, 64)] * 3)
    objects = [make_objects([box])] * 3
    for seed in range(10):
        clip = transforms.cutout(Clip(images.copy(), objects), 1.0, np.random.default_rng(seed))
        changed = (clip.images != images).any(axis=-1)
        np.testing.assert_array_equal(changed[0], changed[2])
        fraction = changed[0].sum() / (20 * 30)
        assert 0.08 < fraction < 0.5
        np.testing.assert_allclose(clip.objects[1].visibility, 1 - fraction, atol=1e-5)
        np.testing.assert_array_equal(clip.objects[1].boxes, objects[1].boxes)
    untouched = transforms.cutout(Clip(images, objects), 0.0, np.random.default_rng(0))
    np.testing.assert_array_equal(untouched.images, images)


def place_and_draw(image: np.ndarray, affine: Affine, size: tuple[int, int]) -> tuple[np.ndarray, Affine]:
    """Draws a picture as the training pipeline does, reduced first where that can be, and makes the rest black."""
    placement = transforms.place(affine, image.shape[:2], size)
    out = np.zeros((*size, 3), np.uint8)
    transforms.draw(reduce_image(image, placement.reduction), placement, out)
    left, top, right, bottom = placement.target
    beside = np.ones(size, bool)
    beside[top:bottom, left:right] = False
    assert (out[beside] == transforms.PADDING).all()
    out[beside] = 0
    return out, placement.affine


@pytest.mark.parametrize("seed", range(30))
def test_placed_boxes_lie_on_their_pixels(seed):
    """A box's edges are, to a fraction of a pixel, where the labels say, reduced or not, mirrored or not."""
    rng = np.random.default_rng(seed)
    box = np.array([[232.0, 168.0, 344.0, 304.0]])  # in a picture whose size is no multiple of the reductions
    image = draw(box.astype(int).tolist(), 469, 631)
    config = AugmentConfig(flip=0.5, scale=(0.3, 2.0), aspect=0.3, translate=0.2)
    affine = transforms.random_affine((469, 631), (96, 128), config, rng, np.array([[288.0, 236.0]]))
    out, placed = place_and_draw(image, affine, (96, 128))
    expected = np.clip(placed.boxes(box)[0], 0, [128, 96, 128, 96])
    if np.prod(expected[2:] - expected[:2]) > 0:
        # Rows and columns through its middle: how much is white tells where the edges are between pixels.
        x, y = ((expected[:2] + expected[2:]) / 2).astype(int)
        width, height = out[y, :, 0].sum() / 255, out[:, x, 0].sum() / 255
        np.testing.assert_allclose([width, height], expected[2:] - expected[:2], atol=0.4)
        weights = out[y, :, 0] / out[y, :, 0].sum(), out[:, x, 0] / out[:, x, 0].sum()
        center = [(w * (np.arange(len(w)) + 0.5)).sum() for w in weights]
        np.testing.assert_allclose(center, (expected[:2] + expected[2:]) / 2, atol=0.4)
    # The map is the one that was drawn, to a pixel.
    corners = np.array([[0.0, 0.0, 631.0, 469.0]])
    shown = affine.inverse().boxes(np.array([[0.0, 0.0, 128.0, 96.0]]))
    inside = np.concatenate([np.maximum(corners, shown)[:, :2], np.minimum(corners, shown)[:, 2:]], axis=1)
    np.testing.assert_allclose(placed.boxes(inside), affine.boxes(inside), atol=1.01)


@pytest.mark.parametrize("scale", [0.1, 0.2, 0.3, 0.45, 0.7, 1.5])
def test_placing_shows_what_warping_shows(scale):
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(256, size=(571, 763, 3)).astype(np.uint8), (0, 0), 4)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    affine = transforms.random_affine(
        image.shape[:2], (96, 128), AugmentConfig(flip=1.0, scale=(6 * scale,) * 2), rng
    )
    out, placed = place_and_draw(image, affine, (96, 128))
    warped = transforms.warp(image, placed, (96, 128))
    filled = placed.boxes(np.array([[0.0, 0.0, 763.0, 571.0]]))[0].clip(0, [128, 96, 128, 96]).astype(int)
    x0, y0, x1, y1 = filled + np.array([2, 2, -2, -2])
    assert x1 - x0 > 20 and y1 - y0 > 20
    difference = np.abs(out[y0:y1, x0:x1].astype(int) - warped[y0:y1, x0:x1])
    assert difference.mean() < 5
    # A shift of half a pixel would be seen.
    moved = transforms.warp(image, Affine(placed.scale, placed.offset + 0.5), (96, 128))
    assert np.abs(moved[y0:y1, x0:x1].astype(int) - warped[y0:y1, x0:x1]).mean() > 2 * difference.mean()


def test_placing_never_goes_below_the_resolution():
    size = (96, 128)
    for scale, reduction in [(1.0, 1), (0.51, 1), (0.5, 2), (0.26, 2), (0.25, 4), (0.125, 8), (0.05, 8)]:
        affine = Affine(np.array([scale, scale / 2]), np.zeros(2))
        assert transforms.place(affine, (2000, 3000), size).reduction == reduction


def test_placing_a_whole_picture_keeps_its_pixels():
    image = np.random.default_rng(0).integers(256, size=(96, 128, 3), dtype=np.uint8)
    for flip in (0.0, 1.0):
        affine = transforms.random_affine(
            (96, 128), (96, 128), AugmentConfig(flip=flip), np.random.default_rng(0)
        )
        out, placed = place_and_draw(image, affine, (96, 128))
        np.testing.assert_array_equal(out, image[:, ::-1] if flip else image)
        np.testing.assert_array_equal(placed.scale, affine.scale)
        np.testing.assert_array_equal(placed.offset, affine.offset)


def test_placing_what_is_outside_shows_nothing():
    affine = Affine(np.ones(2), np.array([0.0, 70.0]))
    out, placed = place_and_draw(np.full((64, 64, 3), 9, np.uint8), affine, (64, 64))
    assert (out == 0).all()
    np.testing.assert_array_equal(placed.offset, [0, 70])
