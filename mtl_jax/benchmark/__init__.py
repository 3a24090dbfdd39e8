"""Benchmarks: `mtl-jax benchmark NAME` prints JSON; what is compared is timed in turn, in one run."""
