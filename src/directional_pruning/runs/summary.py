"""The results of a finished run: test accuracy, file sizes, layers and a histogram of the weights."""

from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from ..data import Splits, TextSplits
from ..deploy import file_size, save_sparse
from ..layer_kinds import PRUNABLE, parameter_kinds
from ..run_folder import NETWORKS, SPARSE_WEIGHTS, WEIGHTS, Record, read_metrics
from ..sparsity import sparsity_report
from ..training import evaluate
from .recipe import Recipe

__all__ = ["summarize"]


def summarize(folder: Path, recipe: Recipe, device: torch.device, splits: Splits | TextSplits) -> Record:
    """Measure both trained networks of a run, and write the sparse file."""
    last = {record["network"]: record for record in read_metrics(folder)[0]}
    models, results = {}, {}
    for network in NETWORKS:
        file = folder / network / WEIGHTS
        model = models[network] = recipe.network().to(device)
        model.load_state_dict(safetensors.torch.load_file(file, device=str(device)))
        # Except under the paper's protocol, the test set is used only here.
        test = splits.test.batches(recipe.batch_size)
        measured, sparsity = evaluate(model, test, autocast=recipe.autocast(device)), sparsity_report(model)
        results[network] = {
            "test_accuracy": measured["accuracy"],
            "test_loss": measured["loss"],
            "train_loss": last[network]["train_loss"],
            "sparsity_all": sparsity.sparsity,
            "sparsity_prunable": sparsity.prunable.sparsity,
            "bytes": file.stat().st_size,
            "seconds": last[network]["seconds"],
        }
    sparse_file = folder / SPARSE_WEIGHTS
    save_sparse(models["grda"], sparse_file)
    size = file_size(models["grda"].state_dict())
    results["grda"] |= {
        "sparse_bytes": sparse_file.stat().st_size,
        "zipped_bytes": size.zipped_bytes,
        "bits_per_nonzero": size.bits_per_nonzero,
        "least_bits_per_nonzero": size.least_bits_per_nonzero,
    }
    return {
        "recipe": recipe.name,
        **results,
        "seconds": sum(result["seconds"] for result in results.values()),
        **_weight_statistics(models),
    }


def _weight_statistics(models: dict[str, nn.Module], bins: int = 81) -> Record:
    """Layers of the sparse network, and a histogram of the nonzero prunable weights of both networks."""
    flat = {
        name: torch.cat([p.detach().float().cpu().flatten() for p in _prunable(model)])
        for name, model in models.items()
    }
    limit = max(float(weights.abs().max()) for weights in flat.values())
    histogram: Record = {"edges": torch.linspace(-limit, limit, bins + 1).tolist()}
    for name, weights in flat.items():
        histogram[name] = torch.histc(weights[weights != 0], bins, -limit, limit).long().tolist()
        histogram[f"{name}_zeros"] = int((weights == 0).sum())
    report = sparsity_report(models["grda"])
    layers = [
        {"name": x.name, "shape": x.shape, "total": x.total, "nonzeros": x.nonzeros, "prunable": x.prunable}
        for x in report.layers
    ]
    return {"parameters": report.total, "layers": layers, "histogram": histogram}


def _prunable(model: nn.Module) -> list[nn.Parameter]:
    kinds = parameter_kinds(model)
    return [p for name, p in model.named_parameters() if kinds[name] in PRUNABLE]
