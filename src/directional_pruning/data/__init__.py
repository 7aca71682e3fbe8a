"""Images and text as tensors on the device."""

from .chars import VOCABULARY, TextSplits, Windows, chars
from .cifar import cifar10, cifar100
from .digits import digits
from .images import Images, Splits
from .photos import Photos, photos

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
