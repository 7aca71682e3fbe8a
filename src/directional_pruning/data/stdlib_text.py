"""Text that ships with Python: the sources of its standard library, character by character."""

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .splits import shares

__all__ = ["VOCABULARY", "TextSplits", "Windows", "chars"]

VOCABULARY = "\n" + "".join(map(chr, range(32, 127)))
"""The 96 characters that are kept: newline and printable ASCII. A character's index is its class."""

# Modules of one file each in Python 3.11 and later: 1.7 million characters in 3.11, so later ones may be shorter.
_MODULES = """
argparse ast bdb calendar codecs configparser contextlib csv dataclasses difflib dis doctest enum functools gettext
imaplib inspect ipaddress locale mailbox ntpath optparse os pdb pickle platform plistlib random shutil smtplib socket
ssl
"""
_TOTAL, _VALIDATION, _TEST = 1_600_000, 32_000, 64_000


@dataclass(frozen=True)
class Windows:
    """Windows of a text, each with the same window one character later as its target.

    Args:
        text: ``(n,)`` classes as int64.
        window: characters per window, T.
        samples: windows per shuffled epoch, drawn anywhere in the text; None is as many as fit beside each other.
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

        Without a seed the windows lie beside each other and cover the text. With one, ``len(self)`` windows begin
        anywhere, as a pure function of the seed, so an epoch can be replayed without any state but its number.
        ``first`` and ``part`` are those of :meth:`Images.batches`: batches to leave out, and this process's share.

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
        cuts = shares(len(positions), batch_size, first=first, part=part, equal=shuffle_seed is not None)
        for start, stop in cuts:
            yield self.text[positions[start:stop]], self.text[positions[start:stop] + 1]


class TextSplits(NamedTuple):
    """Train on the first, watch the second while training, open the third once at the end."""

    train: Windows
    validation: Windows
    test: Windows


def chars(device: str | torch.device = "cpu", *, window: int = 64, samples: int = 800) -> TextSplits:
    """1,600,000 characters of Python's standard library: the last 64,000 to test, 32,000 before them to validate.

    The sources of 32 modules, one after the other in alphabetical order, without the characters that are not in
    :data:`VOCABULARY`, cut at the total and split by position. The library differs between versions of Python, so
    losses compare within one version only.

    Args:
        window: characters per window.
        samples: training windows per epoch.

    Raises:
        ValueError: for a ``window`` or ``samples`` out of range, or too short a library.
        FileNotFoundError: where this Python has no sources of its standard library.
    """
    for name, value, most in (("window", window, _VALIDATION - 1), ("samples", samples, _TOTAL)):
        if not 1 <= value <= most:
            raise ValueError(f"invalid {name}: {value} (must be in 1..{most})")
    library = Path(sysconfig.get_paths()["stdlib"])
    content = "".join((library / f"{module}.py").read_text(encoding="utf-8") for module in _MODULES.split())
    kept = content.translate(dict.fromkeys(set(map(ord, content)) - set(map(ord, VOCABULARY))))[:_TOTAL]
    if len(kept) < _TOTAL:
        raise ValueError(f"this Python's standard library has {len(kept)} characters of text, fewer than {_TOTAL}")
    # Newline, code 10, is class 0 and the others follow from the space, code 32, as class 1.
    codes = torch.frombuffer(bytearray(kept.encode("ascii")), dtype=torch.uint8).to(device, torch.int64)
    classes = (codes - 31).clamp_(min=0)
    train, validation, test = classes.split([len(classes) - _VALIDATION - _TEST, _VALIDATION, _TEST])
    return TextSplits(Windows(train, window, samples), Windows(validation, window), Windows(test, window))
