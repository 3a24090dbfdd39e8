"""Commands of `mtl-jax` that have a subject of their own; `mtl_jax.cli` has the others, and chooses among all.

Heavy imports are inside the commands, so that `--help` is quick.
"""

from pathlib import Path
from typing import Annotated

import tyro

Workdir = Annotated[Path, tyro.conf.arg(metavar="DIR")]
