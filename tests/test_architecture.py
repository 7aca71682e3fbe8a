"""Who may import whom, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import directional_pruning

ROOT = Path(directional_pruning.__file__).parent
WINGS = {"optim", "sparsity", "landscape", "models", "data"}
# Each part of the package -> the parts it may import from.
MAY_IMPORT = {wing: {wing, "files"} for wing in WINGS} | {
    "training": WINGS | {"training", "files"},
    "report": {"report", "files"},
    "files": set(),
    "__main__": {"cli"},
    "__init__": {"optim", "sparsity"},
}
MODULES = [path for path in ROOT.rglob("*.py") if path.parent != ROOT / "cli"]


def imported_parts(path):
    """The top-level parts of the package that a file imports, at any depth of its code."""
    package = ["directional_pruning", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            targets = [".".join([*base, *([node.module] if node.module else [])])]
            if not node.module:
                targets = [f"{targets[0]}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            continue
        for target in targets:
            if target.startswith("directional_pruning."):
                yield target.split(".")[1]


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(ROOT)) for path in MODULES])
def test_wings_do_not_know_each_other(path):
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert set(imported_parts(path)) <= MAY_IMPORT[part]


def test_the_check_sees_a_relative_and_an_absolute_import():
    assert "sparsity" in set(imported_parts(ROOT / "training" / "fit.py"))
    assert "files" in set(imported_parts(ROOT / "training" / "checkpoint.py"))


def loaded_by(statement):
    code = f"{statement}; import sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_help_imports_no_torch():
    modules = loaded_by("import directional_pruning.cli")
    assert "directional_pruning.cli" in modules
    assert not modules & {"torch", "numpy", "matplotlib", "sklearn"}


def test_the_optimizers_need_torch_alone():
    modules = loaded_by("from directional_pruning import GRDA, grda, prunable_groups, sparsity_report")
    assert "torch" in modules
    assert not modules & {"safetensors", "zstandard", "matplotlib", "sklearn", "typer", "rich"}


def test_every_public_name_can_be_imported():
    for name in directional_pruning.__all__:
        assert getattr(directional_pruning, name).__doc__
    assert set(directional_pruning.__all__) <= set(dir(directional_pruning))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = directional_pruning.nothing
