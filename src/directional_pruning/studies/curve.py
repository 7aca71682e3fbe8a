"""Is it one valley? The curve between the networks of a pair, and the plane through them, kept in the pair's folder."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..files import CorruptFileError, replacing
from ..landscape import BezierCurve, Curve, CurveValues, evaluate_curve, fit_curve, loss_plane, straight_line
from .networks import Pair, digest

__all__ = ["curve_verdict", "examine_curve", "examine_plane"]

# Called with what is being done, how many steps of it are done, and of how many.
Progress = Callable[[str, int, int], None]

_EVERY = 1.0  # seconds between writes of what has been measured


def examine_curve(
    folder: Path,
    pair: Pair,
    *,
    epochs: int = 30,
    lr: float = 0.05,
    points: int = 61,
    tolerance: float = 0.01,
    bf16: bool = False,
    on_progress: Progress = lambda stage, done, total: None,
) -> str:
    """Train the Bezier curve between the two networks of a pair, measure it and the straight line; the verdict.

    Writes ``curve.npz`` (for the curve and, with the prefix ``line_``, the straight line: t, length, loss, error,
    test_loss, test_error; and names, tolerance, verdict) and, in the folder ``curve``, the bend as
    ``model.safetensors`` and what is needed to go on. Stopped at any moment and called again with the same settings it
    goes on, on a CPU with the numbers of never having stopped; with others it starts anew.

    Raises:
        ValueError: for settings out of range, or networks that do not fit the architecture.
        ArithmeticError: where the loss on the curve is not finite while it is trained.
        CorruptFileError: for what was kept and cannot be read.
    """
    if not tolerance >= 0:
        raise ValueError(f"invalid tolerance: {tolerance} (must be >= 0)")
    kept = folder / "curve"
    autocast = torch.bfloat16 if bf16 else None
    settings = {"networks": pair.fingerprint, "epochs": epochs, "lr": lr, "bf16": bf16}
    kept.mkdir(exist_ok=True)
    training = _Kept(kept / "settings.json", settings)
    if not training.known:
        (kept / "checkpoint.pt").unlink(missing_ok=True)
        training.write()
    curve = fit_curve(
        pair.model,
        pair.loss_fn,
        pair.shuffled,
        *pair.states,
        epochs=epochs,
        lr=lr,
        autocast=autocast,
        checkpoint=kept / "checkpoint.pt",
        on_epoch=lambda epoch, loss: on_progress("training the bend", epoch, epochs),
    )
    _save_state(curve.bend, kept / "model.safetensors")

    measured = _Kept(kept / "points.json", {**settings, "points": points})

    def along(path: Curve, stage: str) -> CurveValues:
        found = evaluate_curve(
            pair.model,
            pair.loss_fn,
            pair.train,
            path,
            points=points,
            test_batches=pair.test,
            autocast=autocast,
            known=measured.rows.get(stage, ()),
            on_point=measured.keeper(stage, points, on_progress),
        )
        measured.write()
        return found

    values = along(curve, "measuring the curve")
    line = along(straight_line(curve.start, curve.end), "measuring the straight line")
    verdict = curve_verdict(values, line, tolerance)
    arrays = vars(values) | {f"line_{name}": value for name, value in vars(line).items()}
    _save_arrays(folder / "curve.npz", **arrays, names=pair.names, tolerance=tolerance, verdict=verdict)
    return verdict


def curve_verdict(curve: CurveValues, line: CurveValues, tolerance: float) -> str:
    """In words, whether two networks share a valley: the training loss along a curve, its ends, the straight line.

    One valley: at no point of the curve is the loss more than ``tolerance`` above the worse of the two ends. A loss
    that is not finite anywhere on the curve is named, and is no valley.

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
        where = float(curve.t[~curve.loss.isfinite()][0])
        return f"the loss on the curve is not finite at t = {where:.3g}, {ends}: not one valley"
    told = f"max loss on the curve {highest:.3g}, {ends}, max on the straight line {float(line.loss.max()):.3g}"
    barrier = highest - max(first, second)
    if barrier <= tolerance:
        return f"{told}: one valley (at most {tolerance:g} above the ends)"
    return f"{told}: a barrier of {barrier:.3g} (more than {tolerance:g})"


def examine_plane(
    folder: Path,
    pair: Pair,
    *,
    size: int = 29,
    margin: float = 0.2,
    bf16: bool = False,
    on_progress: Progress = lambda stage, done, total: None,
) -> str:
    """Measure the loss on the plane through the two networks of a pair and the bend of their curve; a line of words.

    Writes ``plane.npz`` (x, y, loss, error, test_loss, test_error, corners, path, names). Stopped at any moment and
    called again with the same settings it goes on.

    Raises:
        ValueError: for settings out of range, or a bend on the straight line.
        FileNotFoundError: where no curve has been trained.
        CorruptFileError: for what was kept and cannot be read.
    """
    bend = folder / "curve" / "model.safetensors"
    try:
        state = safetensors.torch.load(bend.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has no curve yet: dirprune curve {folder}") from None
    except SafetensorError as error:
        raise CorruptFileError(f"{bend} is not a readable safetensors file: {error}") from error
    (folder / "plane").mkdir(exist_ok=True)
    settings = {"networks": pair.fingerprint, "bend": digest(bend), "size": size, "margin": margin, "bf16": bf16}
    measured = _Kept(folder / "plane" / "points.json", settings)
    stage = "measuring the plane"
    values = loss_plane(
        pair.model,
        pair.loss_fn,
        pair.train,
        *pair.states,
        state,
        size=size,
        margin=margin,
        curve=BezierCurve(*pair.states, state),
        test_batches=pair.test,
        autocast=torch.bfloat16 if bf16 else None,
        # Cores that torch's own threads leave idle.
        workers=max(1, (os.cpu_count() or 1) // torch.get_num_threads()) if _on_cpu(pair.model) else 1,
        known=measured.rows.get(stage, ()),
        on_point=measured.keeper(stage, size * size, on_progress),
    )
    measured.write()
    arrays = {name: value for name, value in vars(values).items() if name != "plane"}
    _save_arrays(folder / "plane.npz", **arrays, names=(*pair.names, "bend"))
    distance, height = values.plane.corners[1][0], values.plane.corners[2][1]
    low, high = float(values.loss.min()), float(values.loss.max())
    return (
        f"loss from {low:.3g} to {high:.3g}; the networks are {distance:.3g} apart, the bend {height:.3g} off the line"
    )


def _on_cpu(model: nn.Module) -> bool:
    return all(p.is_cpu for p in model.parameters())


class _Kept:
    """Rows of values by stage, in a file that is worth nothing under other settings."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings, self.written = path, settings, time.monotonic()
        self.rows: dict[str, Sequence[Sequence[float]]] = {}
        try:
            content = json.loads(path.read_text()) if path.exists() else {}
            self.known = content.get("settings") == settings
            if self.known:
                self.rows = content["rows"]
        except (ValueError, AttributeError, KeyError) as error:
            raise CorruptFileError(f"{path} is not readable ({error}); remove it to start anew") from error

    def keeper(self, stage: str, total: int, on_progress: Progress) -> Callable[[Sequence[Sequence[float]]], None]:
        """What to call after each point of a stage; writes about once a second."""
        on_progress(stage, len(self.rows.get(stage, ())), total)

        def keep(rows: Sequence[Sequence[float]]) -> None:
            self.rows[stage] = rows
            if time.monotonic() - self.written >= _EVERY:
                self.write()
            on_progress(stage, len(rows), total)

        return keep

    def write(self) -> None:
        with replacing(self.path) as beside:
            beside.write_text(json.dumps({"settings": self.settings, "rows": self.rows}))
        self.written = time.monotonic()


def _save_state(state: Mapping[str, Tensor], path: Path) -> None:
    with replacing(path) as beside:
        beside.write_bytes(safetensors.torch.save({name: value.contiguous() for name, value in state.items()}))


def _save_arrays(path: Path, /, **arrays: Any) -> None:
    with replacing(path) as beside, open(beside, "wb") as file:
        np.savez(file, **arrays)
