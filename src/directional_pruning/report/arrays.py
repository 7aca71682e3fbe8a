"""Read the arrays that studies write into a run folder, and check their shapes."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..files import CorruptFileError
from ..run_folder import printable

Arrays = Mapping[str, np.ndarray]


def read_arrays(path: Path, shapes: Mapping[str, tuple[str | int, ...]], texts: tuple[str, ...] = ()) -> dict[str, Any]:
    """The arrays of numbers and the texts of a file; empty where there is no file.

    A word in a shape is a size that is the same wherever the word is; only ``path`` may have no points.
    Raises ``CorruptFileError`` for a file that cannot be read, or lacks something.
    """
    if not path.exists():
        return {}
    try:
        # Opened here, because numpy leaves a broken file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in (*shapes, *texts)}
    except KeyError as error:
        raise CorruptFileError(f"{path}: {error.args[0]}") from None
    except (ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise CorruptFileError(f"{path} is not a readable file of arrays ({type(error).__name__})") from error
    sizes: dict[str, int] = {}
    for name, words in shapes.items():
        shape = arrays[name].shape
        if arrays[name].dtype.kind not in "fiu":
            raise CorruptFileError(f"{path}: {name} holds no numbers")
        pairs = zip(words, shape)
        expected = tuple(sizes.setdefault(word, size) if isinstance(word, str) else word for word, size in pairs)
        if len(shape) != len(words) or shape != expected or (0 in shape and name != "path"):
            raise CorruptFileError(f"{path}: {name} has shape {shape} (must be {expected or words})")
    for name in texts:
        arrays[name] = np.array(printable(arrays[name].astype(str).tolist()))
    if "names" in texts and arrays["names"].size < 2:
        raise CorruptFileError(f"{path}: names holds fewer than two")
    return arrays
