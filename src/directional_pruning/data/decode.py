"""Decode an image file to a tensor with Pillow."""

import io
import math
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import CorruptFileError

__all__ = ["crop_box", "decode", "missing_package"]

Encoded = bytes | Path


def missing_package(what: str, package: str) -> ModuleNotFoundError:
    """The error that says which package ``what`` needs and how to install it."""
    return ModuleNotFoundError(f"{what} need {package}: pip install 'directional-pruning[images]'")


def decode(
    encoded: Encoded, name: str, size: int, *, resize: int | None = None, rng: random.Random | None = None
) -> Tensor:
    """An image file as ``(3, size, size)`` uint8.

    Args:
        encoded: the file's bytes, or its path.
        name: the image's name in an error.
        size: pixels per side of the result. Without ``resize`` the file must have this size.
        resize: pixels of the short side to which the image is scaled before its centre is cut out.
        rng: random numbers. If given, a random box is cut out instead of the centre, and mirrored with probability 1/2.

    Raises:
        FileNotFoundError: if the path does not exist.
        CorruptFileError: for a file that is not an image, is truncated, or has the wrong size.
        ModuleNotFoundError: if Pillow is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise missing_package("images in files", "Pillow") from error
    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
            if resize is None:
                if image.size != (size, size):
                    raise CorruptFileError(f"{name} has {image.width} x {image.height} pixels, not {size} x {size}")
                return _tensor(_rgb(image))
            box = crop_box(image.width, image.height, size, resize, rng)
            part = _crop(image, box, size)
        if rng is not None and rng.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return _tensor(part)
    except (FileNotFoundError, CorruptFileError):
        raise
    # For damaged files Pillow's readers raise OSError, SyntaxError, ValueError, struct.error and others.
    except Exception as error:
        raise CorruptFileError(f"{name} is not a readable image") from error


def crop_box(
    width: int, height: int, size: int, resize: int, rng: random.Random | None = None
) -> tuple[float, float, float, float]:
    """Left, upper, right and lower edge of the box to cut out of an image, in pixels of the image.

    Without random numbers: the central square that has ``size`` pixels per side if the short side has ``resize``.
    With random numbers: a box with 8 to 100 % of the area and a width to height ratio between 3/4 and 4/3 (C. Szegedy
    et al., Going Deeper with Convolutions, 2015). If ten random boxes do not fit, it is the largest central box whose
    ratio is in this range.

    >>> crop_box(512, 1024, size=224, resize=256)
    (32.0, 288.0, 480.0, 736.0)
    """
    if rng is None:
        side = min(width, height) * size / resize
        left, upper = (width - side) / 2, (height - side) / 2
        return left, upper, left + side, upper + side
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, upper = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, upper, left + w, upper + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def _crop(image: Any, box: tuple[float, float, float, float], size: int) -> Any:
    """Cut out a box and scale it to ``size`` x ``size``. A large JPEG is decoded at a lower resolution."""
    from PIL import Image

    full = image.size
    # A JPEG decoded at 1/2, 1/4 or 1/8 needs little work. The filter gets at least twice the pixels of the result.
    scale = min(box[2] - box[0], box[3] - box[1]) / (2 * size)
    if scale > 1:
        image.draft(None, (math.ceil(full[0] / scale), math.ceil(full[1] / scale)))
    x, y = image.width / full[0], image.height / full[1]
    inside = (box[0] * x, box[1] * y, min(box[2] * x, image.width), min(box[3] * y, image.height))
    return _rgb(image).resize((size, size), Image.Resampling.BILINEAR, box=inside, reducing_gap=2.0)


def _rgb(image: Any) -> Any:
    # Convert palettes to RGBA first: Pillow warns about palettes with transparency.
    return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")


def _tensor(image: Any) -> Tensor:
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1)
