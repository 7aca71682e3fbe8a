"""Recipes: what to train and how, as functions that return a frozen dataclass."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from ..data import Photos, Splits, TextSplits, chars, digits
from ..models import build
from ..optim import GRDA, Directional, prunable_groups
from ..training import STRATEGIES, cosine_schedule, paper_schedule

__all__ = ["Recipe", "chars_recipe", "digits_recipe"]

PRECISIONS = ("auto", "float32", "bfloat16")
# Settings of a network or a machine that have no flag.
_FIXED = ("name", "summary", "channels_last", "files")


@dataclass(frozen=True)
class Recipe:
    """A network, its data and the hyper-parameters; derive variants with ``dataclasses.replace``.

    Raises:
        ValueError: for a hyper-parameter out of range, naming it and its value.

    >>> from dataclasses import replace
    >>> replace(digits_recipe(), epochs=3).epochs
    3
    """

    name: str
    summary: str
    dataset: Callable[[torch.device, "Recipe"], Splits | TextSplits]
    """Makes the data on a device, as the recipe's settings want it."""
    model: str
    """A name :func:`~directional_pruning.models.build` knows."""
    num_classes: int
    epochs: int
    batch_size: int
    """Samples per step, of all processes together."""
    lr: float
    c: float
    mu: float
    momentum: float = 0.0
    """Of SGD and gRDA; other optimizers have their own."""
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    seed: int = 0
    data: str = ""
    """Folder or archive of the data, where they do not come with a package; empty is the dataset's own place."""
    samples: int = 0
    """Train on so many samples only; 0 is all."""
    paper_protocol: bool = False
    """Train on all training data and watch the test set while training, as the paper did; else some are held out."""
    precision: str = "float32"
    """``float32``; ``bfloat16`` (autocast); or ``auto``, bfloat16 on CUDA and float32 elsewhere."""
    compile: bool = False
    """Compile the network; on CUDA with CUDA graphs."""
    accumulate: int = 1
    """Parts of a batch that go through the network one after the other, to need less memory."""
    workers: int = 0
    """Processes that decode photographs, where the data are not held on the device."""
    parallel: str = "ddp"
    """Under ``torchrun``: ``ddp``, the whole network on every process, or ``fsdp``, its weights sharded."""
    base: Callable[..., Optimizer] = SGD
    """The dense twin's optimizer, called with parameters and ``lr``; the sparse network's too, made to prune."""
    skip: tuple[str, ...] = ("norm", "bias")
    """What is not pruned, as for :func:`~directional_pruning.prunable_groups`."""
    schedule: Callable[[int, int], float] = paper_schedule
    """Factor of the rate in an epoch (from 0) of so many."""
    settings: tuple[tuple[float, float], ...] = ()
    """The pairs (c, mu) of the paper."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    """What is subtracted from a channel, in units of its largest value, and what it is then divided by."""
    tensorboard: bool = False
    """Write TensorBoard events too."""
    files: bool = False
    """Whether the data are files, of which ``data``, ``samples`` and ``paper_protocol`` say what to take."""
    channels_last: bool = False
    threads: int | None = None
    """CPU threads that suit the network's size; None leaves torch's choice."""

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 1, "num_classes": 1, "accumulate": 1, "seed": 0, "samples": 0, "workers": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"invalid {name}: {getattr(self, name)} (must be >= {bound})")
        if self.seed >= 2**32:
            raise ValueError(f"invalid seed: {self.seed} (must be < 2**32)")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"invalid label_smoothing: {self.label_smoothing} (must be in [0, 1))")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"invalid momentum: {self.momentum} (must be in [0, 1))")
        for name, known in (("precision", PRECISIONS), ("parallel", STRATEGIES)):
            if getattr(self, name) not in known:
                raise ValueError(f"invalid {name}: {getattr(self, name)} (must be one of {', '.join(known)})")
        # The optimizers' own checks, now rather than after the dense twin has trained.
        unused = [torch.empty(0)]
        GRDA(unused, lr=self.lr, c=self.c, mu=self.mu, momentum=self.momentum, weight_decay=self.weight_decay)
        if self.momentum and self.base is not SGD:
            raise ValueError(f"invalid momentum: {self.momentum} ({self.name} trains with {self.optimizer_name})")

    @property
    def optimizer_name(self) -> str:
        """Of the dense twin's optimizer."""
        return getattr(self.base, "func", self.base).__name__

    def optimizer(self, model: nn.Module, network: str) -> Optimizer:
        """The optimizer of the dense twin (``"sgd"``: the base alone) or of the sparse network (``"grda"``)."""
        options = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.base is SGD:
            options["momentum"] = self.momentum
        if network == "sgd":
            return self.base(model.parameters(), **options)
        groups = prunable_groups(model, skip=self.skip)
        if self.base is SGD:
            return GRDA(groups, c=self.c, mu=self.mu, **options)
        # A base whose steps are as large as the rate, not the gradient, cannot restore what survivors lose at power 1.
        return Directional(self.base(groups, **options), c=self.c, mu=self.mu, power=4)

    def autocast(self, device: torch.device) -> torch.dtype | None:
        """The type products are computed in on this device; None is that of the weights."""
        half = self.precision == "bfloat16" or (self.precision == "auto" and device.type == "cuda")
        return torch.bfloat16 if half else None

    def network(self) -> nn.Module:
        """The network with its initial weights, from the global random generator."""
        return build(self.model, self.num_classes)

    def splits(self, device: torch.device) -> Splits | TextSplits:
        """The data on this device.

        Raises:
            ValueError: for data or settings that do not fit, among them more classes than the network has outputs.
            FileNotFoundError, CorruptFileError: for data that are not there or cannot be read.
        """
        for name in () if self.files else ("data", "samples", "paper_protocol", "workers"):
            if getattr(self, name):
                raise ValueError(f"invalid {name}: {getattr(self, name)} (the data of {self.name} are always the same)")
        splits = self.dataset(device, self)
        labels = getattr(splits.train, "labels", None)
        if labels is not None and int(labels.max()) >= self.num_classes:
            raise ValueError(f"invalid num_classes: {self.num_classes} (the data have {int(labels.max()) + 1})")
        return splits

    def check(self, splits: Splits | TextSplits) -> None:
        """Send two samples through the network.

        Raises:
            ValueError: for a network that is unknown or does not take these samples.
            ModuleNotFoundError: for a network of a package that is missing.
        """
        network = self.network().eval()
        part = splits.validation
        if isinstance(part, Photos):
            part = replace(part, workers=0)  # two images are not worth starting processes
        inputs, _ = next(iter(part.batches(2)))
        try:
            with torch.no_grad():
                logits = network(inputs.cpu())
        except (RuntimeError, TypeError, ValueError) as error:  # whatever a layer refuses
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"model {self.model} does not take samples of {tuple(inputs.shape[1:])}: {reason}"
            ) from error
        if logits.shape[:2] != (len(inputs), self.num_classes):
            raise ValueError(f"model {self.model} gives {tuple(logits.shape)}, not {self.num_classes} logits a sample")

    def hyperparameters(self) -> dict[str, Any]:
        """The plain values: what ``config.json`` holds and what the command's flags may override."""
        plain = (f.name for f in fields(self) if f.type in (int, float, str, bool) and f.name not in _FIXED)
        return {name: getattr(self, name) for name in plain}

    def describe(self) -> dict[str, str]:
        """What else there is to know of a recipe, in words."""
        prepared = f" minus {self.mean} over {self.std}" if self.mean else ""
        elsewhere = (self.dataset.__doc__ or "").partition("\n\n")[2].strip().rstrip(".")
        return {
            "optimizer": f"{self.optimizer_name}, and the same made to prune",
            "rate": _first_line(self.schedule),
            "not pruned": ", ".join(self.skip) or "nothing: every parameter is",
            "dataset": _first_line(self.dataset) + prepared,
            "data": self.data or elsewhere or "always the same; nothing is downloaded",
            "settings of the paper (c, mu)": ", ".join(f"({c}, {mu})" for c, mu in self.settings) or "none",
        }


def _first_line(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0].rstrip(".")


def _digits(device: torch.device, recipe: Recipe) -> Splits:
    """scikit-learn's digits, 8 x 8 pixels in [0, 1]."""
    return digits(device)


def _chars(device: torch.device, recipe: Recipe) -> TextSplits:
    """Sources of Python's standard library, windows of 64 characters."""
    return chars(device)


def digits_recipe() -> Recipe:
    """Handwritten digits of 8 x 8 pixels on three convolutions: about 92 % zeros in half a minute on two cores."""
    return Recipe(
        name="digits",
        summary="8 x 8 handwritten digits, three convolutions; about half a minute on two cores",
        dataset=_digits,
        model="digits_net",
        num_classes=10,
        epochs=100,
        batch_size=64,
        lr=0.1,
        c=0.01,
        mu=0.7,
        # The layers are so small that threads mostly wait for each other, very long where other programs run too.
        threads=1,
    )


_ADAMW = partial(AdamW, fused=True)


def chars_recipe() -> Recipe:
    """The next character of Python's own library, by a transformer of three layers under AdamW."""
    return Recipe(
        name="chars",
        summary="characters of Python's standard library, a small transformer under AdamW; minutes on one core",
        dataset=_chars,
        model="chars_net",
        num_classes=96,
        epochs=30,
        batch_size=16,
        lr=4e-3,
        c=0.8,
        mu=1.0,
        weight_decay=0.1,
        base=_ADAMW,
        skip=("norm", "bias", "embedding", "position.*", "head.*"),
        schedule=cosine_schedule,
        threads=1,
    )
