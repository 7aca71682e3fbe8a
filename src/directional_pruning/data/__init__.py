"""Images and text as tensors on the device."""

from .cifar import cifar10, cifar100
from .image_files import Photos, photos
from .images import Images, Splits
from .sklearn_digits import digits
from .stdlib_text import VOCABULARY, TextSplits, Windows, chars

__all__ = [
    "VOCABULARY",
    "Images",
    "Photos",
    "Splits",
    "TextSplits",
    "Windows",
    "chars",
    "cifar10",
    "cifar100",
    "digits",
    "photos",
]
