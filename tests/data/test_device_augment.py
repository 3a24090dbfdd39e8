import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.benchmark.batches import random_batch
from mtl_jax.config import AugmentConfig, DataConfig
from mtl_jax.data import device_augment, transforms
from mtl_jax.structures import Batch

CONFIG = DataConfig(image_size=(32, 64), batch_size=8)


def augmented(config: AugmentConfig, seed: int = 0) -> tuple[Batch, np.ndarray]:
    """Returns a batch that carries changes of each clip, and its images under them."""
    batch = random_batch(CONFIG, seed)
    drawn = [
        (transforms.draw_color(config, rng), transforms.draw_blur(config, rng))
        for rng in map(np.random.default_rng, range(CONFIG.batch_size))
    ]
    color, blur = (None if column[0] is None else np.stack(column) for column in zip(*drawn, strict=True))
    # Colours of a real picture change little from pixel to pixel.
    images = np.stack([[cv2.GaussianBlur(image, (0, 0), 2) for image in clip] for clip in batch.images])
    batch = batch._replace(images=images, color=color, blur=blur)
    result = jax.jit(device_augment.augment)(batch)
    assert result.color is None and result.blur is None
    assert result.images.dtype == np.uint8
    return batch, np.asarray(result.images)


def test_brightness_and_contrast():
    batch, images = augmented(AugmentConfig(brightness=0.5, contrast=0.5))
    assert batch.color.shape == (8, 2)
    brightness, contrast = (column[:, None, None, None, None].astype(float) for column in batch.color.T)
    expected = np.clip((batch.images * brightness - 128) * contrast + 128, 0, 255)
    np.testing.assert_allclose(images, expected, atol=0.501)
    assert (images != batch.images).any()


def test_saturation_and_hue_are_those_of_hsv():
    batch, images = augmented(AugmentConfig(saturation=0.6, hue=0.5))
    assert batch.color.shape == (8, 4)
    for clip, changed, (_, _, saturation, turn) in zip(batch.images, images, batch.color, strict=True):
        hsv = cv2.cvtColor(clip[0].astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + 360 * turn) % 360
        hsv[..., 1] = np.clip(hsv[..., 1] * saturation, 0, 1)
        expected = 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        np.testing.assert_allclose(changed[0], expected, atol=0.6)


def test_grey_stays_grey():
    changes = jnp.array([[1.0, 1.0, 1.7, 0.3]] * 2)
    grey = jnp.full((2, 1, 4, 4, 3), 77.0)
    np.testing.assert_allclose(device_augment.change_color(grey, changes), grey)


def test_blur_is_gaussian_and_leaves_half_of_the_clips():
    config = AugmentConfig(blur=1.5)
    batch, images = augmented(config)
    blurred = 0
    for clip, changed, seed in zip(batch.images, images, range(CONFIG.batch_size), strict=True):
        sigma = np.random.default_rng(seed)
        for _ in range(4):  # what the colours take
            sigma.uniform(-1, 1)
        width = sigma.uniform(-1, 1) * config.blur
        blurred += width > 0
        expected = cv2.GaussianBlur(clip[1], (0, 0), width) if width > 0 else clip[1]
        np.testing.assert_allclose(changed[1].astype(int), expected.astype(int), atol=2)
    assert 0 < blurred < CONFIG.batch_size


@pytest.mark.parametrize("shares", [2, 4])
def test_a_clip_is_changed_alike_in_any_batch(shares):
    config = AugmentConfig(brightness=0.2, contrast=0.2, saturation=0.5, hue=0.1, blur=1.0)
    batch, images = augmented(config)
    size = CONFIG.batch_size // shares
    for i in range(shares):
        part = jax.tree.map(lambda x, i=i: x[i * size : (i + 1) * size], batch)
        np.testing.assert_array_equal(
            jax.jit(device_augment.augment)(part).images, images[i * size : (i + 1) * size]
        )


def test_nothing_is_done_where_nothing_is_asked_for():
    batch = random_batch(CONFIG, 0)
    assert device_augment.augment(batch) is batch
