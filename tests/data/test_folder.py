"""Images in folders."""

import tracemalloc

from directional_pruning.data.folder import Folder


def test_a_folder_keeps_little_more_than_the_names_of_its_files(tmp_path):
    paths = [tmp_path / "cat" / "a" / "Käse 1.png", *(tmp_path / "cat" / f"{i:04}.png" for i in range(1000))]
    paths = [*sorted(paths), tmp_path / "dog" / "x.jpeg"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    Folder(tmp_path, ["cat", "dog"])  # what is imported or cached once does not count
    tracemalloc.start()
    source = Folder(tmp_path, ["cat", "dog"])
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 40 * len(paths)
    assert [source.encoded(i) for i in range(len(source))] == paths
    assert source.name(len(source) - 1) == str(paths[-1])
