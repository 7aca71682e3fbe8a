"""What a run says in words: numbers as a reader wants them, captions of the pictures, names and meanings."""

import math
from collections.abc import Callable, Sequence

from ..run_folder import Record, Run
from .formatting import amount, decimal, duration, percent, size

THE = {"sgd": "the dense baseline", "grda": "gRDA"}

ABOUT = """<p class="about">gRDA trains a network and prunes it in the same pass: after every step, each weight that
has not outgrown a slowly rising threshold is set to exactly zero. Its <span class="sgd">dense baseline</span> is the
same network, trained from the same initial weights by plain stochastic gradient descent (SGD). The method: Chao, Wang,
Xing and Cheng, <cite>Directional Pruning of Deep Neural Networks</cite>, NeurIPS 2020, arXiv 2006.09358.</p>"""

MEANINGS = {
    "epochs": "passes over the training data",
    "batch_size": "examples per step",
    "lr": "learning rate at the start",
    "c": "strength of the threshold; 0 is plain SGD",
    "mu": "how fast the threshold grows",
    "seed": "start of every random number",
}


def headline(run: Run) -> tuple[str, str]:
    """The result in one sentence, and what else is worth a line; or how far a run has come."""
    if "between" in run.config:
        return "Two networks and the way between them", ""
    if not run.summary:
        return _progress(run)
    summary, grda, sgd = (_finite(part) for part in (run.summary, run.summary.get("grda"), run.summary.get("sgd")))
    parts = []
    if "sparsity_all" in grda:
        parts.append(f"{percent(grda['sparsity_all'])} of all parameters are exactly zero")
    if "test_accuracy" in grda:
        twin = f" against {percent(sgd['test_accuracy'])} for the dense baseline" if "test_accuracy" in sgd else ""
        parts.append(f"test accuracy {percent(grda['test_accuracy'])}{twin}")
    rest = []
    if "parameters" in summary:
        rest.append(f"The network has {amount(summary['parameters'])} parameters.")
    small, large = grda.get("sparse_bytes", 0), sgd.get("bytes", grda.get("bytes", 0))
    if small > 0 and large > 1.05 * small:
        times = decimal(large / small, 2)
        rest.append(f"Stored without its zeros it takes {size(small)} instead of {size(large)}, {times} times less.")
    if "seconds" in summary:
        rest.append(f"Training both networks took {duration(summary['seconds'])}.")
    return "; ".join(parts) or "Finished", " ".join(rest)


def captions(run: Run) -> dict[str, tuple[str, str]]:
    """For each picture, what to see in it, and the same for those who cannot see it."""
    data, accuracy = accuracy_of(run.metrics, paper_protocol=run.paper_protocol)
    ends_together = (
        f"Where the curves end together, pruning cost no accuracy (share of correct answers on {data} data)."
    )
    if data != "training":
        ends_together += (
            " Sharp drops on the way are real and pass: while the learning rate is high, the running averages of batch"
            " norm lag behind the moving weights."
        )
    zeros = run.summary.get("histogram", {}).get("grda_zeros", 0.0)
    needle = ""
    if zeros > 0:
        needle = f" The {amount(zeros)} exact zeros of gRDA are the needle, counted apart from its curve."
    layers = run.summary.get("layers", [])
    bars = (f"{layer['name']} {percent(1 - layer['nonzeros'] / layer['total'])}" for layer in layers)
    return {
        "loss": (
            "The lower the curve, the better the network fits its training data.",
            f"Training loss over epochs, on a log scale. {_ends(run, 'train_loss', decimal)}",
        ),
        "accuracy": (
            ends_together,
            f"Accuracy on the {data} data over epochs. {_ends(run, accuracy, percent)}",
        ),
        "sparsity": (
            "gRDA empties the network while it trains: zeros among all parameters, and among those it may prune.",
            f"Share of all parameters that are exactly zero, over epochs. {_ends(run, 'sparsity_all', percent)}",
        ),
        "schedule": (
            "The learning rate sets the pace; the threshold, below which a weight is set to zero, never falls.",
            f"Learning rate and threshold over epochs. Threshold of {_ends(run, 'threshold', decimal, ('grda',))}",
        ),
        "norm_ratio": (
            "The 2-norm of all parameters over their 1-norm: the higher, the fewer weights carry the network.",
            f"Ratio of the norms of all parameters over epochs. {_ends(run, 'norm_ratio', decimal)}",
        ),
        "layers": (
            "Where gRDA pruned: the longer the bar, the emptier the layer; the input is at the top, the output below.",
            f"Share of zeros in each prunable layer: {', '.join(bars)}.",
        ),
        "histogram": (
            f"How large the weights of both networks are.{needle}",
            f"Histogram of the weights of both networks, on a log scale.{needle}",
        ),
    }


def accuracy_of(metrics: Sequence[Record], *, paper_protocol: bool = False) -> tuple[str, str]:
    """The data whose accuracy is shown, and its key: validation, or training where nothing was held out.

    The paper's protocol holds nothing out: it watches the test data, and records them under the key of validation.
    """
    if any("validation_accuracy" in record for record in metrics):
        return "test" if paper_protocol else "validation", "validation_accuracy"
    return "training", "train_accuracy"


def _progress(run: Run) -> tuple[str, str]:
    for network, what in run.diverged.items():
        return f"{THE[network][:1].upper()}{THE[network][1:]} diverged: {what}", ""
    if not run.metrics:
        return "Not finished: no epoch is complete yet", ""
    network, last = run.metrics[-1]["network"], _finite(run.metrics[-1])
    planned = f" of {last['epochs']:.0f}" if "epochs" in last else ""
    first = f"Not finished: {THE[network]} is at epoch {last['epoch']}{planned}"
    if network == "sgd":
        return first, "The dense baseline trains first; gRDA follows from the same initial weights."
    zeros = last.get("sparsity_all")
    return first, "" if zeros is None else f"So far {percent(zeros)} of all parameters are exactly zero."


def _finite(record: Record | None) -> dict[str, float]:
    """The numbers of a record that are numbers."""
    return {
        key: value for key, value in (record or {}).items() if isinstance(value, int | float) and math.isfinite(value)
    }


def _ends(run: Run, key: str, write: Callable[[float], str], networks: tuple[str, ...] = ("grda", "sgd")) -> str:
    """Where the curves of a picture end, in words."""
    last = {network: [record for record in run.of(network) if key in record][-1:] for network in networks}
    ends = [f"{THE[network]} at epoch {end['epoch']}: {write(end[key])}" for network in last for end in last[network]]
    return "; ".join(ends) + "."
