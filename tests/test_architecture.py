"""Who may import whom, how files are named and how long they may be, and what an import costs."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import directional_pruning

ROOT = Path(directional_pruning.__file__).parent
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
BASE = {"caller", "files", "tensors", "weights", "progress", "layer_kinds"}  # single files below all rooms
GROUND = BASE | {"run_folder"}
LIBRARY = {"optim", "sparsity", "deploy", "landscape", "models", "data"}
# Each room -> the rooms and files it may import, beside itself.
MAY_IMPORT = {
    **dict.fromkeys(LIBRARY, BASE),
    "training": LIBRARY | BASE,
    "runs": LIBRARY | GROUND | {"training"},
    "studies": LIBRARY | GROUND | {"runs"},
    "report": {"files", "run_folder"},
    "cli": LIBRARY | GROUND | {"training", "runs", "studies", "report", "__init__"},
    "files": set(),
    "caller": set(),
    "progress": set(),
    "layer_kinds": set(),
    "tensors": {"files"},
    "weights": {"tensors"},
    "run_folder": {"files"},
    "__init__": LIBRARY,
    "__main__": {"cli"},
}
MOST_LINES = 250
# Kernels may be longer: each is one loop over memory in every variant.
KERNELS = Path("optim") / "kernels"


@cache
def parsed(file):
    return ast.parse((ROOT / file).read_text())


def room_of(file):
    return file.parts[0].removesuffix(".py")


def modules():
    """Every module of the package by its parts, as ("optim", "checks"); a folder's face by the folder's."""
    return {file.with_suffix("").parts if file.stem != "__init__" else file.parent.parts: file for file in FILES}


def imports_of(file, *, at_import_time=False):
    """The modules of the package that a file imports, by their parts, each with the names it takes."""
    package = file.parent.parts
    tree = parsed(file)
    inside = set()
    if at_import_time:
        hidden = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        for node in ast.walk(tree):
            if isinstance(node, hidden) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
                inside |= {id(child) for child in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.ImportFrom):
            if node.level:
                module = (*package[: len(package) - node.level + 1], *(node.module or "").split("."))
            elif (node.module or "").split(".")[0] == "directional_pruning":
                module = tuple(node.module.split(".")[1:])
            else:
                continue
            module = tuple(part for part in module if part)
            names = [alias.name for alias in node.names]
            submodules = [name for name in names if (*module, name) in modules()]
            for name in submodules:
                yield (*module, name), []
            if rest := [name for name in names if name not in submodules]:
                yield module, rest
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "directional_pruning":
                    yield tuple(alias.name.split(".")[1:]), []


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_room_imports_only_the_rooms_it_may(file):
    targets = {module[0] if module else "__init__" for module, _ in imports_of(file)}
    assert targets - {room_of(file)} <= MAY_IMPORT[room_of(file)]


def test_the_command_imports_the_rooms_inside_functions():
    for file in FILES:
        if room_of(file) == "cli":
            assert {module[0] for module, _ in imports_of(file, at_import_time=True)} <= {"cli", "files"}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_another_room_is_entered_by_its_face_alone(file):
    past = [module for module, _ in imports_of(file) if module and module[0] != room_of(file) and len(module) > 1]
    assert not past


def test_the_checks_see_relative_and_absolute_imports():
    assert ("sparsity",) in {module for module, _ in imports_of(Path("training") / "loop.py")}
    assert ("files",) in {module for module, _ in imports_of(Path("training") / "checkpoint.py")}
    assert ("cli",) in {module for module, _ in imports_of(Path("__main__.py"))}
    assert ("optim", "threshold") in {module for module, _ in imports_of(Path("optim") / "functional.py")}


def test_no_module_imports_itself_in_a_circle():
    known = modules()
    graph = {}
    for module, file in known.items():
        graph[module] = {target for target, _ in imports_of(file, at_import_time=True) if target in known} - {module}
    # Submodules name their folder's face only to reach a sibling; the face imports them.
    order = list(TopologicalSorter(graph).static_order())
    assert len(order) >= len(known)


def public_functions(folder):
    """The functions that a folder's face gives out, found where they are defined."""
    face = parsed(folder / "__init__.py")
    exported = {
        name
        for node in ast.walk(face)
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
        for name in ast.literal_eval(node.value)
    }
    functions = {
        node.name
        for file in FILES
        if folder in file.parents
        for node in parsed(file).body
        if isinstance(node, ast.FunctionDef)
    }
    return exported & functions


@pytest.mark.parametrize("file", [file for file in FILES if file.stem not in ("__init__", "__main__")], ids=str)
def test_a_file_has_no_underscore_and_not_the_name_of_a_function_that_its_folder_gives_out(file):
    assert not file.stem.startswith("_")
    assert file.stem not in {name for folder in file.parents for name in public_functions(folder)}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_no_file_is_long(file):
    if KERNELS not in file.parents:
        assert len((ROOT / file).read_text().splitlines()) <= MOST_LINES


def c_functions(text):
    """Each function of a C file with its lines of code: neither blank nor only a comment."""
    text = re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", "", m.group()), text, flags=re.S)
    for match in re.finditer(r"^(?!#)[^\n;{}]*?(\w+)\([^;{}]*\)[ \\]*\{[ \\]*$(.*?)^\}", text, flags=re.M | re.S):
        yield match.group(1), sum(bool(line.strip(" \t\\")) for line in match.group().splitlines())


def python_functions(file):
    """Each function of a Python file with its lines of code: neither blank, nor only a comment, nor the docstring."""
    lines = (ROOT / file).read_text().splitlines()
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.FunctionDef):
            start = node.body[1].lineno if ast.get_docstring(node) and len(node.body) > 1 else node.body[0].lineno
            body = lines[start - 1 : node.end_lineno]
            yield node.name, 1 + sum(bool(line.strip()) and not line.strip().startswith("#") for line in body)


@pytest.mark.parametrize("file", sorted(path.relative_to(ROOT) for path in (ROOT / KERNELS).glob("*.*[cy]")), ids=str)
def test_no_function_of_a_kernel_is_long(file):
    found = list(c_functions((ROOT / file).read_text()) if file.suffix == ".c" else python_functions(file))
    assert all(lines <= 60 for _, lines in found), max(found, key=lambda each: each[1])


def test_the_check_sees_the_functions_of_c_and_python():
    assert {"update_part", "update_range"} <= {name for name, _ in c_functions((ROOT / KERNELS / "cpu.c").read_text())}
    assert "update" in {name for name, _ in python_functions(KERNELS / "cuda.py")}


def loaded_by(statement):
    code = f"{statement}; import sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_help_imports_no_torch():
    modules = loaded_by("import directional_pruning.cli")
    assert "directional_pruning.cli" in modules
    assert not modules & {"torch", "numpy", "matplotlib", "sklearn"}


def test_the_format_of_a_run_needs_no_torch():
    modules = loaded_by("import directional_pruning.run_folder")
    assert not modules & {"torch", "numpy", "matplotlib"}


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
