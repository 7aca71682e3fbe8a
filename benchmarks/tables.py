"""Write the tables of README.md and docs/ from the files in benchmarks/results/.

    python benchmarks/tables.py [--check]

A table stands between the lines ``<!-- table: NAME -->`` and ``<!-- end -->`` and comes from ``NAME.json``. With
``--check`` nothing is written; the exit status is 1 where a page differs from its files.
"""

import argparse
import json
import re
import string
from decimal import Decimal
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TABLE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


class Cells(string.Formatter):
    """Percent as the pages write it, 92.1 %; a list as its items; a text as it stands, whatever the format."""

    def format_field(self, value, format_spec):
        if isinstance(value, list):
            return ", ".join(self.format_field(item, format_spec) for item in value)
        return value if isinstance(value, str) else format(value, format_spec).replace("%", " %")


def read(text):
    """JSON whose numbers keep their digits: 0.570 stays 0.570, and 0.2055 is rounded as a decimal number."""
    return json.loads(text, parse_float=Decimal)


def rows_of(result):
    """The rows of a result, each with the record that has the same keys, where there are records."""
    if "records" not in result:
        return result["rows"]
    keys = result["records"]["by"]
    lines = (RESULTS / result["records"]["file"]).read_text(encoding="utf-8").splitlines()
    records = {tuple(record[key] for key in keys): record for record in map(read, lines)}
    return [{**records[tuple(row[key] for key in keys)], **row} for row in result["rows"]]


def cell(row, header, template):
    texts = row.get("text", {})
    return texts[header] if header in texts else Cells().vformat(template, (), row)


def table(name):
    """The Markdown table of one result."""
    result = read((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    columns = result["columns"]
    lines = [[header for header, _ in columns]]
    lines += [[cell(row, header, template) for header, template in columns] for row in rows_of(result)]
    head, *body = ["|" + "".join(f" {text} |" if text else " |" for text in line) + "\n" for line in lines]
    return head + "|" + "---|" * len(columns) + "\n" + "".join(body)


def rewritten(page):
    """The text of a page with its tables written again."""
    return TABLE.sub(lambda match: match[1] + table(match[2]) + match[3], page)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page differs")
    check = parser.parse_args().check
    stale = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        old = path.read_text(encoding="utf-8")
        if (new := rewritten(old)) != old:
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(new, encoding="utf-8")
    if stale:
        print("differs from benchmarks/results/, run `make tables`:" if check else "written:", ", ".join(stale))
    raise SystemExit(bool(check and stale))


if __name__ == "__main__":
    main()
