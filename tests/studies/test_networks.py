"""Two networks to compare: errors name the argument or the file."""

import pytest
import torch


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--model": "mine"}, "invalid model: mine (must be package.module:function"),
        ({"--model": "mine:nothing"}, "invalid model: mine:nothing (must be package.module:function"),
        ({"--model": "nowhere:model"}, "invalid model: nowhere:model (must be package.module:function; No module"),
        ({"--model": "mine:number"}, "invalid model: mine:number (must be a function)"),
        ({"--model": "mine:no_model"}, "invalid model: mine:no_model (must return a torch.nn.Module)"),
        ({"--data": "mine:no_model"}, "invalid data: mine:no_model (must return {'train': batches"),
        ({"--loss": "mine:nothing"}, "invalid loss: mine:nothing"),
        ({"--epochs": "0"}, "invalid epochs: 0"),
        ({"--points": "1"}, "invalid points: 1"),
        ({"--tolerance": "-1"}, "invalid tolerance: -1.0"),
        ({"--out": None}, "--between A B needs --model, --data and --out"),
    ],
)
def test_mistakes_are_one_line(checkpoints, dirprune, changes, message):
    options = {"--model": "mine:model", "--data": "mine:data", "--out": "out", "--epochs": "1", "--points": "2"}
    options = {name: value for name, value in (options | changes).items() if value is not None}
    flags = [part for option in options.items() for part in option]
    code, _, err = dirprune("curve", "--between", "a.pt", "b.pt", *flags)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK broken", "b.pt is not a readable file of weights"),
        (None, "b.pt: No such file or directory"),
        ({"epoch": 3}, "b.pt: holds no state dict"),
        ([torch.zeros(2)], "b.pt: holds no state dict"),
        ({"state_dict": {"0.weight": torch.zeros(2)}}, "invalid end: entry '0.weight' has shape (2,)"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_named(checkpoints, dirprune, content, message):
    path = checkpoints / "b.pt"
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    flags = ("--model", "mine:model", "--data", "mine:data", "--out", "out")
    code, _, err = dirprune("curve", "--between", "a.pt", "b.pt", *flags)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_a_run_or_two_checkpoints_not_both(run, dirprune):
    for args in ((), (run, "--model", "mine:model"), (run, "--between", "a", "b", "--model", "m", "--data", "d")):
        code, _, err = dirprune("curve", *args)
        assert (code, err.count("\n")) == (2, 1)
    (run / "grda" / "model.safetensors").unlink()
    code, _, err = dirprune("curve", run)
    assert (code, err) == (2, f"dirprune: {run}/grda/model.safetensors: No such file or directory\n")
