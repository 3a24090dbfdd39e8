"""Sharing architectures: what each task's gradient reaches, and what they are in their limits."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.config import ModelConfig
from mtl_jax.errors import UserError
from mtl_jax.models.dependence import by_path, tasks_of_parameters
from mtl_jax.models.network import MultiTaskNetwork, example_inputs, initial_memory, initialize
from mtl_jax.models.sharing import SHARING, build_network
from mtl_jax.models.sharing.cross_stitch import mixture

TASKS = ("box", "classification", "motion", "identity")
CLIP = 2
ALL = {"all"}
TREE = {"tree": "(box classification | (motion | identity)@2)@1"}


@dataclasses.dataclass(frozen=True)
class Expected:
    """What an architecture shares: for the beginnings of paths, the tasks that reach the parameters there."""

    parts: dict[str, set[str]]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


TRUNKS = {f"{part}_{task}": {task} for part in ("backbone", "neck") for task in TASKS}
ATTENTION = {f"attention{stage}_{task}": {task} for stage in range(3) for task in TASKS}
COPIES = {f"backbone_{task}": ALL for task in TASKS} | {f"neck_{task}": {task} for task in TASKS}
EXPERTS = {"backbone": ALL} | {f"neck_expert{i}": ALL for i in range(4)}
EXPECTED = {
    "hard": Expected({"backbone": ALL, "neck": ALL}),
    "tree": Expected(
        {
            "backbone/": ALL,
            "backbone_box_classification": {"box", "classification"},
            "neck_box_classification": {"box", "classification"},
            "backbone_motion_identity": {"motion", "identity"},
            "backbone_motion/": {"motion"},
            "backbone_identity/": {"identity"},
            "neck_motion/": {"motion"},
            "neck_identity/": {"identity"},
        },
        TREE,
    ),
    "single": Expected(TRUNKS),
    "soft": Expected(TRUNKS),
    "cross_stitch": Expected(COPIES | {"stitch": ALL}),
    "sluice": Expected(COPIES | {"alpha": ALL} | {f"beta_{task}": {task} for task in TASKS}),
    "nddr": Expected(COPIES | {"fuse0": ALL, "fuse1": ALL} | {f"fuse2_{task}": {task} for task in TASKS}),
    "mtan": Expected({"backbone": ALL, **ATTENTION} | {f"neck_{task}": {task} for task in TASKS}),
    "mmoe": Expected(EXPERTS | {f"gate_{task}": {task} for task in TASKS}),
    "cgc": Expected(
        {"backbone": ALL, "neck_expert0_common": ALL, "neck_expert1_common": ALL}
        | {f"neck_expert0_{task}": {task} for task in TASKS}
        | {f"gate_0_{task}": {task} for task in TASKS}
    ),
    "ple": Expected(
        {"backbone": ALL, "neck_expert": ALL, "gate_0_common": ALL, "level1_expert0_common": ALL}
        | {"level1_expert1_common": ALL}
        | {f"{part}_{task}": {task} for part in ("gate_0", "gate_1", "level1_expert0") for task in TASKS}
    ),
    "dselect_k": Expected(
        EXPERTS | {f"{part}_{task}": {task} for part in ("code", "worth") for task in TASKS}
    ),
    "hierarchical": Expected(
        {
            "backbone/stem": ALL,
            "backbone/heatmap": ALL,
            "backbone/stage0": ALL,
            "backbone/stage1": ALL,
            "backbone/stage2": {"motion", "identity"},
            "neck2": {"box", "classification"},
            "neck3": {"motion", "identity"},
        }
    ),
    "cascade": Expected(
        {"backbone": ALL, "neck": ALL, "first": ALL}
        | {f"next_{task}": {task} for task in ("motion", "identity")}
        | {f"early_{task}": {task} for task in ("box", "classification")}
    ),
    "pad_net": Expected(
        {"backbone": ALL, "neck": ALL, "initial": ALL}
        | {f"early_{task}": {task} for task in TASKS}
        | {f"distil_gate_{task}": {task} for task in TASKS}
        | {f"distil_{a}_to_{b}": {b} for a in TASKS for b in TASKS if a != b}
    ),
    "mti_net": Expected(
        {"backbone": ALL, "lateral": ALL, "initial": ALL}
        | {f"early{level}_{task}": {task} for level in range(3) for task in TASKS}
        | {f"distil{level}_gate_{task}": {task} for level in range(3) for task in TASKS}
        | {f"distil{level}_{a}_to_{b}": {b} for level in range(3) for a in TASKS for b in TASKS if a != b}
        | {f"aggregate_{task}": {task} for task in TASKS}
    ),
    "branched": Expected(
        {"backbone/": ALL, "backbone_copy": ALL, "parents": ALL, "leaves": ALL}
        | {f"neck_{task}": {task} for task in TASKS}
    ),
    "adashare": Expected({"backbone": ALL, "neck": ALL, "policy": ALL}),
    "recurrent": Expected({"backbone": ALL, "neck": ALL, "gru": ALL}),
    "temporal_attention": Expected(
        {"backbone": ALL, "neck": ALL} | dict.fromkeys(("query", "key", "value", "output"), ALL)
    ),
}


def _network(name: str, tasks: tuple[str, ...] = TASKS, **options: Any) -> MultiTaskNetwork:
    config = ModelConfig(
        sharing=name, sharing_options=options, neck_channels=8, head_channels=8, embedding_dim=8
    )
    return build_network(config, tasks, num_classes=3, clip_length=CLIP)


def _variables(network: MultiTaskNetwork, seed: int = 0) -> dict[str, Any]:
    """Returns variables with nothing at zero, from where gradients would not pass."""
    shapes = jax.eval_shape(lambda key: initialize(network, key), jax.random.key(0))
    leaves, structure = jax.tree.flatten(shapes["params"])
    rng = np.random.default_rng(seed)
    params = [rng.normal(size=leaf.shape) * (2 / max(np.prod(leaf.shape[:-1]), 1)) ** 0.5 for leaf in leaves]
    params = jax.tree.unflatten(structure, [jnp.asarray(leaf, jnp.float32) for leaf in params])
    return {
        "params": params,
        "batch_stats": jax.tree.map_with_path(
            lambda path, x: (jnp.ones if path[-1].key == "var" else jnp.zeros)(x.shape), shapes["batch_stats"]
        ),
    }


def _inputs(network: MultiTaskNetwork, size: tuple[int, int] = (32, 64)) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    return tuple(
        jnp.asarray(rng.integers(0, 256, x.shape) if x.dtype == jnp.uint8 else rng.random(x.shape), x.dtype)
        for x in example_inputs(network, size)
    )


def _predictions(
    network: MultiTaskNetwork, variables: Any, *inputs: Any, train: bool = False
) -> dict[str, Any]:
    def apply(variables: Any) -> Any:
        features, _ = network.apply(
            variables,
            *inputs,
            train=train,
            mutable=["batch_stats"],
            rngs={"sharing": jax.random.key(0)},
            method="trunk",
        )
        return network.apply(variables, features, method="all_predictions")

    return jax.jit(apply)(variables)


def test_every_architecture_is_described():
    assert set(EXPECTED) == set(SHARING)


@pytest.mark.parametrize("name", list(SHARING))
def test_gradients_reach_what_they_should_and_nothing_else(name):
    expected = EXPECTED[name]
    network = _network(name, **expected.options)
    found = by_path(tasks_of_parameters(network))
    assert set(found) == set(by_path(_variables(network)["params"]))
    parts = expected.parts | {f"heads/{task}": {task} for task in TASKS}
    for path, tasks in found.items():
        matching = [part for part in parts if path.startswith(part)]
        assert matching, path
        wanted = parts[max(matching, key=len)]
        assert tasks == (TASKS if wanted == ALL else tuple(t for t in TASKS if t in wanted)), path
    assert all(any(path.startswith(part) for path in found) for part in parts)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SHARING))
def test_what_is_traced_is_what_is_computed(name):
    """The gradients that are traced are not zero, and the others are: of each task, in numbers."""
    network = _network(name, **EXPECTED[name].options)
    variables, inputs = _variables(network), _inputs(network)
    for code in [key for key in variables["params"] if key.startswith("code_")]:
        variables["params"][code] *= 0.1  # undecided, or experts that are not chosen get nothing

    def losses(params: Any) -> Any:
        outputs = _predictions(network, {**variables, "params": params}, *inputs, train=True)
        return jnp.stack([sum(jnp.sum(x**2) for x in outputs[task]) for task in TASKS])

    gradients = by_path(jax.jit(jax.jacrev(losses))(variables["params"]))
    for path, tasks in by_path(tasks_of_parameters(network)).items():
        reached = tuple(task for task, row in zip(TASKS, gradients[path], strict=True) if np.any(row))
        assert np.isfinite(gradients[path]).all()
        if name in ("branched", "adashare"):  # what the sample leaves out gets nothing this time
            assert set(reached) <= set(tasks), path
        else:
            assert reached == tasks, path


@pytest.mark.parametrize("name", list(SHARING))
def test_shapes_in_both_modes_and_for_any_tasks(name):
    network = _network(name, **EXPECTED[name].options)
    shapes = jax.eval_shape(lambda key: initialize(network, key), jax.random.key(0))
    channels = {"box": 4, "classification": 3, "motion": 4, "identity": 8}
    for train in (False, True):
        outputs = jax.eval_shape(
            lambda v, t=train: _predictions(network, v, *_inputs(network), train=t), shapes
        )
        for task, predictions in outputs.items():
            assert {x.shape for x in predictions} == {(CLIP, 8, 16, channels[task])}
            assert {x.dtype for x in predictions} == {jnp.dtype("float32")}
    for tasks in (("identity",), ("motion", "box")):
        few = _network(name, tasks)
        shapes = jax.eval_shape(lambda key, n=few: initialize(n, key), jax.random.key(0))
        outputs = jax.eval_shape(lambda v, n=few: _predictions(n, v, *_inputs(n), train=True), shapes)
        assert tuple(sorted(outputs)) == tuple(sorted(tasks))
    half_config = ModelConfig(sharing=name, sharing_options=EXPECTED[name].options, dtype="bfloat16")
    half = build_network(half_config, TASKS, num_classes=3, clip_length=CLIP)
    shapes = jax.eval_shape(lambda key: initialize(half, key), jax.random.key(0))
    outputs = jax.eval_shape(lambda v: _predictions(half, v, *_inputs(half), train=True), shapes)
    assert {x.dtype for x in jax.tree.leaves((shapes, outputs))} == {jnp.dtype("float32")}


def _renamed(params: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {new: params[old] for new, old in names.items()}


def _assert_alike(
    a: MultiTaskNetwork, a_variables: Any, b: MultiTaskNetwork, names: dict[str, str], **extra: Any
) -> None:
    """Checks that `b`, given `a`'s variables under its own names, predicts the same."""
    renamed = {
        collection: _renamed(tree, {k: v for k, v in names.items() if v in tree})
        for collection, tree in a_variables.items()
    }
    renamed["params"] |= extra
    inputs = _inputs(a)
    expected = _predictions(a, a_variables, *inputs, train=True)
    found = _predictions(b, renamed, *inputs, train=True)
    for task in TASKS:
        np.testing.assert_allclose(found[task][0], expected[task][0], rtol=1e-4, atol=1e-4)


HARD = {"backbone": "backbone", "neck": "neck", "heads": "heads"}


@pytest.fixture(scope="module")
def hard() -> tuple[MultiTaskNetwork, Any]:
    network = _network("hard")
    return network, _variables(network)


@pytest.fixture(scope="module")
def single() -> tuple[MultiTaskNetwork, Any]:
    network = _network("single")
    return network, _variables(network)


def test_a_tree_of_one_group_is_hard_sharing(hard):
    _assert_alike(*hard, _network("tree"), HARD)


def test_one_expert_is_hard_sharing(hard):
    gates = {f"gate_{task}": {"kernel": jnp.full((96, 1), 0.3), "bias": jnp.ones(1)} for task in TASKS}
    names = {"backbone": "backbone", "neck_expert0": "neck", "heads": "heads"}
    _assert_alike(*hard, _network("mmoe", experts=1), names, **gates)


def test_adashare_that_runs_every_block_is_hard_sharing(hard):
    always = {f"policy{i}": jnp.tile(jnp.array([100.0, -100.0]), (4, 1)) for i in range(3)}
    _assert_alike(*hard, _network("adashare"), HARD, **always)


def test_cross_stitch_of_the_identity_is_single_task_networks(single):
    stitches = {
        f"stitch{i}": jnp.eye(4)[..., None] * jnp.ones(channels) for i, channels in enumerate((32, 64, 96))
    }
    names = {name: name for name in single[1]["params"]}
    _assert_alike(*single, _network("cross_stitch", own=1.0), names, **stitches)


def test_branches_on_their_own_are_single_task_networks_above_the_entry(single):
    """With each copy going on from itself; all tasks have one entry, so the single networks get the same."""
    network, variables = single
    first = f"backbone_{TASKS[0]}"
    entry = {"stem", "stem_conv", "stem_reduce", "heatmap_stem"}
    for collection in variables.values():
        for task in TASKS[1:]:
            trunk = collection[f"backbone_{task}"]
            trunk |= {part: collection[first][part] for part in entry & trunk.keys()}
    apart = {name: 100 * jnp.eye(4) for name in ("parents1", "parents2", "leaves")}
    names = {f"backbone_copy{i}": f"backbone_{task}" for i, task in enumerate(TASKS)}
    names |= {"backbone": first, "heads": "heads"} | {f"neck_{task}": f"neck_{task}" for task in TASKS}
    _assert_alike(network, variables, _network("branched"), names, **apart)


def test_mixtures_start_with_most_of_their_own():
    np.testing.assert_allclose(mixture(3, 0.9), [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]])
    np.testing.assert_allclose(mixture(1, 0.9), [[1]])


@pytest.mark.parametrize("tie", ["l2", "trace_norm"])
def test_a_tie_measures_and_draws_together(tie):
    network = _network("soft", tie=tie, strength=1.0)
    params = _variables(network)["params"]
    value, gradient = jax.jit(jax.value_and_grad(network.penalty))(params)
    trunks = [by_path(params[f"backbone_{task}"]) for task in TASKS]
    rows = [np.stack([np.ravel(t[path]) for t in trunks]).astype(float) for path in trunks[0]]
    if tie == "l2":
        expected = sum(np.sum((r - r.mean(axis=0)) ** 2) for r in rows)
        slopes = [2 * (r - r.mean(axis=0)) for r in rows]
    else:
        decompositions = [np.linalg.svd(r, full_matrices=False) for r in rows]
        expected = sum(s.sum() for _, s, _ in decompositions)
        slopes = [u @ v for u, _, v in decompositions]
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    found = [by_path(gradient[f"backbone_{task}"]) for task in TASKS]
    for i, path in enumerate(trunks[0]):
        stacked = np.stack([np.ravel(g[path]) for g in found])
        np.testing.assert_allclose(stacked, slopes[i], rtol=2e-2, atol=2e-3)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["heads"]))
    # Equal trunks: no distance, and no numbers that are none.
    for task in TASKS:
        params[f"backbone_{task}"] = params["backbone_box"]
    value, gradient = jax.jit(jax.value_and_grad(network.penalty))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    if tie == "l2":
        np.testing.assert_allclose(value, 0, atol=1e-6)


def test_a_tie_that_is_strong_makes_one_trunk_of_all(hard):
    """A gradient step of size `1 / (2 strength)` on the penalty alone puts every trunk in the middle of all."""
    strength = 1e4
    network = _network("soft", strength=strength)
    params = _variables(network)["params"]
    gradient = jax.jit(jax.grad(network.penalty))(params)
    params = jax.tree.map(lambda p, g: p - g / (2 * strength), params, gradient)
    middle = params["backbone_box"]
    for task in TASKS:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), params[f"backbone_{task}"], middle
        )
    # With necks alike too it is hard sharing.
    params |= {f"neck_{task}": params["neck_box"] for task in TASKS}
    shared = {"backbone": middle, "neck": params["neck_box"], "heads": params["heads"]}
    stats = hard[1]["batch_stats"]
    soft_stats = {f"{part}_{task}": stats[part] for part in ("backbone", "neck") for task in TASKS}
    inputs = _inputs(network)
    found = _predictions(network, {"params": params, "batch_stats": soft_stats}, *inputs)
    expected = _predictions(hard[0], {"params": shared, "batch_stats": stats}, *inputs)
    for task in TASKS:
        np.testing.assert_allclose(found[task][0], expected[task][0], rtol=1e-3, atol=1e-3)


def test_dselect_k_chooses_experts_by_their_codes():
    network = _network("dselect_k", experts=4, selectors=2)
    codes = jnp.array([[9.0, -9.0], [-9.0, 9.0]])
    np.testing.assert_array_equal(network._choices(codes), [[0, 1, 0, 0], [0, 0, 1, 0]])
    np.testing.assert_allclose(network._choices(jnp.zeros((2, 2))), np.full((2, 4), 0.25))
    decided = {f"code_{task}": codes for task in TASKS}
    undecided = {f"code_{task}": jnp.zeros((2, 2)) for task in TASKS}
    np.testing.assert_allclose(network.penalty(decided), 0, atol=1e-9)
    np.testing.assert_allclose(network.penalty(undecided), network.entropy * 8 * np.log(4), rtol=1e-6)


def test_subspaces_that_are_orthogonal_cost_nothing():
    network = _network("sluice", strength=1.0)
    kernel = np.zeros((1, 1, 4, 4), np.float32)
    kernel[0, 0, 0, :2] = kernel[0, 0, 1, 2:] = 1
    params = {f"backbone_{task}": {"kernel": jnp.asarray(kernel)} for task in TASKS}
    np.testing.assert_allclose(network.penalty(params), 0)
    kernel[0, 0, 0, 2:] = 1
    params["backbone_box"] = {"kernel": jnp.asarray(kernel)}
    np.testing.assert_allclose(network.penalty(params), 4)


def test_adashare_asks_for_few_blocks_and_for_the_same():
    network = _network("adashare", sparsity=1.0, sharing=0.0)
    alike = {f"policy{i}": jnp.zeros((4, 2)) for i in range(3)}
    np.testing.assert_allclose(network.penalty(alike), 6)
    network = _network("adashare", sparsity=0.0, sharing=1.0)
    np.testing.assert_allclose(network.penalty(alike), 0, atol=1e-6)
    one_apart = alike | {"policy1": jnp.zeros((4, 2)).at[2, 0].set(100.0)}
    np.testing.assert_allclose(network.penalty(one_apart), 2 / 3 * 3 * 0.5, rtol=1e-5)


@pytest.mark.parametrize("name", ["recurrent", "temporal_attention"])
def test_frames_one_by_one_are_as_the_whole_clip(name):
    options = {} if name == "recurrent" else {"frames": 2}
    config = ModelConfig(sharing=name, sharing_options=options, neck_channels=8, head_channels=8)
    network = build_network(config, TASKS, num_classes=3, clip_length=5)
    variables = _variables(network)
    inputs = _inputs(network)

    @jax.jit
    def whole(*inputs: Any) -> Any:
        return network.apply(variables, *inputs, method="trunk")

    @jax.jit
    def online(memory: Any, *frame: Any) -> Any:
        features, updated = network.apply(
            {**variables, "memory": memory}, *frame, mutable=["memory"], method="trunk"
        )
        return features, updated["memory"]

    clip = whole(*inputs)
    memory = initial_memory(network, variables, tuple(x[:1] for x in inputs))
    for t in range(5):
        features, memory = online(memory, *(x[t : t + 1] for x in inputs))
        np.testing.assert_allclose(features[0], clip[t], rtol=1e-3, atol=1e-3)
    # What was seen before counts, what comes later does not.
    images = inputs[0].at[3].set(255 - inputs[0][3])
    changed = np.abs(whole(images, *inputs[1:]) - clip).max(axis=(1, 2, 3))
    np.testing.assert_array_equal(changed[:3], 0)
    assert (changed[3:] > 1e-3).all()


def test_what_remembers_needs_clips():
    network = build_network(ModelConfig(sharing="recurrent"), TASKS, num_classes=3)
    with pytest.raises(UserError, match=r"data.clip_length: found 1, .*; give 2 or more"):
        jax.eval_shape(lambda key: initialize(network, key), jax.random.key(0))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "tree",
            {"tree": "(box classification | motion identity)@4"},
            "found @4, but the backbone has 3 stages",
        ),
        ("hierarchical", {"levels": "box=4"}, "found 'box=4'; expected TASK=STAGES with 1 to 3 stages"),
        ("hierarchical", {"levels": "boxes=2"}, "no task is called 'boxes'"),
        ("mmoe", {"shared_stages": 5}, "found 5, but the backbone has 3 stages"),
        ("dselect_k", {"experts": 6}, "found 6; expected a power of two"),
    ],
)
def test_options_that_do_not_fit_the_network_are_named(name, options, message):
    network = _network(name, **options)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda key: initialize(network, key), jax.random.key(0))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("harder", {}, "model.sharing: found 'harder'; choose from hard, tree"),
        ("mmoe", {"expert": 3}, "unknown key model.sharing.expert; did you mean model.sharing.experts?"),
        ("hard", {"experts": 3}, "unknown key model.sharing.experts; there are none"),
        ("mmoe", {"experts": 2.5}, "model.sharing.experts: expected int, found 2.5"),
    ],
)
def test_names_and_options_that_are_not_there(name, options, message):
    with pytest.raises(UserError, match=message):
        _network(name, **options)
