"""Boxes of photographs, and decoding them."""

import io
import random

import numpy as np
import torch
from data_samples import png
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin

from directional_pruning.data.decode import crop_box, decode


def test_an_evaluated_photo_is_the_centre_of_the_resized_one():
    """Against Pillow's resize of the whole image to a short side of 256 and a crop of its centre."""
    width, height = 768, 512
    waves = torch.stack(
        [torch.outer((torch.arange(height) / s).sin(), (torch.arange(width) / s).cos()) for s in (9, 14, 25)]
    )
    image = Image.fromarray(((waves + 1) * 127).to(torch.uint8).permute(1, 2, 0).contiguous().numpy())
    file = io.BytesIO()
    image.save(file, "PNG")
    resized = image.resize((384, 256), Image.Resampling.BILINEAR)
    crop = torch.tensor(np.array(resized.crop((80, 16, 304, 240)))).permute(2, 0, 1)
    assert int((decode(file.getvalue(), "it", 224, resize=256).int() - crop.int()).abs().max()) <= 1


def test_a_large_jpeg_is_decoded_at_a_smaller_scale_with_nearly_the_same_result(monkeypatch):
    coarse = torch.randint(256, (12, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    file = io.BytesIO()
    Image.fromarray(coarse).resize((1600, 1200), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    drafts = []
    draft = JpegImagePlugin.JpegImageFile.draft
    monkeypatch.setattr(
        JpegImagePlugin.JpegImageFile, "draft", lambda self, *a: drafts.append(draft(self, *a)) or drafts[-1]
    )
    quick = decode(file.getvalue(), "it", 56, resize=64)
    assert drafts[-1] is not None
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", lambda *_: None)
    slow = decode(file.getvalue(), "it", 56, resize=64)
    difference = (quick.int() - slow.int()).abs()
    assert int(difference.max()) <= 6
    assert float(difference.float().mean()) < 1


@given(width=st.integers(1, 3000), height=st.integers(1, 3000), seed=st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_a_random_box_is_inside_the_image_with_an_area_and_ratio_in_range(width, height, seed):
    left, upper, right, lower = crop_box(width, height, 224, 256, random.Random(seed))
    assert 0 <= left < right <= width
    assert 0 <= upper < lower <= height
    if min(width, height) >= 100 and max(width, height) <= 4 / 3 * min(width, height):
        assert 0.07 < (right - left) * (lower - upper) / (width * height) <= 1
        assert 0.7 < (right - left) / (lower - upper) < 1.4


def test_random_boxes_cover_the_image_and_half_are_mirrored():
    boxes = [crop_box(500, 375, 224, 256, random.Random(f"0 {i}")) for i in range(2000)]
    fractions = torch.tensor([(r - x) * (b - y) / (500 * 375) for x, y, r, b in boxes])
    assert 0.07 < float(fractions.min()) < 0.1
    assert float(fractions.max()) > 0.9
    gradient = torch.arange(64, dtype=torch.uint8).mul(4).expand(3, 64, 64)
    file = png(gradient)
    decoded = [decode(file, "it", 8, resize=9, rng=random.Random(f"0 {i}")).int() for i in range(400)]
    mirrored = sum(int(image[0, 0, 0] > image[0, 0, -1]) for image in decoded)
    assert 160 < mirrored < 240  # five standard deviations


def test_palettes_and_transparency_become_colours():
    for image in (Image.new("RGBA", (9, 9), (250, 10, 20, 255)), Image.new("P", (9, 9), 0)):
        file = io.BytesIO()
        image.save(file, "PNG", **({"transparency": b"\x00"} if image.mode == "P" else {}))
        assert decode(file.getvalue(), "it", 9).shape == (3, 9, 9)
