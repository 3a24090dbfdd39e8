import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.structures import Batch
from mtl_jax.tasks import STRIDE, TASKS, batch_targets, box, decode, motion
from mtl_jax.tasks.targets import perturb_objects, render_heatmap

HEIGHT, WIDTH, CLASSES, FEATURES = 64, 96, 3, 8
SHAPE = (HEIGHT // STRIDE, WIDTH // STRIDE)


def make_batch() -> Batch:
    """Two clips of two frames; two objects that move, in the second clip one of them without identity."""
    boxes = np.zeros((2, 2, 4, 4), np.float32)
    boxes[:, 0, 0] = [10, 10, 30, 34]
    boxes[:, 1, 1] = [14, 8, 34, 32]  # the same object, in another row, moved by (4, -2)
    boxes[:, 0, 1] = [60, 20, 84, 52]
    boxes[:, 1, 0] = [60, 20, 84, 52]
    mask = np.zeros((2, 2, 4), bool)
    mask[:, :, :2] = True
    track_ids = np.full((2, 2, 4), -1, np.int32)
    track_ids[0, 0, :2], track_ids[0, 1, :2] = [5, 6], [6, 5]
    track_ids[1, 0, :2], track_ids[1, 1, :2] = [7, -1], [-1, 7]
    classes = np.where(track_ids == 6, 2, 1).astype(np.int32)
    velocity = np.where((boxes[..., :1] < 20), [4.0, -2.0], [0.0, 0.0]).astype(np.float32)
    ignore = np.zeros_like(mask)
    return Batch(
        images=jnp.zeros((2, 2, HEIGHT, WIDTH, 3), jnp.uint8),
        boxes=jnp.asarray(boxes),
        classes=jnp.asarray(classes),
        track_ids=jnp.asarray(track_ids),
        velocity=jnp.asarray(velocity),
        visibility=jnp.ones((2, 2, 4)),
        mask=jnp.asarray(mask),
        ignore=jnp.asarray(ignore),
        gap=jnp.array([[0, 1], [0, 1]]),
    )


def perfect_outputs(batch: Batch) -> dict[str, jax.Array]:
    """What a network would say that knows the answers: each cell tells of its assigned object."""
    targets = batch_targets(batch, CLASSES)
    displacement, _ = motion.previous_displacement(batch.boxes, batch.track_ids, batch.mask)
    rows, columns = jnp.meshgrid(jnp.arange(SHAPE[0]), jnp.arange(SHAPE[1]), indexing="ij")
    take = jax.vmap(jax.vmap(lambda values, index: values[index]))
    boxes = take(batch.boxes, targets.assignment)
    cell = jnp.stack([columns, rows], -1) + 0.5
    offsets = (boxes[..., :2] + boxes[..., 2:]) / 2 / STRIDE - cell
    size = jnp.log(jnp.maximum(boxes[..., 2:] - boxes[..., :2], 1e-3) / 16)
    ids = jax.nn.one_hot(take(batch.track_ids, targets.assignment), FEATURES)
    return {
        "classification": jnp.where(targets.heatmap == 1, 15.0, -15.0),
        "box": jnp.concatenate([offsets, size], -1),
        "motion": take(jnp.concatenate([displacement, batch.velocity], -1), targets.assignment) / STRIDE,
        "identity": ids,
    }


@pytest.fixture(scope="module")
def batch() -> Batch:
    return make_batch()


@pytest.mark.parametrize("task", list(TASKS))
def test_right_answers_cost_little_and_wrong_ones_more(batch, task):
    targets = batch_targets(batch, CLASSES)
    output = perfect_outputs(batch)[task]
    right, count = TASKS[task].loss(output, batch, targets)
    noise = jax.random.normal(jax.random.key(0), output.shape)
    wrong, same_count = TASKS[task].loss(
        output + noise * (20 if task == "classification" else 1), batch, targets
    )
    assert count == same_count > 0
    # Three frames of one identity that agree, and one of each other: log 2 is the least there is for an anchor with
    # two positives.
    floor = {"identity": 0.1}.get(task, 1e-3)
    assert right / count < floor
    assert wrong / count > 10 * max(right / count, 1e-3)


def test_counts(batch):
    targets, outputs = batch_targets(batch, CLASSES), perfect_outputs(batch)
    counts = {task: float(TASKS[task].loss(outputs[task], batch, targets)[1]) for task in TASKS}
    # 8 objects; displacement known for 2 + 1 objects and velocity for 4 + 2; identity for 4 + 2 with a partner.
    assert counts == {"box": 8, "classification": 8, "motion": 9, "identity": 6}


@pytest.mark.parametrize("task", list(TASKS))
def test_no_objects_gives_zero_count_and_finite_gradients(batch, task):
    empty = batch._replace(
        boxes=jnp.zeros_like(batch.boxes),
        mask=jnp.zeros_like(batch.mask),
        track_ids=jnp.full_like(batch.track_ids, -1),
    )
    targets = batch_targets(empty, CLASSES)
    output = perfect_outputs(batch)[task]
    (value, count), gradient = jax.value_and_grad(
        lambda x: TASKS[task].loss(x, empty, targets), has_aux=True
    )(output)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    # An empty frame still teaches what background looks like.
    assert count == (4 if task == "classification" else 0)


@pytest.mark.parametrize("task", list(TASKS))
def test_padding_rows_change_nothing(batch, task):
    def pad(x, fill=0):
        widths = [(0, 0)] * x.ndim
        widths[2] = (0, 3)
        return jnp.pad(x, widths, constant_values=fill)

    names = ("boxes", "classes", "velocity", "visibility", "mask", "ignore")
    padded = batch._replace(
        **{name: pad(getattr(batch, name)) for name in names}, track_ids=pad(batch.track_ids, -1)
    )
    output = perfect_outputs(batch)[task] + 0.3
    before = TASKS[task].loss(output, batch, batch_targets(batch, CLASSES))
    after = TASKS[task].loss(output, padded, batch_targets(padded, CLASSES))
    np.testing.assert_allclose(before, after, rtol=1e-6)


def test_ignore_region_silences_background_but_not_objects(batch):
    ignore_all = batch._replace(
        boxes=batch.boxes.at[:, :, 3].set(jnp.array([0.0, 0, WIDTH, HEIGHT])),
        ignore=batch.ignore.at[:, :, 3].set(True),
    )
    logits = jnp.zeros((2, 2, *SHAPE, CLASSES))
    targets = batch_targets(ignore_all, CLASSES)
    gradient = jax.grad(lambda x: TASKS["classification"].loss(x, ignore_all, targets)[0])(logits)
    centers = targets.heatmap == 1
    assert (gradient[centers] < 0).all()
    # At a centre the other classes are told that it is not theirs.
    assert (gradient[~centers & centers.any(-1, keepdims=True)] > 0).all()
    assert (gradient[~centers.any(-1)] == 0).all()


def test_targets_peak_at_centers_and_weights_sum_to_one(batch):
    targets = batch_targets(batch, CLASSES)
    assert (targets.heatmap == 1).sum() == 8
    assert targets.heatmap[0, 0, 22 // STRIDE, 20 // STRIDE, 1] == 1
    np.testing.assert_allclose(targets.weight.sum((-1, -2)), 2, rtol=1e-5)


def test_center_outside_the_picture_goes_to_the_nearest_cell(batch):
    outside = batch._replace(boxes=batch.boxes.at[0, 0, 0].set(jnp.array([-30.0, 10, 20, 30])))
    targets = batch_targets(outside, CLASSES)
    assert targets.cells[0, 0, 0].tolist() == [0, 5]


def test_decode_returns_what_the_outputs_say(batch):
    outputs = {task: output[0, 1] for task, output in perfect_outputs(batch).items()}
    found = jax.jit(decode, static_argnames="capacity")(outputs, capacity=6)
    assert (
        found.mask.sum() == 6
    )  # every local maximum is a detection, the background's with a score near zero
    assert (found.scores[:2] > 0.99).all()
    assert (found.scores[2:] < 0.01).all()
    order = np.argsort(found.boxes[:2, 0])
    np.testing.assert_allclose(found.boxes[:2][order], [[14, 8, 34, 32], [60, 20, 84, 52]], atol=1e-3)
    assert found.classes[:2][order].tolist() == [1, 2]
    np.testing.assert_allclose(found.displacement[:2][order], [[-4, 2], [0, 0]], atol=1e-5)
    np.testing.assert_allclose(found.velocity[:2][order], [[4, -2], [0, 0]], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.embeddings[:2], axis=-1), 1, rtol=1e-5)


def test_decode_pads_when_there_are_fewer_cells_than_rows():
    outputs = {"classification": jnp.zeros((2, 2, 1)), "box": jnp.zeros((2, 2, 4))}
    found = decode(outputs, capacity=10)
    assert found.boxes.shape == (10, 4)
    assert found.mask.sum() == 4
    assert found.embeddings is None
    assert found.displacement is None


def test_box_parameterisation_is_what_the_loss_inverts():
    boxes = box.to_boxes(jnp.array([0.5, -0.5, 0.0, jnp.log(2.0)]), jnp.array(3.0), jnp.array(2.0))
    np.testing.assert_allclose(boxes, [16 - 8, 8 - 16, 16 + 8, 8 + 16], atol=1e-5)


def test_perturbed_heatmap_loses_and_invents_objects():
    boxes = jnp.tile(jnp.array([[20.0, 20, 40, 44]]), (2000, 1))
    mask = jnp.arange(2000) < 1000
    noisy, kept = perturb_objects(jax.random.key(0), boxes, mask, 0.05, 0.4, 0.1)
    assert not kept[1000:2000].any()
    assert not kept[3000:].any()
    np.testing.assert_allclose(kept[:1000].mean(), 0.6, atol=0.05)
    np.testing.assert_allclose(kept[2000:3000].mean(), 0.1, atol=0.03)
    shift = (noisy - boxes[:1].repeat(4000, 0))[:2000]
    np.testing.assert_allclose(shift[:, 0].std(), 0.05 * 20, rtol=0.1)
    np.testing.assert_allclose(shift[:, 1].std(), 0.05 * 24, rtol=0.1)


def test_render_heatmap_is_empty_without_objects():
    assert not render_heatmap(jnp.ones((3, 4)), jnp.zeros(3, bool), SHAPE).any()
