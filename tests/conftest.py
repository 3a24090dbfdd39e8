"""Fixtures for all tests: real data where it is at hand, run-time checks of array shapes."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Every function's jaxtyping annotations are checked while testing. Must come before the package is imported.
install_import_hook("mtl_jax", "beartype.beartype")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test data (MTL_JAX_TEST_DATA, or `shared/data` beside the repository)."""
    default = Path(__file__).parents[2] / "shared" / "data"
    path = Path(os.environ.get("MTL_JAX_TEST_DATA", default))
    if not path.is_dir():
        pytest.skip(f"needs the real test data; set MTL_JAX_TEST_DATA (looked in {path.name}/)")
    return path
