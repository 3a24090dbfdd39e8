"""How much of what a device could compute a training step asks of it: model FLOPs utilisation."""

import re
from typing import Any, Literal, NamedTuple

import jax

from mtl_jax.models.flops import count_flops
from mtl_jax.models.network import MultiTaskNetwork, example_inputs, initialize

_PEAKS = {
    r"\bH200\b": (989.4, "bfloat16"),
    r"\bH100 PCIe\b": (756.0, "bfloat16"),
    r"\bH100 NVL\b": (835.0, "bfloat16"),
    r"\bH100\b": (989.4, "bfloat16"),
    r"\bA100\b": (312.0, "bfloat16"),
    r"\bL4\b": (121.0, "bfloat16"),
    # These have no bfloat16.
    r"\bV100\b": (125.0, "float16"),
    r"\bT4\b": (65.0, "float16"),
    r"^TPU v4$": (275.0, "bfloat16"),
    r"^TPU v5( lite|e)$": (197.0, "bfloat16"),
    r"^TPU v5p?$": (459.0, "bfloat16"),
    r"^TPU v6( lite|e)$": (918.0, "bfloat16"),
}
"""Teraflops a second of dense products as published, by a pattern of `device_kind`; the first that fits counts."""

Backward = Literal["sum", "exact", "representation"]


class Peak(NamedTuple):
    """What a device could do at best.

    Attributes:
        tflops: Teraflops a second, of products without sparsity.
        dtype: Type of the factors.
    """

    tflops: float
    dtype: str


class Work(NamedTuple):
    """Operations of a network's forward pass over one image; a multiplication and an addition are two.

    Attributes:
        trunk: All before the heads.
        heads: The heads.
    """

    trunk: int
    heads: int

    def step(self, images: int, tasks: int, backward: Backward) -> int:
        """Returns the operations of a training step, whose backward pass counts twice the forward pass.

        Args:
            images: Images in a batch.
            tasks: Number of tasks.
            backward: Once for all tasks (`sum`, `representation`), or once for each through the trunk (`exact`).
        """
        passes = tasks if backward == "exact" else 1
        return images * (self.trunk * (1 + 2 * passes) + self.heads * 3)


def peak(device_kind: str) -> Peak | None:
    """Returns the peak of a kind of device, as JAX names it, or None where it is not known.

    Example:
        >>> peak("NVIDIA H100 80GB HBM3").tflops
        989.4
    """
    for pattern, values in _PEAKS.items():
        if re.search(pattern, device_kind):
            return Peak(*values)
    return None


def work(network: MultiTaskNetwork, image_size: tuple[int, int]) -> Work:
    """Counts a network's operations; nothing of it is computed.

    Args:
        network: The network.
        image_size: Height and width of the images.
    """
    variables = jax.eval_shape(lambda key: initialize(network, key), jax.random.key(0))
    clip = jax.eval_shape(lambda: example_inputs(network, image_size))

    def trunk(variables: Any, *inputs: Any) -> Any:
        return network.apply(variables, *inputs, method="trunk")

    features = jax.eval_shape(trunk, variables, *clip)

    def heads(variables: Any, features: Any) -> Any:
        return network.apply(variables, features, method="all_predictions")

    counts = count_flops(trunk, variables, *clip), count_flops(heads, variables, features)
    return Work(*(count // network.clip_length for count in counts))


def utilization(flops: int, milliseconds: float, devices: int = 1) -> dict[str, Any]:
    """Returns the entries of a report: the peak, with what it is of, and the share of it that is used.

    Args:
        flops: Operations of a step.
        milliseconds: Its time.
        devices: Devices that share it.
    """
    kind = jax.devices()[0].device_kind
    best = peak(kind)
    if best is None:
        return {"peak": {"device": kind, "tflops": "unknown"}, "utilization": "unknown"}
    share = flops / (milliseconds / 1e3) / (best.tflops * 1e12 * devices)
    return {"peak": {"device": kind, **best._asdict()}, "utilization": share}
