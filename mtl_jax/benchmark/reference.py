"""The training step of a fixed network in three modes, beside the same in PyTorch where that is installed."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from mtl_jax.benchmark import peer_torch
from mtl_jax.benchmark.peer_model import MODES, OUTPUTS, SCHEME, Mode, build_network, make_step, random_batch
from mtl_jax.benchmark.program import Program
from mtl_jax.benchmark.timing import machine, times
from mtl_jax.benchmark.training import Dtype, default_dtype, speed
from mtl_jax.benchmark.utilization import utilization, work
from mtl_jax.models.network import MultiTaskNetwork, initialize
from mtl_jax.progress import Progress


def run(
    image_size: tuple[int, int] = (512, 512),
    batch: int = 32,
    dtype: Dtype | None = None,
    modes: Sequence[Mode] = MODES,
    peers: Sequence[str] = ("eager", "compile"),
    repeats: int = 9,
) -> dict[str, Any]:
    """Returns how fast steps of the network of `peer_model` are, and how many times as fast as PyTorch's.

    Args:
        image_size: Height and width of the images.
        batch: Images in a batch.
        dtype: Type of the activations; bfloat16 on an accelerator, float32 on a CPU, if not given.
        modes: How the tasks' gradients become one; see `peer_model.MODES`.
        peers: Ways to run PyTorch: `eager`, `compile`.
        repeats: Steps of each that are timed; in each mode all take turns.

    Returns:
        The machine and the settings; `torch`, its version; and of each mode `jax` and `torch_PEER` with their times,
        and `speedup` over each peer. A peer that cannot run has an `error` in place of times.
    """
    dtype = dtype or default_dtype()
    network, torch = build_network(dtype=dtype), peer_torch.version()
    # Of several accelerators one, since a peer has one; of a CPU all cores, as training does.
    devices = jax.devices() if jax.default_backend() == "cpu" else jax.devices()[:1]
    number = max(n for n in range(1, len(devices) + 1) if batch % n == 0)
    mesh = Mesh(np.asarray(devices[:number]), ("data",), axis_types=(AxisType.Auto,))
    amount = work(network, image_size)
    found: dict[str, Any] = {}
    ordered = [
        mode for mode in MODES if mode in modes
    ]  # what needs least memory first, so that peaks tell apart
    with Progress("benchmark", len(ordered)) as progress:
        for mode in ordered:
            found[mode] = _mode(
                network, mode, image_size, batch, dtype, mesh, () if torch is None else peers, repeats
            )
            flops = amount.step(batch, len(OUTPUTS), mode)
            found[mode]["jax"] |= {"flops": flops} | utilization(
                flops, found[mode]["jax"]["ms"]["median"], mesh.size
            )
            progress.advance()
    return {
        "benchmark": "train",
        "model": "reference",
        **machine(),
        "devices": mesh.size,
        "torch": torch or "not installed",
        **{"scheme": SCHEME, "dtype": dtype, "image_size": list(image_size), "batch": batch},
        **{"repeats": repeats, "parameters": _parameters(network), "flops_forward_per_image": sum(amount)},
        "modes": found,
    }


def _mode(
    network: MultiTaskNetwork,
    mode: Mode,
    image_size: tuple[int, int],
    batch: int,
    dtype: Dtype,
    mesh: Mesh,
    peers: Sequence[str],
    repeats: int,
) -> dict[str, Any]:
    images = random_batch(batch, image_size)
    init, step = make_step(network, mode)
    # Copies: the state is donated to the step, and no buffer may be donated twice.
    state = jax.tree.map(jnp.copy, init(initialize(network, jax.random.key(0))))
    program = Program(step, state, images, mesh)
    steps: dict[str, Callable[[], Any]] = {"jax": program.run}
    result: dict[str, Any] = {"jax": {}}
    for peer in peers:
        name = f"torch_{peer}"
        try:
            peer_network = peer_torch.build_network()
            steps[name] = peer_torch.make_step(peer_network, mode, images, dtype, compiled=peer == "compile")
            steps[name]()  # compiles
        except Exception as error:  # out of memory, or no compiler: what can be compared still is
            steps.pop(name, None)
            result[name] = {"error": f"{type(error).__name__}: {str(error).strip()[:500]}"}
    measured = times(steps, repeats)
    for name, values in measured.items():
        result[name] = speed(values, batch)
    result["jax"] |= {"memory_mib": program.memory_mib(), "compile_s": program.compile_s}
    ours = statistics.median(measured.pop("jax"))
    result["speedup"] = {name: statistics.median(values) / ours for name, values in measured.items()}
    return result


def _parameters(network: MultiTaskNetwork) -> int:
    variables = jax.eval_shape(lambda key: initialize(network, key), jax.random.key(0))
    return sum(x.size for x in jax.tree.leaves(variables["params"]))
