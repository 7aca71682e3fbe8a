"""Export a network as one ONNX file, for other runtimes."""

import logging
import os
import warnings
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..files import replacing
from ..tensors import module_mode
from ..weights import plain_network
from .comparison import relative_difference

__all__ = ["export_onnx"]

LARGEST_FILE = 2**31  # bytes; the limit of a protobuf message
_TOLERANCE = 1e-5  # rounding of float32 sums in another order


def export_onnx(model: nn.Module, example_inputs: Any, path: str | os.PathLike[str], *, sparse: bool = False) -> None:
    """Write a network to one ``.onnx`` file that takes any batch, and check it.

    Args:
        model: any network that ``torch.export`` takes, the result of ``compact`` included. It is exported in
            evaluation mode and not changed.
        example_inputs: a tensor, or a tuple of the arguments of ``forward``; dimension 0 of each tensor is the batch.
        path: the file; an old file is replaced when the new one is complete and checked.
        sparse: store a tensor by its nonzeros where that is smaller. In float32 a nonzero takes 12 bytes, 4 for its
            value and 8 for its position, so this pays from 67 % zeros. It makes the file smaller and nothing faster:
            ONNX Runtime turns sparse tensors into dense ones when it loads them, and some other runtimes refuse them.
            A network gets faster without its dead channels: ``compact`` it first.

    If ONNX Runtime is installed, it runs the file on the example, on its first sample and on one more sample. Outputs
    may differ from the network's by 1e-5 of the largest one or of 1, in half precision by ten roundings.

    Raises:
        ModuleNotFoundError: onnx or onnxscript is not installed.
        RuntimeError: the network cannot be exported for every batch size, or ONNX Runtime cannot run it or gives other
            outputs. Then no file is written, and an old one stays.
        ValueError: the file would be 2 GiB or larger; ONNX would need several files for that.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "model.onnx"
        ...     export_onnx(nn.Linear(3, 2), torch.ones(1, 3), path)
        ...     [file.name for file in Path(folder).iterdir()]
        ['model.onnx']
    """
    for package in ("onnx", "onnxscript"):
        if find_spec(package) is None:
            message = f"export_onnx needs {package}: pip install 'directional-pruning[onnx]'"
            raise ModuleNotFoundError(message, name=package)
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    if not any(isinstance(x, Tensor) and x.ndim for x in inputs):
        kind = type(example_inputs).__name__
        raise TypeError(f"invalid example_inputs: {kind} (must be a tensor with a batch, or a tuple with one)")
    model = plain_network(model)  # else the file has the masks too
    with module_mode(model, training=False), torch.no_grad():
        proto = _export(model, inputs)
        if sparse:
            _make_sparse(proto)
        if proto.ByteSize() >= LARGEST_FILE:
            raise ValueError(
                f"invalid model: {proto.ByteSize():,} bytes as ONNX (one file must be below {LARGEST_FILE:,})"
            )
        with replacing(path) as temporary:
            temporary.write_bytes(proto.SerializeToString())
            if find_spec("onnxruntime") is not None:
                _check(model, inputs, temporary)


def _batches(inputs: tuple, rows: Any) -> tuple:
    """The inputs with other samples of the batch: ``rows`` maps the batch size to the positions to take."""
    return tuple(x[rows(len(x))] if isinstance(x, Tensor) and x.ndim else x for x in inputs)


def _export(model: nn.Module, inputs: tuple) -> Any:
    # The exporter would take a batch of one for a constant.
    inputs = _batches(inputs, lambda n: [*range(n), 0])
    shapes = tuple({0: "batch"} if isinstance(x, Tensor) and x.ndim else None for x in inputs)
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        # The exporter prints its progress, and warnings about its own dependencies.
        with redirect_stdout(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(model, inputs, dynamo=True, dynamic_shapes=shapes, verbose=False)
    except Exception as error:
        reason = _one_line(error.__cause__ or error)
        raise RuntimeError(f"{type(model).__name__} cannot be exported to ONNX with any batch: {reason}") from error
    finally:
        logging.disable(level)
    proto: Any = program.model_proto  # type: ignore[union-attr]
    # The exporter stores at each node the path of its source file on this machine.
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        for node in nodes:
            node.ClearField("metadata_props")
    return proto


def _make_sparse(proto: Any) -> None:
    """Store initializers by position and value of their nonzeros, where that takes fewer bytes."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    kinds = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
    for dense in [tensor for tensor in proto.graph.initializer if tensor.data_type in kinds]:
        array = numpy_helper.to_array(dense)
        positions = np.flatnonzero(array)
        if len(positions) * (8 + array.itemsize) >= array.nbytes:
            continue
        values = numpy_helper.from_array(array.reshape(-1)[positions], dense.name)
        indices = numpy_helper.from_array(positions.astype(np.int64))
        proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, array.shape))
        proto.graph.initializer.remove(dense)


def _check(model: nn.Module, inputs: tuple, path: Path) -> None:
    """Raise RuntimeError unless ONNX Runtime computes the outputs of the network from the file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # no log: errors are raised
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for sample in (inputs, _batches(inputs, lambda n: [0]), _batches(inputs, lambda n: [*range(n), 0])):
            names = [x.name for x in session.get_inputs()]
            arrays = [x.detach().cpu().numpy() for x in sample if isinstance(x, Tensor)]
            actual = session.run(None, dict(zip(names, arrays, strict=True)))
            expected = [x.cpu() for x in tree_leaves(model(*sample)) if isinstance(x, Tensor)]
            for a, b in zip(expected, map(torch.from_numpy, actual), strict=True):
                difference, allowed = relative_difference(a, b, floor=1.0), _tolerance(a.dtype)
                if not difference <= allowed:
                    raise RuntimeError(f"outputs differ by {difference:.1e} of the largest (at most {allowed:.0e})")
    except Exception as error:
        raise RuntimeError(
            f"ONNX Runtime does not run {type(model).__name__} as torch does: {_one_line(error)}"
        ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _tolerance(dtype: torch.dtype) -> float:
    """The largest relative difference allowed: integers must be equal."""
    return max(_TOLERANCE, 10 * torch.finfo(dtype).eps) if dtype.is_floating_point else 0.0
