"""export_onnx: one file, any batch, the outputs of the network."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from directional_pruning.deploy import onnx as onnx_export
from directional_pruning.deploy.compaction import compact
from directional_pruning.deploy.onnx import export_onnx
from directional_pruning.models import digits_net

pytestmark = pytest.mark.slow


def run(path, *inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_inputs()]
    return torch.from_numpy(session.run(None, {n: x.numpy() for n, x in zip(names, inputs)})[0])


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = digits_net()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p[torch.rand_like(p) < 0.95] = 0
        model.conv2.weight[:20] = 0
        model.norm2.bias[:20] = 0.5
    return model


def test_dense_and_sparse_files_hold_the_same_network(network, tmp_path, capfd):
    dense, sparse = tmp_path / "dense.onnx", tmp_path / "sparse.onnx"
    network.train()
    network.conv1.eval()
    export_onnx(network, torch.randn(1, 1, 8, 8), dense)
    export_onnx(network, torch.randn(1, 1, 8, 8), sparse, sparse=True)
    assert network.training
    assert not network.conv1.training
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense.onnx", "sparse.onnx"]
    assert capfd.readouterr().out == ""

    network.eval()
    for batch in (1, 7):
        x = torch.randn(batch, 1, 8, 8)
        for path in (dense, sparse):
            torch.testing.assert_close(run(path, x), network(x), rtol=0, atol=1e-5)

    whole = {t.name: numpy_helper.to_array(t) for t in onnx.load(dense).graph.initializer}
    proto = onnx.load(sparse)
    onnx.checker.check_model(proto)
    stored = {t.values.name: t for t in proto.graph.sparse_initializer}
    assert "conv3.weight" in stored
    for name, tensor in stored.items():
        values, positions = numpy_helper.to_array(tensor.values), numpy_helper.to_array(tensor.indices)
        assert len(values) == np.count_nonzero(whole[name])
        filled = np.zeros(whole[name].size, whole[name].dtype)
        filled[positions] = values
        assert np.array_equal(filled.reshape(tuple(tensor.dims)), whole[name])
    nonzeros = sum(np.count_nonzero(whole[name]) for name in stored)
    assert str(Path(torch.__file__).parent).encode() not in sparse.read_bytes()  # no paths of this machine
    assert 12 * nonzeros < sparse.stat().st_size < 12 * nonzeros + 10_000 < dense.stat().st_size


def test_a_compact_network_with_two_inputs(network, tmp_path):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.images, self.words = network, nn.Embedding(5, 10)

        def forward(self, images, ids):
            return self.images(images) + self.words(ids).mean(1)

    inputs = (torch.randn(2, 1, 8, 8), torch.randint(5, (2, 4)))
    smaller = compact(Sum(), inputs)
    assert smaller.images.conv2.out_channels < 64
    path = tmp_path / "sum.onnx"
    export_onnx(smaller, inputs, path, sparse=True)
    other = (torch.randn(5, 1, 8, 8), torch.randint(5, (5, 4)))
    torch.testing.assert_close(run(path, *other), smaller(*other), rtol=0, atol=1e-5)


def test_a_file_that_differs_is_refused_and_the_old_one_stays(tmp_path):
    class Shifted(nn.Linear):
        """Computes something else while it is exported."""

        def forward(self, x):
            return super().forward(x) + 1e-3 * torch.compiler.is_exporting()

    path = tmp_path / "model.onnx"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="ONNX Runtime does not run Shifted as torch does: outputs differ by"):
        export_onnx(Shifted(9, 3), torch.randn(1, 9), path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_what_cannot_be_exported_is_named(tmp_path, monkeypatch):
    class Pairs(nn.Module):
        def forward(self, x):
            return x.reshape(2, -1)

    path = tmp_path / "model.onnx"
    with pytest.raises(RuntimeError, match="Pairs cannot be exported to ONNX with any batch"):
        export_onnx(Pairs(), torch.randn(2, 3), path)
    with pytest.raises(TypeError, match="invalid example_inputs: int"):
        export_onnx(Pairs(), 3, path)
    monkeypatch.setattr(onnx_export, "LARGEST_FILE", 100)
    with pytest.raises(ValueError, match="bytes as ONNX"):
        export_onnx(nn.Linear(9, 9), torch.randn(2, 9), path)
    monkeypatch.setitem(sys.modules, "onnx", None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError, match=r"needs onnx: pip install 'directional-pruning\[onnx\]'"):
        export_onnx(Pairs(), torch.randn(2, 3), path)
    assert not list(tmp_path.iterdir())
