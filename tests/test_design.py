"""docs/design.md names files that exist, and all rooms."""

import re
from pathlib import Path

import pytest

import directional_pruning

PACKAGE = Path(directional_pruning.__file__).parent
ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`([\w./]+(?:\.(?:py|c|h|css|toml)|/))`", TEXT)))


@pytest.mark.parametrize("name", NAMES)
def test_every_file_and_folder_it_names_exists(name):
    if "/" in name:
        assert (PACKAGE / name).exists() or (ROOT / name).exists()
    else:
        assert any(PACKAGE.rglob(name)) or any((ROOT / "tests").rglob(name)) or (ROOT / name).exists()


def test_every_room_is_in_the_list_of_folders():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms <= {name.rstrip("/") for name in NAMES}
