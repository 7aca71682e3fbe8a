"""Batch slices per process, and stratified splits."""

import pytest
import torch
from data_samples import PIXELS, augmented, joined
from hypothesis import given, settings
from hypothesis import strategies as st

from directional_pruning.data import Windows
from directional_pruning.data.splits import batch_slices, hold_out, stratified

WINDOWS = Windows(torch.arange(90), window=7, samples=37)


@pytest.mark.parametrize(
    "data", [augmented(), augmented(padding=0, flip=False), WINDOWS], ids=["crops", "plain", "text"]
)
@pytest.mark.parametrize("seed", [None, 3])
@given(batch=st.integers(1, 6), first=st.integers(0, 9), world=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_slices_of_all_processes_make_up_the_batch_and_first_skips_batches(data, seed, batch, first, world):
    batch_size = batch * world if seed is not None else batch
    whole = list(data.batches(batch_size, shuffle_seed=seed))[first:]
    split = [list(data.batches(batch_size, shuffle_seed=seed, first=first, part=(r, world))) for r in range(world)]
    if seed is not None:
        assert len({len(batches) for batches in split}) == 1
        together = [joined(parts) for parts in zip(*split, strict=True)]
        for number, (inputs, labels) in enumerate(together):
            size = len(whole[number][0]) // world * world
            assert torch.equal(inputs, whole[number][0][:size])
            assert torch.equal(labels, whole[number][1][:size])
            assert len({len(batches[number][0]) for batches in split}) == 1
        assert len(together) == sum(len(inputs) >= world for inputs, _ in whole)
    elif whole:
        every = joined([part for batches in split for part in batches])[1]
        assert sorted(every.flatten().tolist()) == sorted(joined(whole)[1].flatten().tolist())
    assert all(len(inputs) for batches in split for inputs, _ in batches)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, r"invalid batch_size: 0 \(must be >= 1\)"),
        ({"batch_size": 4, "first": -1}, r"invalid first: -1 \(must be >= 0\)"),
        ({"batch_size": 4, "part": (2, 2)}, r"invalid part: \(2, 2\)"),
        (
            {"batch_size": 6, "part": (0, 4), "shuffle_seed": 0},
            r"invalid batch_size: 6 \(must be a multiple of the 4 processes\)",
        ),
    ],
)
def test_a_bad_argument_of_batches_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        list(augmented().batches(**arguments))


def test_a_batch_smaller_than_the_processes_is_evaluated_once_and_trained_on_never():
    assert [list(batch_slices(2, 4, part=(rank, 4))) for rank in range(4)] == [[], [(0, 1)], [], [(1, 2)]]
    assert [list(batch_slices(2, 4, part=(rank, 4), equal=True)) for rank in range(4)] == [[]] * 4
    with pytest.raises(StopIteration):
        next(augmented(PIXELS[:2]).batches(4, shuffle_seed=0, part=(0, 4)))


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), fraction=st.floats(0, 1), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_stratified_part_takes_each_class_in_proportion(sizes, fraction, seed):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    count = round(fraction * len(labels))
    mask = stratified(labels, count)
    assert int(mask.sum()) == count
    selected = labels[mask].bincount(minlength=len(sizes))
    assert ((selected - torch.tensor(sizes) * count / len(labels)).abs() < 1).all()
    assert torch.equal(mask, stratified(labels, count))


def test_samples_held_out_are_not_trained_on_and_do_not_depend_on_the_number_of_samples():
    labels = torch.arange(100) % 10
    train, held_out = hold_out(labels, 20, 0)
    assert sorted(torch.cat([train, held_out]).tolist()) == list(range(100))
    fewer, again = hold_out(labels, 20, 30)
    assert torch.equal(again, held_out)
    assert set(fewer.tolist()) < set(train.tolist())
    assert labels[fewer].bincount().tolist() == [3] * 10
    assert labels[held_out].bincount().tolist() == [2] * 10
