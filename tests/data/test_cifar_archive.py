"""A pickle of CIFAR cannot run code."""

import os

import pytest
from data_samples import write_pickles

from directional_pruning.data import cifar10
from directional_pruning.files import CorruptFileError


class Malicious:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_that_would_run_a_command_runs_nothing(protocol, tmp_path):
    mark = tmp_path / "ran"
    folder = write_pickles(tmp_path / "cifar", 10, protocol, more=Malicious(f"touch {mark}"))
    with pytest.raises(
        CorruptFileError, match=r"data_batch_1 is not a readable batch of CIFAR-10: it names \w+.system"
    ):
        cifar10(folder=folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["builtins.eval", "numpy.load", "numpy.core.multiarray.fromstring", "builtins.getattr"]
)
def test_nothing_that_a_pickle_names_is_looked_up(name, tmp_path):
    folder = write_pickles(tmp_path / "cifar", 10)
    module, function = name.rsplit(".", 1)
    (folder / "data_batch_1").write_bytes(f"c{module}\n{function}\n(S'1'\ntR.".encode())
    with pytest.raises(CorruptFileError, match=f"it names {name}"):
        cifar10(folder=folder)
