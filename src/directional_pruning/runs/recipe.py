"""The recipe: what to train and how, as a frozen dataclass."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from ..data import Splits, TextSplits
from ..models import build
from ..optim import GRDA, Directional, Target, prunable_groups
from ..training import STRATEGIES, paper_schedule

__all__ = ["Dataset", "Recipe"]

PRECISIONS = ("auto", "float32", "bfloat16")
# The settings that have a flag of the command and stand in config.json, in this order.
HYPERPARAMETERS = (
    *("model", "num_classes", "epochs", "batch_size", "lr", "c", "mu", "target", "momentum", "weight_decay"),
    *("label_smoothing", "seed", "data", "samples", "paper_protocol", "precision", "compile", "accumulate", "workers"),
    *("parallel", "tensorboard"),
)
_AT_LEAST = {"epochs": 1, "batch_size": 1, "num_classes": 1, "accumulate": 1, "seed": 0, "samples": 0, "workers": 0}


@dataclass(frozen=True)
class Dataset:
    """Data that a recipe trains on."""

    load: Callable[[torch.device, "Recipe"], Splits | TextSplits]
    """Makes the data on a device, with the recipe's ``data``, ``samples`` and the like."""
    summary: str
    source: str = "always the same; nothing is downloaded"
    """Where the data come from, if the recipe's ``data`` does not say."""
    files: bool = False
    """Whether the data are files, so that ``data``, ``samples`` and ``paper_protocol`` choose among them."""


@dataclass(frozen=True)
class Recipe:
    """A network, its data and the hyper-parameters; derive variants with ``dataclasses.replace``.

    Raises:
        ValueError: for a hyper-parameter out of range, naming it and its value.

    >>> from dataclasses import replace
    >>> from directional_pruning.runs import digits_recipe
    >>> replace(digits_recipe(), epochs=3).epochs
    3
    """

    name: str
    summary: str
    dataset: Dataset
    model: str
    """A name that :func:`~directional_pruning.models.build` takes."""
    num_classes: int
    epochs: int
    batch_size: int
    """Samples per step, of all processes together."""
    lr: float
    c: float
    mu: float
    target: float | None = None
    """The share of zeros to end with among the weights that are pruned; then c and mu do not count."""
    momentum: float = 0.0
    """Of SGD and gRDA; other optimizers have their own."""
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    seed: int = 0
    data: str = ""
    """Folder or archive of the data, if they are files; empty is the dataset's own source."""
    samples: int = 0
    """Train on only so many samples; 0 is all."""
    paper_protocol: bool = False
    """Train on all training data and evaluate each epoch on the test set, as the paper did; else hold some out."""
    precision: str = "float32"
    """``float32``; ``bfloat16`` (autocast); or ``auto``, bfloat16 on CUDA and float32 elsewhere."""
    compile: bool = False
    """Compile the network; on CUDA with CUDA graphs."""
    accumulate: int = 1
    """Parts of a batch that go through the network one after the other, to need less memory."""
    workers: int = 0
    """Processes that decode photographs; 0 where the data are held on the device."""
    parallel: str = "ddp"
    """Under ``torchrun``: ``ddp``, the whole network on every process, or ``fsdp``, its weights sharded."""
    tensorboard: bool = False
    """Write TensorBoard events too."""
    base: Callable[..., Optimizer] = SGD
    """The dense baseline's optimizer, called with parameters and ``lr``; the sparse network's prunes in addition."""
    power: float = 4
    """Of :class:`~directional_pruning.Directional`, if ``base`` is not SGD: its steps are as large as the rate, not the
    gradient, and cannot restore what soft-thresholding (power 1) takes from the weights that remain."""
    skip: tuple[str, ...] = ("norm", "bias")
    """Parameters that are not pruned, as for :func:`~directional_pruning.prunable_groups`."""
    schedule: Callable[[int, int], float] = paper_schedule
    """``(epoch, epochs)`` -> factor of the learning rate; epochs count from 0."""
    settings: tuple[tuple[float, float], ...] = ()
    """The pairs (c, mu) of the paper."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    """Normalization of each channel: subtract ``mean``, divide by ``std``; pixels are in [0, 1]."""
    channels_last: bool = False
    threads: int | None = None
    """CPU threads that suit the network's size; None leaves torch's choice."""

    def __post_init__(self) -> None:
        for name, bound in _AT_LEAST.items():
            if getattr(self, name) < bound:
                raise ValueError(f"invalid {name}: {getattr(self, name)} (must be >= {bound})")
        if self.seed >= 2**32:
            raise ValueError(f"invalid seed: {self.seed} (must be < 2**32)")
        if self.target is not None and not 0 < self.target < 1:
            raise ValueError(f"invalid target: {self.target} (must be a share of zeros such as 0.95, between 0 and 1)")
        for name in ("label_smoothing", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"invalid {name}: {getattr(self, name)} (must be in [0, 1))")
        for name, choices in (("precision", PRECISIONS), ("parallel", STRATEGIES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"invalid {name}: {getattr(self, name)} (must be one of {', '.join(choices)})")
        # The optimizer checks its own settings; now, rather than after the dense baseline has trained.
        unused = [torch.empty(0)]
        GRDA(unused, lr=self.lr, c=self.c, mu=self.mu, momentum=self.momentum, weight_decay=self.weight_decay)
        if self.momentum and self.base is not SGD:
            raise ValueError(f"invalid momentum: {self.momentum} ({self.name} trains with {self.optimizer_name})")

    @property
    def optimizer_name(self) -> str:
        """The name of the dense baseline's optimizer."""
        return getattr(self.base, "func", self.base).__name__

    def optimizer(self, model: nn.Module, network: str, steps: int = 0) -> Optimizer:
        """The optimizer of the dense baseline (``"sgd"``: the base) or of the sparse network (``"grda"``).

        A target needs ``steps``, the updates of the whole training.
        """
        options = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.base is SGD:
            options["momentum"] = self.momentum
        if network == "sgd":
            return self.base(model.parameters(), **options)
        groups = prunable_groups(model, skip=self.skip)
        pruning: dict[str, Any] = {"c": self.c, "mu": self.mu}
        if self.target is not None:
            pruning = {"target": Target(self.target, steps=steps)}
        if self.base is SGD:
            return GRDA(groups, **pruning, **options)
        return Directional(self.base(groups, **options), power=self.power, **pruning)

    def autocast(self, device: torch.device) -> torch.dtype | None:
        """The dtype of matrix products on this device; None is that of the weights."""
        half = self.precision == "bfloat16" or (self.precision == "auto" and device.type == "cuda")
        return torch.bfloat16 if half else None

    def network(self) -> nn.Module:
        """The network with its initial weights, from the global random generator."""
        return build(self.model, self.num_classes)

    def splits(self, device: torch.device) -> Splits | TextSplits:
        """The data on this device.

        Raises:
            ValueError: for data or settings that do not fit, among them more classes than the network has outputs.
            FileNotFoundError, CorruptFileError: for data that are missing or cannot be read.
        """
        for name in () if self.dataset.files else ("data", "samples", "paper_protocol", "workers"):
            if getattr(self, name):
                raise ValueError(f"invalid {name}: {getattr(self, name)} (the data of {self.name} are always the same)")
        splits = self.dataset.load(device, self)
        labels = getattr(splits.train, "labels", None)
        if labels is not None and int(labels.max()) >= self.num_classes:
            raise ValueError(f"invalid num_classes: {self.num_classes} (the data have {int(labels.max()) + 1})")
        return splits

    def hyperparameters(self) -> dict[str, Any]:
        """The plain values that ``config.json`` holds and that flags of the command override."""
        return {name: getattr(self, name) for name in HYPERPARAMETERS}

    def describe(self) -> dict[str, str]:
        """The other properties of the recipe, in words."""
        normalized = f" minus {self.mean} over {self.std}" if self.mean else ""
        schedule = inspect.getdoc(self.schedule) or self.schedule.__name__
        return {
            "optimizer": f"{self.optimizer_name}, and the same made to prune",
            "zeros": "what c and mu give; or, with --target, this share of the weights that are pruned",
            "rate": schedule.splitlines()[0].rstrip("."),
            "not pruned": ", ".join(self.skip) or "nothing: every parameter is",
            "dataset": self.dataset.summary + normalized,
            "data": self.data or self.dataset.source,
            "settings of the paper (c, mu)": ", ".join(f"({c}, {mu})" for c, mu in self.settings) or "none",
        }
