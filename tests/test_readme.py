"""The examples of the README run as they stand, one after the other, and print what it shows."""

import re
import warnings
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n", README, re.DOTALL)


def run(example: str, names: dict[str, object]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec(compile(example, "README.md", "exec"), names)
    return [str(warning.message) for warning in caught if warning.category is UserWarning]


def shown_after(example: str) -> str:
    """The first indented block after the example, without its line breaks."""
    block = re.search(r"\n((?:    .*\n)+)", README[README.index(example) + len(example) :])
    assert block
    return " ".join(block[1].split())


@pytest.mark.slow
def test_the_first_example_prints_what_the_readme_shows_and_its_network_is_shipped_as_described(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    assert run(EXAMPLES[0], names) == []
    printed, shown = " ".join(capsys.readouterr().out.split()), shown_after(EXAMPLES[0])
    # Another processor rounds differently: the same words, and nearly the same numbers.
    assert re.sub(r"[\d.,]+", "0", printed) == re.sub(r"[\d.,]+", "0", shown)
    zeros, expected = (float(re.findall(r"([\d.]+)%", text)[-2]) for text in (printed, shown))
    assert abs(zeros - expected) < 2
    run(EXAMPLES[3], names)
    assert (tmp_path / "model.onnx").stat().st_size > (tmp_path / "model.sparse.safetensors").stat().st_size


def test_the_watched_example_prints_the_warning_and_the_figures_that_the_readme_shows(capsys):
    (warning,) = run(EXAMPLES[1], {})
    shown = shown_after(EXAMPLES[1])
    assert f"UserWarning: {warning}" in shown
    assert capsys.readouterr().out.strip() in shown


def test_the_example_of_directional_runs():
    assert run(EXAMPLES[2], {}) == []
