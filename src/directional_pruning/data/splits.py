"""Batch slices per process, and stratified splits: one implementation for all data sets."""

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["batch_slices", "hold_out", "stratified"]


def batch_slices(
    count: int, batch_size: int, *, first: int = 0, part: tuple[int, int] = (0, 1), equal: bool = False
) -> Iterator[tuple[int, int]]:
    """Cut ``count`` positions into batches, and yield the slice ``(start, stop)`` of each batch for one process.

    Args:
        count: number of positions.
        batch_size: positions per batch of all processes together; the last batch may be smaller.
        first: number of batches to skip at the beginning.
        part: rank and number of processes. The slices of all ranks, in order, make up the batch.
        equal: all processes get slices of the same size, as training needs: the last batch is cut to a multiple of the
            number of processes. Otherwise no position is dropped, and empty slices are not yielded.

    Raises:
        ValueError: for an argument out of range; with ``equal``, also for a ``batch_size`` that the number of processes
            does not divide.

    >>> list(batch_slices(10, 4))
    [(0, 4), (4, 8), (8, 10)]
    >>> [list(batch_slices(11, 4, part=(rank, 2), equal=True)) for rank in (0, 1)]
    [[(0, 2), (4, 6), (8, 9)], [(2, 4), (6, 8), (9, 10)]]
    >>> [list(batch_slices(9, 4, part=(rank, 2))) for rank in (0, 1)]
    [[(0, 2), (4, 6)], [(2, 4), (6, 8), (8, 9)]]
    """
    rank, world = part
    if batch_size < 1:
        raise ValueError(f"invalid batch_size: {batch_size} (must be >= 1)")
    if first < 0:
        raise ValueError(f"invalid first: {first} (must be >= 0)")
    if not 0 <= rank < world:
        raise ValueError(f"invalid part: {part} (must be a rank and a larger number of processes)")
    if equal and batch_size % world:
        raise ValueError(f"invalid batch_size: {batch_size} (must be a multiple of the {world} processes)")
    return _slices(count, batch_size, first, rank, world, equal)


def _slices(count: int, batch_size: int, first: int, rank: int, world: int, equal: bool) -> Iterator[tuple[int, int]]:
    for begin in range(first * batch_size, count, batch_size):
        size = min(batch_size, count - begin)
        if equal:
            size -= size % world
        start, stop = begin + size * rank // world, begin + size * (rank + 1) // world
        if start < stop:
            yield start, stop


def stratified(labels: Tensor, count: int) -> Tensor:
    """A mask ``(n,)`` that selects ``count`` samples, stratified by class; the same labels give the same mask.

    From a class of n_c samples it selects ``count * n_c / n``, rounded by largest remainder.

    >>> labels = torch.tensor([0, 1] * 10 + [2] * 20)
    >>> labels[stratified(labels, 8)].bincount().tolist()
    [2, 2, 4]
    """
    sizes = labels.bincount()
    quotas = sizes * count // len(labels)
    # The sort is stable: of equal remainders, the smaller class number comes first on every machine.
    largest = torch.argsort(sizes * count % len(labels), descending=True, stable=True)
    quotas[largest[: count - int(quotas.sum())]] += 1
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    rank_in_class = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[by_class]]
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[by_class] = rank_in_class < quotas[labels[by_class]]
    return mask


def hold_out(labels: Tensor, validation: int, samples: int) -> tuple[Tensor, Tensor]:
    """Indices of the training and of the validation samples, in ascending order and both stratified by class.

    Args:
        labels: ``(n,)`` classes.
        validation: number of samples held out for validation. They do not depend on ``samples``.
        samples: number of training samples among the others; 0 takes all of them.

    Raises:
        ValueError: for more samples than there are.

    >>> train, held_out = hold_out(torch.arange(20) % 2, validation=4, samples=6)
    >>> torch.bincount(train % 2).tolist(), torch.bincount(held_out % 2).tolist()
    ([3, 3], [2, 2])
    >>> set(train.tolist()) & set(held_out.tolist())
    set()
    """
    if not 0 <= validation < len(labels):
        raise ValueError(f"invalid validation: {validation} (must be in 0..{len(labels) - 1})")
    mask = stratified(labels, validation)
    held_out, train = mask.nonzero().squeeze(1), (~mask).nonzero().squeeze(1)
    if not 0 <= samples <= len(train):
        raise ValueError(f"invalid samples: {samples} (must be in 0..{len(train)}, where 0 is all)")
    return train[stratified(labels[train], samples)] if samples else train, held_out
