import math

import pytest

from mtl_jax.benchmark import utilization
from mtl_jax.benchmark.peer_model import OUTPUTS, build_network


@pytest.mark.parametrize(
    ("kind", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("Tesla V100-SXM2-16GB", 125.0),
        ("NVIDIA L4", 121.0),
        ("Tesla T4", 65.0),
        ("TPU v4", 275.0),
        ("TPU v5 lite", 197.0),
        ("TPU v5p", 459.0),
        ("TPU v6 lite", 918.0),
    ],
)
def test_peaks_are_known_by_the_names_that_jax_has(kind, tflops):
    assert utilization.peak(kind).tflops == tflops


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA L40S", "NVIDIA GeForce RTX 4090", "TPU v7x"])
def test_other_devices_have_no_peak(kind):
    assert utilization.peak(kind) is None


def test_work_of_the_fixed_network_is_what_its_convolutions_ask_for():
    found = utilization.work(build_network(), (512, 512))
    cells = 128 * 128
    products = sum(9 * 128 * 128 + 128 * outputs for outputs in OUTPUTS.values())
    assert math.isclose(found.heads, 2 * cells * products, rel_tol=0.01)
    # ResNet-50 has 4.09 G multiply-adds at 224², the pyramid what follows from its channels.
    pyramid = cells * (9 * 128 * 128 + 128 * sum(256 * 2**i / 4**i for i in range(4)))
    backbone = (4.09e9 - 2048 * 1000) * (512 / 224) ** 2
    assert math.isclose(found.trunk, 2 * (backbone + pyramid), rel_tol=0.05)
    assert found.step(2, 4, "sum") == 6 * (found.trunk + found.heads)
    assert found.step(2, 4, "exact") == 2 * (9 * found.trunk + 3 * found.heads)
