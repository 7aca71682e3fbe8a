"""The nonzeros of an array, compressed in blocks: one frame for where they are, one for each byte of what they are."""

from collections.abc import Callable, Iterator
from itertools import accumulate

import numpy as np
import zstandard

# Elements of a block, zeros among them: they bound the working memory, whatever the size of the tensor.
_BLOCK = 2**20
# A gap byte below 255 is so many zeros and then a nonzero; 255 is 255 zeros and no nonzero yet.
_RUN = 255
# Weights look random: the higher levels hunt for repeats that are not there, and come out slower and larger.
_LEVEL = 1


def pack(array: np.ndarray, convert: Callable[[np.ndarray], np.ndarray]) -> tuple[list[list[int]], bytes]:
    """Rows [nonzeros, bytes of each frame], one a block, and all the frames; ``convert`` makes the stored values."""
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


def unpack(
    frames: memoryview, rows: list[list[int]], size: int, itemsize: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each block, positions (n,) among ``size`` and values (n,) as integers; ValueError for what does not fit."""
    # Each block is backed by frames, so a short file cannot claim a large tensor.
    if len(rows) != -(-size // _BLOCK) or any(len(row) != 2 + itemsize or 0 in row[1:] for row in rows):
        raise ValueError(f"its blocks ({len(rows)}) do not fit {size} elements of {itemsize} bytes")
    if sum(sum(row[1:]) for row in rows) != len(frames):
        raise ValueError(f"its frames are {len(frames)} bytes, which is not what its blocks say")
    ends = list(accumulate(length for row in rows for length in row[1:]))
    pieces = iter([frames[start:end] for start, end in zip([0, *ends], ends, strict=False)])
    return (
        _unpack_block([next(pieces) for _ in row[1:]], start, min(_BLOCK, size - start), row[0])
        for start, row in zip(range(0, size, _BLOCK), rows, strict=True)
    )


def _unpack_block(frames: list[memoryview], start: int, size: int, nonzeros: int) -> tuple[np.ndarray, np.ndarray]:
    if nonzeros > size:
        raise ValueError(f"claims {nonzeros} nonzeros among {size}")
    gaps = _inflate(frames[0], nonzeros, nonzeros + (size - nonzeros) // _RUN)
    ends = gaps != _RUN
    reach = np.cumsum(gaps + ends.astype(np.int64))
    if np.count_nonzero(ends) != nonzeros or (len(reach) and reach[-1] > size):
        raise ValueError(f"its gaps do not place {nonzeros} nonzeros among {size}")
    values = np.empty((nonzeros, len(frames) - 1), np.uint8)
    for k, frame in enumerate(frames[1:]):
        values[:, k] = _inflate(frame, nonzeros, nonzeros)
    return reach[ends] + (start - 1), values.view(f"i{values.shape[1]}").reshape(-1)


def _gaps(positions: np.ndarray) -> np.ndarray:
    runs, rest = np.divmod(np.diff(positions, prepend=-1) - 1, _RUN)
    gaps = np.full(len(positions) + int(runs.sum()), _RUN, np.uint8)
    gaps[np.arange(len(positions)) + np.cumsum(runs)] = rest
    return gaps


def _inflate(frame: memoryview, least: int, most: int) -> np.ndarray:
    """Decompress one frame, after checking the size it claims: zstd would allocate that much at once."""
    size = zstandard.get_frame_parameters(frame).content_size
    if not least <= size <= most:
        raise ValueError(f"a frame claims {size} bytes (must be {least} to {most})")
    data = zstandard.ZstdDecompressor().decompress(frame, max_output_size=size, allow_extra_data=False)
    if len(data) != size:
        raise ValueError(f"a frame holds {len(data)} bytes (must be {size})")
    return np.frombuffer(data, np.uint8)
