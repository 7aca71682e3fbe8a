"""Images in memory: normalised, cropped and mirrored, as functions of the seed."""

import pytest
import torch
from data_samples import MEAN, PIXELS, STD, augmented, joined, same

from directional_pruning.data import Images
from directional_pruning.data.images import window_view

CONSTANTS = [torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD)]


def pixels_of(normalised):
    """The bytes behind normalised images."""
    return (normalised * CONSTANTS[1] + CONSTANTS[0]).mul(255).round().to(torch.uint8)


def test_without_a_seed_images_come_normalised_and_in_stored_order():
    images, labels = joined(augmented().batches(8))
    torch.testing.assert_close(images, (PIXELS / 255 - CONSTANTS[0]) / CONSTANTS[1])
    assert images.dtype == torch.float32
    assert labels.tolist() == list(range(37))


def test_bytes_without_constants_are_scaled_and_floats_are_left_alone():
    labels = torch.zeros(37, dtype=torch.int64)
    torch.testing.assert_close(next(Images(PIXELS, labels).batches(37))[0], PIXELS / 255)
    floats = torch.randn(5, 1, 2, 2)
    stored = floats.clone()
    batch, _ = next(Images(floats, labels[:5]).batches(5))
    assert torch.equal(batch, floats)
    batch.zero_()
    assert torch.equal(floats, stored)


def places_in(source, image, padding):
    """Where in its padded source, mirrored or not, an image is: (row, column, mirrored)."""
    padded = torch.nn.functional.pad(source, (padding,) * 4)
    height, width = image.shape[1:]
    return [
        (y, x, mirrored)
        for y in range(2 * padding + 1)
        for x in range(2 * padding + 1)
        for mirrored in (False, True)
        for window in [padded[:, y : y + height, x : x + width]]
        if torch.equal(window.flip(2) if mirrored else window, image)
    ]


@pytest.mark.parametrize(("padding", "flip"), [(2, True), (2, False), (0, True), (0, False)])
def test_every_image_is_a_crop_of_its_padded_source_perhaps_mirrored(padding, flip):
    seen = set()
    for seed in range(4):
        for images, labels in augmented(padding=padding, flip=flip).batches(8, shuffle_seed=seed):
            for image, label in zip(pixels_of(images), labels.tolist(), strict=True):
                places = places_in(PIXELS[label], image, padding)
                assert len(places) == 1
                seen.add(places[0])
    sides = 2 * padding + 1
    assert {mirrored for _, _, mirrored in seen} == ({False, True} if flip else {False})
    assert {y for y, _, _ in seen} == {x for _, x, _ in seen} == set(range(sides))


def test_crops_and_mirrors_are_uniform():
    """Chi-square of 25 offsets times 2 over 20,000 images, against the 0.999 quantile with 49 degrees of freedom."""
    position = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5).expand(20_000, 1, 5, 5)
    data = Images(position, torch.zeros(20_000, dtype=torch.int64), padding=2, flip=True)
    images, _ = joined(data.batches(500, shuffle_seed=0))
    # The centre pixel gives the offset: it is never in the border. Its neighbours show the direction.
    images = (images * 255).round().int()
    centre, right, left = images[:, 0, 2, 2], images[:, 0, 2, 3], images[:, 0, 2, 1]
    mirrored = (left == centre + 1) | ((right == 0) & (left == 0)) | (right == centre - 1)
    counts = torch.bincount((centre - 1) * 2 + mirrored, minlength=50)
    assert int(counts.min()) > 0
    expected = 20_000 / 50
    assert float(((counts - expected) ** 2 / expected).sum()) < 85.4


def test_a_float_image_is_padded_with_black_before_it_is_normalised():
    ones = Images(torch.ones(64, 3, 4, 4), torch.arange(64), MEAN, STD, padding=1)
    images, _ = joined(ones.batches(64, shuffle_seed=0))
    black, white = ((value - CONSTANTS[0]) / CONSTANTS[1] for value in (0, 1))
    for channel in range(3):
        values = images[:, channel].unique()
        torch.testing.assert_close(values, torch.stack([black[channel, 0, 0], white[channel, 0, 0]]))


def test_an_epoch_is_a_function_of_its_seed_and_the_batch_size_only_cuts_it():
    data = augmented()
    assert same(data.batches(8, shuffle_seed=1), data.batches(8, shuffle_seed=1))
    assert same(data.batches(8, shuffle_seed=1), data.batches(5, shuffle_seed=1))
    assert not same(data.batches(8, shuffle_seed=1), data.batches(8, shuffle_seed=2))
    before = torch.get_rng_state()
    list(data.batches(8, shuffle_seed=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_both_ways_to_select_windows_agree():
    """The CPU uses index_select, other devices index the view."""
    canvas = PIXELS.view(1, *PIXELS.shape)
    windows = window_view(canvas, 4, 3)
    starts = torch.tensor([0, 7 + 3 * 30, len(windows) - 1])
    assert torch.equal(windows[starts], windows.index_select(0, starts))
    assert torch.equal(windows[starts[1]], PIXELS.as_strided((3, 4, 3), (30, 5, 1), 97))
    assert torch.equal(windows[starts[2]], PIXELS[-1, :, 2:, 2:])


def test_large_images_are_augmented_a_few_at_a_time_with_the_same_result():
    """An image has 786,432 values and at most 2 ** 21 are augmented at once: one batch of 4, or two of 1."""
    data = augmented(torch.randint(256, (6, 3, 512, 512), dtype=torch.uint8))
    fours, ones = (list(data.batches(size, shuffle_seed=1)) for size in (4, 1))
    assert same(fours, ones)
    assert [len(labels) for _, labels in fours] == [4, 2]
    assert [len(labels) for _, labels in ones] == [1] * 6
