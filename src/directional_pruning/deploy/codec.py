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


class Workspace:
    """Memory that the blocks of a file take in turn: getting it anew costs more than decompressing into it."""

    def __init__(self) -> None:
        self.zstd = zstandard.ZstdDecompressor()
        self._arrays: dict[str, np.ndarray] = {}

    def array(self, name: str, size: int, dtype: type[np.generic]) -> np.ndarray:
        """An array of ``size`` elements that holds anything, until the next of this name is asked for."""
        if len(self._arrays.get(name, ())) < size:
            # Rounded up, or each block that is a little larger than those before would be given new memory.
            self._arrays[name] = np.empty(1 << (size - 1).bit_length(), dtype)
        return self._arrays[name][:size] if size else np.empty(0, dtype)


def unpack(
    frames: memoryview, rows: list[list[int]], size: int, itemsize: int, workspace: Workspace
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """For each block, its place among ``size``, positions (n,) in it and values (n,) as integers, in the workspace.

    Raises ValueError for what does not fit.
    """
    # Each block is backed by frames, so a short file cannot claim a large tensor.
    if len(rows) != -(-size // _BLOCK) or any(len(row) != 2 + itemsize or 0 in row[1:] for row in rows):
        raise ValueError(f"its blocks ({len(rows)}) do not fit {size} elements of {itemsize} bytes")
    if sum(sum(row[1:]) for row in rows) != len(frames):
        raise ValueError(f"its frames are {len(frames)} bytes, which is not what its blocks say")
    ends = list(accumulate(length for row in rows for length in row[1:]))
    pieces = iter([frames[start:end] for start, end in zip([0, *ends], ends, strict=False)])
    return (
        (slice(start, start + _BLOCK), *_unpack_block([next(pieces) for _ in row[1:]], most, row[0], workspace))
        for start, row in zip(range(0, size, _BLOCK), rows, strict=True)
        for most in [min(_BLOCK, size - start)]
    )


def _unpack_block(
    frames: list[memoryview], size: int, nonzeros: int, workspace: Workspace
) -> tuple[np.ndarray, np.ndarray]:
    if nonzeros > size:
        raise ValueError(f"claims {nonzeros} nonzeros among {size}")
    gaps = _inflate(frames[0], nonzeros, nonzeros + (size - nonzeros) // _RUN, workspace)
    ends = np.not_equal(gaps, _RUN, out=workspace.array("ends", len(gaps), np.bool_))
    # A gap and the nonzero after it, which is at most 255 and so stays a byte.
    steps = np.add(gaps, ends, out=workspace.array("steps", len(gaps), np.uint8))
    reach = np.cumsum(steps, out=workspace.array("reach", len(gaps), np.int64))
    if np.count_nonzero(ends) != nonzeros or (len(reach) and reach[-1] > size):
        raise ValueError(f"its gaps do not place {nonzeros} nonzeros among {size}")
    itemsize = len(frames) - 1
    values = workspace.array("values", nonzeros * itemsize, np.uint8).reshape(nonzeros, itemsize)
    for k, frame in enumerate(frames[1:]):
        values[:, k] = _inflate(frame, nonzeros, nonzeros, workspace)
    positions = reach if len(reach) == nonzeros else reach[ends]
    positions -= 1
    return positions, values.reshape(-1).view(f"i{itemsize}")


def _gaps(positions: np.ndarray) -> np.ndarray:
    runs, rest = np.divmod(np.diff(positions, prepend=-1) - 1, _RUN)
    gaps = np.full(len(positions) + int(runs.sum()), _RUN, np.uint8)
    gaps[np.arange(len(positions)) + np.cumsum(runs)] = rest
    return gaps


def _inflate(frame: memoryview, least: int, most: int, workspace: Workspace) -> np.ndarray:
    """Decompress one frame, after checking the size it claims: zstd would allocate that much at once."""
    size = zstandard.get_frame_parameters(frame).content_size
    if not least <= size <= most:
        raise ValueError(f"a frame claims {size} bytes (must be {least} to {most})")
    data = workspace.zstd.decompress(frame, max_output_size=size, allow_extra_data=False)
    if len(data) != size:
        raise ValueError(f"a frame holds {len(data)} bytes (must be {size})")
    return np.frombuffer(data, np.uint8)
