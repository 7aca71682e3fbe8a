"""The sentences of the pages: headline, captions, and alternative texts for those who cannot see the figures."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from ..run_folder import Record, Run
from .findings import problems, remarks
from .formatting import NAMES, amount, decimal, duration, percent, size
from .groups import Group, single_group, watched_accuracy
from .plots.axes import labels_of
from .statistics import Row, mean_and_deviation

Figures = Mapping[str, Figure | None]
Captions = dict[str, tuple[str, str]]
_SUBJECTS = {"sgd": f"the {NAMES['sgd']}", "grda": NAMES["grda"]}

ABOUT = """<p class="about">gRDA trains a network and prunes it in the same pass: after every step, each weight that
has not outgrown a threshold is set to exactly zero; the threshold rises slowly, or follows a wanted share of zeros.
Its <span class="sgd">dense baseline</span> is the same network, trained from the same initial weights by plain
stochastic gradient descent (SGD). The method: Chao, Wang, Xing and Cheng, <cite>Directional Pruning of Deep Neural
Networks</cite>, NeurIPS 2020, arXiv 2006.09358.</p>"""

MEANINGS = {
    "epochs": "passes over the training data",
    "batch_size": "examples per step",
    "lr": "learning rate at the start",
    "c": "strength of the threshold; 0 is plain SGD",
    "mu": "how fast the threshold grows",
    "target": "wanted share of zeros among the weights that are pruned, in place of c and mu",
    "seed": "start of every random number",
}


def headline(run: Run) -> tuple[str, str]:
    """The result in one sentence, and what else is worth a line; or how far a run has come."""
    if "between" in run.config:
        return "Two networks and the way between them", ""
    if not run.summary:
        return _progress(run)
    summary, grda, sgd = (_finite(part) for part in (run.summary, run.summary.get("grda"), run.summary.get("sgd")))
    results, details = [], []
    if "sparsity_all" in grda:
        results.append(f"{percent(grda['sparsity_all'])} of all parameters are exactly zero")
    if "test_accuracy" in grda:
        dense = f" against {percent(sgd['test_accuracy'])} for {_SUBJECTS['sgd']}" if "test_accuracy" in sgd else ""
        results.append(f"test accuracy {percent(grda['test_accuracy'])}{dense}")
    if "parameters" in summary:
        details.append(f"The network has {amount(summary['parameters'])} parameters.")
    failed, remarked = problems(run), [f"{finding.text}." for finding in remarks(run)]
    small, large = grda.get("sparse_bytes", 0), sgd.get("bytes", grda.get("bytes", 0))
    if small > 0 and large > 1.05 * small and not failed:  # a network that failed is no achievement, however small
        times = decimal(large / small, 2)
        details.append(f"Stored without its zeros it takes {size(small)} instead of {size(large)}, {times} times less.")
    if "seconds" in summary:
        details.append(f"Training both networks took {duration(summary['seconds'])}.")
    title = "; ".join(results) or "Finished"
    if failed:
        title, *others = [finding.text for finding in failed] + ["; ".join(results)] * bool(results)
        details = [f"{text[:1].upper()}{text[1:]}." for text in others] + details
    return title, " ".join(remarked + details)


def run_captions(run: Run, figures: Figures) -> Captions:
    """For each figure of a run its caption, and its alternative text."""
    data = watched_accuracy([single_group(run)])
    accuracy = f"Where the curves end together, pruning cost no accuracy (share of correct answers on {data} data)."
    if problems(run) or run.diverged:
        accuracy = f"Share of correct answers on {data} data."
    elif data != "training":
        accuracy += " Sharp drops on the way are real and pass: while the learning rate is high, the running averages"
        accuracy += " of batch norm lag behind the moving weights."
    zeros = run.summary.get("histogram", {}).get("grda_zeros", 0.0)
    line = f" The {amount(zeros)} exact zeros of gRDA are the vertical line." if zeros > 0 else ""
    layers = run.summary.get("layers", [])
    bars = ", ".join(f"{layer['name']} {percent(1 - layer['nonzeros'] / layer['total'])}" for layer in layers)
    sparsity = "gRDA empties the network while it trains: zeros among all parameters, and among those it may prune."
    threshold = "The learning rate sets the pace; the threshold, below which a weight is set to zero, never falls."
    if run.target is not None:
        threshold = (
            f"The threshold follows a wanted share of zeros, at the end {percent(run.target)} of the weights pruned."
        )
    return _training_captions(figures, accuracy, sparsity) | {
        "schedule": (
            threshold,
            f"Learning rate and threshold over training. {labels_of(figures.get('schedule'))}",
        ),
        "layers": (
            "Where gRDA pruned: the longer the bar, the emptier the layer; the input is at the top, the output below.",
            f"Share of zeros in each prunable layer: {bars}.",
        ),
        "histogram": (
            f"How large the weights of both networks are.{line}",
            f"Histogram of the weights of both networks, on a log scale.{line}",
        ),
    }


def comparison_captions(groups: Sequence[Group], rows: Sequence[Row], figures: Figures) -> Captions:
    """The same for the figures of several settings of one recipe."""
    paper, watched = groups[0].paper, watched_accuracy(groups)
    data = f"the {watched} data"
    if paper and "validation" in watched:
        data = "held-out training images, not the test data that the paper shows"
    averaged = "the seeds that have got furthest" if any(row.seeds < row.runs for row in rows) else "seeds"
    cut = " What lies more than 18 points below the best is cut off." if paper and paper.frontier else ""
    accuracy = (
        f"Accuracy on {data}. The first fifth may lie below the figure. Lines are means over {averaged}, shades reach"
        " from the lowest to the highest."
    )
    ends = ""
    for row in rows:
        zeros, correct = mean_and_deviation(row.sparsity_all), mean_and_deviation(row.test_accuracy)
        ends += f" {row.label}: zeros {zeros}, test accuracy {correct}."
    return _training_captions(figures, accuracy, "How the networks empty while they train.") | {
        "accuracy_zeros": (
            f"What the zeros cost at the end of training, on the test data. Bars are one sample deviation.{cut}",
            f"Test accuracy against zeros for each setting.{ends}",
        ),
        "layers": (
            "Where the zeros are: each layer's weights, from the input to the output.",
            f"Zeros layer by layer for each setting.{ends}",
        ),
    }


def _training_captions(figures: Figures, accuracy: str, sparsity: str) -> Captions:
    norms = "The 2-norm of all parameters over their 1-norm: the higher, the fewer weights carry the network."
    texts = {
        "loss": ("The lower the curve, the better the network fits its training data.", "Training loss"),
        "accuracy": (accuracy, "Accuracy"),
        "training_accuracy": ("Accuracy on the training data, as far as the paper shows it.", "Training accuracy"),
        "sparsity": (sparsity, "Share of parameters that are exactly zero"),
        "norm_ratio": (norms, "Ratio of the norms of all parameters"),
    }
    return {key: (text, f"{what} over training. {labels_of(figures.get(key))}") for key, (text, what) in texts.items()}


def _progress(run: Run) -> tuple[str, str]:
    for network, reason in run.diverged.items():
        subject = _SUBJECTS[network]
        return f"{subject[:1].upper()}{subject[1:]} diverged: {reason}", ""
    if not run.metrics:
        return "Not finished: no epoch is complete yet", ""
    network, last = run.metrics[-1]["network"], _finite(run.metrics[-1])
    planned = f" of {last['epochs']:.0f}" if "epochs" in last else ""
    progress = f"Not finished: {_SUBJECTS[network]} is at epoch {last['epoch']}{planned}"
    if network == "sgd":
        return progress, f"The {NAMES['sgd']} trains first; gRDA follows from the same initial weights."
    if last["epoch"] == last.get("epochs"):
        progress = "Trained, and not measured on the test data"
    zeros = last.get("sparsity_all")
    if failed := problems(run):
        return progress, f"{failed[0].text}."
    return progress, "" if zeros is None else f"So far {percent(zeros)} of all parameters are exactly zero."


def _finite(record: Record | None) -> dict[str, float]:
    items = (record or {}).items()
    return {key: value for key, value in items if isinstance(value, int | float) and math.isfinite(value)}
