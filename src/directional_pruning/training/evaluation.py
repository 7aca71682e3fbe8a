"""Loss and accuracy of a classifier."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tensors import module_mode
from .distributed import SINGLE_PROCESS, Processes, is_sharded

__all__ = ["Batches", "Loss", "evaluate"]

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Batches,
    loss_fn: Loss = F.cross_entropy,
    *,
    autocast: torch.dtype | None = None,
    processes: Processes = SINGLE_PROCESS,
) -> dict[str, float]:
    """Mean loss and accuracy (a fraction) of a classifier in evaluation mode, over all samples of ``batches``.

    Args:
        autocast: the dtype of matrix products; None is that of the weights.
        processes: each evaluates its own batches; the result is over all batches and the same on each process.

    >>> two = [(torch.tensor([[9.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 1]))]
    >>> evaluate(nn.Identity(), two)["accuracy"]
    0.5
    """
    losses, hits, counts, inputs = [], [], [], None
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with module_mode(model, training=False):
        for inputs, labels in batches:
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                logits = model(inputs)
                losses.append(loss_fn(logits, labels))
            hits.append((logits.argmax(1) == labels).sum())
            counts.append(labels.numel())
        if is_sharded(model):
            # A forward pass gathers weights from all processes, so each must make as many passes as the others.
            passes = processes.all_gather((len(counts), None if inputs is None else (inputs.shape[1:], inputs.dtype)))
            if inputs is None:
                shape, dtype = next(example for _, example in passes if example)
                inputs = torch.zeros(1, *shape, dtype=dtype, device=device)
            for _ in range(max(count for count, _ in passes) - len(counts)):
                model(inputs)
    # Read once, because each reading waits for the device.
    values = torch.stack(losses).tolist() if losses else []
    correct = float(torch.stack(hits).sum()) if hits else 0.0
    sums = [sum(value * count for value, count in zip(values, counts)), correct, float(sum(counts))]
    ((loss, correct, seen),) = processes.sum([sums], device)
    return {"loss": loss / seen, "accuracy": correct / seen}
