"""Two networks to compare, with data and loss: the networks of a run, or two checkpoints of other code."""

import hashlib
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..deploy import read_weights
from ..files import CorruptFileError, write_json
from ..run_folder import CONFIG, NETWORKS, WEIGHTS, read_config, read_summary, versions
from ..runs import load_run
from ..tensors import pick_device

__all__ = ["Pair", "create_pair", "load_pair"]

Batches = Iterable[tuple[Any, Tensor]]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Pair:
    """Two trained networks of one architecture, with the data and the loss to measure any network between them."""

    names: tuple[str, str]
    states: tuple[State, State]
    model: nn.Module
    """Defines the architecture and the device; its weights are not used."""
    loss_fn: Callable[[Any, Tensor], Tensor]
    train: Batches
    """The training data in a fixed order, readable many times."""
    test: Batches | None
    shuffled: Callable[[int], Batches]
    """The training data of an epoch, shuffled and augmented as in training."""
    fingerprint: str
    """Digests of the two files: saved measurements are valid only for the same ones."""
    threads: int | None = None
    """CPU threads that suit the network's size; None leaves torch's choice."""


class _RepeatableBatches:
    """Batches that are made again at each reading; images are in the layout in which convolutions are fast."""

    def __init__(self, make: Callable[[], Batches]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        for inputs, targets in self.make():
            if inputs.ndim == 4:  # not contiguous(), which leaves images of one channel as they are
                inputs = inputs.to(memory_format=torch.channels_last)
            yield inputs, targets


def create_pair(
    folder: Path, first: Path, second: Path, model: str, data: str, loss: str, *, verb: str = "curve"
) -> Pair:
    """Make a folder in which two checkpoints are examined like the networks of a run, and load them.

    An existing folder with the same configuration is not changed.

    Args:
        first, second: files of weights, as :func:`~directional_pruning.deploy.read_weights` reads them.
        model: ``package.module:function`` -> the network.
        data: ``package.module:function`` -> ``{"train": batches, "test": batches}``, lists or loaders of ``(inputs,
            targets)``; ``test`` may be missing.
        loss: ``package.module:function`` of ``(outputs, targets)``, the mean loss.
        verb: of the command that makes the folder; it is saved in ``config.json``.

    Raises:
        ValueError: for names that cannot be imported, or a folder with another configuration.
        FileNotFoundError, CorruptFileError: for a checkpoint that cannot be read.
    """
    between = [str(path.resolve()) for path in (first, second)]
    config: dict[str, Any] = {"between": between, "model": model, "data": data, "loss": loss}
    if (folder / CONFIG).exists():
        existing = read_config(folder)
        if any(existing.get(key) != value for key, value in config.items()):
            raise ValueError(f"{folder} exists and compares other networks; give another --out")
        return _load_checkpoints(config)
    pair = _load_checkpoints(config)  # an error must not leave a folder
    command = f"dirprune {verb} --between {' '.join(map(shlex.quote, between))} --model {shlex.quote(model)}"
    config["command"] = (
        f"{command} --data {shlex.quote(data)} --loss {shlex.quote(loss)} --out {shlex.quote(str(folder))}"
    )
    config["versions"] = versions(torch.__version__)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, config)
    return pair


def load_pair(folder: Path) -> Pair:
    """Load the two networks of a run's folder, or of a folder that :func:`create_pair` made.

    Raises:
        FileNotFoundError: where a file is missing, as in a run that has not finished.
        CorruptFileError: for a file that cannot be read.
        ValueError: for names that cannot be imported.
    """
    config = read_config(folder)
    if "between" in config:
        return _load_checkpoints(config)
    recipe, device = load_run(folder)
    paths = [folder / network / WEIGHTS for network in NETWORKS]
    summary = read_summary(folder)
    for network, path in zip(NETWORKS, paths):
        # Runs from before summaries held digests have none.
        if summary.get(network, {}).get("sha256", digest(path)) != digest(path):
            raise CorruptFileError(f"{path} was altered after the training")
    splits = recipe.splits(device)
    # Evaluation stores no gradients, so that larger batches fit.
    size = 4 * recipe.batch_size
    return Pair(
        names=("dense baseline", "gRDA"),
        states=(read_weights(paths[0]), read_weights(paths[1])),
        model=recipe.network().to(device),
        loss_fn=F.cross_entropy,
        train=_RepeatableBatches(lambda: splits.train.batches(size)),
        test=_RepeatableBatches(lambda: splits.test.batches(size)),
        shuffled=lambda epoch: _RepeatableBatches(lambda: splits.train.batches(recipe.batch_size, shuffle_seed=epoch)),
        fingerprint=digest(*paths),
        threads=recipe.threads,
    )


def _load_checkpoints(config: Mapping[str, Any]) -> Pair:
    paths = [Path(path) for path in config["between"]]
    states = read_weights(paths[0]), read_weights(paths[1])
    model, data = _call("model", config["model"]), _call("data", config["data"])
    if not isinstance(model, nn.Module):
        raise ValueError(f"invalid model: {config['model']} (must return a torch.nn.Module)")
    if not isinstance(data, Mapping) or "train" not in data:
        raise ValueError(f"invalid data: {config['data']} (must return {{'train': batches, 'test': batches}})")
    same_name = paths[0].name == paths[1].name
    first, second = (f"{path.parent.name}/{path.name}" if same_name else path.name for path in paths)
    return Pair(
        names=(first, second),
        states=states,
        model=model.to(pick_device()),
        loss_fn=_imported("loss", config["loss"]),
        train=data["train"],
        test=data.get("test"),
        shuffled=lambda epoch: data["train"],
        fingerprint=digest(*paths),
    )


def _imported(argument: str, name: str) -> Callable[..., Any]:
    """Import ``package.module:function``, from the current folder too."""
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        function = import_module(module)
        for part in attribute.split("."):
            function = getattr(function, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"invalid {argument}: {name} (must be package.module:function; {error})") from error
    finally:
        sys.path.remove(here)
    if not callable(function):
        raise ValueError(f"invalid {argument}: {name} (must be a function)")
    return function


def _call(argument: str, name: str) -> Any:
    function = _imported(argument, name)
    try:
        return function()
    except Exception as error:  # the user's code may raise anything
        raise ValueError(f"invalid {argument}: {name} raised {type(error).__name__}: {error}") from error


def digest(*paths: Path) -> str:
    """A digest of the bytes of each file."""
    parts = []
    for path in paths:
        with open(path, "rb") as file:
            parts.append(hashlib.file_digest(file, "sha256").hexdigest())
    return " ".join(parts)
