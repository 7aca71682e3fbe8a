"""Are two networks in one valley? The curve between the networks of a pair, its loss, and a verdict."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..landscape import Curve, CurveValues, evaluate_curve, fit_curve, straight_line
from ..progress import Progress, ignore_progress
from .networks import Pair
from .store import SavedRows, discard_outdated, save_arrays, save_state

__all__ = ["curve_verdict", "examine_curve"]


def examine_curve(
    folder: Path,
    pair: Pair,
    *,
    epochs: int = 30,
    lr: float = 0.05,
    points: int = 61,
    tolerance: float = 0.01,
    bf16: bool = False,
    on_progress: Progress = ignore_progress,
) -> str:
    """Train the Bezier curve between the two networks of a pair, measure it and the straight line; return a verdict.

    Writes ``curve.npz`` (for the curve and, with the prefix ``line_``, the straight line: t, length, loss, error,
    test_loss, test_error; and names, tolerance, verdict). The folder ``curve`` holds the bend as ``model.safetensors``
    and the intermediate results. Interrupted at any moment and called again with the same settings, it resumes; on a
    CPU the numbers are those of an uninterrupted study. With other settings it starts anew.

    Raises:
        ValueError: for settings out of range, or networks that do not fit the architecture.
        ArithmeticError: where the loss on the curve is not finite while it is trained.
        CorruptFileError: for an intermediate result that cannot be read.
    """
    if not tolerance >= 0:
        raise ValueError(f"invalid tolerance: {tolerance} (must be >= 0)")
    if points < 2:  # before the curve is trained
        raise ValueError(f"invalid points: {points} (must be >= 2)")
    (folder / "curve").mkdir(exist_ok=True)
    settings = {"networks": pair.fingerprint, "epochs": epochs, "lr": lr, "bf16": bf16}
    curve = _fit(folder / "curve", pair, settings, on_progress)
    rows = SavedRows(folder / "curve" / "points.json", {**settings, "points": points})
    values = _measure(curve, "measuring the curve", pair, rows, on_progress)
    line = _measure(straight_line(curve.start, curve.end), "measuring the straight line", pair, rows, on_progress)
    verdict = curve_verdict(values, line, tolerance)
    arrays = vars(values) | {f"line_{name}": value for name, value in vars(line).items()}
    save_arrays(folder / "curve.npz", **arrays, names=pair.names, tolerance=tolerance, verdict=verdict)
    return verdict


def curve_verdict(curve: CurveValues, line: CurveValues, tolerance: float) -> str:
    """Say whether two networks share a valley: the training loss on a curve, at its ends and on the straight line.

    One valley: at no point of the curve is the loss more than ``tolerance`` above the worse of the two ends. A loss
    that is not finite anywhere on the curve is reported, and is not one valley.

    >>> t, nan = torch.linspace(0, 1, 3), torch.full((3,), torch.nan)
    >>> curve, line = (CurveValues(t, t, torch.tensor(x), nan, nan, nan) for x in ([0.1, 0.1, 0.2], [0.1, 2.0, 0.2]))
    >>> curve_verdict(curve, line, 0.01)
    'max loss on the curve 0.2, ends 0.1 and 0.2, max on the straight line 2: one valley (at most 0.01 above the ends)'
    >>> curve_verdict(line, line, 0.01)
    'max loss on the curve 2, ends 0.1 and 0.2, max on the straight line 2: a barrier of 1.8 (more than 0.01)'
    """
    first, second, highest = float(curve.loss[0]), float(curve.loss[-1]), float(curve.loss.max())
    ends = f"ends {first:.3g} and {second:.3g}"
    if not math.isfinite(highest):
        t = float(curve.t[~curve.loss.isfinite()][0])
        return f"the loss on the curve is not finite at t = {t:.3g}, {ends}: not one valley"
    losses = f"max loss on the curve {highest:.3g}, {ends}, max on the straight line {float(line.loss.max()):.3g}"
    barrier = highest - max(first, second)
    if barrier <= tolerance:
        return f"{losses}: one valley (at most {tolerance:g} above the ends)"
    return f"{losses}: a barrier of {barrier:.3g} (more than {tolerance:g})"


def _autocast(settings: Mapping[str, Any]) -> torch.dtype | None:
    return torch.bfloat16 if settings["bf16"] else None


def _fit(folder: Path, pair: Pair, settings: Mapping[str, Any], on_progress: Progress) -> Curve:
    """Train the curve, or resume its training, and save the bend."""
    checkpoint = folder / "checkpoint.pt"
    discard_outdated(checkpoint, settings)
    curve = fit_curve(
        pair.model,
        pair.loss_fn,
        pair.shuffled,
        *pair.states,
        epochs=settings["epochs"],
        lr=settings["lr"],
        autocast=_autocast(settings),
        checkpoint=checkpoint,
        on_progress=on_progress,
    )
    save_state(folder / "model.safetensors", curve.bend)
    return curve


def _measure(curve: Curve, task: str, pair: Pair, rows: SavedRows, on_progress: Progress) -> CurveValues:
    """Evaluate a curve at the points that were not measured earlier."""
    points = rows.settings["points"]
    values = evaluate_curve(
        pair.model,
        pair.loss_fn,
        pair.train,
        curve,
        points=points,
        test_batches=pair.test,
        autocast=_autocast(rows.settings),
        measured=rows.of(task),
        on_rows=rows.recorder(task, points, on_progress),
    )
    rows.write()
    return values
