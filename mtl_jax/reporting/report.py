"""The Markdown report of a comparison of runs: table, differences, plots, videos, how to do it again."""

import dataclasses
import importlib.metadata
import itertools
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jax
import numpy as np
from jaxtyping import UInt8

from mtl_jax.data.video import encode_png, open_frames
from mtl_jax.errors import UserError
from mtl_jax.reporting import plots, tables
from mtl_jax.training.metrics import read_metrics
from mtl_jax.training.workdir import read_config

_CAPTIONS = {
    "losses": "Each task's loss before weighting, and the weighted total, which learned weights may take below zero; "
    "faint as logged, bold smoothed.",
    "weights": "What each task's loss is multiplied by.",
    "gradient_norms": "Norms of the tasks' gradients at the shared parameters.",
    "gradient_cosines": "Below zero two tasks pull the shared parameters apart.",
    "norms": "Norms of gradient, update and parameters, and the learning rate.",
    "validation": "Scores on the validation split.",
}


def write_report(
    workdir: Path | str,
    title: str,
    rows: Sequence[tables.Row],
    runs: Mapping[str, Path],
    videos: Mapping[str, Path] | None = None,
    notes: Sequence[str] = (),
    columns: Sequence[tables.Column] | None = None,
    results: Mapping[str, Path] | None = None,
    command: str | None = None,
) -> Path:
    """Writes `report.md`, and beside it `results.json`, `plots/*.png` and `stills/*.png`.

    Everything is linked by relative paths, so that the folder can be moved as a whole.

    Args:
        workdir: Folder of the report.
        title: Heading.
        rows: The comparison, a row a run.
        runs: Folder of each run, by name, with its `config.json` and `metrics.jsonl`.
        videos: Annotated MP4s, by name.
        notes: Paragraphs to stand beneath the table.
        columns: Columns of the table; None: `tables.default_columns`.
        results: MOT result files, or folders of them, by name.
        command: Command that does it all again.

    Returns:
        Path of the report.

    Raises:
        UserError: If a run has no configuration or no metrics file, or a video is missing.
    """
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    metrics = {name: read_metrics(run) for name, run in runs.items()}
    configs = {name: dataclasses.asdict(read_config(run)) for name, run in runs.items()}
    tables.write_json(rows, workdir / "results.json")
    sections = [
        f"# {title}",
        tables.to_markdown(rows, columns),
        *notes,
        "The same numbers, unrounded: [results.json](results.json).",
        *_differences(configs),
        *_plots(workdir, metrics),
        *_videos(workdir, videos or {}),
        *_files(
            workdir, "MOT result files", {name: _text_files(path) for name, path in (results or {}).items()}
        ),
        *_files(
            workdir,
            "Runs",
            {name: [run / "config.json", run / "metrics.jsonl"] for name, run in runs.items()},
        ),
        "## Environment\n\n" + "\n".join(f"- {name}: {value}" for name, value in environment().items()),
        *([f"## How to do it again\n\n```\n{command}\n```"] if command else []),
    ]
    path = workdir / "report.md"
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return path


def environment() -> dict[str, str]:
    """Returns what the numbers were made with: device, processors, system, versions."""
    devices = jax.devices()
    packages = ("mtl-jax", "jax", "jaxlib", "flax", "optax", "numpy")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except (
            importlib.metadata.PackageNotFoundError
        ):  # as when run from a source tree that is not installed
            continue
    return {
        "device": f"{len(devices)} × {devices[0].device_kind} (JAX backend {jax.default_backend()})",
        "processors": f"{os.cpu_count()} ({platform.machine()})",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **versions,
    }


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in config.items():
        flat.update(_flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat


def _differences(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if len(configs) < 2:
        return []
    flat = {name: _flatten(config) for name, config in configs.items()}
    keys = dict.fromkeys(key for config in flat.values() for key in config)
    differing = [key for key in keys if len({json.dumps(config.get(key)) for config in flat.values()}) > 1]
    rows = [
        {"field": f"`{key}`"} | {f"run {name}": str(config.get(key, "–")) for name, config in flat.items()}
        for key in differing
    ]
    columns = [tables.Column("field", "field"), *(tables.Column(f"run {name}", name) for name in flat)]
    body = tables.to_markdown(rows, columns) if rows else "None."
    return [f"## In what the runs differ\n\n{body}"]


def _plots(workdir: Path, metrics: Mapping[str, plots.Rows]) -> list[str]:
    written = plots.write_plots(metrics, workdir / "plots")
    if not written:
        return []
    pictures = [
        f"![{plots.PLOTS[name].title}]({_link(path, workdir)})\n\n*{_CAPTIONS[name]}*"
        for name, path in written.items()
    ]
    return ["## Training", *pictures]


def _videos(workdir: Path, videos: Mapping[str, Path]) -> list[str]:
    if not videos:
        return []
    sections = [
        "## Tracked video\n\nEvery object carries its class, identity and trail; a picture opens its video."
    ]
    (workdir / "stills").mkdir(exist_ok=True)
    for number, (name, path) in enumerate(videos.items(), start=1):
        still = workdir / "stills" / f"{number:02d}_{Path(path).stem}.png"
        still.write_bytes(encode_png(_middle_frame(path)))
        sections.append(f"**{name}**\n\n[![{name}]({_link(still, workdir)})]({_link(path, workdir)})")
    return sections


def _middle_frame(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    source = open_frames(path)
    return next(itertools.islice(source.frames(), (source.length or 1) // 2, None))


def _files(workdir: Path, heading: str, files: Mapping[str, Sequence[Path]]) -> list[str]:
    if not files:
        return []
    lines = [
        f"- {name}: " + ", ".join(f"[{path.name}]({_link(path, workdir)})" for path in paths)
        for name, paths in files.items()
    ]
    return [f"## {heading}\n\n" + "\n".join(lines)]


def _text_files(path: Path) -> list[Path]:
    return sorted(path.glob("*.txt")) if path.is_dir() else [path]


def _link(path: Path | str, workdir: Path) -> str:
    """Returns the path as a link from the report."""
    if not Path(path).exists():
        raise UserError(f"{path}: no such file, so the report cannot link to it; write it before the report")
    return quote(Path(os.path.relpath(path, workdir)).as_posix())
