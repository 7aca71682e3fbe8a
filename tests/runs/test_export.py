"""Exports of a run: sparse file, state dict, ONNX, compacted network; and the size of a file."""

import json
import re
import sys
import warnings
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import prune

from directional_pruning import cli, load_sparse, save_sparse
from directional_pruning.cli.tables import train_table
from directional_pruning.deploy import file_size, read_weights
from directional_pruning.files import CorruptFileError
from directional_pruning.models import digits_net
from directional_pruning.runs import create_run, digits_recipe, train_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two epochs, pruned hard enough to have zeros."""
    from dataclasses import replace

    folder = tmp_path_factory.mktemp("runs") / "run"
    create_run(folder, replace(digits_recipe(), epochs=2, c=0.1), torch.device("cpu"))
    train_run(folder)
    return folder


def dirprune(capsys, monkeypatch, *args):
    """Run the command in this process; its exit code and what it printed."""
    monkeypatch.setattr(sys, "argv", ["dirprune", *map(str, args)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out, err = capsys.readouterr()
    return stopped.value.code, out, err


def network(folder):
    model = digits_net()
    model.load_state_dict(load_sparse(folder / "model.sparse.safetensors"))
    return model.eval()


def test_the_summary_and_the_table_say_what_the_file_takes(finished):
    summary = json.loads((finished / "summary.json").read_text())
    grda, size = summary["grda"], file_size(load_sparse(finished / "model.sparse.safetensors"))
    assert grda["sparse_bytes"] == size.sparse_bytes == (finished / "model.sparse.safetensors").stat().st_size
    assert grda["sparse_bytes"] < grda["zipped_bytes"] == size.zipped_bytes < grda["bytes"]
    assert grda["bits_per_nonzero"] == size.bits_per_nonzero == 8 * size.sparse_bytes / size.nonzeros
    assert grda["least_bits_per_nonzero"] == size.least_bits_per_nonzero
    table = train_table(finished)
    labels, column = ([str(cell) for cell in table.columns[k].cells] for k in (0, 2))
    shown = dict(zip(labels, column, strict=True))
    for label, key in (("file, dense", "bytes"), ("file, zipped", "zipped_bytes"), ("file, sparse", "sparse_bytes")):
        assert shown[label] == f"{grda[key] / 1e3:,.1f} kB"
    assert shown["bits per nonzero in it"] == f"{size.bits_per_nonzero:.1f}"
    assert shown["limit, zeros at random"] == f"{size.least_bits_per_nonzero:.1f}"


@pytest.mark.parametrize("values", ["float32", "bfloat16", "float16"])
def test_export_writes_the_sparse_file(finished, tmp_path, capsys, monkeypatch, values):
    out = tmp_path / "net.safetensors"
    args = ("export", finished, "--format", "sparse", "--values", values, "--out", out)
    code, printed, err = dirprune(capsys, monkeypatch, *args)
    first, second = printed.splitlines()
    assert (code, first, err) == (0, f"{out}: {out.stat().st_size:,} bytes", "")
    assert second.startswith("but: The sparse network is far below the dense baseline")  # of so short a training
    exact = load_sparse(finished / "model.sparse.safetensors")
    for name, t in load_sparse(out).items():
        rounded = t.ndim > 1 and t.dtype == torch.float32 and bool((t == 0).float().mean() > 0.25)
        expected = exact[name].to(getattr(torch, values)).float() if rounded else exact[name]
        assert torch.equal(t, expected), name


def test_export_writes_a_state_dict_any_reader_opens(finished, tmp_path, capsys, monkeypatch):
    out = tmp_path / "net.safetensors"
    assert dirprune(capsys, monkeypatch, "export", finished, "--format", "state-dict", "--out", out)[0] == 0
    exact = load_sparse(finished / "model.sparse.safetensors")
    dense = load_file(out)
    assert all(torch.equal(dense[name], t) for name, t in exact.items())
    assert dense.keys() == exact.keys()


@pytest.mark.parametrize("compacted", [(), ("--compact",)])
def test_export_writes_onnx_of_any_batch_size(finished, tmp_path, capsys, monkeypatch, compacted):
    import onnxruntime

    out, model = tmp_path / "net.onnx", network(finished)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter
        assert dirprune(capsys, monkeypatch, "export", finished, "--format", "onnx", "--out", out, *compacted)[0] == 0
    session = onnxruntime.InferenceSession(out)
    for batch in (1, 5):
        x = torch.randn(batch, 1, 8, 8)
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_allclose(y, model(x).detach().numpy(), atol=1e-4, rtol=1e-4)
    state = read_weights(out)
    assert sum(t.numel() for t in state.values()) > 10_000
    assert dirprune(capsys, monkeypatch, "size", out)[0] == 0


def test_compact_writes_the_smaller_network(finished, tmp_path, capsys, monkeypatch):
    out, model = tmp_path / "net.pt2", network(finished)
    code, printed, _ = dirprune(capsys, monkeypatch, "compact", finished, "--out", out)
    assert code == 0
    before, after = (int(n.replace(",", "")) for n in re.search(r"parameters\D+([\d,]+)\D+([\d,]+)", printed).groups())
    assert before == sum(p.numel() for p in model.parameters()) > after
    accuracies = re.findall(r"\d+\.\d\d%", printed)
    assert len(accuracies) == 2
    assert accuracies[0] == accuracies[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch
        program = torch.export.load(out)
    assert sum(p.numel() for p in program.parameters()) == after
    for batch in (1, 5):
        x = torch.randn(batch, 1, 8, 8)
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["export"], "--format"),
        (["export", "--format", "zip"], "invalid format: 'zip' (must be one of sparse, onnx, state-dict)"),
        (["export", "--format", "sparse", "--values", "int8"], "invalid values: 'int8'"),
        (["export", "--format", "onnx", "--values", "float16"], "invalid values: 'float16' (only the format sparse"),
        (["export", "--format", "sparse", "--compact"], "invalid format of a compacted network: 'sparse'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(finished, capsys, monkeypatch, args, message):
    before = {path.name for path in finished.iterdir()}
    code, out, err = dirprune(capsys, monkeypatch, args[0], finished, *args[1:])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert {path.name for path in finished.iterdir()} == before


def test_a_run_that_is_not_finished_or_not_readable_is_named(finished, tmp_path, capsys, monkeypatch):
    (tmp_path / "config.json").write_bytes((finished / "config.json").read_bytes())
    for args in (("compact", tmp_path), ("export", tmp_path, "--format", "sparse")):
        code, out, err = dirprune(capsys, monkeypatch, *args)
        assert (code, out) == (2, "")
        assert f"{tmp_path}/model.sparse.safetensors is missing: finish the run with" in err
    save_sparse(nn.Linear(2, 2), tmp_path / "model.sparse.safetensors")
    code, _, err = dirprune(capsys, monkeypatch, "export", tmp_path, "--format", "sparse")
    assert (code, err.count("\n")) == (2, 1)
    assert "does not fit the network of the recipe digits" in err
    assert "no such run folder: nowhere\n" in dirprune(capsys, monkeypatch, "compact", "nowhere")[2]


# The size of a file


def masked(*shape, zeros=0.92, seed=0):
    generator = torch.Generator().manual_seed(seed)
    nonzero = torch.rand(shape, generator=generator) >= zeros
    return torch.where(nonzero, torch.randn(shape, generator=generator), 0.0)


def entropy(p):
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


@pytest.mark.parametrize("values", ["float32", "bfloat16"])
def test_the_limit_is_that_of_random_zeros_and_independent_bytes(tmp_path, values):
    weight = masked(1000, 1000)
    size = file_size({"weight": weight}, values=values)
    stored = weight[weight != 0].to(getattr(torch, values))
    planes = stored.view(torch.uint8).view(len(stored), -1).T.numpy()
    shares = [np.unique(plane, return_counts=True)[1] / len(stored) for plane in planes]
    expected = entropy(0.92) / 0.08 - sum((p * np.log2(p)).sum() for p in shares)
    assert size.least_bits_per_nonzero == pytest.approx(expected, rel=2e-3)
    assert size.least_bits_per_nonzero < size.bits_per_nonzero < 1.04 * size.least_bits_per_nonzero
    save_sparse({"weight": weight}, tmp_path / "net", values=values)
    assert size.sparse_bytes == (tmp_path / "net").stat().st_size
    assert size.dense_bytes == 4_000_000
    assert size.sparse_bytes < size.zipped_bytes < size.dense_bytes / 5


def test_tied_empty_and_other_tensors_are_counted_once_and_right():
    weight = masked(50, 50)
    state = {"a": weight, "b": weight, "none": torch.zeros(0, 2), "on": torch.eye(9).bool(), "n": torch.tensor(7)}
    size = file_size(state)
    assert (size.total, size.dense_bytes) == (2500 + 81 + 1, 10_000 + 81 + 8)
    assert size.nonzeros == int(weight.count_nonzero()) + 9 + 1
    nothing = file_size({"zero": torch.zeros(100, 100)})
    assert nothing.nonzeros == 0
    assert np.isnan(nothing.bits_per_nonzero)


def test_weights_are_read_from_files_of_every_kind(tmp_path):
    state = {"w": masked(30, 20), "b": torch.randn(30)}
    save_sparse(state, tmp_path / "sparse.safetensors")
    save_file(state, tmp_path / "dense.safetensors")
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "checkpoint.pth")
    for path in tmp_path.iterdir():
        read = read_weights(path)
        assert read.keys() == state.keys()
        assert all(torch.equal(read[name], t) for name, t in state.items())


def exported(path):
    """A network with a view of a weight, tied weights and a buffer, written by torch.export."""
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8, bias=False)).eval()
    model[0].weight = nn.Parameter(masked(8, 8).T)
    model[2].weight = model[0].weight
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own code
        torch.export.save(torch.export.export(model, (torch.randn(2, 8),)), path)
    return model.state_dict()


def test_weights_of_an_exported_program_are_read_without_running_it(tmp_path):
    state = exported(tmp_path / "net.pt2")
    read = read_weights(tmp_path / "net.pt2")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], t) for name, t in state.items())
    assert file_size(read).total == sum(t.numel() for t in state.values()) - 64


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_exported_program_that_was_altered_is_refused(tmp_path):
    exported(tmp_path / "net.pt2")
    data = (tmp_path / "net.pt2").read_bytes()
    with ZipFile(tmp_path / "net.pt2") as archive:
        config = next(name for name in archive.namelist() if name.endswith("model_weights_config.json"))
        text, prefix = archive.read(config).decode(), config.rpartition("/")[0]
        weight = archive.read(f"{prefix}/weight_0")
    at = data.index(weight)
    (tmp_path / "bad.pt2").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(CorruptFileError, match="not a readable exported program"):
        read_weights(tmp_path / "bad.pt2")
    for lie in (
        text.replace('"as_int": 8', '"as_int": 4000000000000'),
        text.replace('"dtype": 7', '"dtype": 99'),
        text.replace("weight_0", "weight_77"),
        text.replace('"use_pickle": false', '"use_pickle": true'),
        text[:50],
    ):
        with ZipFile(tmp_path / "lie.pt2", "w") as archive:
            archive.writestr(config, lie)
            archive.writestr(f"{prefix}/weight_0", weight)
        with pytest.raises(CorruptFileError, match="not a readable exported program") as caught:
            read_weights(tmp_path / "lie.pt2")
        assert "\n" not in str(caught.value)


def test_size_reads_what_compact_writes_and_names_masks(tmp_path, capsys, monkeypatch):
    exported(tmp_path / "net.pt2")
    code, out, err = dirprune(capsys, monkeypatch, "size", tmp_path / "net.pt2")
    assert (code, err) == (0, "")
    assert "105 numbers" in out
    layer = nn.Linear(64, 64)
    prune.l1_unstructured(layer, "weight", 0.9)
    torch.save(layer.state_dict(), tmp_path / "net.pt")
    code, out, err = dirprune(capsys, monkeypatch, "size", tmp_path / "net.pt")
    assert (code, err) == (0, "")
    assert out.count("call torch.nn.utils.prune.remove(layer, 'weight') first") == 1


def test_float8_is_measured():
    assert file_size({"w": torch.eye(64).to(torch.float8_e4m3fn)}).nonzeros == 64


def test_dense_and_sparse_initializers_of_onnx_are_read(tmp_path):
    import onnx
    from onnx import helper, numpy_helper

    weight = masked(30, 20).numpy()

    def sparse(name, places):
        values = numpy_helper.from_array(weight[weight != 0], name)
        return helper.make_sparse_tensor(
            values, numpy_helper.from_array(places.astype(np.int64), name + "_at"), [30, 20]
        )

    graph = helper.make_graph([], "g", [], [], initializer=[numpy_helper.from_array(weight, "dense")])
    graph.sparse_initializer.append(sparse("flat", np.flatnonzero(weight)))
    graph.sparse_initializer.append(sparse("pairs", np.argwhere(weight)))
    onnx.save(helper.make_model(graph), tmp_path / "net.onnx")
    read = read_weights(tmp_path / "net.onnx")
    assert list(read) == ["dense", "flat", "pairs"]
    assert all(np.array_equal(t.numpy(), weight) for t in read.values())


def test_size_shows_the_measure(tmp_path, capsys, monkeypatch):
    save_file({"w": masked(300, 200)}, tmp_path / "net.safetensors")
    code, out, err = dirprune(capsys, monkeypatch, "size", tmp_path / "net.safetensors")
    assert (code, err) == (0, "")
    assert "60,000 numbers" in out
    state = load_file(tmp_path / "net.safetensors")
    for values in ("float32", "bfloat16"):
        size = file_size(state, values=values)
        assert f"{size.sparse_bytes:,}" in out
        assert f"{size.bits_per_nonzero:.2f}" in out
    assert f"{size.zipped_bytes:,}" in out


@pytest.mark.parametrize("name", ["net.pt", "net.onnx", "net.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello, this is not a network"])
def test_a_file_that_holds_no_weights_is_one_line(tmp_path, capsys, monkeypatch, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    code, out, err = dirprune(capsys, monkeypatch, "size", path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"dirprune: {path}" in err
    with pytest.raises(CorruptFileError):
        read_weights(path)
    path.unlink()
    assert f"{path}: No such file" in dirprune(capsys, monkeypatch, "size", path)[2]


def test_entries_of_a_state_dict_that_are_no_tensors_are_left_out(tmp_path):
    state = {"weight": torch.ones(2), "_extra_state": {"scale": 3}}
    for content in (state, {"state_dict": state, "epoch": 3}, {"model": {"state_dict": state}}):
        torch.save(content, tmp_path / "net.pt")
        assert read_weights(tmp_path / "net.pt").keys() == {"weight"}


def test_a_pickle_is_not_executed(tmp_path):
    torch.save({"w": torch.zeros(2), "f": print}, tmp_path / "net.pt")
    with pytest.raises(CorruptFileError, match="is not a readable file of weights"):
        read_weights(tmp_path / "net.pt")
    torch.save([torch.zeros(2)], tmp_path / "net.pt")
    with pytest.raises(CorruptFileError, match="holds no state dict"):
        read_weights(tmp_path / "net.pt")
