"""The tables of the documentation are those of benchmarks/results/, and every result has its evidence."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tables

PAGES = [tables.ROOT / "README.md", *sorted((tables.ROOT / "docs").glob("*.md"))]
RESULTS = sorted(tables.RESULTS.glob("*.json"))


def test_the_tables_are_those_of_the_results():
    command = [sys.executable, Path(tables.__file__), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_number_that_someone_changed_in_a_page_is_written_again():
    page = f"Before\n<!-- table: digits -->\n{tables.table('digits')}<!-- end -->\nAfter: 99.33 %\n"
    assert "| 99.33 % |" in page
    assert tables.rewritten(page.replace("| 99.33 % |", "| 99.34 % |")) == page


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_every_result_has_its_evidence(path):
    result = json.loads(path.read_text(encoding="utf-8"))
    evidence = {"title", "command", "data", "seeds", "machine", "versions", "date"}
    assert evidence <= set(result)
    assert all(result[key] for key in evidence)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d|not recorded", result["date"])
    assert {"python", "torch"} <= set(result["versions"])
    assert tables.table(path.stem).count("\n") == 2 + len(result["rows"])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_marker_of_a_page_is_closed_and_names_a_result(page):
    text = page.read_text(encoding="utf-8")
    names = [match[2] for match in tables.TABLE.finditer(text)]
    assert len(names) == text.count("<!-- table: ") == text.count("<!-- end -->")
    assert set(names) <= {path.stem for path in RESULTS}


@pytest.mark.parametrize(
    ("row", "pattern", "text"),
    [
        ('{"x": 0.570}', "{x}", "0.570"),
        ('{"x": 0.2055}', "{x:.1%}", "20.6 %"),
        ('{"x": 0.000016}', "{x:.1e}", "1.6e-5"),
        ('{"x": 15245130}', "{x:,}", "15,245,130"),
        ('{"x": [0.020, 0.019]}', "{x}", "0.020, 0.019"),
        ('{"x": "no zeros"}', "{x:.1%}", "no zeros"),
        ('{"text": {"header": "the same"}}', "{x:.1%}", "the same"),
    ],
)
def test_a_cell_is_its_pattern_with_the_values_of_the_row(row, pattern, text):
    assert tables.cell(tables.read(row), "header", pattern) == text
