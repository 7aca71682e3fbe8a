"""The page about failures names tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/failures.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


def functions(path):
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_the_page_of_failures_names_exists():
    missing = [f"{file}::{name}" for file, name in NAMED if name not in functions(ROOT / file)]
    assert not missing, missing


def test_every_row_of_the_page_of_failures_names_a_test():
    page = re.sub(r"<!-- table: .*?<!-- end -->", "", PAGE, flags=re.DOTALL)  # figures of benchmarks/results/
    rows = [
        line for line in page.splitlines() if line.startswith("|") and not re.match(r"\| what goes wrong|\|-", line)
    ]
    assert [row for row in rows if "::" not in row] == []
