"""A run: one folder in which the dense twin and the sparse network are trained from the same start."""

import json
import platform
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ..files import CorruptFileError, replacing
from ..sparsity import save_sparse, sparsity_report
from .fit import Batches, evaluate, fit, paper_schedule
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
        return replace(recipe, **overrides), torch.device(config["versions"]["device"])
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
    train, validation, test = recipe.data(device)
    models, records, results = {}, {}, {}
    # Written anew from the checkpoints' records, so lines from beyond the last checkpoint vanish.
    with open(folder / "metrics.jsonl", "w") as metrics:
        for network in NETWORKS:
            (folder / network).mkdir(exist_ok=True)

            def log(record: dict[str, Any], network: str = network) -> None:
                metrics.write(json.dumps({"network": network, "epochs": recipe.epochs, **record}) + "\n")
                metrics.flush()
                if on_epoch is not None:
                    on_epoch(network, record)

            torch.manual_seed(recipe.seed)
            model = models[network] = recipe.model().to(device)
            optimizer = recipe.optimizer(model, network)
            records[network] = fit(
                model,
                optimizer,
                # Seeds of neighbouring runs must not share epochs.
                lambda epoch: train.batches(recipe.batch_size, shuffle_seed=recipe.seed * 1_000_003 + epoch),
                epochs=recipe.epochs,
                scheduler=LambdaLR(optimizer, lambda epoch: paper_schedule(epoch, recipe.epochs)),
                validation=lambda: validation.batches(recipe.batch_size),
                checkpoint=folder / network / "checkpoint.pt",
                checkpoint_every=checkpoint_every,
                on_epoch=log,
            )
            weights_file = folder / network / "model.safetensors"
            with replacing(weights_file) as beside:
                save_model(model, str(beside))
            results[network] = _result(model, records[network], test.batches(recipe.batch_size))
            results[network]["bytes"] = weights_file.stat().st_size
    sparse_file = folder / "model.sparse.safetensors"
    save_sparse(models["grda"], sparse_file)
    results["grda"]["sparse_bytes"] = sparse_file.stat().st_size
    summary = {
        "recipe": recipe.name,
        **results,
        "seconds": sum(result["seconds"] for result in results.values()),
        **_anatomy(models["sgd"], models["grda"]),
    }
    _write_json(folder / "summary.json", summary)
    return summary


def _result(model: nn.Module, records: list[dict[str, Any]], test: Batches) -> dict[str, Any]:
    """What one network came to. The test set is used here and nowhere else."""
    measured, sparsity = evaluate(model, test), sparsity_report(model)
    return {
        "test_accuracy": measured["accuracy"],
        "test_loss": measured["loss"],
        "train_loss": records[-1]["train_loss"],
        "sparsity_all": sparsity.sparsity,
        "sparsity_prunable": sparsity.prunable.sparsity,
        "seconds": records[-1]["seconds"],
    }


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
