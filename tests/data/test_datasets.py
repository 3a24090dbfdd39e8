import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mtl_jax.data import datasets
from mtl_jax.errors import UserError


@pytest.fixture(scope="module")
def tiny(data_dir) -> datasets.Dataset:
    return datasets.open_dataset("moving_objects/tiny", data_dir)


def test_select_splits_sequences_and_parts(tiny):
    train = datasets.select(tiny, ("train",))
    assert [s.name for s in train] == [f"train-{k:03d}" for k in range(4)]
    assert [(s.first, s.length, s.first_frame) for s in train] == [(12 * k, 12, 1) for k in range(4)]
    part, whole = datasets.select(tiny, ("validation-001[3:7]", "test-000[1:12]"))
    assert (part.name, part.first, part.length, part.first_frame) == ("validation-001-3-7", 62, 5, 3)
    assert tiny[part.first].frame == 3
    assert tiny.sequences[tiny[part.first].sequence] == part.sequence
    assert (whole.name, whole.length) == ("test-000", 12)
    assert len(datasets.select(tiny, ("all",))) == 8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("holdout", r"no 'holdout'; it has the splits train, validation, test and the sequences train-000, "),
        ("nobody[1:2]", "no 'nobody'"),
        ("train[1:2]", "no 'train'"),  # which of them?
        ("train-000[0:5]", r"train-000\[0:5\]: train-000 has the frames 1 to 12"),
        ("train-000[5:13]", "frames 1 to 12"),
        ("train-000[7:6]", "frames 1 to 12"),
    ],
)
def test_select_what_is_not_there(tiny, name, message):
    with pytest.raises(UserError, match=message):
        datasets.select(tiny, (name,))


def test_rendered_data_sets_are_prepared_when_opened(tmp_path):
    assert len(datasets.open_dataset("moving_objects/tiny", tmp_path)) == 96
    assert datasets.prepare("moving_objects/tiny", tmp_path).name == "moving_objects/tiny"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("imagenet", "no data set 'imagenet'; expected one of moving_objects, mot_challenge"),
        ("moving_objects/huge", "moving_objects has no 'huge'; it has tiny, quickstart, standard, hard"),
        ("mot_challenge/a b", "'a b' is no name"),
        ("mot_challenge/..", r"'\.\.' is no name"),
        (
            "mot_challenge/pets",
            "run `mtl-jax data prepare mot_challenge --source DIR --name pets --data-dir ",
        ),
    ],
)
def test_opening_what_is_not_there(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        datasets.open_dataset(name, tmp_path)


def test_preparing_with_wrong_arguments(make_sequence, tmp_path):
    source = make_sequence().parent
    with pytest.raises(UserError, match="--source is missing"):
        datasets.prepare("mot_challenge", tmp_path / "data")
    with pytest.raises(UserError, match="not a folder"):
        datasets.prepare("mot_challenge", tmp_path / "data", tmp_path / "nowhere")
    with pytest.raises(UserError, match="leave --source out"):
        datasets.prepare("moving_objects/tiny", tmp_path / "data", source)
    datasets.prepare("mot_challenge/mine", tmp_path / "data", source)
    with pytest.raises(UserError, match="prepared already; delete this folder, or choose another --name"):
        datasets.prepare("mot_challenge/mine", tmp_path / "data", source)


def test_damaged_data_set(tmp_path):
    path = datasets.prepare("moving_objects/tiny", tmp_path).path
    (path / "dataset_info.json").unlink()
    with pytest.raises(UserError, match="not a whole data set; delete it and prepare it anew"):
        datasets.open_dataset("moving_objects/tiny", tmp_path)


def test_workers_get_a_data_set_of_their_own(tiny):
    copy = pickle.loads(pickle.dumps(tiny))
    assert copy[17].image == tiny[17].image


def test_records_are_what_tfds_reads(tiny):
    builder = tfds.builder_from_directory(tiny.path)
    skip = {name: tfds.decode.SkipDecoding() for name in ("image", "masks")}
    stored = builder.as_data_source("validation", decoders=skip)
    first = datasets.select(tiny, ("validation",))[0].first
    for i, example in enumerate(stored):
        record = tiny[first + i]
        for name in ("image", "masks", "sequence", "frame"):
            assert getattr(record, name) == example[name]
        for name, column in record.objects._asdict().items():
            assert column.dtype == example["objects"][name].dtype
            np.testing.assert_array_equal(column, example["objects"][name])
