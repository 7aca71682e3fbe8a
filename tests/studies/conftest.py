"""A finished run, two checkpoints of other code, and the command in this process."""

import shutil
import sys
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from torch import nn

from directional_pruning import cli
from directional_pruning.runs import create_run, digits_recipe, train_run
from directional_pruning.studies import create_pair

# A user's module.
MINE = """
import torch
from torch import nn

def model():
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))

def data():
    made = torch.Generator().manual_seed(0)
    batches = [(torch.randn(8, 5, generator=made), torch.randint(0, 3, (8,), generator=made)) for _ in range(4)]
    return {"train": batches[:3], "test": batches[3:]}

def data_without_test():
    return {"train": data()["train"]}

def no_model():
    return 3

number = 3
"""


@pytest.fixture(autouse=True)
def _process():
    """Undo what a command sets for the whole process: threads and denormal numbers.

    One thread: threads of networks so small mostly wait for each other, very long where other programs run too.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    create_run(folder, replace(digits_recipe(), epochs=2), torch.device("cpu"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train_run(folder)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A new copy of a run of two epochs."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """The current folder, with two checkpoints ``a`` and ``b`` in two formats and the module ``mine``."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        state = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).state_dict()
        safetensors.torch.save_file(state, f"{name}.safetensors")
        torch.save({"epoch": 3, "state_dict": state}, f"{name}.pt")
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.fixture
def new_pair(checkpoints):
    """A function that makes a folder for the two checkpoints: its path and the pair."""

    def make(name="pair", files=("a.pt", "b.pt")):
        first, second = (checkpoints / file for file in files)
        loss = "torch.nn.functional:cross_entropy"
        return checkpoints / name, create_pair(checkpoints / name, first, second, "mine:model", "mine:data", loss)

    return make


@pytest.fixture
def dirprune(monkeypatch, capsys):
    """Run the command in this process: its exit code, standard output and standard error."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["dirprune", *map(str, args)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

    return run
