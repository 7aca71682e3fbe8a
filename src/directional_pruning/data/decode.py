"""Pillow: from the bytes of an image file to a tensor."""

import io
import math
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import CorruptFileError

__all__ = ["NEEDED", "crop_box", "decode", "missing"]

Encoded = bytes | Path
NEEDED = "{} need {}: pip install 'directional-pruning[images]'"


def missing(what: str, package: str) -> ModuleNotFoundError:
    """The error where an optional package is not installed."""
    return ModuleNotFoundError(NEEDED.format(what, package))


def decode(
    encoded: Encoded, name: str, size: int, *, resize: int | None = None, chance: random.Random | None = None
) -> Tensor:
    """An image file as ``(3, size, size)`` uint8.

    Args:
        encoded: the file's bytes, or its path.
        name: what to call it in an error.
        size: of both sides. The file must have that size, unless ``resize`` is given.
        resize: the short side of the whole image, of which the centre is kept.
        chance: random numbers; with them a random box is kept instead, and mirrored every second time.

    Raises:
        FileNotFoundError: where the path does not exist.
        CorruptFileError: for what is no image, a truncated one, or one of a wrong size.
        ModuleNotFoundError: where Pillow is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise missing("images in files", "Pillow") from error
    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
            if resize is None:
                if image.size != (size, size):
                    raise CorruptFileError(f"{name} has {image.width} x {image.height} pixels, not {size} x {size}")
                return _tensor(_rgb(image))
            box = crop_box(image.width, image.height, size, resize, chance)
            part = _cut(image, box, size)
        if chance is not None and chance.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return _tensor(part)
    except (FileNotFoundError, CorruptFileError):
        raise
    # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error, ... for files that are not as they should.
    except Exception as error:
        raise CorruptFileError(f"{name} is not a readable image") from error


def crop_box(
    width: int, height: int, size: int, resize: int, chance: random.Random | None = None
) -> tuple[float, float, float, float]:
    """Left, upper, right and lower edge of what is kept of an image, in its own pixels.

    Without random numbers: the central square that has ``size`` pixels when the short side has ``resize``. With them,
    a box of 8 to 100 % of the area and of a width to height between 3/4 and 4/3 (C. Szegedy et al., Going Deeper with
    Convolutions, 2015); after ten boxes that do not fit, the largest central one of such a shape.

    >>> crop_box(512, 1024, size=224, resize=256)
    (32.0, 288.0, 480.0, 736.0)
    """
    if chance is None:
        side = min(width, height) * size / resize
        left, upper = (width - side) / 2, (height - side) / 2
        return left, upper, left + side, upper + side
    for _ in range(10):
        area = width * height * chance.uniform(0.08, 1.0)
        ratio = math.exp(chance.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, upper = chance.randint(0, width - w), chance.randint(0, height - h)
            return left, upper, left + w, upper + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def _cut(image: Any, box: tuple[float, float, float, float], size: int) -> Any:
    """The box of an opened image at ``size`` x ``size``; a large JPEG is decoded no finer than that takes."""
    from PIL import Image

    full = image.size
    # A JPEG can be decoded at 1/2, 1/4 or 1/8 for little work. Twice the wanted pixels are left to the filter.
    scale = min(box[2] - box[0], box[3] - box[1]) / (2 * size)
    if scale > 1:
        image.draft(None, (math.ceil(full[0] / scale), math.ceil(full[1] / scale)))
    x, y = image.width / full[0], image.height / full[1]
    inside = (box[0] * x, box[1] * y, min(box[2] * x, image.width), min(box[3] * y, image.height))
    return _rgb(image).resize((size, size), Image.Resampling.BILINEAR, box=inside, reducing_gap=2.0)


def _rgb(image: Any) -> Any:
    # By way of RGBA, because Pillow warns of palettes with transparency.
    return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")


def _tensor(image: Any) -> Tensor:
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1)
