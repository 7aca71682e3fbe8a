"""Compress the nonzeros of an array in blocks: one frame for the positions, one for each byte of the values."""

from collections.abc import Callable, Iterator
from itertools import accumulate

import numpy as np
import zstandard

# Elements in a block, zeros included: a fixed number, so that the buffers do not grow with the tensor.
_BLOCK = 2**20
# A gap byte below 255 means that many zeros and then a nonzero; 255 means 255 zeros and no nonzero yet.
_RUN = 255
# Weights look random: higher levels search for repeats that do not exist, and are slower and larger.
_LEVEL = 1


def pack(array: np.ndarray, convert: Callable[[np.ndarray], np.ndarray]) -> tuple[list[list[int]], bytes]:
    """Compress an array to one row [nonzeros, bytes of each frame] for each block, and all the frames.

    ``convert`` maps the nonzeros to the values that are stored.
    """
    zstd = zstandard.ZstdCompressor(level=_LEVEL)
    rows, frames = [], []
    for start in range(0, array.size, _BLOCK):
        block = array[start : start + _BLOCK]
        positions = np.flatnonzero(block)
        values = convert(block[positions])
        planes = values.view(np.uint8).reshape(len(values), values.itemsize).T
        compressed = [zstd.compress(stream.tobytes()) for stream in (_gaps(positions), *planes)]
        rows.append([len(values), *map(len, compressed)])
        frames += compressed
    return rows, b"".join(frames)


class Buffers:
    """Reusable scratch buffers for the blocks of a file: allocating them costs more than decompressing into them."""

    def __init__(self) -> None:
        self.zstd = zstandard.ZstdDecompressor()
        self._arrays: dict[str, np.ndarray] = {}

    def get(self, name: str, size: int, dtype: type[np.generic]) -> np.ndarray:
        """An uninitialised array of ``size`` elements, valid until the next call with this name."""
        if len(self._arrays.get(name, ())) < size:
            # Rounded up, because otherwise each slightly larger block would allocate again.
            self._arrays[name] = np.empty(1 << (size - 1).bit_length(), dtype)
        return self._arrays[name][:size] if size else np.empty(0, dtype)


def unpack(
    frames: memoryview, rows: list[list[int]], size: int, itemsize: int, buffers: Buffers
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """For each block: its slice of the flat array, the positions (n,) in it, and the values (n,) as integers.

    Both arrays are buffers, valid until the next block. Raises ValueError for rows or frames that do not fit.
    """
    # Each block has frames of at least one byte, so a short file cannot claim a large tensor.
    if len(rows) != -(-size // _BLOCK) or any(len(row) != 2 + itemsize or 0 in row[1:] for row in rows):
        raise ValueError(f"its blocks ({len(rows)}) do not fit {size} elements of {itemsize} bytes")
    if sum(sum(row[1:]) for row in rows) != len(frames):
        raise ValueError(f"its frames are {len(frames)} bytes, which is not what its blocks say")
    ends = list(accumulate(length for row in rows for length in row[1:]))
    pieces = iter([frames[start:end] for start, end in zip([0, *ends], ends, strict=False)])
    return (
        (slice(start, start + _BLOCK), *_unpack_block([next(pieces) for _ in row[1:]], most, row[0], buffers))
        for start, row in zip(range(0, size, _BLOCK), rows, strict=True)
        for most in [min(_BLOCK, size - start)]
    )


def _unpack_block(
    frames: list[memoryview], size: int, nonzeros: int, buffers: Buffers
) -> tuple[np.ndarray, np.ndarray]:
    if nonzeros > size:
        raise ValueError(f"claims {nonzeros} nonzeros among {size}")
    gaps = _inflate(frames[0], nonzeros, nonzeros + (size - nonzeros) // _RUN, buffers)
    ends = np.not_equal(gaps, _RUN, out=buffers.get("ends", len(gaps), np.bool_))
    # The step to the next nonzero, gap plus one, is at most 255 and so fits in a byte.
    steps = np.add(gaps, ends, out=buffers.get("steps", len(gaps), np.uint8))
    reached = np.cumsum(steps, out=buffers.get("reached", len(gaps), np.int64))
    if np.count_nonzero(ends) != nonzeros or (len(reached) and reached[-1] > size):
        raise ValueError(f"its gaps do not place {nonzeros} nonzeros among {size}")
    itemsize = len(frames) - 1
    values = buffers.get("values", nonzeros * itemsize, np.uint8).reshape(nonzeros, itemsize)
    for k, frame in enumerate(frames[1:]):
        values[:, k] = _inflate(frame, nonzeros, nonzeros, buffers)
    positions = reached if len(reached) == nonzeros else reached[ends]
    positions -= 1
    return positions, values.reshape(-1).view(f"i{itemsize}")


def _gaps(positions: np.ndarray) -> np.ndarray:
    """The gap bytes before the nonzeros at these positions."""
    runs, rest = np.divmod(np.diff(positions, prepend=-1) - 1, _RUN)
    gaps = np.full(len(positions) + int(runs.sum()), _RUN, np.uint8)
    gaps[np.arange(len(positions)) + np.cumsum(runs)] = rest
    return gaps


def _inflate(frame: memoryview, least: int, most: int, buffers: Buffers) -> np.ndarray:
    """Decompress one frame, after a check of the size it claims: zstd allocates that much at once."""
    size = zstandard.get_frame_parameters(frame).content_size
    if not least <= size <= most:
        raise ValueError(f"a frame claims {size} bytes (must be {least} to {most})")
    data = buffers.zstd.decompress(frame, max_output_size=size, allow_extra_data=False)
    if len(data) != size:
        raise ValueError(f"a frame holds {len(data)} bytes (must be {size})")
    return np.frombuffer(data, np.uint8)
