"""Text that is part of Python: the source files of its standard library, as classes of characters."""

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .splits import batch_slices

__all__ = ["VOCABULARY", "TextSplits", "Windows", "chars"]

VOCABULARY = "\n" + "".join(map(chr, range(32, 127)))
"""The 96 characters in use: newline and printable ASCII. A character's index is its class."""

# Modules of one file each in Python 3.11 and later. In 3.11 they have 1.7 million characters, more than are used.
_MODULES = """
argparse ast bdb calendar codecs configparser contextlib csv dataclasses difflib dis doctest enum functools gettext
imaplib inspect ipaddress locale mailbox ntpath optparse os pdb pickle platform plistlib random shutil smtplib socket
ssl
"""
_TOTAL, _VALIDATION, _TEST = 1_600_000, 32_000, 64_000


@dataclass(frozen=True)
class Windows:
    """Windows of a text; the target of each is the window one character later.

    Args:
        text: ``(n,)`` classes as int64.
        window: characters per window, T.
        samples: windows per shuffled epoch, drawn from the whole text; None is as many as fit without overlap.
    """

    text: Tensor
    window: int
    samples: int | None = None

    def __len__(self) -> int:
        return self.samples or (len(self.text) - 1) // self.window

    def batches(
        self, batch_size: int, *, shuffle_seed: int | None = None, first: int = 0, part: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and targets ``(batch_size, T)``; the last batch may be smaller.

        Without a seed the windows are adjacent and cover the text. With a seed, ``len(self)`` windows start at random
        positions, a pure function of the seed: an epoch can be replayed from its number alone. ``first`` and ``part``
        are those of :meth:`Images.batches`.

        >>> text = Windows(torch.arange(8), window=3)
        >>> [(inputs.tolist(), targets.tolist()) for inputs, targets in text.batches(1)]
        [([[0, 1, 2]], [[1, 2, 3]]), ([[3, 4, 5]], [[4, 5, 6]])]
        """
        last = len(self.text) - 1 - self.window
        if shuffle_seed is None:
            starts = torch.arange(0, last + 1, self.window)
        else:
            starts = torch.randint(last + 1, (len(self),), generator=torch.Generator().manual_seed(shuffle_seed))
        positions = (starts[:, None] + torch.arange(self.window)).to(self.text.device)
        slices = batch_slices(len(positions), batch_size, first=first, part=part, equal=shuffle_seed is not None)
        for start, stop in slices:
            yield self.text[positions[start:stop]], self.text[positions[start:stop] + 1]


class TextSplits(NamedTuple):
    """Train on the first, evaluate the second during training, evaluate the third once after training."""

    train: Windows
    validation: Windows
    test: Windows


def chars(device: str | torch.device = "cpu", *, window: int = 64, samples: int = 800) -> TextSplits:
    """1,600,000 characters of Python's standard library: the last 64,000 to test, the 32,000 before them to validate.

    The text is the source of 32 modules in alphabetical order. Characters that are not in :data:`VOCABULARY` are
    removed, then the text is cut to its length and split by position. The library differs between versions of Python:
    compare losses within one version only.

    Args:
        window: characters per window.
        samples: training windows per epoch.

    Raises:
        ValueError: for a ``window`` or ``samples`` out of range, or too short a library.
        FileNotFoundError: if this Python has no source files of its standard library.
    """
    for name, value, largest in (("window", window, _VALIDATION - 1), ("samples", samples, _TOTAL)):
        if not 1 <= value <= largest:
            raise ValueError(f"invalid {name}: {value} (must be in 1..{largest})")
    library = Path(sysconfig.get_paths()["stdlib"])
    content = "".join((library / f"{module}.py").read_text(encoding="utf-8") for module in _MODULES.split())
    text = content.translate(dict.fromkeys(set(map(ord, content)) - set(map(ord, VOCABULARY))))[:_TOTAL]
    if len(text) < _TOTAL:
        raise ValueError(f"this Python's standard library has {len(text)} characters of text, fewer than {_TOTAL}")
    # Newline (code 10) becomes class 0, space (code 32) class 1, and so on.
    codes = torch.frombuffer(bytearray(text.encode("ascii")), dtype=torch.uint8).to(device, torch.int64)
    classes = (codes - 31).clamp_(min=0)
    train, validation, test = classes.split([len(classes) - _VALIDATION - _TEST, _VALIDATION, _TEST])
    return TextSplits(Windows(train, window, samples), Windows(validation, window), Windows(test, window))
