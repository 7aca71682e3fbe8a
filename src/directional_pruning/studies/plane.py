"""The loss on the plane through the two networks of a pair and the bend of their curve."""

import os
from pathlib import Path

import torch

from ..deploy import read_weights
from ..landscape import BezierCurve, loss_plane
from ..progress import Progress, ignore_progress
from .networks import Pair, digest
from .store import SavedRows, save_arrays

__all__ = ["examine_plane"]


def examine_plane(
    folder: Path,
    pair: Pair,
    *,
    size: int = 29,
    margin: float = 0.2,
    bf16: bool = False,
    on_progress: Progress = ignore_progress,
) -> str:
    """Measure the loss on the plane through the two networks of a pair and the bend of their curve; return a summary.

    Writes ``plane.npz`` (x, y, loss, error, test_loss, test_error, corners, path, names). Interrupted at any moment
    and called again with the same settings, it resumes.

    Raises:
        ValueError: for settings out of range, or a bend on the straight line.
        FileNotFoundError: where no curve has been trained.
        CorruptFileError: for an intermediate result that cannot be read.
    """
    path = folder / "curve" / "model.safetensors"
    try:
        bend = read_weights(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has no curve yet: dirprune curve {folder}") from None
    (folder / "plane").mkdir(exist_ok=True)
    settings = {"networks": pair.fingerprint, "bend": digest(path), "size": size, "margin": margin, "bf16": bf16}
    rows, task = SavedRows(folder / "plane" / "points.json", settings), "measuring the plane"
    values = loss_plane(
        pair.model,
        pair.loss_fn,
        pair.train,
        *pair.states,
        bend,
        size=size,
        margin=margin,
        curve=BezierCurve(*pair.states, bend),
        test_batches=pair.test,
        autocast=torch.bfloat16 if bf16 else None,
        workers=_idle_cores() if all(p.is_cpu for p in pair.model.parameters()) else 1,
        measured=rows.of(task),
        on_rows=rows.recorder(task, size * size, on_progress),
    )
    rows.write()
    arrays = {name: value for name, value in vars(values).items() if name != "plane"}
    save_arrays(folder / "plane.npz", **arrays, names=(*pair.names, "bend"))
    distance, height = values.plane.corners[1][0], values.plane.corners[2][1]
    low, high = float(values.loss.min()), float(values.loss.max())
    return (
        f"loss from {low:.3g} to {high:.3g}; the networks are {distance:.3g} apart, the bend {height:.3g} off the line"
    )


def _idle_cores() -> int:
    """How many points can be measured at once: the cores over the threads that torch uses for one, at least 1."""
    return max(1, (os.cpu_count() or 1) // torch.get_num_threads())
