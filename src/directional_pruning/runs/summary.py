"""The results of a finished run: test accuracy, file sizes, layers, a histogram of the weights, and a judgement."""

import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ..data import Splits, TextSplits
from ..deploy import file_size, save_sparse
from ..layer_kinds import PRUNABLE, parameter_kinds
from ..run_folder import NETWORKS, SPARSE_WEIGHTS, WEIGHTS, Record, read_metrics
from ..sparsity import sparsity_report
from ..training import Batches, evaluate
from .outcome import judge_run
from .recipe import Recipe

__all__ = ["summarize"]


def summarize(folder: Path, recipe: Recipe, device: torch.device, splits: Splits | TextSplits) -> Record:
    """Measure both trained networks of a run, and write the sparse file."""
    last = {record["network"]: record for record in read_metrics(folder)[0]}
    models, results, frequencies = {}, {}, torch.zeros(recipe.num_classes, dtype=torch.int64)
    for network in NETWORKS:
        file = folder / network / WEIGHTS
        model = models[network] = recipe.network().to(device)
        model.load_state_dict(safetensors.torch.load_file(file, device=str(device)))
        # Except under the paper's protocol, the test set is used only here.
        test = splits.test.batches(recipe.batch_size)
        if network == NETWORKS[0]:
            test = _counting(test, frequencies)
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
    statistics = _weight_statistics(models, recipe)
    results["grda"]["sparsity_pruned"] = statistics.pop("sparsity_pruned")
    samples = int(frequencies.sum())
    findings = judge_run(
        results["sgd"],
        results["grda"],
        statistics["layers"],
        c=recipe.c,
        target=recipe.target,
        samples=samples,
        majority=int(frequencies.max()) / samples,
        unit="characters" if isinstance(splits, TextSplits) else "images",
    )
    return {
        "recipe": recipe.name,
        **results,
        "seconds": sum(result["seconds"] for result in results.values()),
        "outcome": [asdict(finding) for finding in findings],
        **statistics,
    }


def _counting(batches: Batches, frequencies: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batches; adds up how often each class is a label."""
    for inputs, labels in batches:
        frequencies += labels.flatten().bincount(minlength=len(frequencies)).cpu()
        yield inputs, labels


def _weight_statistics(models: dict[str, nn.Module], recipe: Recipe, bins: int = 81) -> Record:
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # training said already what it does not prune
        optimizer = recipe.optimizer(models["grda"], "grda", steps=1)
    report, keys = sparsity_report(models["grda"], optimizer=optimizer), ("name", "shape", "total", "nonzeros")
    layers = [{key: getattr(x, key) for key in (*keys, "prunable", "pruned")} for x in report.layers]
    statistics = {"parameters": report.total, "layers": layers, "histogram": histogram}
    return statistics | {"sparsity_pruned": report.pruned.sparsity}


def _prunable(model: nn.Module) -> list[nn.Parameter]:
    kinds = parameter_kinds(model)
    return [p for name, p in model.named_parameters() if kinds[name] in PRUNABLE]
