import errno
import sys

import cv2
import numpy as np
import pytest

from mtl_jax.data import datasets, moving_objects, synthetic, video
from mtl_jax.errors import UserError


def test_frames_come_back_as_they_were_rendered(data_dir):
    dataset = datasets.open_dataset("moving_objects/tiny", data_dir)
    scene = synthetic.PRESETS["tiny"]
    assert dataset.class_names == ("square", "disc", "triangle")
    assert len(dataset) == sum(s.length for s in dataset.sequences) == 4 * 12 + 2 * 12 + 2 * 12
    index, sequence = 5, dataset.sequences[5]
    rendered = synthetic.render_video(scene, index, sequence.length)
    assert sequence.split == "validation"
    for t in range(sequence.length):
        record = dataset[sequence.first + t]
        assert (record.sequence, record.frame) == (index, t + 1)
        rows = np.flatnonzero(rendered.present[t])
        objects = record.objects
        np.testing.assert_allclose(objects.boxes, rendered.boxes[t, rows], rtol=1e-6)
        np.testing.assert_allclose(objects.visible_boxes, rendered.visible_boxes[t, rows])
        np.testing.assert_allclose(objects.velocity, rendered.velocity[t, rows], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(objects.visibility, rendered.visibility[t, rows], rtol=1e-6)
        np.testing.assert_array_equal(objects.classes, rendered.classes[rows])
        np.testing.assert_array_equal(objects.depth, rendered.depth[rows])
        assert not objects.ignore.any()
        image = video.decode_image(record.image)
        assert np.abs(image.astype(int) - rendered.frames[t]).mean() < 6
        # The label map speaks of rows of the record, not of the video.
        labels = cv2.imdecode(np.frombuffer(record.masks, np.uint8), cv2.IMREAD_UNCHANGED)
        for row, k in enumerate(rows):
            np.testing.assert_array_equal(labels == row + 1, rendered.masks[t] == k + 1)


def test_identities_and_largest_frame_are_those_of_the_metadata(data_dir):
    dataset = datasets.open_dataset("moving_objects/tiny", data_dir)
    records = [dataset[i] for i in range(len(dataset))]
    assert max(len(r.objects.classes) for r in records) == dataset.max_objects
    tracks: dict[int, set[int]] = {}
    for record in records:
        assert len(set(record.objects.track_ids)) == len(record.objects.track_ids)
        for track_id in record.objects.track_ids.tolist():
            tracks.setdefault(track_id, set()).add(record.sequence)
    assert sorted(tracks) == list(range(dataset.num_tracks))
    assert all(len(sequences) == 1 for sequences in tracks.values())


def test_no_tensorflow_is_needed(data_dir):
    datasets.open_dataset("moving_objects/tiny", data_dir)[0]
    assert "tensorflow" not in sys.modules


def test_interrupted_preparation_leaves_nothing_and_can_be_repeated(tmp_path, monkeypatch):
    render = synthetic.render_video
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return render(*arguments)

    monkeypatch.setattr(synthetic, "render_video", interrupted)
    with pytest.raises(KeyboardInterrupt):
        datasets.prepare("moving_objects/tiny", tmp_path)
    assert not datasets.dataset_path("moving_objects/tiny", tmp_path).exists()
    assert not list(tmp_path.rglob("*.array_record*"))
    monkeypatch.setattr(synthetic, "render_video", render)
    assert len(datasets.prepare("moving_objects/tiny", tmp_path)) == 96


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError(
            "write() failed: No space left on device; writing a.array_record"
        ),  # what ArrayRecord raises
    ],
)
def test_full_disk(tmp_path, monkeypatch, error):
    def full(*_):
        raise error

    monkeypatch.setattr(moving_objects, "_record", full)
    with pytest.raises(UserError, match="the disk is full; make room"):
        datasets.prepare("moving_objects/tiny", tmp_path)
    assert not list(tmp_path.rglob("*.array_record*"))
