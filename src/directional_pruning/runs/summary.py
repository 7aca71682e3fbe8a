"""What a finished run came to: both networks on the test set, their files, layers and weights."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from ..data import Splits, TextSplits
from ..deploy import file_size, save_sparse
from ..sparsity import sparsity_report
from ..training import evaluate
from .recipe import Recipe

__all__ = ["summarize"]


def summarize(folder: Path, recipe: Recipe, device: torch.device, splits: Splits | TextSplits) -> dict[str, Any]:
    """Measure both trained networks of a run, and write the sparse file."""
    last: dict[str, dict[str, Any]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        last[record["network"]] = record
    models, results = {}, {}
    for network in last:
        file = folder / network / "model.safetensors"
        model = models[network] = recipe.network().to(device)
        model.load_state_dict(safetensors.torch.load_file(file, device=str(device)))
        # The test set is used here and nowhere else, but for the paper's protocol.
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
    sparse_file = folder / "model.sparse.safetensors"
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
        **_anatomy(models),
    }


def _anatomy(models: dict[str, nn.Module], bins: int = 81) -> dict[str, Any]:
    """Layers of the sparse network and the histogram of both networks' prunable weights, exact zeros apart."""
    flat = {
        name: torch.cat([p.detach().float().cpu().flatten() for p in model.parameters() if p.ndim >= 2])
        for name, model in models.items()
    }
    limit = max(float(weights.abs().max()) for weights in flat.values())
    histogram: dict[str, Any] = {"edges": torch.linspace(-limit, limit, bins + 1).tolist()}
    for name, weights in flat.items():
        histogram[name] = torch.histc(weights[weights != 0], bins, -limit, limit).long().tolist()
        histogram[f"{name}_zeros"] = int((weights == 0).sum())
    report = sparsity_report(models["grda"])
    layers = [
        {"name": x.name, "shape": x.shape, "total": x.total, "nonzeros": x.nonzeros, "prunable": x.prunable}
        for x in report.layers
    ]
    return {"parameters": report.total, "layers": layers, "histogram": histogram}
