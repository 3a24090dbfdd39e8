"""The training step of a fixed network in three modes, beside the same in PyTorch where that is installed."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mtl_jax.benchmark import peer_torch
from mtl_jax.benchmark.peer_model import (
    MODES,
    OUTPUTS,
    SCHEME,
    DenseBatch,
    Mode,
    Way,
    build_network,
    make_step,
    random_batch,
)
from mtl_jax.benchmark.program import Program
from mtl_jax.benchmark.timing import machine, times
from mtl_jax.benchmark.training import Dtype, default_dtype, speed
from mtl_jax.benchmark.utilization import utilization, work
from mtl_jax.config import MeshConfig
from mtl_jax.models.network import MultiTaskNetwork, initialize
from mtl_jax.progress import Progress
from mtl_jax.training.mesh import make_mesh


def run(
    image_size: tuple[int, int] = (512, 512),
    batch: int = 32,
    dtype: Dtype | None = None,
    modes: Sequence[Mode] = MODES,
    ways: Sequence[Way] = ("vmap",),
    peers: Sequence[str] = ("eager", "compile"),
    repeats: int = 9,
) -> dict[str, Any]:
    """Returns how fast steps of the network of `peer_model` are, and how many times as fast as PyTorch's.

    Args:
        image_size: Height and width of the images.
        batch: Images in a batch.
        dtype: Type of the activations; bfloat16 on an accelerator, float32 on a CPU, if not given.
        modes: How the tasks' gradients become one; see `peer_model.MODES`.
        ways: How the tasks' backward passes run in mode `exact`; see `weighting.per_task_value_and_grad`.
        peers: How to run PyTorch: `eager`, `compile`.
        repeats: Steps of each that are timed; in each mode all take turns.

    Returns:
        The machine and the settings; `torch`, its version; and of each mode the times of `jax`, or `jax_WAY` of each
        way, and of `torch_PEER`, and `speedup` of each of ours over each peer. A peer that cannot run has an `error` in
        place of times.
    """
    dtype = dtype or default_dtype()
    network, torch = build_network(dtype=dtype), peer_torch.version()
    # Of several accelerators one, since a peer has one; of a CPU all cores, as training does.
    devices = jax.devices() if jax.default_backend() == "cpu" else jax.devices()[:1]
    number = max(n for n in range(1, len(devices) + 1) if batch % n == 0)
    mesh = make_mesh(MeshConfig(data=number), batch)
    images = random_batch(batch, image_size)
    amount = work(network, image_size)
    found: dict[str, Any] = {}
    ordered = [mode for mode in MODES if mode in modes]  # so that the peaks of memory tell them apart
    with Progress("benchmark", len(ordered)) as progress:
        for mode in ordered:
            ours = _ours(network, mode, ways, images, mesh)
            theirs, failed = _theirs(mode, images, dtype, () if torch is None else peers)
            runs = {name: program.run for name, program in ours.items()}
            measured = times(runs | theirs, repeats)
            flops = amount.step(batch, len(OUTPUTS), mode)
            found[mode] = {name: speed(values, batch) for name, values in measured.items()} | failed
            for name, program in ours.items():
                found[mode][name] |= {
                    "flops": flops,
                    **utilization(flops, statistics.median(measured[name]), mesh.size),
                    "memory_mib": program.memory_mib(),
                    "compile_s": program.compile_s,
                }
            found[mode]["speedup"] = {
                name: {
                    peer: statistics.median(measured[peer]) / statistics.median(measured[name])
                    for peer in theirs
                }
                for name in ours
            }
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


def _ours(
    network: MultiTaskNetwork, mode: Mode, ways: Sequence[Way], images: DenseBatch, mesh: Mesh
) -> dict[str, Program]:
    programs = {}
    for way in ways if mode == "exact" else ways[:1]:
        init, step = make_step(network, mode, way=way)
        # Copies: the state is donated to the step, and no buffer may be donated twice.
        state = jax.tree.map(jnp.copy, init(initialize(network, jax.random.key(0))))
        programs[f"jax_{way}" if mode == "exact" else "jax"] = Program(step, state, images, mesh)
    return programs


def _theirs(
    mode: Mode, images: DenseBatch, dtype: Dtype, peers: Sequence[str]
) -> tuple[dict[str, Callable[[], Any]], dict[str, Any]]:
    """Returns the steps of peers that run, and what is wrong with the others."""
    steps: dict[str, Callable[[], Any]] = {}
    failed = {}
    for peer in peers:
        try:
            network = peer_torch.build_network()
            step = peer_torch.make_step(network, mode, images, dtype, compiled=peer == "compile")
            step()  # compiles
            steps[f"torch_{peer}"] = step
        except Exception as error:  # out of memory, or no compiler: what can be compared still is
            failed[f"torch_{peer}"] = {"error": f"{type(error).__name__}: {str(error).strip()[:500]}"}
    return steps, failed


def _parameters(network: MultiTaskNetwork) -> int:
    variables = jax.eval_shape(lambda key: initialize(network, key), jax.random.key(0))
    return sum(x.size for x in jax.tree.leaves(variables["params"]))
