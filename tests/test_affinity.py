"""Which tasks help which: what is measured, and what follows from it."""

import json

import numpy as np
import pytest

from mtl_jax import affinity
from mtl_jax.cli import main
from mtl_jax.config import Config, ModelConfig
from mtl_jax.data.datasets import prepare
from mtl_jax.errors import UserError
from mtl_jax.models.sharing import build_network
from mtl_jax.models.sharing.tree import parse_tree

TASKS = ("box", "classification", "motion")
SAME, OPPOSITE = np.ones((3, 3)), 2 * np.eye(3) - 1


def test_all_groupings_are_there_once():
    for number, count in ((1, 1), (2, 2), (3, 5), (4, 15), (5, 52)):
        found = {
            frozenset(map(frozenset, partition)) for partition in affinity.partitions(tuple("abcde"[:number]))
        }
        assert len(found) == count


def test_groups_are_of_those_that_help():
    helps = np.array([[0.5, 0.2, -0.3], [0.1, 0.5, -0.1], [0.0, -0.2, 0.5]])
    one, two, three = affinity.best_groups(helps, TASKS)
    assert one == ((TASKS,), pytest.approx(0.05 + 0.0 - 0.2))
    assert set(two[0]) == {("box", "classification"), ("motion",)}
    assert two[1] == pytest.approx(0.3)
    assert (len(three[0]), three[1]) == (3, 0)


def _cosines(*levels):
    return dict(zip(("backbone entry", "backbone stage0", "backbone stage1", "neck"), levels, strict=True))


def test_tasks_part_where_their_gradients_conflict():
    def propose(*levels):
        return affinity.propose_tree(_cosines(*levels), TASKS, lambda tree: True)

    assert propose(OPPOSITE, SAME, SAME, SAME) == ""  # nobody parts in the entry
    assert propose(SAME, SAME, SAME, OPPOSITE) == "(box | classification | motion)@2"
    assert propose(SAME, SAME, OPPOSITE, OPPOSITE) == "(box | classification | motion)@1"
    # What parts stays apart: it costs more above than it gains below.
    assert propose(SAME, 0.5 * OPPOSITE, SAME, SAME) == ""
    motion_apart = np.array([[1.0, 1, -1], [1, 1, -1], [-1, -1, 1]])
    tree = propose(SAME, SAME, motion_apart, OPPOSITE)
    assert parse_tree(tree, TASKS) == parse_tree("((box | classification)@2 | motion)@1", TASKS)


def test_a_tree_that_costs_too_much_is_not_proposed():
    expensive = "(box | classification | motion)@1"
    tree = affinity.propose_tree(_cosines(SAME, SAME, OPPOSITE, OPPOSITE), TASKS, lambda t: t != expensive)
    assert tree and tree != expensive
    assert affinity.propose_tree(_cosines(SAME, SAME, OPPOSITE, OPPOSITE), TASKS, lambda t: False) == ""


def test_parts_go_from_the_entry_to_the_neck():
    network = build_network(ModelConfig(backbone="resnet18"), TASKS, num_classes=2)
    stages = [f"backbone stage{i}" for i in range(4)]
    assert affinity.shared_parts(network) == ["backbone entry", *stages, "neck"]


def test_only_where_all_is_shared(tmp_path):
    with pytest.raises(UserError, match=r"model.sharing: found mmoe"):
        affinity.measure(Config(model=ModelConfig(sharing="mmoe")), tmp_path)
    with pytest.raises(UserError, match="tasks: found 1; groups"):
        affinity.measure(Config(tasks=("box",)), tmp_path)


def test_an_experiment_is_measured_while_it_trains(tmp_path, capsys):
    prepare("moving_objects/tiny", data_dir := tmp_path / "data")
    experiment = tmp_path / "small.py"
    experiment.write_text(
        "from mtl_jax.config import *\n"
        f"config = Config(data=DataConfig(dataset='moving_objects/tiny', data_dir={str(data_dir)!r},\n"
        "    image_size=(64, 96), batch_size=2, max_objects=12), tasks=('box', 'classification', 'motion'),\n"
        "    model=ModelConfig(neck_channels=8, head_channels=8), weighting=WeightingConfig(scheme='equal'),\n"
        "    training=TrainingConfig(steps=4, checkpoint_every=4))\n"
    )
    out = tmp_path / "run"
    main(["affinity", str(experiment), "--workdir", str(out), "--times", "2", "--batches", "1"])
    result = json.loads((out / "affinity.json").read_text())
    assert result["measurements"] == 2
    helps = np.array(result["affinity"]["mean"])
    assert helps.shape == (3, 3)
    assert (np.diag(helps) > 0).all()  # a task's own step lowers its own loss
    for cosines in result["cosine"]["mean"].values():
        np.testing.assert_allclose(np.diag(cosines), 1, rtol=1e-3)
        np.testing.assert_allclose(cosines, np.transpose(cosines), rtol=1e-3, atol=1e-5)
    assert (out / "affinity.png").stat().st_size > 5_000 and (out / "cosines.png").stat().st_size > 5_000
    shown = capsys.readouterr().out
    assert "proposed: " in shown and "best in 2: " in shown
