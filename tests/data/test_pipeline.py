import dataclasses
import json

import numpy as np
import pytest

from mtl_jax.config import AugmentConfig, DataConfig
from mtl_jax.data import datasets, pipeline
from mtl_jax.data.video import decode_image
from mtl_jax.errors import UserError
from mtl_jax.structures import Batch

AUGMENT = AugmentConfig(
    flip=0.5, scale=(0.7, 1.5), aspect=0.2, translate=0.1, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1,
    blur=1.0, cutout=0.3, mosaic=0.3,
)  # fmt: skip
PLAIN = AugmentConfig(flip=0.0)


@pytest.fixture
def config(data_dir) -> DataConfig:
    return DataConfig(
        dataset="moving_objects/tiny",
        data_dir=str(data_dir),
        image_size=(64, 96),
        clip_length=3,
        max_gap=2,
        max_objects=12,
        batch_size=4,
        augment=AUGMENT,
    )


def assert_same(a: Batch, b: Batch) -> None:
    for name in Batch._fields:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def take(iterator, count: int) -> list[Batch]:
    return [next(iterator) for _ in range(count)]


def test_batches_are_padded_and_masked(config):
    for batch in take(pipeline.training_pipeline(config, 0), 10):
        assert batch.images.shape == (4, 3, 64, 96, 3)
        assert batch.boxes.shape == (4, 3, 12, 4)
        assert {k: v.dtype for k, v in batch._asdict().items()} == {
            "images": np.uint8,
            "boxes": np.float32,
            "classes": np.int32,
            "track_ids": np.int32,
            "velocity": np.float32,
            "visibility": np.float32,
            "mask": np.bool_,
            "ignore": np.bool_,
            "gap": np.int32,
            "color": np.float32,
            "blur": np.float32,
        }
        assert batch.color.shape == (4, 4) and batch.blur.shape == (4, 4)
        assert not (batch.mask & batch.ignore).any()
        empty = ~(batch.mask | batch.ignore)
        assert (batch.boxes[empty] == 0).all()
        assert (batch.track_ids[empty] == -1).all()
        assert (batch.visibility[batch.mask] >= config.min_visibility).all()
        assert (batch.gap[:, 0] == 0).all()
        assert ((batch.gap[:, 1:] >= 1) & (batch.gap[:, 1:] <= 2)).all()
        meets = (batch.boxes[..., 2:] > 0).all(-1) & (batch.boxes[..., :2] < [96, 64]).all(-1)
        assert meets[~empty].all()


def test_clips_can_show_parts_of_frames(config):
    cropped = dataclasses.replace(config, image_size=(128, 192), crop_size=(64, 96))
    for batch in take(pipeline.training_pipeline(cropped, 0), 5):  # a mosaic among them
        assert batch.images.shape == (4, 3, 64, 96, 3)
    clip = next(pipeline.evaluation_clips(cropped, ("validation",)))
    assert next(clip.batches).images.shape[1:] == (128, 192, 3)
    # Without augmentation objects are twice as large as in the small picture, and those inside are all there.
    plain = dataclasses.replace(cropped, augment=PLAIN)
    whole = dataclasses.replace(plain, crop_size=None)
    parts, pictures = (next(pipeline.training_pipeline(c, 0)) for c in (plain, whole))
    found = 0
    for i, row in np.argwhere(parts.mask[:, 0]):
        match = pictures.mask[i, 0] & (pictures.track_ids[i, 0] == parts.track_ids[i, 0, row])
        (size,) = pictures.boxes[i, 0, match, 2:] - pictures.boxes[i, 0, match, :2]
        np.testing.assert_allclose(parts.boxes[i, 0, row, 2:] - parts.boxes[i, 0, row, :2], size, rtol=1e-5)
        found += 1
    assert found > 3


def test_seed_decides_everything_and_state_resumes(config):
    iterator = pipeline.training_pipeline(config, 0)
    batches = take(iterator, 6)
    state = json.loads(json.dumps(iterator.get_state()))
    after = take(iterator, 3)
    again = pipeline.training_pipeline(config, 0)
    for a, b in zip(batches, again, strict=False):
        assert_same(a, b)
    resumed = pipeline.training_pipeline(config, 0)
    resumed.set_state(state)
    for a, b in zip(after, take(resumed, 3), strict=True):
        assert_same(a, b)
    other = take(pipeline.training_pipeline(config, 1), 1)[0]
    assert not np.array_equal(other.images, batches[0].images)
    iterator.set_state(state)  # back in time
    assert_same(next(iterator), after[0])


def test_processes_share_every_batch_out(config):
    whole = take(pipeline.training_pipeline(config, 0), 5)
    shares = [take(pipeline.training_pipeline(config, 0, i, 2), 5) for i in range(2)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert first.images.shape[0] == second.images.shape[0] == 2
        np.testing.assert_array_equal(first.images, batch.images[:2])
        np.testing.assert_array_equal(second.images, batch.images[2:])
    with pytest.raises(UserError, match=r"data.batch_size is 4; expected a multiple of 3"):
        pipeline.training_pipeline(config, 0, 0, 3)


def first_frames(config: DataConfig, dataset: datasets.Dataset, count: int) -> list[int]:
    """Returns which stored frame each training clip begins with."""
    known = {decode_image(dataset[i].image).tobytes(): i for i in range(len(dataset))}
    return [
        known[np.ascontiguousarray(clip[0, :, :64]).tobytes()]
        for batch in take(pipeline.training_pipeline(config, 3), count)
        for clip in batch.images
    ]


def test_every_clip_is_seen_once_an_epoch_in_a_new_order(config):
    config = dataclasses.replace(
        config, augment=PLAIN, batch_size=10
    )  # 4 videos x 10 clips of 3 of 12 frames
    dataset = datasets.open_dataset(config.dataset, config.data_dir)
    seen = first_frames(config, dataset, 8)
    expected = [12 * video + start for video in range(4) for start in range(10)]
    assert sorted(seen[:40]) == sorted(seen[40:]) == expected
    assert seen[:40] != expected
    assert seen[:40] != seen[40:]


def test_gaps_are_those_of_the_frames(config):
    config = dataclasses.replace(config, augment=PLAIN, max_gap=3, batch_size=10)
    dataset = datasets.open_dataset(config.dataset, config.data_dir)
    known = {decode_image(dataset[i].image).tobytes(): i for i in range(len(dataset))}
    gaps = []
    for batch in take(pipeline.training_pipeline(config, 0), 8):
        for images, gap in zip(batch.images, batch.gap, strict=True):
            frames = [known[np.ascontiguousarray(image[:, :64]).tobytes()] for image in images]
            assert np.diff(frames).tolist() == gap[1:].tolist()
            assert frames[0] // 12 == frames[-1] // 12  # of one video
            gaps += gap[1:].tolist()
    assert set(gaps) == {1, 2, 3}


def test_labels_are_those_of_the_data_set(config):
    config = dataclasses.replace(
        config, augment=PLAIN, clip_length=1, batch_size=1, train=("train-002[5:5]",)
    )
    batch = next(pipeline.training_pipeline(config, 0))
    dataset = datasets.open_dataset(config.dataset, config.data_dir)
    objects = dataset[datasets.select(dataset, config.train)[0].first].objects
    count = len(objects.classes)
    assert count > 0
    np.testing.assert_allclose(batch.boxes[0, 0, :count], objects.boxes, rtol=1e-6)
    np.testing.assert_array_equal(batch.track_ids[0, 0, :count], objects.track_ids)
    np.testing.assert_array_equal(batch.classes[0, 0, :count], objects.classes)
    np.testing.assert_array_equal(batch.mask[0, 0, :count], objects.visibility >= config.min_visibility)
    np.testing.assert_array_equal(batch.ignore[0, 0, :count], objects.visibility < config.min_visibility)
    visible = dataclasses.replace(config, boxes="visible")
    batch = next(pipeline.training_pipeline(visible, 0))
    seen = objects.visibility > 0
    np.testing.assert_allclose(batch.boxes[0, 0, : seen.sum()], objects.visible_boxes[seen])


def test_motion_is_consistent_with_identity_under_augmentation(config):
    """Where an object was is where its velocity says, flipped and scaled as the picture is."""
    config = dataclasses.replace(
        config, augment=dataclasses.replace(AUGMENT, mosaic=0.0), max_gap=1, clip_length=2
    )
    errors, moves = [], []
    for batch in take(pipeline.training_pipeline(config, 0), 20):
        for i, t in np.ndindex(batch.mask.shape[0], 1):
            for row in np.flatnonzero(batch.mask[i, t]):
                match = np.flatnonzero(
                    batch.mask[i, 1] & (batch.track_ids[i, 1] == batch.track_ids[i, t, row])
                )
                for other in match:
                    before, after = batch.boxes[i, 0, row], batch.boxes[i, 1, other]
                    moved = (after[:2] + after[2:] - before[:2] - before[2:]) / 2
                    velocity = (batch.velocity[i, 0, row] + batch.velocity[i, 1, other]) / 2
                    errors.append(np.abs(moved - velocity).max())
                    moves.append(np.abs(moved).max())
    assert len(errors) > 50
    assert np.mean(moves) > 0.5
    assert np.median(errors) < 0.1


def test_evaluation_shows_every_frame_in_order(config):
    dataset = datasets.open_dataset(config.dataset, config.data_dir)
    clips = list(pipeline.evaluation_clips(config, ("validation", "test-000[4:9]"), chunk=5))
    assert [c.segment.name for c in clips] == ["validation-000", "validation-001", "test-000-4-9"]
    for clip in clips:
        batches = list(clip.batches)
        assert {len(b.images) for b in batches[:-1]} == {5}
        images = np.concatenate([b.images for b in batches])
        boxes = np.concatenate([b.boxes for b in batches])
        assert images.shape == (clip.segment.length, 64, 96, 3)
        for t in range(clip.segment.length):
            record = dataset[clip.segment.first + t]
            np.testing.assert_array_equal(images[t, :, :64], decode_image(record.image))
            count = len(record.objects.classes)
            back = clip.affine.inverse().boxes(boxes[t, :count])
            np.testing.assert_allclose(back, record.objects.boxes, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_objects": 2}, r"data.max_objects is 2, but moving_objects/tiny has frames with \d"),
        ({"clip_length": 0}, "data.clip_length is 0; expected at least 1"),
        ({"clip_length": 13}, "no video has data.clip_length=13 frames"),
        ({"image_size": (64, 100)}, r"data.image_size is \(64, 100\); expected multiples of 32"),
        ({"crop_size": (64, 80)}, r"data.crop_size is \(64, 80\); expected multiples of 32"),
        ({"crop_size": (96, 96)}, r"data.crop_size is \(96, 96\); expected no more than data.image_size"),
        ({"train": ("nothing",)}, "has no 'nothing'"),
    ],
)
def test_configurations_that_do_not_fit(config, change, message):
    with pytest.raises(UserError, match=message):
        pipeline.training_pipeline(dataclasses.replace(config, **change), 0)


def test_worker_processes_yield_the_same_batches(config):
    expected = take(pipeline.training_pipeline(config, 0), 3)
    iterator = pipeline.training_pipeline(dataclasses.replace(config, workers=1), 0)
    try:
        for a, b in zip(expected, take(iterator, 3), strict=True):
            assert_same(a, b)
        state = json.loads(json.dumps(iterator.get_state()))
        after = next(iterator)
        iterator.set_state(state)
        assert_same(next(iterator), after)
    finally:
        iterator.close()
