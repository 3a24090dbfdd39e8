"""Fixtures for all tests: real data where it is at hand, run-time checks of array shapes, compiled functions kept."""

import os
import tempfile
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Processes that tests start share compiled functions with this one. Set before jax is imported.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"mtl_jax_tests_{os.getuid()}")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# Several processes share an accelerator, if there is one.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
# Tests compile for longer than they compute: without optimisation it takes half the time.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

# Every function's jaxtyping annotations are checked while testing. Must come before the package is imported.
install_import_hook("mtl_jax", "beartype.beartype")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test data (MTL_JAX_TEST_DATA, or `shared/data` beside the repository)."""
    default = Path(__file__).parents[2] / "shared" / "data"
    named = os.environ.get("MTL_JAX_TEST_DATA")
    path = Path(named) if named else default
    if not path.is_dir():
        if named:
            pytest.fail(f"MTL_JAX_TEST_DATA: {named} is not a folder")
        # The videos' licences do not allow them into the repository.
        pytest.skip("needs real video, which may not be shipped; name its folder in MTL_JAX_TEST_DATA")
    return path
