"""What architectures share and cost, as it is counted and drawn."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.cli import main
from mtl_jax.config import Config, DataConfig, ModelConfig
from mtl_jax.describe import compare, describe
from mtl_jax.errors import UserError
from mtl_jax.models.backbones import build_backbone
from mtl_jax.models.flops import count_flops
from mtl_jax.models.graph import graph_of
from mtl_jax.models.sharing import build_network

TASKS = ("box", "classification", "motion", "identity")


def _network(name: str, **options):
    config = ModelConfig(sharing=name, sharing_options=options, neck_channels=8, head_channels=8)
    return build_network(config, TASKS, num_classes=3)


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (jnp.dot, [(2, 3), (3, 4)], 2 * 2 * 3 * 4),
        (lambda a, b: jnp.einsum("bij,bjk->bik", a, b), [(5, 2, 3), (5, 3, 4)], 5 * 48),
        (lambda x: jnp.sum(jnp.exp(x) * x), [(7, 3)], 3 * 21),
        (lambda x: x.reshape(3, 7).T, [(7, 3)], 0),
        (lambda x: jax.lax.scan(lambda c, y: (c + y, c), jnp.zeros(3), x)[0], [(7, 3)], 21),
        (jax.jit(lambda x: jax.checkpoint(jnp.tanh)(x)), [(7, 3)], 21),
        (
            lambda x, k: jax.lax.conv_general_dilated(
                x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            ),
            [(1, 8, 8, 4), (3, 3, 4, 6)],
            2 * 4 * 4 * 6 * 9 * 4,
        ),
        (
            lambda x, k: jax.lax.conv_general_dilated(
                x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4
            ),
            [(1, 8, 8, 4), (3, 3, 1, 4)],
            2 * 64 * 4 * 9,
        ),
    ],
)
def test_operations_are_counted(function, shapes, expected):
    assert count_flops(function, *(jnp.ones(shape) for shape in shapes)) == expected


def test_the_published_count_of_resnet18_comes_out():
    backbone = build_backbone("resnet18", "frozen")
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.uint8)
    variables = jax.eval_shape(backbone.init, jax.random.key(0), images)
    # torchvision: 1.814 billion multiply-adds, 512,000 of them in the classifier; norms and ReLUs are counted here.
    np.testing.assert_allclose(count_flops(backbone.apply, variables, images), 2 * 1.8136e9, rtol=0.02)


def test_costs_of_single_networks_are_four_times_those_of_one():
    one = build_network(ModelConfig(neck_channels=8, head_channels=8), ("box",), num_classes=3)
    alone = describe(one, (64, 96))
    four = describe(
        build_network(ModelConfig(neck_channels=8, head_channels=8, sharing="single"), TASKS, 3), (64, 96)
    )
    hard = describe(_network("hard"), (64, 96))
    assert four.shared == 0
    assert four.own["box"] == alone.parameters
    assert sum(four.own.values()) == four.parameters
    assert hard.shared + sum(hard.own.values()) == hard.parameters
    for cost in ("flops", "activations", "xla_flops"):
        np.testing.assert_allclose(getattr(four, cost), 4 * getattr(alone, cost), rtol=0.25)
        assert getattr(hard, cost) < 1.5 * getattr(alone, cost)
    np.testing.assert_allclose(hard.xla_flops, hard.flops, rtol=0.15)


def test_a_network_is_drawn_as_it_is_connected():
    tree = "(box classification | motion identity)@1"
    graph = graph_of(_network("tree", tree=tree))
    names = [node.name for node in graph.nodes]
    edges = {(names[a], names[b]) for a, b in graph.edges}
    for branch in ("box_classification", "motion_identity"):
        assert ("backbone stage0", f"backbone_{branch} stage1") in edges
        assert (f"backbone_{branch} stage1", f"backbone_{branch} stage2") in edges
        assert (f"backbone_{branch} stage2", f"neck_{branch}") in edges
        for task in branch.split("_"):
            assert (f"neck_{branch}", f"head {task}") in edges
    assert ("neck_box_classification", "head motion") not in edges
    nodes = dict(zip(names, graph.nodes, strict=True))
    assert nodes["backbone stage0"].tasks == TASKS
    assert nodes["neck_motion_identity"].tasks == ("motion", "identity")
    assert nodes["head motion"].tasks == ("motion",)
    total = describe(_network("tree", tree=tree), (32, 32)).parameters
    assert sum(node.parameters for node in graph.nodes) == total


def test_mixtures_are_edges():
    graph = graph_of(_network("cross_stitch"))
    names = [node.name for node in graph.nodes]
    edges = {(names[a], names[b]) for a, b in graph.edges}
    for a in TASKS:
        for b in TASKS:
            assert (f"backbone_{a} stage0", f"backbone_{b} stage1") in edges
            assert ((f"neck_{a}", f"head {b}") in edges) == (a == b)


def test_architectures_are_compared_and_drawn(tmp_path, capsys):
    experiment = tmp_path / "small.py"
    experiment.write_text(
        "from mtl_jax.config import Config, DataConfig, ModelConfig\n"
        "config = Config(data=DataConfig(data_dir='/nowhere'), model=ModelConfig(neck_channels=8, head_channels=8))\n"
    )
    options = [
        "--sharing",
        "hard",
        "mmoe",
        "--plot",
        str(tmp_path / "net.png"),
        "--data.image-size",
        "64",
        "96",
    ]
    main(["describe", str(experiment), *options, "--json"])
    described = json.loads(capsys.readouterr().out)
    assert list(described) == ["hard", "mmoe"]
    assert described["mmoe"]["costs"]["parameters"] > described["hard"]["costs"]["parameters"]
    assert all((tmp_path / f"net_{name}.png").stat().st_size > 10_000 for name in described)
    main(["describe", str(experiment), "--model.sharing", "mmoe", "--model.sharing.experts", "2"])
    shown = capsys.readouterr().out
    assert "neck_expert1" in shown and "neck_expert2" not in shown


def test_an_architecture_that_is_not_there():
    config = Config(data=DataConfig(data_dir="/nowhere"))
    with pytest.raises(UserError, match=r"model.sharing: found 'harder'; choose from hard"):
        compare(config, ["harder"])
