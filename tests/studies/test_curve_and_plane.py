"""The studies curve and plane, and their commands: of a run and of two checkpoints."""

import json
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from directional_pruning.landscape import CurveValues
from directional_pruning.report import write_report
from directional_pruning.report.plots.landscape import valley_captions, valley_figures
from directional_pruning.report.plots.style import AT_NIGHT, to_svg
from directional_pruning.studies import curve_verdict, examine_curve, examine_plane, load_pair

pytestmark = pytest.mark.slow


def arrays(path):
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def equal(one, other):
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind == "f") for name in one
    )


def test_curve_and_plane_of_a_run(run, dirprune):
    code, out, err = dirprune("plane", run, "--size", 3)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{run} has no curve yet: dirprune curve {run}" in err

    code, out, err = dirprune("curve", run, "--epochs", 1, "--points", 3)
    assert (code, err) == (0, "")
    curve = arrays(run / "curve.npz")
    assert str(curve["verdict"]) in out
    assert f"report: {run}/report.html" in out
    assert curve["names"].tolist() == ["dense baseline", "gRDA"]
    assert curve["t"].tolist() == curve["line_t"].tolist() == [0, 0.5, 1]
    for key in ("loss", "error", "test_loss", "test_error"):
        assert curve[key].shape == (3,)
        assert np.isfinite(curve[key]).all()
        # The same ends, and other points between them.
        assert curve[key][[0, -1]].tolist() == curve[f"line_{key}"][[0, -1]].tolist()
    assert curve["loss"][1] != curve["line_loss"][1]
    assert curve["length"][-1] > curve["line_length"][-1]

    # The ends are the two networks, their batch norm refreshed from the training data.
    pair = load_pair(run)
    for state, at in zip(pair.states, (0, -1)):
        pair.model.load_state_dict(state)
        torch.optim.swa_utils.update_bn([x for x, _ in pair.train], pair.model)
        pair.model.eval()
        sums = [(F.cross_entropy(pair.model(x), y, reduction="sum").item(), len(y)) for x, y in pair.train]
        expected = sum(loss for loss, _ in sums) / sum(count for _, count in sums)
        assert curve["loss"][at] == pytest.approx(expected, rel=1e-5)

    code, out, err = dirprune("plane", run, "--size", 2)
    assert (code, err) == (0, "")
    plane = arrays(run / "plane.npz")
    assert plane["loss"].shape == plane["test_error"].shape == (2, 2)
    assert plane["names"].tolist() == ["dense baseline", "gRDA", "bend"]
    np.testing.assert_allclose(plane["path"][[0, -1]], plane["corners"][:2], atol=1e-6)
    page = (run / "report.html").read_text()
    assert "One valley?" in page
    figures = {"curve-loss", "curve-error", "plane-loss", "plane-error"}
    for name in figures:
        drawn = (run / "figures" / f"{name}.svg").read_text().split("</style>", 1)[1]
        assert set(re.findall(r"(?:fill|stroke): (#\w{6})", drawn)) <= set(AT_NIGHT), name
    assert not list(run.rglob("*.tmp"))


class Stop:
    """Raises at the given call of a progress report, as Ctrl-C would."""

    def __init__(self, at):
        self.left = at

    def __call__(self, task, done, total, record=None):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_stopped_at_any_moment_and_resumed_gives_the_same_numbers(new_pair, monkeypatch):
    (folder, pair), (whole, _) = new_pair("stopped"), new_pair("whole")
    settings = {"epochs": 2, "points": 3}
    verdict = examine_curve(whole, pair, **settings)
    examine_plane(whole, pair, size=2)
    # Each point is saved at once, not once a second.
    monkeypatch.setattr("directional_pruning.studies.store.SECONDS_BETWEEN_WRITES", 0)
    for at in (1, 2, 3, 2, 4):
        with pytest.raises(KeyboardInterrupt):
            examine_curve(folder, pair, **settings, on_progress=Stop(at))
        assert not (folder / "curve.npz").exists()
    assert examine_curve(folder, pair, **settings) == verdict
    assert equal(arrays(folder / "curve.npz"), arrays(whole / "curve.npz"))
    with pytest.raises(KeyboardInterrupt):
        examine_plane(folder, pair, size=2, on_progress=Stop(3))
    seen = []
    examine_plane(folder, pair, size=2, on_progress=lambda task, done, total: seen.append((done, total)))
    assert seen == [(2, 4), (3, 4), (4, 4)]
    assert equal(arrays(folder / "plane.npz"), arrays(whole / "plane.npz"))

    # Again, there is nothing left to do; with other settings there is.
    seen = []
    examine_curve(folder, pair, **settings, on_progress=lambda *progress: seen.append(progress))
    assert seen == [("measuring the curve", 3, 3), ("measuring the straight line", 3, 3)]
    examine_curve(folder, pair, **{**settings, "lr": 0.01})
    assert not equal(arrays(folder / "curve.npz"), arrays(whole / "curve.npz"))


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_two_checkpoints_of_other_code(checkpoints, dirprune, suffix):
    pair = ("--between", f"a.{suffix}", f"b.{suffix}", "--model", "mine:model", "--data", "mine:data")
    command = ("curve", *pair, "--out", "out", "--epochs", 1, "--points", 3)
    code, out, err = dirprune(*command)
    assert (code, err) == (0, "")
    curve = arrays(checkpoints / "out" / "curve.npz")
    assert curve["names"].tolist() == [f"a.{suffix}", f"b.{suffix}"]
    assert str(curve["verdict"]) in out
    assert np.isfinite(curve["test_error"]).all()
    config = json.loads((checkpoints / "out" / "config.json").read_text())
    assert config["between"] == [str(checkpoints / f"{name}.{suffix}") for name in "ab"]
    page = (checkpoints / "out" / "report.html").read_text()
    assert f"a.{suffix}" in page
    assert "dense baseline" not in page
    # The same command resumes; for other networks it refuses the folder.
    assert dirprune(*command)[0] == 0
    other = [arg if arg != "mine:data" else "mine:data_without_test" for arg in command]
    code, _, err = dirprune(*other)
    assert (code, err) == (2, "dirprune: out exists and compares other networks; give another --out\n")
    # The folder is as good as a run.
    assert dirprune("plane", "out", "--size", 2)[0] == 0
    assert arrays(checkpoints / "out" / "plane.npz")["names"].tolist()[2] == "bend"


def test_without_test_data_the_training_error_is_shown(checkpoints, dirprune):
    pair = ("--between", "a.pt", "b.safetensors", "--model", "mine:model", "--data", "mine:data_without_test")
    code, _, err = dirprune("curve", *pair, "--out", "out", "--epochs", 1, "--points", 2)
    assert (code, err) == (0, "")
    assert np.isnan(arrays(checkpoints / "out" / "curve.npz")["test_loss"]).all()
    assert "training error, %" in (checkpoints / "out" / "figures" / "curve-error.svg").read_text()


def values(loss):
    t, loss = torch.linspace(0, 1, len(loss), dtype=torch.float64), torch.tensor(loss, dtype=torch.float64)
    return CurveValues(t, t, loss, loss, loss, loss)


def test_the_verdict_follows_its_criterion():
    line = values([0.1, 3.0, 0.2])
    assert "one valley (at most 0.01 above the ends)" in curve_verdict(values([0.1, 0.2099, 0.2]), line, 0.01)
    assert "a barrier of 0.02 (more than 0.01)" in curve_verdict(values([0.1, 0.22, 0.2]), line, 0.01)
    assert "one valley" in curve_verdict(values([0.1, 0.22, 0.2]), line, 0.05)
    for bad in (math.nan, math.inf):
        verdict = curve_verdict(values([0.1, bad, 0.2]), line, 0.01)
        assert verdict == "the loss on the curve is not finite at t = 0.5, ends 0.1 and 0.2: not one valley"


@pytest.mark.parametrize("name", ["curve.npz", "plane.npz"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", "lacks", "shape", "pickle"])
def test_the_report_names_a_broken_file_of_arrays(run, name, content):
    path = run / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "lacks":
        np.savez(path, t=np.zeros(2))
    elif content == "pickle":
        np.savez(path, **{key: np.array([{}], dtype=object) for key in ("t", "x")})
    else:
        along = ("t", "length", "loss", "error", "test_loss", "test_error")
        np.savez(
            path,
            **{key: np.zeros(3) for key in (*along, *(f"line_{key}" for key in along), "x", "y", "corners", "path")}
            | {"line_loss": np.zeros(4), "names": np.array(["a", "b"]), "verdict": np.array("well")},
        )
    with pytest.raises(ValueError, match=str(path)) as caught:
        write_report(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 0.0, 2.5, -1.0])
def test_pictures_of_any_numbers_can_be_drawn(loss):
    along = {key: np.full(3, loss) for key in ("loss", "error", "test_loss", "test_error")} | {
        "t": np.linspace(0, 1, 3)
    }
    curve = along | {f"line_{key}": value for key, value in along.items()}
    curve |= {"names": np.array(["one", "other" * 9]), "verdict": np.array("well")}
    square = {key: np.full((2, 2), loss) for key in ("loss", "error", "test_loss", "test_error")}
    square["loss"][0, 0] = 1.0
    plane = square | {"x": np.array([0.0, 1.0]), "y": np.array([0.0, 1.0]), "names": np.array(["one", "other", "bend"])}
    plane |= {"corners": np.array([[0, 0], [1, 0], [0.5, 0.5]]), "path": np.zeros((0, 2))}
    figures, captions = valley_figures(curve, plane), valley_captions(curve, plane)
    assert figures["curve-loss"] is not None
    for name, figure in figures.items():
        assert (figure is None) == ("error" in name and not math.isfinite(loss))
        if figure is not None:
            assert "<svg" in to_svg(figure, captions[name][1])
    assert ("not finite" in to_svg(figures["curve-loss"])) == (not math.isfinite(loss))
