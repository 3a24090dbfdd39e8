"""The whole description of an experiment: frozen dataclasses, saved beside every run.

Everything in which two experiments can differ is a field here. `save` writes a configuration as JSON; `load` reads it
back and refuses keys it does not know.
"""

import dataclasses
import difflib
import json
import types
import typing
from typing import Any, Literal

from mtl_jax.errors import UserError

Split = Literal["train", "validation", "test"]
Task = Literal["box", "classification", "motion", "identity"]


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training clips; boxes, identities and motion follow the pixels, alike in all frames of a clip."""

    flip: float = 0.5
    """Probability of mirroring left and right."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Range of the factor by which the picture is enlarged (>1, then cropped) or reduced (<1, then padded)."""
    aspect: float = 0.0
    """Largest change of the aspect ratio: the ratio of the two scale factors is in [1/(1+a), 1+a]."""
    translate: float = 0.0
    """Largest shift, as a fraction of the picture's size."""
    focus: float = 0.0
    """Probability that what is left of an enlarged picture is chosen so that it holds an object, drawn at random."""
    brightness: float = 0.0
    """Largest relative change of brightness."""
    contrast: float = 0.0
    """Largest relative change of contrast."""
    saturation: float = 0.0
    """Largest relative change of saturation."""
    hue: float = 0.0
    """Largest rotation of hue, as a fraction of the colour circle."""
    blur: float = 0.0
    """Largest standard deviation of a Gaussian blur, in pixels; half of the clips are blurred, so that the network does
    not take what is sharp for small."""
    cutout: float = 0.0
    """Probability of hiding each object partly behind a patch, the same in all frames of the clip."""
    mosaic: float = 0.0
    """Probability of showing four clips at once, each in a quarter of the picture."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is looked at, and how it is cut into clips."""

    dataset: str = "moving_objects/quickstart"
    """TFDS name of the data set, `builder` or `builder/config`."""
    data_dir: str = "~/.cache/mtl_jax/data"
    """Where prepared data sets lie."""
    train: tuple[str, ...] = ("train",)
    """What to train on: split names, sequence names, or `SEQUENCE[first:last]` in frames from 1, last included."""
    validation: tuple[str, ...] = ("validation",)
    """What to validate and select checkpoints on; same syntax."""
    test: tuple[str, ...] = ("test",)
    """What is only ever evaluated on; same syntax."""
    image_size: tuple[int, int] = (96, 128)
    """Height and width of the network's input; divisible by 32. Frames keep their aspect ratio and are padded."""
    crop_size: tuple[int, int] | None = None
    """Height and width of the part of a frame of `image_size` that a training clip shows; divisible by 32. So small
    objects can be learned at full size for the price of a small picture. None: all of it."""
    clip_length: int = 2
    """Frames in a clip."""
    max_gap: int = 1
    """Neighbouring frames of a clip are 1 to `max_gap` video frames apart, drawn anew for each clip."""
    max_objects: int = 32
    """Rows for objects in a frame; a frame with more is an error when a data set is opened."""
    min_visibility: float = 0.1
    """Objects less visible than this are ignored: neither asked for nor held against the detector."""
    boxes: Literal["amodal", "visible"] = "amodal"
    """Whole extent of an object, or its visible part, where a data set has both."""
    batch_size: int = 16
    """Clips in a training batch, over all devices."""
    workers: int = 0
    """Processes that load and augment; 0: threads of the training process."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation of training clips."""

    @property
    def clip_size(self) -> tuple[int, int]:
        """Height and width of training clips."""
        return self.crop_size or self.image_size


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network."""

    backbone: str = "tiny"
    """`tiny`, `resnet18`, `resnet34`, `resnet50`, `resnet101`, `dla34`, `convnext_tiny`, `vit_small`,
    `efficientnet_lite0`, ..., `efficientnet_lite4`."""
    pretrained: bool | str = False
    """Start the backbone from ImageNet weights (`efficientnet_lite0`, with the extra `pretrained` installed), or from
    the file of this path, which `mtl-jax convert-weights` has made."""
    sharing: str = "hard"
    """Name of a sharing architecture of `mtl_jax.models.sharing`: what tasks share between images and heads."""
    sharing_options: dict[str, bool | int | float | str] = dataclasses.field(default_factory=dict)
    """The architecture's own settings; each is also an option, `--model.sharing.OPTION VALUE`."""
    inputs: Literal["frame", "pair", "pair_heatmap"] = "pair_heatmap"
    """One frame; with the previous frame; and with the previous frame's objects rendered as a heat map."""
    neck_channels: int = 32
    """Channels of the feature pyramid."""
    head_channels: int = 32
    """Channels of the hidden layer of each head."""
    embedding_dim: int = 32
    """Length of the identity embedding."""
    norm: Literal["batch", "local", "group", "frozen"] = "batch"
    """Batch norm over the global batch; over each device's share of it; group norm; batch norm with frozen statistics.
    `convnext_tiny` and `vit_small` have layer norm in any case; the neck does as is said here."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the activations; parameters, losses and statistics are float32, and gradients in float16 are scaled."""
    remat: Literal["none", "blocks", "stages"] = "none"
    """What the backbone computes anew in the backward pass, to keep less: nothing, all but what comes out of each
    block, or of each stage."""
    heatmap_jitter: float = 0.05
    """Noise on the previous frame's heat map while training: standard deviation of centres, relative to box size."""
    heatmap_lost: float = 0.4
    """... fraction of objects that are left out."""
    heatmap_false: float = 0.1
    """... fraction of objects beside which a false one is drawn."""


@dataclasses.dataclass(frozen=True)
class WeightingConfig:
    """How the tasks' losses become one."""

    scheme: str = "uncertainty"
    """Name of a scheme of `mtl_jax.weighting`: `fixed`, `uncertainty`, ..., which weigh losses, or `cagrad`, `upgrad`,
    ..., which combine the gradients of the tasks."""
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    """For `fixed`: weight of each task. For `cosmos`, `pbi` and `stch`: how much each is preferred."""
    hyperparameters: dict[str, bool | int | float | str] = dataclasses.field(default_factory=dict)
    """The scheme's own settings, such as `c 0.4` for `cagrad`; each is also an option, `--weighting.c 0.4`. For
    `params`: how the paths of the parameters begin on whose gradients the Gramian is formed, such as `neck`."""
    gradients: Literal["auto", "vmap", "scan", "unroll", "representation"] = "auto"
    """For schemes that combine gradients: take those of the shared parameters, of all tasks at once (`vmap`), one after
    the other (`scan`: least memory) or the same written out (`unroll`), or those at the shared features, with one
    backward pass below for all (`representation`: cheapest). `auto`: `representation` for `mgda_ub`, for the others
    `vmap` on one device and `unroll` on several, where `vmap` would send activations about."""
    every: int = 1
    """For schemes that combine gradients: find weights anew in every n-th step; those between cost what a plain step
    costs."""
    learning_rate: float = 0.003
    """Learning rate of learned weights; they have no weight decay."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float = 2e-3
    """Peak learning rate."""
    backbone_factor: float = 1.0
    """The backbone's learning rate, relative to the rest."""
    warmup_steps: int = 50
    """Steps of linear warm-up."""
    final_factor: float = 0.01
    """Learning rate at the end, relative to the peak."""
    weight_decay: float = 1e-4
    """Decoupled weight decay of kernels; biases and norms have none."""
    clip_norm: float = 10.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.998
    """Decay of the moving average of the parameters, which is what is evaluated; 0: none."""


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The run."""

    steps: int = 1000
    """Training steps."""
    seed: int = 0
    """The one seed of everything random."""
    log_every: int = 20
    """Steps between lines of metrics."""
    diagnose_every: int = 100
    """Steps between measurements of per-task gradient norms and cosines; 0: never."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    accumulate: int = 1
    """Parts in which a batch goes through the network, one after the other, in the memory of one; a third more work.
    Losses and weighting see the whole batch; batch norm takes each part's statistics."""
    compilation_cache: str = "~/.cache/mtl_jax/compilation"
    """Where compiled programs are kept, for you alone; empty: nowhere. JAX_COMPILATION_CACHE_DIR comes before it."""
    max_skipped: int = 10
    """Steps in a row whose gradient is not finite, after which the run stops; each by itself is skipped."""
    evaluate_every: int = 0
    """Steps between evaluations on the validation split; 0: only at the end."""
    select_by: str = "HOTA"
    """Validation score by which the best checkpoint is kept."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; -1: all that are left. A batch is split over all of them."""

    data: int = -1
    """Groups of devices that hold the same parameters."""
    fsdp: int = 1
    """Devices over which parameters, optimizer state and per-task gradients are split; 1: each has all of them."""


@dataclasses.dataclass(frozen=True)
class ProfileConfig:
    """The profiler, whose traces TensorBoard and Perfetto open."""

    steps: str = ""
    """`FIRST:LAST`: the steps that are traced, the last one not included; empty: none."""


@dataclasses.dataclass(frozen=True)
class TrackerConfig:
    """The online tracker."""

    name: str = "joint"
    """Name of a tracker of `mtl_jax.tracking`: `sort`, `bytetrack`, `ocsort`, `botsort`, `jde`, `centertrack` or
    `joint`."""
    options: dict[str, bool | int | float | str] = dataclasses.field(default_factory=dict)
    """The tracker's own settings, such as `high_score 0.5`; each is also an option, `--tracker.high-score 0.5`."""


@dataclasses.dataclass(frozen=True)
class Config:
    """An experiment."""

    name: str = "experiment"
    """Name, for tables and reports."""
    tasks: tuple[Task, ...] = ("box", "classification", "motion", "identity")
    """Tasks that are trained."""
    data: DataConfig = DataConfig()
    """Data."""
    model: ModelConfig = ModelConfig()
    """Network."""
    weighting: WeightingConfig = WeightingConfig()
    """Loss weighting."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer."""
    training: TrainingConfig = TrainingConfig()
    """Run."""
    mesh: MeshConfig = MeshConfig()
    """Devices."""
    profile: ProfileConfig = ProfileConfig()
    """Profiler."""
    tracker: TrackerConfig = TrackerConfig()
    """Tracker."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """Where the processes of a run find each other; nothing is needed under Slurm, Open MPI and on Cloud TPU."""

    coordinator: str | None = None
    """Address of the first process, `HOST:PORT`, where nothing else starts the processes."""
    processes: int | None = None
    """Number of processes."""
    process: int | None = None
    """Number of this one, from 0."""


def to_json(config: Config) -> str:
    """Returns the configuration as JSON text."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str, where: str = "configuration") -> Config:
    """Returns the configuration that `to_json` wrote.

    Args:
        text: JSON text.
        where: Named in errors.

    Raises:
        UserError: If the text is not JSON, a key is unknown, or a value is of the wrong type.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}:{error.lineno}: not JSON ({error.msg}); restore the file") from error
    return build(Config, values, where)


def build(cls: type, values: Any, where: str, prefix: str = "", given: dict[str, Any] | None = None) -> Any:
    """Returns the dataclass with these values.

    Args:
        cls: The dataclass.
        values: Values of its fields, as JSON has them.
        where: Named in errors.
        prefix: What stands before a key in errors.
        given: Values of other fields, as they are.

    Raises:
        UserError: If a key is unknown, or a value is of the wrong type.
    """
    given = given or {}
    if not isinstance(values, dict):
        raise UserError(
            f"{where}: {prefix.rstrip('.') or 'the top level'}: expected keys and values, found {values!r}"
        )
    hints = {name: hint for name, hint in typing.get_type_hints(cls).items() if name not in given}
    for key in values:
        if key not in hints:
            close = difflib.get_close_matches(key, hints, n=1)
            known = f"known are {', '.join(hints)}" if hints else "there are none"
            hint = f"did you mean {prefix}{close[0]}?" if close else known
            raise UserError(f"{where}: unknown key {prefix}{key}; {hint}")
    return cls(
        **{key: _convert(hints[key], value, where, prefix + key) for key, value in values.items()}, **given
    )


def _convert(hint: Any, value: Any, where: str, key: str) -> Any:
    """Returns the JSON value as the type of its field: the few types that fields here have."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where, key + ".")
    if origin is tuple and isinstance(value, list):
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise UserError(
                f"{where}: {key}: expected {len(arguments)} values, found {len(value)}: {value!r}"
            )
        inner = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(
            _convert(t, v, where, f"{key}[{i}]") for i, (t, v) in enumerate(zip(inner, value, strict=True))
        )
    if origin is dict and isinstance(value, dict):
        return {k: _convert(arguments[1], v, where, f"{key}.{k}") for k, v in value.items()}
    if origin is types.UnionType and type(value) in arguments:
        return value
    if origin is types.UnionType and types.NoneType in arguments:
        return _convert(arguments[0], value, where, key)
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{where}: {key}: found {value!r}; choose from {', '.join(map(repr, arguments))}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(hint, type) or type(value) is not hint:
        expected = getattr(hint, "__name__", hint) if origin is None else hint
        raise UserError(f"{where}: {key}: expected {expected}, found {value!r}")
    return value
