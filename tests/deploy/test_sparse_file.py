"""The sparse checkpoint: what comes back, what is refused, what is left behind, and how small it is."""

import contextlib
import json
import os
import pickle
import random
import re
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from directional_pruning.deploy import file_size
from directional_pruning.deploy.sparse_file import load_sparse, save_sparse
from directional_pruning.files import CorruptFileError

BLOCK = 2**20
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
INTEGERS = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64]


def same(a: Tensor, b: Tensor) -> bool:
    """Same dtype, shape and bits."""
    raw_a, raw_b = (t.detach().resolve_conj().contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(raw_a, raw_b)


def same_state(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(same(a[name], b[name]) for name in a)


def masked(*shape: int, zeros: float = 0.9, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=torch.float32)
    return torch.where(torch.rand(shape, generator=generator) < zeros, 0.0, values).to(dtype)


def entries(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["tensors"])


def small_state() -> dict[str, Tensor]:
    conv = masked(16, 8, 3, 3)
    bias = torch.arange(16.0)
    mask = torch.tensor([True, False])
    return {
        "conv": conv,
        "bias": bias,
        "steps": torch.tensor(7),
        "mask": mask,
        "half": masked(40, 40).half(),
        "tied": conv,
    }


def rewrite(source: Path, target: Path, change: Callable[[dict, dict, bytearray], Any]) -> Path:
    """Copy a file with its header, table and data changed and every checksum made to fit: forged, not damaged."""
    data = source.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:start]), bytearray(data[start:])
    table = json.loads(header["__metadata__"]["tensors"])
    change(header, table, body)
    for name, entry in table.items() if isinstance(table, dict) else ():
        if isinstance(entry, dict) and name in header and isinstance(entry.get("crc32"), int):
            begin, end = header[name]["data_offsets"]
            entry["crc32"] = zlib.crc32(body[begin:end])
    text = json.dumps(table)
    header["__metadata__"].update(tensors=text, checksum=f"{zlib.crc32(text.encode()):08x}")
    head = json.dumps(header).encode()
    target.write_bytes(len(head).to_bytes(8, "little") + head + body)
    return target


# What comes back


@st.composite
def states(draw: st.DrawFn) -> dict[str, Tensor]:
    state = {}
    for name in draw(st.lists(st.text(max_size=8).filter("__metadata__".__ne__), max_size=4, unique=True)):
        dtype = draw(st.sampled_from([*FLOATS, *INTEGERS, torch.bool, torch.complex64]))
        shape = draw(st.lists(st.integers(0, 24), max_size=3))
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        numel = int(np.prod(shape))
        nonzero = rng.random(numel) < draw(st.sampled_from([0.0, 0.002, 0.1, 0.5, 1.0]))
        raw = rng.integers(0, 2 if dtype == torch.bool else 256, (numel, dtype.itemsize), np.uint8) * nonzero[:, None]
        state[name] = torch.frombuffer(bytearray(raw.astype(np.uint8)) or bytearray(8), dtype=dtype)[:numel].view(shape)
    return state


@settings(max_examples=150, deadline=None)
@given(state=states())
def test_any_bits_of_any_dtype_and_shape_come_back_as_they_were(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("bits") / "net.safetensors"
    save_sparse(state, path)
    assert same_state(load_sparse(path), state)


@settings(max_examples=60, deadline=None)
@given(
    positions=st.sets(st.sampled_from([0, 1, 253, 254, 255, 256, 509, 510, 511, 765, 766, 5000, 99_999])),
    offset=st.sampled_from([0, BLOCK - 300, BLOCK - 255, BLOCK - 1]),
)
def test_gaps_of_every_critical_length_come_back_within_and_across_blocks(tmp_path_factory, positions, offset):
    path = tmp_path_factory.mktemp("gaps") / "net.safetensors"
    weight = torch.zeros(100_000 + offset)
    weight[[p + offset for p in positions]] = 0.3
    save_sparse({"w": weight}, path)
    assert "blocks" in entries(path)["w"]
    assert same(load_sparse(path)["w"], weight)


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_tensors_that_just_fill_a_block_come_back(tmp_path, size):
    weight = masked(size)
    weight[-1] = 1.0
    save_sparse({"w": weight, "none": torch.zeros(size)}, tmp_path / "net")
    assert same_state(load_sparse(tmp_path / "net"), {"w": weight, "none": torch.zeros(size)})


def test_minus_zero_nan_and_infinity_are_kept_by_gaps_and_as_they_are(tmp_path):
    odd = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-45])
    sparse = torch.zeros(1000)
    sparse[::100] = -0.0
    sparse[1:7] = odd
    save_sparse({"odd": odd, "sparse": sparse}, tmp_path / "net")
    assert same_state(load_sparse(tmp_path / "net"), {"odd": odd, "sparse": sparse})
    assert "blocks" in entries(tmp_path / "net")["sparse"]


def test_dense_tiny_bool_and_complex_tensors_are_stored_as_they_are_and_sparse_integers_by_gaps(tmp_path):
    state = {
        "dense": torch.randn(100, 100),
        "tiny": torch.zeros(2, 2),
        "scalar": torch.tensor(0.0),
        "empty": torch.zeros(0, 3),
        "bool": torch.zeros(4096, dtype=torch.bool),
        "complex": torch.zeros(4096, dtype=torch.complex64),
        "integer": masked(100, 100).mul(100).long(),
    }
    save_sparse(state, tmp_path / "net")
    assert [name for name, entry in entries(tmp_path / "net").items() if "blocks" in entry] == ["integer"]
    assert same_state(load_sparse(tmp_path / "net"), state)


def test_strided_transposed_channels_last_and_conjugate_tensors_load_contiguous_and_equal(tmp_path):
    base = masked(64, 64)
    state = {
        "step": base[::2, ::3],
        "turned": base.T,
        "last": masked(8, 8, 3, 3).to(memory_format=torch.channels_last),
        "dense": torch.randn(30, 40).T,
        "one": torch.ones(1).as_strided((1,), (0,)),
        "none": torch.from_numpy(np.zeros(0, np.float32)),
        "spread": torch.ones(1, 50).expand(50, 50),
        "conjugate": torch.randn(20, dtype=torch.complex64).conj(),
        "negative": torch.randn(20, dtype=torch.complex64).conj().imag,
    }
    save_sparse(state, tmp_path / "net")
    loaded = load_sparse(tmp_path / "net")
    assert all(tensor.is_contiguous() and not tensor.is_neg() for tensor in loaded.values())
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_tied_weights_are_written_once_and_load_tied(tmp_path):
    weight = masked(100, 100)
    save_sparse({"in": weight, "out": weight, "view": weight.view(-1), "part": weight[:50]}, tmp_path / "tied")
    save_sparse({"in": weight, "view": weight.view(-1), "part": weight[:50]}, tmp_path / "once")
    loaded = load_sparse(tmp_path / "tied")
    assert loaded["in"] is loaded["out"]
    assert list(loaded) == ["in", "out", "view", "part"]
    assert torch.equal(loaded["view"], weight.view(-1))
    assert torch.equal(loaded["part"], weight[:50])
    assert (tmp_path / "tied").stat().st_size - (tmp_path / "once").stat().st_size < 100


def test_a_model_is_saved_as_its_state_dict_and_loads_into_its_like(tmp_path):
    def network() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(16 * 36, 10))

    model = network()
    with torch.no_grad():
        model.get_parameter("3.weight")[:] = masked(10, 16 * 36)
    save_sparse(model, tmp_path / "net")
    other = network()
    other.load_state_dict(load_sparse(tmp_path / "net"))
    assert same_state(dict(other.state_dict()), dict(model.state_dict()))
    assert not any(tensor.requires_grad for tensor in load_sparse(tmp_path / "net").values())


def test_an_empty_state_dict_comes_back(tmp_path):
    save_sparse({}, tmp_path / "net")
    assert load_sparse(tmp_path / "net") == {}


def test_what_was_loaded_is_writable_and_does_not_follow_the_file(tmp_path):
    state = small_state()
    save_sparse(state, tmp_path / "net")
    loaded = load_sparse(tmp_path / "net")
    size = (tmp_path / "net").stat().st_size
    with open(tmp_path / "net", "rb+") as file:
        file.write(b"\xff" * size)
    assert same_state(loaded, state)
    for tensor in loaded.values():
        tensor.zero_()


def test_any_safetensors_reader_opens_the_file_and_finds_every_tensor_aligned(tmp_path):
    save_sparse(
        {**small_state(), "odd": torch.ones(3, dtype=torch.int8), "wide": torch.ones(3).double()}, tmp_path / "net"
    )
    with safe_open(tmp_path / "net", framework="np") as file:
        assert set(file.keys()) == {"conv", "bias", "steps", "mask", "half", "odd", "wide"}
        assert file.get_tensor("bias").tolist() == list(range(16))
    data = (tmp_path / "net").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, stored in json.loads(data[8:start]).items():
        if name in ("bias", "steps", "wide"):
            assert (start + stored["data_offsets"][0]) % 4 == 0


def test_the_reader_in_the_documentation_reads_what_we_write(tmp_path):
    page = Path(__file__).parents[2] / "docs" / "sparse-format.md"
    reader: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)[0], reader)
    state = {**small_state(), "long": masked(3, 400_000, zeros=0.99), "empty": torch.zeros(0, 2)}
    save_sparse(state, tmp_path / "net")
    read = reader["read"](tmp_path / "net")
    assert list(read) == list(state)
    assert all(np.array_equal(read[name], tensor.numpy()) for name, tensor in state.items())


# Rounding


@pytest.mark.parametrize("values", ["bfloat16", "float16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_torchs_and_the_dtype_stays(tmp_path, values, dtype):
    weight = masked(200, 200, dtype=dtype)
    weight[0, :3] = torch.tensor([float("inf"), float("nan"), -0.0])
    save_sparse({"w": weight}, tmp_path / "net", values=values)
    loaded = load_sparse(tmp_path / "net")["w"]
    assert loaded.dtype == dtype
    assert torch.equal(loaded.nan_to_num(7.0), weight.to(getattr(torch, values)).to(dtype).nan_to_num(7.0))
    assert torch.equal(loaded.signbit() & ~loaded.isnan(), weight.signbit())


def test_rounding_leaves_dense_tensors_vectors_and_narrow_floats_exact(tmp_path):
    statistic = torch.where(torch.arange(4096) % 3 == 0, torch.randn(4096), 0.0)
    state = {
        "dense": torch.randn(50, 50),
        "var": statistic,
        "half": masked(50, 50).half(),
        "int": masked(50, 50).mul(99).int(),
    }
    for values in ("bfloat16", "float16"):
        save_sparse(state, tmp_path / "net", values=values)
        assert same_state(load_sparse(tmp_path / "net"), state)


@pytest.mark.parametrize(("values", "large"), [("float16", 65520.0), ("bfloat16", 3.4e38)])
def test_a_value_that_rounding_would_make_infinite_is_refused_with_the_tensor_named(tmp_path, values, large):
    weight = masked(100, 100)
    weight[3, 4] = -large
    (tmp_path / "net").write_bytes(b"old")
    with pytest.raises(ValueError, match=re.escape(f"'layer.w' to torch.{values}: -{large:.6g} becomes infinite")):
        save_sparse({"layer.w": weight}, tmp_path / "net", values=values)
    assert (tmp_path / "net").read_bytes() == b"old"
    save_sparse({"layer.w": weight}, tmp_path / "net")


def test_a_value_too_small_for_the_rounded_dtype_becomes_zero(tmp_path):
    weight = masked(100, 100)
    weight[0, :2] = torch.tensor([1e-9, -1e-9])
    save_sparse({"w": weight}, tmp_path / "net", values="float16")
    assert load_sparse(tmp_path / "net")["w"][0, :2].tolist() == [0.0, 0.0]


# What cannot be saved


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ({"a": torch.zeros(2, dtype=torch.complex128)}, ValueError, "'a': torch.complex128"),
        ({"a": torch.eye(2).to_sparse()}, ValueError, "'a': .*sparse_coo"),
        ({"a": torch.zeros(2, device="meta")}, ValueError, "'a': .*meta"),
        ({"a": torch.zeros([1] * 65)}, ValueError, "'a': .*65 dimensions"),
        ({"a": 3}, TypeError, "'a': int is not a tensor"),
        ({"__metadata__": torch.zeros(2)}, ValueError, "__metadata__"),
        ({"\ud800": torch.zeros(2)}, ValueError, "invalid tensor name"),
        ({1: torch.zeros(2)}, ValueError, "invalid tensor name: 1"),
        ([torch.zeros(2)], TypeError, "list: neither a model nor a state dict"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name_and_no_file_appears(tmp_path, state, error, message):
    with pytest.raises(error, match=message):
        save_sparse(state, tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_unknown_values_are_refused(tmp_path):
    with pytest.raises(ValueError, match="invalid values: 'int8'"):
        save_sparse({}, tmp_path / "net", values="int8")


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, broken):
    save_sparse(small_state(), tmp_path / "net")
    before = (tmp_path / "net").read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="No space"):
        save_sparse({"other": masked(50, 50)}, tmp_path / "net")
    assert [file.name for file in tmp_path.iterdir()] == ["net"]
    assert (tmp_path / "net").read_bytes() == before


# What is refused on loading


def refused(path: Path, reason: str = ".") -> None:
    with pytest.raises(CorruptFileError, match=reason) as caught:
        load_sparse(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_the_ordinary_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        load_sparse(tmp_path / "absent")
    with pytest.raises(IsADirectoryError):
        load_sparse(tmp_path)


def test_other_kinds_of_file_are_refused(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("hello, this is not a network at all")
    (tmp_path / "pickle").write_bytes(pickle.dumps(small_state))
    save_file({"w": torch.zeros(3)}, tmp_path / "plain")
    for name in ("empty", "text", "pickle", "plain"):
        refused(tmp_path / name)


def test_a_truncated_file_is_refused_at_every_length(tmp_path):
    save_sparse(small_state(), tmp_path / "net")
    data = (tmp_path / "net").read_bytes()
    for length in range(0, len(data), 7):
        (tmp_path / "cut").write_bytes(data[:length])
        refused(tmp_path / "cut")
    (tmp_path / "cut").write_bytes(data + b"\0")
    refused(tmp_path / "cut")


def test_flipped_bytes_are_refused_or_change_nothing(tmp_path):
    state, draw = small_state(), random.Random(0)
    save_sparse(state, tmp_path / "net")
    data = (tmp_path / "net").read_bytes()
    accepted = 0
    for _ in range(4000):
        flipped = bytearray(data)
        for _ in range(draw.choice([1, 1, 2, 8])):
            flipped[draw.randrange(len(data))] ^= draw.randrange(1, 256)
        (tmp_path / "flipped").write_bytes(flipped)
        with contextlib.suppress(CorruptFileError):
            assert same_state(load_sparse(tmp_path / "flipped"), state)
            accepted += 1
    assert accepted < 40


def test_flipped_frames_under_matching_checksums_are_refused_or_load_in_the_shape_promised(tmp_path):
    state, draw = {"w": masked(60, 60), "b": masked(500, seed=1)}, random.Random(0)
    save_sparse(state, tmp_path / "net")

    def flip(header: dict, table: dict, body: bytearray) -> None:
        body[draw.randrange(len(body))] ^= draw.randrange(1, 256)

    outcomes = {"refused": 0, "loaded": 0}
    for _ in range(2000):
        try:
            loaded = load_sparse(rewrite(tmp_path / "net", tmp_path / "lie", flip))
            assert [tensor.shape for tensor in loaded.values()] == [tensor.shape for tensor in state.values()]
            outcomes["loaded"] += 1
        except CorruptFileError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 10


LIES: dict[str, tuple[str, Callable[[dict, dict, bytearray], Any]]] = {
    "newer version": ("version '2'.*reads '1'", lambda h, t, b: h["__metadata__"].update(version="2")),
    "other format": ("not a sparse", lambda h, t, b: h["__metadata__"].update(format="pt")),
    "no metadata": ("not a sparse", lambda h, t, b: h["__metadata__"].clear()),
    "larger shape": ("do not fit", lambda h, t, b: t["w"].update(shape=[60, 61_000])),
    "vast shape": ("do not fit", lambda h, t, b: t["w"].update(shape=[2**40, 2**40])),
    "huge number": ("malformed", lambda h, t, b: t["w"].update(shape=[10**4000])),
    "empty vast shape": ("do not fit", lambda h, t, b: t["w"].update(shape=[0, 2**62, 2**62])),
    "smaller shape": ("362 nonzeros among 36", lambda h, t, b: t["w"].update(shape=[6, 6])),
    "negative shape": ("malformed", lambda h, t, b: t["w"].update(shape=[-60, -60])),
    "fractional shape": ("malformed", lambda h, t, b: t["w"].update(shape=[60.0, 60])),
    "too many dimensions": ("malformed", lambda h, t, b: t["w"].update(shape=[1] * 1000)),
    "no shape": ("malformed", lambda h, t, b: t["w"].pop("shape")),
    "other dtype": ("stored as", lambda h, t, b: t["w"].update(dtype="I32")),
    "unknown dtype": ("malformed", lambda h, t, b: t["w"].update(dtype="F33")),
    "no dtype": ("malformed", lambda h, t, b: t["w"].update(dtype=[])),
    "bool by gaps": ("stored as", lambda h, t, b: t["w"].update(dtype="BOOL", values="BOOL")),
    "narrowed to other": ("stored as", lambda h, t, b: t["w"].update(values="F64")),
    "more nonzeros": (
        "claims 362 bytes",
        lambda h, t, b: t["w"]["blocks"][0].__setitem__(0, t["w"]["blocks"][0][0] + 1),
    ),
    "fewer nonzeros": (
        "do not place 361",
        lambda h, t, b: t["w"]["blocks"][0].__setitem__(0, t["w"]["blocks"][0][0] - 1),
    ),
    "all nonzero": ("nonzeros among 3600", lambda h, t, b: t["w"]["blocks"][0].__setitem__(0, 2**62)),
    "true nonzeros": ("malformed", lambda h, t, b: t["w"]["blocks"][0].__setitem__(0, True)),
    "longer frame": ("what its blocks say", lambda h, t, b: t["w"]["blocks"][0].__setitem__(1, 10**9)),
    "no frame": ("do not fit", lambda h, t, b: t["w"]["blocks"][0].pop()),
    "empty frame": ("do not fit", lambda h, t, b: t["w"]["blocks"][0].__setitem__(1, 0)),
    "more blocks": ("do not fit", lambda h, t, b: t["w"]["blocks"].append(t["w"]["blocks"][0])),
    "no blocks": ("do not fit", lambda h, t, b: t["w"]["blocks"].clear()),
    "blocks no list": ("malformed", lambda h, t, b: t["w"].update(blocks=3)),
    "stored plainly": ("in the file", lambda h, t, b: t["w"].pop("blocks")),
    "no crc32": ("malformed", lambda h, t, b: t["w"].pop("crc32")),
    "dense by gaps": ("in the file", lambda h, t, b: t["d"].update(values="F32", blocks=t["w"]["blocks"])),
    "dense of other shape": ("in the file", lambda h, t, b: t["d"].update(shape=[3, 5])),
    "dense of other dtype": ("in the file", lambda h, t, b: t["d"].update(dtype="I32")),
    "missing tensor": ("does not list", lambda h, t, b: t.pop("w")),
    "absent tensor": ("does not list", lambda h, t, b: t.update(x=t["w"])),
    "tied to nothing": ("does not come before", lambda h, t, b: t.update(x={"same_as": "y"})),
    "tied to itself": ("does not come before", lambda h, t, b: t.update(x={"same_as": "x"})),
    "tied to a number": ("malformed", lambda h, t, b: t.update(x={"same_as": 3})),
    "no entry": ("malformed", lambda h, t, b: t.update(w=None)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_under_matching_checksums_is_refused_and_gets_no_memory(tmp_path, lie):
    save_sparse({"d": torch.ones(5, 3), "w": masked(60, 60)}, tmp_path / "net")
    reason, change = LIES[lie]
    path = rewrite(tmp_path / "net", tmp_path / "lie", change)
    tracemalloc.start()
    try:
        refused(path, reason)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_frame_that_expands_beyond_its_block_is_refused_before_it_is_expanded(tmp_path):
    save_sparse({"w": masked(60, 60)}, tmp_path / "net")
    bomb = zstandard.ZstdCompressor().compress(bytes(2**26))

    def plant(header: dict, table: dict, body: bytearray) -> None:
        row = table["w"]["blocks"][0]
        body[: row[1]] = bomb
        row[1] = len(bomb)
        header["w"].update(shape=[len(body)], data_offsets=[0, len(body)])

    path = rewrite(tmp_path / "net", tmp_path / "bomb", plant)
    tracemalloc.start()
    try:
        refused(path, f"claims {2**26} bytes")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_table_nested_without_end_is_refused(tmp_path):
    save_sparse({"w": masked(60, 60)}, tmp_path / "net")
    data = (tmp_path / "net").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header, text = json.loads(data[8:start]), "[" * 200_000
    header["__metadata__"].update(tensors=text, checksum=f"{zlib.crc32(text.encode()):08x}")
    head = json.dumps(header).encode()
    (tmp_path / "deep").write_bytes(len(head).to_bytes(8, "little") + head + data[start:])
    refused(tmp_path / "deep")


# What it costs


@pytest.mark.parametrize(
    ("zeros", "values", "limit"),
    [
        (0.92, "bfloat16", 17.2),
        (0.95, "bfloat16", 18.1),
        (0.98, "bfloat16", 20.0),
        (0.92, "float32", 34.5),
        (0.95, "float32", 36.2),
        (0.98, "float32", 39.5),
    ],
)
def test_a_nonzero_of_a_random_mask_costs_few_bits(tmp_path, zeros, values, limit):
    weight = masked(2000, 2000, zeros=zeros)
    save_sparse({"w": weight}, tmp_path / "net", values=values)
    assert 8 * (tmp_path / "net").stat().st_size / int(weight.count_nonzero()) < limit


def test_working_memory_does_not_grow_with_the_tensor(tmp_path):
    weight = masked(4000, 4000)
    tracemalloc.start()
    try:
        save_sparse({"w": weight}, tmp_path / "net")
        saving = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        loaded = load_sparse(tmp_path / "net")
        loading = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert torch.equal(loaded["w"], weight)
    assert saving < 2 * (tmp_path / "net").stat().st_size + 20e6
    assert loading < weight.nbytes + 20e6


# What a state dict carries besides its tensors


class Versioned(nn.Linear):
    """A layer that refuses state dicts without its version, as torchvision's MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if local_metadata.get("version") != 2:
            raise ValueError(f"version {local_metadata.get('version')}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def test_the_versions_of_the_modules_come_back(tmp_path):
    model = nn.Sequential(Versioned(4, 4), nn.BatchNorm1d(4))
    save_sparse(model, tmp_path / "net")
    loaded: Any = load_sparse(tmp_path / "net")
    expected: Any = model.state_dict()
    assert loaded._metadata == expected._metadata
    assert type(loaded) is type(expected)
    model.load_state_dict(loaded)
    save_sparse(loaded, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "net").read_bytes()


def test_a_state_dict_without_versions_and_an_old_file_load_without(tmp_path):
    save_sparse(small_state(), tmp_path / "net")
    with safe_open(tmp_path / "net", framework="pt") as file:
        assert file.metadata().keys() == {"format", "version", "tensors", "checksum"}
    assert not hasattr(load_sparse(tmp_path / "net"), "_metadata")


def test_metadata_of_a_module_that_is_not_json_is_refused_with_the_module_named(tmp_path):
    state: Any = nn.Sequential(nn.Linear(2, 2)).state_dict()
    state._metadata["0"]["since"] = {1, 2}
    with pytest.raises(ValueError, match=r"metadata of module '0': .*is not JSON"):
        save_sparse(state, tmp_path / "net")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ({"modules": '{"": {"version": 2}}'}, "table of modules does not match its checksum"),
        ({"modules_checksum": "00000000"}, "table of modules does not match its checksum"),
        ({"modules": "[]", "modules_checksum": f"{zlib.crc32(b'[]'):08x}"}, "table of modules is no table"),
        (
            {"modules": '{"a":1}', "modules_checksum": format(zlib.crc32(b'{"a":1}'), "08x")},
            "table of modules is malformed",
        ),
        ({"modules": None}, "table of modules does not match its checksum"),
    ],
)
def test_versions_that_were_altered_are_refused(tmp_path, lie, reason):
    save_sparse(nn.Linear(3, 2), tmp_path / "net")

    def change(header: dict, table: dict, body: bytearray) -> None:
        header["__metadata__"] |= lie
        for key in [key for key, value in header["__metadata__"].items() if value is None]:
            del header["__metadata__"][key]

    refused(rewrite(tmp_path / "net", tmp_path / "lie", change), reason)


# Weights that are computed


@pytest.mark.parametrize("form", ["model", "state dict"])
def test_a_mask_whose_zeros_the_file_does_not_get_is_named_in_one_warning(tmp_path, form):
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    prune.l1_unstructured(model[0], "weight", 0.95)
    prune.l1_unstructured(model[1], "weight", 0.5)
    source = model if form == "model" else model.state_dict()
    message = (
        r"'0.weight_orig' is stored with 0% zeros and its layer uses 95%: call torch.nn.utils.prune.remove\(layer, "
    )
    with pytest.warns(
        UserWarning, match=message + r"'weight'.* first; so are 1 others \(the file has [\d,]+ bytes\)"
    ) as caught:
        save_sparse(source, tmp_path / "net")
    assert [w.filename for w in caught] == [__file__]
    assert same_state(load_sparse(tmp_path / "net"), model.state_dict())
    with pytest.warns(UserWarning, match="file_size: " + message) as caught:
        file_size(model.state_dict())
    assert caught[0].filename == __file__
    prune.remove(model[0], "weight")
    prune.remove(model[1], "weight")
    save_sparse(model, tmp_path / "small")
    assert (tmp_path / "small").stat().st_size < (tmp_path / "net").stat().st_size / 1.5


def test_computed_weights_that_hide_no_zeros_are_saved_in_silence(tmp_path):
    layers = [nn.Linear(16, 16) for _ in range(4)]
    model: Any = nn.Sequential(*layers)
    with torch.no_grad():
        for layer in layers[:3]:
            layer.weight[:8] = 0
            layer.weight[:, :4] = 0
            layer.weight[:, 0] = 1e-3
    parametrizations.weight_norm(model[0])
    parametrizations.spectral_norm(model[1])
    prune.custom_from_mask(model[2], "weight", (model[2].weight != 0).float())
    prune.identity(model[3], "weight")
    save_sparse(model, tmp_path / "net")
    assert same_state(load_sparse(tmp_path / "net"), model.state_dict())


def test_a_quantized_tensor_is_refused_with_what_to_call(tmp_path):
    torchao = pytest.importorskip("torchao.quantization")
    model = nn.Linear(32, 32)
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    with pytest.raises(ValueError, match=r"'weight': it is quantized, Int8Tensor \(call its dequantize\(\) first"):
        save_sparse(model, tmp_path / "net")


def test_a_sharded_tensor_is_refused_with_what_to_call(tmp_path):
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = nn.Linear(8, 8)
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        match = r"'weight': it is sharded \(call its full_tensor\(\) first, or get_model_state_dict\(model, "
        with pytest.raises(ValueError, match=match):
            save_sparse(model, tmp_path / "net")
        full = {name: t.full_tensor() for name, t in model.state_dict().items()}
        save_sparse(full, tmp_path / "net")
    finally:
        distributed.destroy_process_group()
    assert load_sparse(tmp_path / "net")["weight"].shape == (8, 8)
