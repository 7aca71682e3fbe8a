"""A network as a function of its state dict: checked, its batch norm refreshed, measured on data."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from ..tensors import module_mode

State = Mapping[str, Tensor]
Batches = Iterable[tuple[Any, Tensor]]
Loss = Callable[[Any, Tensor], Tensor]


class Values(NamedTuple):
    """Measurements at one network: mean losses and fractions of wrong answers; NaN for what cannot be measured."""

    loss: float
    error: float
    test_loss: float
    test_error: float


def check_batches(batches: object, name: str) -> None:
    """Raise TypeError for an iterator: the data is read many times."""
    if isinstance(batches, Iterator):
        raise TypeError(f"invalid {name}: a {type(batches).__name__} (must be a list, a DataLoader: iterable again)")


def device_of(model: nn.Module) -> torch.device:
    """The device of the network."""
    return next(iter(model.state_dict().values())).device


def names_of(model: nn.Module) -> dict[str, list[str]]:
    """The first name of each parameter and persistent buffer -> all its names; tied ones have several."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            names.setdefault(id(tensor), []).append(name)
    return {tied[0]: tied for tied in names.values()}


def adapted(model: nn.Module, state: State, argument: str) -> dict[str, Tensor]:
    """``state`` with the device and the types of the model, and one entry for tensors that the model ties.

    Raises:
        ValueError: for a missing, an unknown or a wrongly shaped entry, or tied ones that differ, in one line.
    """
    expected, names = model.state_dict(), names_of(model)
    if unknown := [name for name in state if name not in expected]:
        raise ValueError(f"invalid {argument}: entry {unknown[0]!r} is not in the model")
    entries = {}
    for first, tied in names.items():
        given = [state[name] for name in tied if name in state]
        if not given:
            raise ValueError(f"invalid {argument}: entry {first!r} of the model is missing")
        if given[0].shape != expected[first].shape:
            shapes = f"{tuple(given[0].shape)} (must be {tuple(expected[first].shape)}, as in the model)"
            raise ValueError(f"invalid {argument}: entry {first!r} has shape {shapes}")
        if not all(torch.equal(given[0], other) for other in given[1:]):
            raise ValueError(f"invalid {argument}: {' and '.join(tied)} differ (the model ties them)")
        entries[first] = given[0].detach().to(expected[first])
    return entries


def combined(states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted sum of state dicts, in new tensors; entries of other types come from the largest weight."""
    # Without weights of zero: 0 * inf would be NaN.
    parts = [(state, weight) for state, weight in zip(states, weights) if weight != 0]
    heaviest = max(parts, key=lambda part: part[1])[0]
    (first, weight), *others = parts
    result = {}
    for name, tensor in first.items():
        if tensor.is_floating_point():
            result[name] = tensor * weight
            for other, factor in others:
                result[name] = torch.add(result[name], other[name], alpha=factor)
        else:
            result[name] = heaviest[name].clone()  # batch norm counts in place
    return result


def check_alike(**states: State) -> None:
    """Check that all state dicts have the names and shapes of the first.

    Raises:
        ValueError: naming the first entry that differs, in one line.
    """
    (first, model), *others = states.items()
    for argument, state in others:
        for name in [*model, *state]:
            if name not in state or name not in model:
                lacking = argument if name not in state else first
                raise ValueError(f"invalid {argument}: entry {name!r} is not in {lacking}")
            if state[name].shape != model[name].shape:
                shapes = f"{tuple(state[name].shape)} (must be {tuple(model[name].shape)}, as in {first})"
                raise ValueError(f"invalid {argument}: entry {name!r} has shape {shapes}")


def gram(names: Sequence[str], origin: State, points: Sequence[State]) -> Tensor:
    """Inner products ``(k, k)`` of the differences of k points to the origin, over the entries in ``names``."""
    device = origin[names[0]].device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    products = torch.zeros(len(points), len(points), dtype=dtype, device=device)
    for name in names:
        rows = torch.stack([point[name] for point in points]).to(dtype) - origin[name].to(dtype)
        products += rows.flatten(1) @ rows.flatten(1).T
    return products.cpu().double()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global random numbers (dropout, a loader's order) in this context; the caller's state is restored."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def moved(batches: Batches, device: torch.device) -> Iterator[tuple[Any, Tensor]]:
    """The batches on the device; inputs are a tensor, or tensors by name."""
    for inputs, targets in batches:
        if isinstance(inputs, Mapping):
            inputs = {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
        else:
            inputs = inputs.to(device, non_blocking=True)
        yield inputs, targets.to(device, non_blocking=True)


def output_of(model: nn.Module, state: State, inputs: Any) -> Any:
    """The output of the network with the entries of ``state`` as its weights and buffers."""
    if isinstance(inputs, Mapping):
        return functional_call(model, dict(state), (), dict(inputs))
    return functional_call(model, dict(state), (inputs,))


@torch.no_grad()
def measure(
    model: nn.Module,
    loss_fn: Loss,
    state: State,
    batches: Batches,
    test_batches: Batches | None = None,
    autocast: torch.dtype | None = None,
) -> Values:
    """Refresh batch norm from ``batches``, then evaluate on them and on the test data; the model is not changed."""
    device = device_of(model)
    with (
        module_mode(model, training=False),
        seeded(0, device),
        torch.autocast(device.type, autocast, enabled=autocast is not None),
    ):
        state = _refreshed(model, state, batches)
        train, test = _mean(model, loss_fn, state, batches), (math.nan, math.nan)
        if test_batches is not None:
            test = _mean(model, loss_fn, state, test_batches)
        return Values(*train, *test)


def _refreshed(model: nn.Module, state: State, batches: Batches) -> State:
    """``state`` with batch-norm statistics that are the means over all batches; dropout stays off."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return state
    names = {id(tensor): name for name, tensor in model.named_buffers()}
    fresh, momenta = dict(state), {norm: norm.momentum for norm in norms}
    try:
        for norm in norms:
            for buffer, value in ((norm.running_mean, 0), (norm.running_var, 1), (norm.num_batches_tracked, 0)):
                fresh[names[id(buffer)]] = torch.full_like(fresh[names[id(buffer)]], value)
            norm.momentum = None  # the cumulative mean
            norm.train()
        for inputs, _ in moved(batches, device_of(model)):
            output_of(model, fresh, inputs)
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
            norm.eval()
    return fresh


def _mean(model: nn.Module, loss_fn: Loss, state: State, batches: Batches) -> tuple[float, float]:
    """Mean loss over the samples, and fraction of wrong answers: NaN for outputs that are not scores of classes."""
    losses, wrong, samples, answers = [], [], [], 0
    for inputs, targets in moved(batches, device_of(model)):
        output = output_of(model, state, inputs)
        losses.append(loss_fn(output, targets).detach())
        samples.append(len(targets))
        scores = getattr(output, "logits", output)
        if not targets.is_floating_point() and scores.ndim > 1 and scores[:, 0].shape == targets.shape:
            wrong.append((scores.argmax(1) != targets).sum())
            answers += targets.numel()
    if not losses:
        raise ValueError("invalid batches: none (must hold a sample)")
    # One transfer for all batches.
    loss = sum(x * n for x, n in zip(torch.stack(losses).tolist(), samples)) / sum(samples)
    if not answers or math.isnan(loss):
        return loss, math.nan
    return loss, sum(torch.stack(wrong).tolist()) / answers
