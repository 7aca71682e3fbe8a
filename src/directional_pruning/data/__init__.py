"""Data sets as batches of tensors on the device: images in memory, image files, and text."""

from .cifar import cifar10, cifar100
from .image_files import Photos, photos
from .images import Images, Splits
from .sklearn_digits import digits
from .splits import batch_slices
from .stdlib_text import VOCABULARY, TextSplits, Windows, chars

__all__ = [
    "VOCABULARY",
    "Images",
    "Photos",
    "Splits",
    "TextSplits",
    "Windows",
    "batch_slices",
    "chars",
    "cifar10",
    "cifar100",
    "digits",
    "photos",
]
