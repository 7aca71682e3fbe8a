"""A small sample of the faults of benchmarks/faults.py: full disks, kills, damaged files."""

import faults
import pytest
import torch

from directional_pruning.runs import RECIPES

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def base(tmp_path_factory, one_thread):
    folder, recipe = tmp_path_factory.mktemp("base"), RECIPES["digits"]
    faults.use_few_images()
    faults.import_all(folder)
    yield faults.Base(folder)
    RECIPES["digits"] = recipe
    torch.set_flush_denormal(False)


@pytest.mark.parametrize(("one", "count"), [(faults.fill_disk, 5), (faults.kill, 4), (faults.damage_file, 23)])
def test_nothing_is_lost_by_full_disks_kills_and_damaged_files(tmp_path, base, one, count):
    assert faults.inject(base, tmp_path, one.__name__, one, count, seed=7) == 0
