"""A run: one folder in which the dense twin and the sparse network are trained from the same start."""

import json
import platform
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ..data import Splits, TextSplits
from ..files import CorruptFileError, replacing
from ..sparsity import file_size, save_sparse, sparsity_report
from .fit import evaluate, fit, pick_device
from .recipes import RECIPES, Recipe

__all__ = ["NETWORKS", "create_run", "load_run", "train_run"]

NETWORKS = ("sgd", "grda")


def create_run(folder: Path, recipe: Recipe, device: torch.device) -> None:
    """Make the run's folder and write ``config.json``, all that :func:`train_run` needs.

    Raises:
        FileExistsError: where the folder exists: a run is never written over another.
    """
    folder.mkdir(parents=True)
    hyperparameters = recipe.hyperparameters()
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in hyperparameters.items())
    config = {
        "recipe": recipe.name,
        "command": f"dirprune train {recipe.name} {flags} --device {device}",
        **hyperparameters,
        "versions": {
            "directional-pruning": version("directional-pruning"),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
            "device": str(device),
            "threads": recipe.threads or torch.get_num_threads(),
        },
    }
    _write_json(folder / "config.json", config)


def load_run(folder: Path) -> tuple[Recipe, torch.device]:
    """The recipe and the device a run was created with.

    Raises:
        FileNotFoundError: where the folder holds no ``config.json``.
        CorruptFileError: for a configuration that cannot be read or names an unknown recipe.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
        recipe = RECIPES[config["recipe"]]()
        overrides = {name: config[name] for name in recipe.hyperparameters()}
        return replace(recipe, **overrides), pick_device(config["versions"]["device"])
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CorruptFileError(f"{path} is not a readable configuration of a run: {error}") from error


def train_run(
    folder: Path, *, on_epoch: Callable[[str, dict[str, Any]], None] | None = None, checkpoint_every: int = 5
) -> dict[str, Any]:
    """Train both networks of a run, or go on where it was stopped, and return its summary.

    Both start from the same weights and see the same batches. The folder then holds ``metrics.jsonl``, for each
    network ``checkpoint.pt`` and ``model.safetensors``, ``model.sparse.safetensors`` and ``summary.json``. Going on
    after a stop at any moment, a kill included, ends with bit-identical networks on a CPU.

    Args:
        on_epoch: called with the network (``"sgd"``, ``"grda"``) and the epoch's record, past epochs included.
        checkpoint_every: epochs between checkpoints, the most that a kill can cost.

    Raises:
        NonFiniteError, CorruptFileError: as :func:`~directional_pruning.training.fit`.
    """
    recipe, device = load_run(folder)
    splits = recipe.data(device)
    models, results = {}, {}
    for network in NETWORKS:
        report = partial(on_epoch, network) if on_epoch is not None else None
        models[network], results[network] = _train_network(
            folder, network, recipe, device, splits, report, checkpoint_every
        )
    sparse_file = folder / "model.sparse.safetensors"
    save_sparse(models["grda"], sparse_file)
    size = file_size(models["grda"].state_dict())
    results["grda"] |= {
        "sparse_bytes": sparse_file.stat().st_size,
        "zipped_bytes": size.zipped_bytes,
        "bits_per_nonzero": size.bits_per_nonzero,
        "least_bits_per_nonzero": size.least_bits_per_nonzero,
    }
    summary = {
        "recipe": recipe.name,
        **results,
        "seconds": sum(result["seconds"] for result in results.values()),
        **_anatomy(models["sgd"], models["grda"]),
    }
    _write_json(folder / "summary.json", summary)
    return summary


def _train_network(
    folder: Path,
    network: str,
    recipe: Recipe,
    device: torch.device,
    splits: Splits | TextSplits,
    on_epoch: Callable[[dict[str, Any]], None] | None,
    checkpoint_every: int,
) -> tuple[nn.Module, dict[str, Any]]:
    """Train one of the networks, or go on where it was stopped; the trained network and its part of the summary."""
    (folder / network).mkdir(exist_ok=True)
    torch.manual_seed(recipe.seed)
    model = recipe.model().to(device)
    optimizer = recipe.optimizer(model, network)
    first = True

    def log(record: dict[str, Any]) -> None:
        nonlocal first
        if first:
            # The past epochs come again, from the checkpoint; what was written beyond it goes.
            _forget_network(folder / "metrics.jsonl", network)
            first = False
        with open(folder / "metrics.jsonl", "a") as metrics:
            metrics.write(json.dumps({"network": network, "epochs": recipe.epochs, **record}) + "\n")
        if on_epoch is not None:
            on_epoch(record)

    records = fit(
        model,
        optimizer,
        # Seeds of neighbouring runs must not share epochs.
        lambda epoch: splits.train.batches(recipe.batch_size, shuffle_seed=recipe.seed * 1_000_003 + epoch),
        epochs=recipe.epochs,
        scheduler=LambdaLR(optimizer, lambda epoch: recipe.schedule(epoch, recipe.epochs)),
        validation=lambda: splits.validation.batches(recipe.batch_size),
        checkpoint=folder / network / "checkpoint.pt",
        checkpoint_every=checkpoint_every,
        on_epoch=log,
    )
    weights = safetensors.torch.save(model.state_dict())
    with replacing(folder / network / "model.safetensors") as beside:
        beside.write_bytes(weights)
    # The test set is used here and nowhere else.
    measured, sparsity = evaluate(model, splits.test.batches(recipe.batch_size)), sparsity_report(model)
    return model, {
        "test_accuracy": measured["accuracy"],
        "test_loss": measured["loss"],
        "train_loss": records[-1]["train_loss"],
        "sparsity_all": sparsity.sparsity,
        "sparsity_prunable": sparsity.prunable.sparsity,
        "bytes": len(weights),
        "seconds": records[-1]["seconds"],
    }


def _forget_network(path: Path, network: str) -> None:
    """Remove the lines of one network, and a last line that a kill cut short."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    own = json.dumps({"network": network})[:-1]
    with replacing(path) as beside:
        beside.write_text("".join(line for line in lines if line.endswith("\n") and not line.startswith(own)))


def _anatomy(dense: nn.Module, sparse: nn.Module, bins: int = 81) -> dict[str, Any]:
    """Layers of the sparse network and the histogram of both networks' prunable weights, exact zeros apart."""
    flat = {
        name: torch.cat([p.detach().float().cpu().flatten() for p in model.parameters() if p.ndim >= 2])
        for name, model in zip(NETWORKS, (dense, sparse), strict=True)
    }
    limit = max(float(weights.abs().max()) for weights in flat.values())
    histogram: dict[str, Any] = {"edges": torch.linspace(-limit, limit, bins + 1).tolist()}
    for name, weights in flat.items():
        histogram[name] = torch.histc(weights[weights != 0], bins, -limit, limit).long().tolist()
        histogram[f"{name}_zeros"] = int((weights == 0).sum())
    report = sparsity_report(sparse)
    layers = [
        {"name": x.name, "shape": x.shape, "total": x.total, "nonzeros": x.nonzeros, "prunable": x.prunable}
        for x in report.layers
    ]
    return {"parameters": report.total, "layers": layers, "histogram": histogram}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n")
