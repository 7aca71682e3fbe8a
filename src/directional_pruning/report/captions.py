"""What a run says in words: numbers as a reader wants them, captions of the pictures, names and meanings."""

import math
from collections.abc import Callable, Sequence

from ..run_folder import Record, Run

NOT_FINITE = "not finite"
NAMES = {"sgd": "dense twin", "grda": "gRDA"}
THE = {"sgd": "the dense twin", "grda": "gRDA"}

ABOUT = """<p class="about">gRDA trains a network and prunes it in the same pass: after every step, each weight that
has not outgrown a slowly rising threshold is set to exactly zero. Its <span class="sgd">dense twin</span> is the same
network, trained from the same initial weights by plain stochastic gradient descent (SGD). The method: Chao, Wang, Xing
and Cheng, <cite>Directional Pruning of Deep Neural Networks</cite>, NeurIPS 2020, arXiv 2006.09358.</p>"""

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
        twin = f" against {percent(sgd['test_accuracy'])} for the dense twin" if "test_accuracy" in sgd else ""
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


def percent(fraction: float, digits: int = 1) -> str:
    r"""A fraction as a percentage that never rounds to 0 or 100 what is neither.

    >>> percent(0.926), percent(0.99996), percent(1.0), percent(0.0)
    ('92.6\xa0%', '99.996\xa0%', '100\xa0%', '0\xa0%')
    """
    if not math.isfinite(fraction):
        return NOT_FINITE
    if fraction in (0.0, 1.0):
        return f"{100 * fraction:.0f}\N{NO-BREAK SPACE}%"
    while digits < 9 and round(100 * fraction, digits) in (0.0, 100.0):
        digits += 1
    return f"{100 * fraction:.{digits}f}\N{NO-BREAK SPACE}%"


def points(difference: float) -> str:
    """A difference of two fractions in percentage points, with its sign.

    >>> points(0.0012), points(-0.105), points(-0.00001)
    ('+0.12', '−10.50', '0.00')
    """
    if not math.isfinite(difference):
        return NOT_FINITE
    rounded = round(100 * difference, 2) + 0.0
    return f"{rounded:+.2f}".replace("-", "\N{MINUS SIGN}") if rounded else "0.00"


def size(count: float) -> str:
    r"""Bytes in decimal units.

    >>> size(379_000), size(17_040), size(61_000_000), size(512)
    ('379\xa0kB', '17.0\xa0kB', '61.0\xa0MB', '512\xa0bytes')
    """
    if not math.isfinite(count):
        return NOT_FINITE
    if count < 1000:
        return f"{count:.0f}\N{NO-BREAK SPACE}bytes"
    return _scaled(count, ("kB", "MB", "GB", "TB"))


def amount(count: float, exact: float = 100_000) -> str:
    r"""How many: every digit below ``exact``, three digits and a unit from there on.

    >>> amount(73_728), amount(2_359_296)
    ('73,728', '2.36\xa0M')
    """
    if not math.isfinite(count):
        return NOT_FINITE
    return f"{count:,.0f}" if count < exact else _scaled(count, ("k", "M", "G", "T"))


def duration(seconds: float) -> str:
    r"""Seconds, with minutes or hours when there are many.

    >>> duration(15.2), duration(754), duration(7300)
    ('15.2\xa0s', '12\xa0min\xa034\xa0s', '2\xa0h\xa002\xa0min')
    """
    if not math.isfinite(seconds):
        return NOT_FINITE
    if seconds < 99.95:
        text = f"{seconds:.1f} s"
    elif seconds < 3600:
        text = f"{round(seconds) // 60} min {round(seconds) % 60:02} s"
    else:
        text = f"{round(seconds / 60) // 60} h {round(seconds / 60) % 60:02} min"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def decimal(value: float, digits: int = 3) -> str:
    """A number to some significant digits, powers of ten written as such.

    >>> decimal(0.13812), decimal(0.1), decimal(3e-05), decimal(1.5e7)
    ('0.138', '0.1', '3×10⁻⁵', '1.5×10⁷')
    """
    if not math.isfinite(value):
        return NOT_FINITE
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        return f"{float(f'{value:.{digits}g}'):g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return power if mantissa == "1" else f"{mantissa}×{power}"


def _scaled(count: float, units: tuple[str, ...]) -> str:
    """``count`` in the first unit of thousands that leaves it below 1000, to three digits."""
    for unit in units:
        count /= 1000
        if count < 999.5 or unit == units[-1]:
            break
    digits = 2 if count < 9.995 else 1 if count < 99.95 else 0
    return f"{count:.{digits}f}\N{NO-BREAK SPACE}{unit}"


def _progress(run: Run) -> tuple[str, str]:
    for network, what in run.diverged.items():
        return f"{THE[network][:1].upper()}{THE[network][1:]} diverged: {what}", ""
    if not run.metrics:
        return "Not finished: no epoch is complete yet", ""
    network, last = run.metrics[-1]["network"], _finite(run.metrics[-1])
    planned = f" of {last['epochs']:.0f}" if "epochs" in last else ""
    first = f"Not finished: {THE[network]} is at epoch {last['epoch']}{planned}"
    if network == "sgd":
        return first, "The dense twin trains first; gRDA follows from the same initial weights."
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
