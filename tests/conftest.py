"""What the tests need of the machine."""

import signal
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

# A job in the background of a script ignores Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def stand_in_for_torchvision():
    """Declare the two operators torchvision needs to be imported, where its library does not load.

    Wheels of torchvision are built against a CUDA torch; beside a CPU-only one their library fails, silently, and the
    import then ends in "operator torchvision::nms does not exist". timm and torchmetrics import torchvision.
    """
    package = find_spec("torchvision")
    if package is None or package.origin is None:
        return None
    folder = Path(package.origin).parent
    try:
        # Until 0.28 the library is named _C, from 0.29 on _C_stable.
        torch.ops.load_library(str(next(folder.glob("_C*"), folder / "_C.so")))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library  # the operators live as long as this
    return None


_torchvision = stand_in_for_torchvision()


@pytest.fixture(scope="module")
def one_thread():
    """For networks so small that threads wait longer than they compute, much longer where other programs run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
