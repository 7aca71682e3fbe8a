"""Which samples make up which batch: shared by all data sets, so that stopping, resuming and sharing work alike."""

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["hold_out", "shares", "stratified"]


def shares(
    count: int, batch_size: int, *, first: int = 0, part: tuple[int, int] = (0, 1), equal: bool = False
) -> Iterator[tuple[int, int]]:
    """Cut ``count`` positions into batches and yield this process's ``(start, stop)`` of each.

    Args:
        batch_size: of all processes together; the last batch may be smaller.
        first: batches to leave out at the beginning.
        part: rank and number of processes. The shares in the order of the ranks are the batch.
        equal: every process gets as many positions of a batch as the others, as training needs it: the last batch is
            cut to a multiple of the number of processes. Otherwise every position is in one share, and a process
            without positions in the last batch gets nothing for it.

    Raises:
        ValueError: for an argument out of range, or a batch that equal shares do not divide.

    >>> list(shares(10, 4))
    [(0, 4), (4, 8), (8, 10)]
    >>> [list(shares(11, 4, part=(rank, 2), equal=True)) for rank in (0, 1)]
    [[(0, 2), (4, 6), (8, 9)], [(2, 4), (6, 8), (9, 10)]]
    >>> [list(shares(9, 4, part=(rank, 2))) for rank in (0, 1)]
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
    return _cut(count, batch_size, first, rank, world, equal)


def _cut(count: int, batch_size: int, first: int, rank: int, world: int, equal: bool) -> Iterator[tuple[int, int]]:
    for begin in range(first * batch_size, count, batch_size):
        size = min(batch_size, count - begin)
        if equal:
            size -= size % world
        start, stop = begin + size * rank // world, begin + size * (rank + 1) // world
        if start < stop:
            yield start, stop


def stratified(labels: Tensor, count: int) -> Tensor:
    """A mask ``(n,)`` of ``count`` samples, each class with its share of them; always the same for the same labels.

    A class of n_c samples gives ``count * n_c / n``, rounded by largest remainder.

    >>> labels = torch.tensor([0, 1] * 10 + [2] * 20)
    >>> labels[stratified(labels, 8)].bincount().tolist()
    [2, 2, 4]
    """
    sizes = labels.bincount()
    quotas = sizes * count // len(labels)
    # The first of equal remainders is the smaller class on every machine: the sort is stable.
    largest = torch.argsort(sizes * count % len(labels), descending=True, stable=True)
    quotas[largest[: count - int(quotas.sum())]] += 1
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    rank_in_class = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[by_class]]
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[by_class] = rank_in_class < quotas[labels[by_class]]
    return mask


def hold_out(labels: Tensor, validation: int, samples: int) -> tuple[Tensor, Tensor]:
    """Which images train and which validate: indices in ascending order, both with equal shares of the classes.

    The same images are held out whatever ``samples`` is, of which 0 keeps all that are not.

    Raises:
        ValueError: for more images than there are.

    >>> train, held = hold_out(torch.arange(20) % 2, validation=4, samples=6)
    >>> torch.bincount(train % 2).tolist(), torch.bincount(held % 2).tolist()
    ([3, 3], [2, 2])
    >>> set(train.tolist()) & set(held.tolist())
    set()
    """
    if not 0 <= validation < len(labels):
        raise ValueError(f"invalid validation: {validation} (must be in 0..{len(labels) - 1})")
    mask = stratified(labels, validation)
    held, train = mask.nonzero().squeeze(1), (~mask).nonzero().squeeze(1)
    if not 0 <= samples <= len(train):
        raise ValueError(f"invalid samples: {samples} (must be in 0..{len(train)}, where 0 is all)")
    return train[stratified(labels[train], samples)] if samples else train, held
