import pytest

from mtl_jax.config import Config, DataConfig, ModelConfig, TrackerConfig, WeightingConfig, from_json, to_json
from mtl_jax.errors import UserError
from mtl_jax.inference import build_tracker
from mtl_jax.options import named_options


def test_what_is_saved_comes_back():
    config = Config(
        weighting=WeightingConfig(scheme="cagrad", hyperparameters={"c": 0.4, "rescale": 2, "every": True}),
        tracker=TrackerConfig(name="ocsort", options={"low_turn": True, "overlap": "giou", "max_lost": 9}),
    )
    assert from_json(to_json(config)) == config
    cropped = Config(data=DataConfig(crop_size=(64, 96)))
    assert from_json(to_json(cropped)) == cropped
    with pytest.raises(UserError, match=r"run: data.crop_size: expected 2 values, found 1"):
        from_json(to_json(Config()).replace('"crop_size": null', '"crop_size": [32]'), "run")
    wrong = to_json(config).replace('"max_lost": 9', '"max_lost": null')
    with pytest.raises(UserError, match=r"run: tracker.options.max_lost: expected bool \| int .* found None"):
        from_json(wrong, "run")


@pytest.mark.parametrize(
    ("tracker", "message"),
    [
        (TrackerConfig(name="sorted"), "tracker.name: found 'sorted'; choose from sort, bytetrack, .*joint"),
        (
            TrackerConfig(name="sort", options={"max_los": 3}),
            "sort: unknown key tracker.max_los; did you mean tracker.max_lost?",
        ),
        (
            TrackerConfig(name="sort", options={"max_lost": 0.5}),
            "sort: tracker.max_lost: expected int, found 0.5",
        ),
        (
            TrackerConfig(name="sort", options={"overlap": "area"}),
            "sort: tracker.overlap: found 'area'; choose from 'iou', 'giou'",
        ),
        (
            TrackerConfig(name="jde", options={"camera_motion": True}),
            "tracker.camera_motion: jde cannot follow a moving camera; use botsort or joint",
        ),
    ],
)
def test_wrong_trackers_are_named(tracker, message):
    with pytest.raises(UserError, match=message):
        build_tracker(tracker)


def test_tracker_of_a_configuration():
    tracker = build_tracker(TrackerConfig(name="sort", options={"match_iou": 1, "capacity": 5}))
    assert (type(tracker).__name__, tracker.match_iou, tracker.capacity) == ("Sort", 1.0, 5)


def test_options_of_an_architecture_are_read_beside_those_of_the_model():
    words = [
        "--model.sharing",
        "mmoe",
        "--model.sharing.experts=8",
        "--model.norm",
        "group",
        "--model.sharing-x",
        "1",
    ]
    defaults = Config(model=ModelConfig(sharing="tree", sharing_options={"tree": "(box | motion)@1"}))
    rest, config = named_options(words, defaults, "model", "sharing", "sharing_options", "--model.sharing")
    assert rest == ["--model.norm", "group", "--model.sharing-x", "1"]
    assert (config.model.sharing, config.model.sharing_options) == ("mmoe", {"experts": 8})
