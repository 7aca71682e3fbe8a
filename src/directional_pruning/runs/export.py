"""Export a finished run: its sparse network as a small file, for other runtimes, or compacted."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ..data import Splits, TextSplits
from ..deploy import load_sparse, save_sparse
from ..files import CorruptFileError, replacing, write_with
from ..run_folder import SPARSE_WEIGHTS, WEIGHTS
from ..sparsity import sparsity_report
from ..training import evaluate
from .config import load_run
from .recipe import Recipe

__all__ = ["FORMATS", "Compacted", "compact_run", "export_run"]

FORMATS = ("sparse", "onnx", "state-dict")


@dataclass(frozen=True)
class Compacted:
    """Where a compacted network was written, and its size and accuracy before and after."""

    path: Path
    parameters: tuple[int, int]
    multiply_adds: tuple[int, int]
    """Of one sample."""
    test_accuracy: tuple[float, float]


def export_run(
    folder: Path, form: str, *, values: str = "float32", out: Path | None = None, compacted: bool = False
) -> Path:
    """Write the sparse network of a finished run for use elsewhere, and return the file's path.

    ``form`` is ``"sparse"`` (:func:`~directional_pruning.save_sparse`, with ``values``), ``"state-dict"`` (a plain
    ``.safetensors`` file, dense) or ``"onnx"`` (any batch size; of the compacted network if ``compacted``). Without
    ``out`` the file is in the run's folder.

    Raises:
        ValueError: for an unknown form or values, or an option that does not go with the form.
        FileNotFoundError, CorruptFileError: for a folder without a finished, readable run.
        ModuleNotFoundError: for ``"onnx"`` without its packages.
    """
    if form not in FORMATS:
        raise ValueError(f"invalid format: {form!r} (must be one of {', '.join(FORMATS)})")
    if values != "float32" and form != "sparse":
        raise ValueError(f"invalid values: {values!r} (only the format sparse rounds)")
    if compacted and form != "onnx":
        raise ValueError(f"invalid format of a compacted network: {form!r} (must be onnx; or: dirprune compact)")
    network, recipe = _load(folder)
    if form == "sparse":
        suffix = "" if values == "float32" else f".{values}"
        path = out or folder / f"model.sparse{suffix}.safetensors"
        save_sparse(network, path, values=values)
    elif form == "state-dict":
        path = out or folder / WEIGHTS
        with replacing(path) as beside:
            beside.write_bytes(safetensors.torch.save(network.state_dict()))
    else:
        from ..deploy import compact, export_onnx

        inputs = _example(recipe.splits(torch.device("cpu")))
        path = out or folder / ("model.compact.onnx" if compacted else "model.onnx")
        export_onnx(compact(network, inputs) if compacted else network, inputs, path)
    return path


def compact_run(folder: Path, out: Path | None = None) -> Compacted:
    """Remove the dead units of a finished run's sparse network and write the smaller network, any batch size.

    The file, ``model.compact.pt2`` in the run's folder without ``out``, holds graph and weights: it needs torch and no
    code of ours, ``torch.export.load(path).module()``, and is for inference.

    Raises:
        FileNotFoundError, CorruptFileError: for a folder without a finished, readable run.
    """
    from ..deploy import compact

    network, recipe = _load(folder)
    splits = recipe.splits(torch.device("cpu"))
    inputs = _example(splits)
    smaller = compact(network, inputs)
    path = out or folder / "model.compact.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own code
        program = torch.export.export(smaller, (inputs,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
        write_with(path, lambda file: torch.export.save(program, file))
    both = network, smaller
    reports = [sparsity_report(each, inputs[:1]) for each in both]
    accuracy = [evaluate(each, splits.test.batches(64))["accuracy"] for each in both]
    return Compacted(
        path,
        (reports[0].total, reports[1].total),
        (reports[0].multiply_adds or 0, reports[1].multiply_adds or 0),
        (accuracy[0], accuracy[1]),
    )


def _load(folder: Path) -> tuple[nn.Module, Recipe]:
    """The sparse network of a finished run, in evaluation mode on the CPU, and its recipe."""
    recipe, _ = load_run(folder)
    path = folder / SPARSE_WEIGHTS
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: finish the run with dirprune train --resume {folder}")
    network, state = recipe.network(), load_sparse(path)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CorruptFileError(f"{path} does not fit the network of the recipe {recipe.name}") from error
    return network.eval(), recipe


def _example(splits: Splits | TextSplits) -> Tensor:
    # Two samples, because torch.export specializes a batch of one.
    return next(iter(splits.test.batches(2)))[0]
