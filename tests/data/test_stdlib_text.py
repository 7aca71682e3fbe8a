"""Characters of Python's standard library, and windows of them."""

import pytest
import torch

from directional_pruning.data import VOCABULARY, chars


def test_the_text_is_python_and_its_parts_are_adjacent():
    splits = chars()
    assert [len(part.text) for part in splits] == [1_504_000, 32_000, 64_000]
    everything = torch.cat([part.text for part in splits])
    assert everything.dtype == torch.int64
    assert 0 <= int(everything.min()) <= int(everything.max()) < len(VOCABULARY) == 96
    text = "".join(VOCABULARY[i] for i in everything.tolist())
    assert text.startswith("# Author: Steven J. Bethard")  # argparse, the first module
    assert text.count("\n    def ") > 1000
    assert all("self." in part for part in (text[:1_504_000], text[1_504_000:1_536_000], text[1_536_000:]))


def test_targets_are_the_inputs_one_character_later_and_validation_covers_its_text():
    splits = chars(window=32, samples=20)
    for batches in (splits.train.batches(8, shuffle_seed=3), splits.validation.batches(8)):
        for inputs, targets in batches:
            assert torch.equal(inputs[:, 1:], targets[:, :-1])
    validation = splits.validation
    covered = torch.cat([inputs.flatten() for inputs, _ in validation.batches(8)])
    assert torch.equal(covered, validation.text[: len(covered)])
    assert len(validation.text) - len(covered) <= 32
    assert len(covered) == 32 * len(validation)


def test_an_epoch_is_a_function_of_its_seed_alone():
    train = chars(window=32, samples=20).train
    first, again, other = (list(train.batches(8, shuffle_seed=seed)) for seed in (3, 3, 4))
    assert [len(inputs) for inputs, _ in first] == [8, 8, 4]
    assert sum(len(inputs) for inputs, _ in first) == len(train) == 20
    assert all(torch.equal(a, b) for pair in zip(first, again, strict=True) for a, b in zip(*pair, strict=True))
    assert not torch.equal(first[0][0], other[0][0])


@pytest.mark.parametrize(
    ("argument", "message"), [({"window": 0}, "invalid window: 0"), ({"samples": -1}, "invalid samples: -1")]
)
def test_an_argument_out_of_range_is_named(argument, message):
    with pytest.raises(ValueError, match=message):
        chars(**argument)
