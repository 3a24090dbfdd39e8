"""The fixed network of `peer_model` in PyTorch, where that is installed, trained as one would there.

Modules have the names of the Flax network, so that weights are handed over by their paths.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from mtl_jax.benchmark.peer_model import CHANNELS, LEARNING_RATE, OUTPUTS, WEIGHT_DECAY, DenseBatch, Mode

_DEPTHS = (3, 4, 6, 3)
_TASKS = tuple(OUTPUTS)


def version() -> str | None:
    """Returns PyTorch's version, or None where it is not installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    return str(torch.__version__)


def make_step(
    network: Any, mode: Mode, batch: DenseBatch, dtype: str = "bfloat16", compiled: bool = False
) -> Callable[[], Any]:
    """Returns a function that takes a training step on a batch, and returns the losses when it is done.

    Activations are channels-last, in `dtype` by autocast; AdamW is fused. Trunk, heads and losses are compiled
    separately where tasks' gradients are needed, so that a task's backward pass goes through its own head only.

    Args:
        network: The network; it goes to the GPU, if there is one, and the gradients stay in its parameters.
        mode: As of `peer_model.make_step`; `exact` is one backward pass for each task.
        batch: What to learn.
        dtype: "bfloat16" or "float32".
        compiled: By `torch.compile`.
    """
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device=device, memory_format=torch.channels_last).train()
    images, targets = to_torch(batch, device)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    wrap: Callable[[Any], Any] = torch.compile if compiled else lambda function: function
    if compiled:
        # The compiler may otherwise overwrite what a second backward pass needs.
        torch._functorch.config.donated_buffer = mode == "sum"
    autocast = functools.partial(
        torch.autocast, device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"
    )

    if mode == "sum":
        all_losses = wrap(lambda: losses(network, images, targets))

        def backward() -> Any:
            with autocast():
                values = all_losses()
            values.sum().backward()
            return values
    else:
        trunk = wrap(lambda: network.trunk(images))
        heads = [
            wrap(lambda features, task=task: loss(task, network.heads(features, task), targets[task]))
            for task in _TASKS
        ]
        own = [[p for n, p in network.named_parameters() if _is_head(n, task)] for task in _TASKS]
        shared = [p for n, p in network.named_parameters() if not n.startswith("heads")]
        ways = {"exact": backward_exact, "representation": backward_representation}
        backward = functools.partial(ways[mode], trunk, heads, shared, own, autocast)

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        values = backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return values.detach()

    return step


def build_network() -> Any:
    """Returns the network, an `nn.Module` with `trunk(images)` and `heads(features, task)`."""
    return _network_class()()


def losses(network: Any, images: Any, targets: dict[str, Any]) -> Any:
    """Returns each task's loss."""
    import torch

    features = network.trunk(images)
    return torch.stack([loss(task, network.heads(features, task), targets[task]) for task in _TASKS])


def loss(task: str, prediction: Any, target: Any) -> Any:
    """Returns a task's loss, as `peer_model.loss` does."""
    from torch.nn import functional

    if task == "classification":
        return functional.binary_cross_entropy_with_logits(prediction.float(), target)
    return functional.l1_loss(prediction.float(), target)


def to_torch(batch: DenseBatch, device: Any = "cpu") -> tuple[Any, dict[str, Any]]:
    """Returns images and targets as tensors, channels second in shape and last in memory."""
    import torch

    def convert(x: np.ndarray) -> Any:
        return torch.from_numpy(np.asarray(x)).to(device).permute(0, 3, 1, 2)

    return convert(batch.images), {task: convert(x) for task, x in batch.targets.items()}


def load_variables(network: Any, variables: Any) -> None:
    """Gives the network the weights and statistics of the Flax network."""
    import jax
    import torch

    names = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    state = {}
    for collection in ("params", "batch_stats"):
        for path, x in jax.tree_util.tree_leaves_with_path(variables[collection]):
            *modules, name = (key.key for key in path)
            array = np.array(x)
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
            state[".".join([*modules, names.get(name, name)])] = torch.from_numpy(np.ascontiguousarray(array))
    missing, unexpected = network.load_state_dict(state, strict=False)
    missing = [
        name for name in missing if not name.endswith(("num_batches_tracked", "input_mean", "input_std"))
    ]
    if missing or unexpected:
        raise ValueError(f"the networks differ: {missing} are missing, {unexpected} are not known")


def backward_exact(
    trunk: Any, heads: list[Any], shared: list[Any], own: list[list[Any]], autocast: Any
) -> Any:
    """Sets gradients of the shared parameters combined from one backward pass for each task; returns the losses."""
    import torch

    with autocast():
        features = trunk()
        values = [head(features) for head in heads]
    per_task = []
    for i, value in enumerate(values):
        grads = torch.autograd.grad(value, [*shared, *own[i]], retain_graph=i + 1 < len(values))
        per_task.append(grads[: len(shared)])
        _set(own[i], grads[len(shared) :])
    gram = torch.stack([torch.stack([_dot(a, b) for b in per_task]) for a in per_task])
    weights = task_weights(gram)
    combined = [
        sum(w * g for w, g in zip(weights, rows, strict=True)) for rows in zip(*per_task, strict=True)
    ]
    _set(shared, combined)
    return torch.stack(values)


def backward_representation(
    trunk: Any, heads: list[Any], shared: list[Any], own: list[list[Any]], autocast: Any
) -> Any:
    """Combines the gradients at the features, and goes once through the trunk; returns the losses."""
    import torch

    with autocast():
        features = trunk()
        leaf = features.detach().requires_grad_()
        values = [head(leaf) for head in heads]
    at_features = []
    for value, parameters in zip(values, own, strict=True):
        grad, *grads = torch.autograd.grad(value, [leaf, *parameters])
        at_features.append(grad)
        _set(parameters, grads)
    stacked = torch.stack([g.permute(0, 2, 3, 1).reshape(-1) for g in at_features])
    weights = task_weights((stacked @ stacked.T).float())
    combined = sum(w.to(g.dtype) * g for w, g in zip(weights, at_features, strict=True))
    features.backward(combined, inputs=shared)
    return torch.stack(values)


def task_weights(gram: Any) -> Any:
    """Returns the weights of `weighting.imtl_g` from the gradients' Gramian."""
    import torch

    inverse_norms = gram.diagonal().rsqrt()
    cosines = gram * inverse_norms[:, None] * inverse_norms
    weights = inverse_norms * torch.linalg.pinv(cosines, hermitian=True).sum(1)
    return weights / weights.sum()


def _dot(first: tuple[Any, ...], second: tuple[Any, ...]) -> Any:
    return sum((a.flatten() @ b.flatten() for a, b in zip(first, second, strict=True)))


def _set(parameters: list[Any], grads: Any) -> None:
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad


def _is_head(name: str, task: str) -> bool:
    return name.startswith((f"heads.{task}_hidden.", f"heads.{task}_output."))


@functools.cache
def _network_class() -> Any:
    """Returns the network's class; made when first asked for, since PyTorch may not be there."""
    import torch
    from torch import nn
    from torch.nn import functional

    class ConvNorm(nn.Module):
        def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1):
            super().__init__()
            self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
            self.norm = nn.BatchNorm2d(outputs)

        def forward(self, x: Any) -> Any:
            return self.norm(self.conv(x))

    class Block(nn.Module):
        def __init__(self, inputs: int, channels: int, stride: int):
            super().__init__()
            self.conv1 = ConvNorm(inputs, channels, 1)
            self.conv2 = ConvNorm(channels, channels, 3, stride)
            self.conv3 = ConvNorm(channels, 4 * channels, 1)
            nn.init.zeros_(self.conv3.norm.weight)
            if stride > 1 or inputs != 4 * channels:
                self.downsample = ConvNorm(inputs, 4 * channels, 1, stride)

        def forward(self, x: Any) -> Any:
            y = functional.relu(self.conv2(functional.relu(self.conv1(x))))
            shortcut = self.downsample(x) if hasattr(self, "downsample") else x
            return functional.relu(self.conv3(y) + shortcut)

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = ConvNorm(3, 64, 7, 2)
            inputs = 64
            for stage, depth in enumerate(_DEPTHS):
                for i in range(depth):
                    block = Block(inputs, 64 * 2**stage, 2 if stage and not i else 1)
                    setattr(self, f"layer{stage + 1}_{i}", block)
                    inputs = 256 * 2**stage
            self.register_buffer("input_mean", torch.tensor((123.675, 116.28, 103.53)).view(1, 3, 1, 1))
            self.register_buffer("input_std", torch.tensor((58.395, 57.12, 57.375)).view(1, 3, 1, 1))

        def forward(self, images: Any) -> list[Any]:
            x = functional.relu(self.conv1((images.float() - self.input_mean) / self.input_std))
            x = functional.max_pool2d(x, 3, 2, 1)
            outputs = []
            for stage, depth in enumerate(_DEPTHS):
                for i in range(depth):
                    x = getattr(self, f"layer{stage + 1}_{i}")(x)
                outputs.append(x)
            return outputs

    class Neck(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for i in range(4):
                setattr(self, f"lateral{i}", nn.Conv2d(256 * 2**i, CHANNELS, 1))
            self.output = ConvNorm(CHANNELS, CHANNELS, 3)

        def forward(self, features: list[Any]) -> Any:
            *finer, total = (getattr(self, f"lateral{i}")(x) for i, x in enumerate(features))
            for x in reversed(finer):
                total = x + functional.interpolate(total, scale_factor=2, mode="nearest")
            return self.output(total)

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for task, channels in OUTPUTS.items():
                setattr(self, f"{task}_hidden", nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1))
                setattr(self, f"{task}_output", nn.Conv2d(CHANNELS, channels, 1))

        def forward(self, features: Any, task: str) -> Any:
            hidden = functional.leaky_relu(getattr(self, f"{task}_hidden")(features), 0.1)
            return getattr(self, f"{task}_output")(hidden)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.neck, self.heads = Backbone(), Neck(), Heads()

        def trunk(self, images: Any) -> Any:
            return self.neck(self.backbone(images))

    return Network
