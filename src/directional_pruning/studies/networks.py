"""Two networks to compare: those of a run, or two checkpoints from elsewhere, with the data they were trained on."""

import hashlib
import json
import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from ..files import CorruptFileError, replacing
from ..runs import NETWORKS, load_run
from ..tensors import pick_device, read_torch_file

__all__ = ["Pair", "create_pair", "load_pair"]

Batches = Iterable[tuple[Any, Tensor]]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Pair:
    """Two trained networks of one architecture, and what is needed to measure any network between them."""

    names: tuple[str, str]
    states: tuple[State, State]
    model: nn.Module
    """Gives the architecture, on the device to work on; its weights do not matter."""
    loss_fn: Callable[[Any, Tensor], Tensor]
    train: Batches
    """The training data in a fixed order, readable many times."""
    test: Batches | None
    shuffled: Callable[[int], Batches]
    """The training data as training would see it in an epoch."""
    fingerprint: str
    """Digests of the two files: what was measured before holds as long as it is the same."""
    threads: int | None = None
    """CPU threads that suit the network's size; None leaves torch's choice."""


class _Repeated:
    """Batches made anew at each reading; images in the layout in which convolutions are fast."""

    def __init__(self, make: Callable[[], Batches]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        for inputs, targets in self.make():
            if inputs.ndim == 4:  # not contiguous(), which leaves images of one channel as they are
                inputs = inputs.to(memory_format=torch.channels_last)
            yield inputs, targets


def create_pair(
    folder: Path, first: Path, second: Path, model: str, data: str, loss: str, *, verb: str = "curve"
) -> None:
    """Make a folder for two checkpoints from elsewhere, to be examined like a run; the same one again is left alone.

    Args:
        first, second: ``.safetensors``, or files of ``torch.save`` that hold a state dict, or one under ``model``,
            ``state_dict`` or ``model_state_dict``.
        model: ``package.module:function`` -> the network.
        data: ``package.module:function`` -> ``{"train": batches, "test": batches}``, lists or loaders of ``(inputs,
            targets)``; ``test`` may be missing.
        loss: ``package.module:function`` of ``(outputs, targets)``, the mean loss.
        verb: of the command that made the folder, which ``config.json`` keeps.

    Raises:
        ValueError: for names that cannot be imported, or a folder that holds something else.
        FileNotFoundError, CorruptFileError: for a checkpoint that cannot be read.
    """
    between = [str(path.resolve()) for path in (first, second)]
    config: dict[str, Any] = {"between": between, "model": model, "data": data, "loss": loss}
    path = folder / "config.json"
    if path.exists():
        known = _read_config(path)
        if any(known.get(key) != value for key, value in config.items()):
            raise ValueError(f"{folder} exists and compares other networks; give another --out")
        return
    _load_between(config)  # a mistake is better found before there is a folder
    command = f"dirprune {verb} --between {' '.join(map(shlex.quote, between))} --model {shlex.quote(model)}"
    config["command"] = (
        f"{command} --data {shlex.quote(data)} --loss {shlex.quote(loss)} --out {shlex.quote(str(folder))}"
    )
    config["versions"] = {
        "directional-pruning": version("directional-pruning"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        beside.write_text(json.dumps(config, indent=2) + "\n")


def load_pair(folder: Path) -> Pair:
    """The two networks of a run's folder, or of one that :func:`create_pair` made.

    Raises:
        FileNotFoundError: where a file is missing, as in a run that has not finished.
        CorruptFileError: for a file that cannot be read.
        ValueError: for names that cannot be imported.
    """
    config = _read_config(folder / "config.json")
    if "between" in config:
        return _load_between(config)
    recipe, device = load_run(folder)
    paths = [folder / network / "model.safetensors" for network in NETWORKS]
    splits = recipe.splits(device)
    # Without gradients to keep, larger batches fit.
    size = 4 * recipe.batch_size
    return Pair(
        names=("dense twin", "gRDA"),
        states=_read_states(paths),
        model=recipe.network().to(device),
        loss_fn=F.cross_entropy,
        train=_Repeated(lambda: splits.train.batches(size)),
        test=_Repeated(lambda: splits.test.batches(size)),
        shuffled=lambda epoch: _Repeated(lambda: splits.train.batches(recipe.batch_size, shuffle_seed=epoch)),
        fingerprint=digest(*paths),
        threads=recipe.threads,
    )


def _load_between(config: Mapping[str, Any]) -> Pair:
    paths = [Path(path) for path in config["between"]]
    states = _read_states(paths)
    model, data = _call("model", config["model"]), _call("data", config["data"])
    if not isinstance(model, nn.Module):
        raise ValueError(f"invalid model: {config['model']} (must return a torch.nn.Module)")
    if not isinstance(data, Mapping) or "train" not in data:
        raise ValueError(f"invalid data: {config['data']} (must return {{'train': batches, 'test': batches}})")
    same = paths[0].name == paths[1].name
    first, second = (f"{path.parent.name}/{path.name}" if same else path.name for path in paths)
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
    """What ``package.module:function`` names; modules in the current folder count."""
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"invalid {argument}: {name} (must be package.module:function; {error})") from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise ValueError(f"invalid {argument}: {name} (must be a function)")
    return found


def _call(argument: str, name: str) -> Any:
    function = _imported(argument, name)
    try:
        return function()
    except Exception as error:  # whatever the user's own code raises
        raise ValueError(f"invalid {argument}: {name} raised {type(error).__name__}: {error}") from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise CorruptFileError(f"{path} is not a readable configuration: {error}") from error
    if not isinstance(config, dict):
        raise CorruptFileError(f"{path} is not a readable configuration: not a JSON object")
    return config


def _read_states(paths: list[Path]) -> tuple[State, State]:
    first, second = (_read_state(path) for path in paths)
    return first, second


def _read_state(path: Path) -> State:
    """The state dict in a file; no code in it is run."""
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load(path.read_bytes())
        except SafetensorError as error:
            raise CorruptFileError(f"{path} is not a readable safetensors file: {error}") from error
    content = read_torch_file(path)
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    entries = content.items() if isinstance(content, Mapping) else ()
    state = {name: value for name, value in entries if isinstance(value, Tensor)}
    if not state:
        raise CorruptFileError(f"{path} holds no state dict")
    return state


def digest(*paths: Path) -> str:
    """A digest of each file's bytes."""
    parts = []
    for path in paths:
        with open(path, "rb") as file:
            parts.append(hashlib.file_digest(file, "sha256").hexdigest())
    return " ".join(parts)
