"""Saved results: valid for their settings alone."""

import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator

from directional_pruning.files import CorruptFileError
from directional_pruning.studies.store import SavedProducts, SavedRows, discard_outdated, load_arrays, save_arrays


def test_arrays_of_other_settings_or_of_a_broken_file_are_not_there(tmp_path):
    path = tmp_path / "result.npz"
    assert load_arrays(path, seed=3) == {}
    save_arrays(path, x=np.arange(3), seed=3)
    assert load_arrays(path, seed=3)["x"].tolist() == [0, 1, 2]
    assert load_arrays(path, seed=4) == load_arrays(path, settings="") == {}
    with open(path, "wb") as file:
        np.save(file, np.arange(3))
    assert load_arrays(path, seed=3) == {}
    path.write_bytes(b"PK\x03\x04 cut short")
    assert load_arrays(path, seed=3) == {}


def test_rows_are_read_under_the_same_settings_only(tmp_path):
    path = tmp_path / "points.json"
    rows = SavedRows(path, {"points": 3})
    rows.recorder("curve", 3, lambda *progress: None)([(1.5, float("nan"))])
    rows.write()
    ((loss, error),) = SavedRows(path, {"points": 3}).of("curve")
    assert loss == 1.5
    assert np.isnan(error)
    assert SavedRows(path, {"points": 4}).of("curve") == ()


@pytest.mark.parametrize("content", ["", "[]", '{"settings": '])
def test_a_broken_file_of_settings_or_rows_is_named(tmp_path, content):
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(CorruptFileError, match=r"settings.json is not readable \(.*\); remove it to start anew"):
        SavedRows(tmp_path / "settings.json", {})
    with pytest.raises(CorruptFileError, match=r"settings.json is not readable"):
        discard_outdated(tmp_path / "checkpoint.pt", {})


def test_a_file_of_other_or_unknown_settings_is_deleted(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for settings, remains in (({"lr": 1}, False), ({"lr": 1}, True), ({"lr": 2}, False), ({"lr": 2}, True)):
        path.touch()
        discard_outdated(path, settings)
        assert path.exists() == remains


def test_products_are_computed_once_for_the_same_vectors_and_settings(tmp_path):
    matrix, vectors, counts = np.diag([1.0, 2.0, 3.0]), np.eye(3), []
    operator = aslinearoperator(matrix)

    class Refusing:
        dtype, shape = operator.dtype, operator.shape

        def matvec(self, v):
            raise AssertionError("computed")

    def products(of, settings):
        saved = SavedProducts(of, tmp_path / "products.bin", settings, counts.append)
        return [saved.matvec(v).tolist() for v in vectors]

    assert products(operator, "k=2") == products(Refusing(), "k=2") == matrix.tolist()
    assert counts == [1, 2, 3, 1, 2, 3]
    with pytest.raises(AssertionError, match="computed"):
        products(Refusing(), "k=3")
    # Another vector makes its record and all later ones invalid.
    products(operator, "k=2")
    vectors = vectors[[0, 2, 1]]
    assert products(operator, "k=2") == matrix[[0, 2, 1]].tolist()
    assert products(Refusing(), "k=2") == matrix[[0, 2, 1]].tolist()


def test_a_damaged_product_is_computed_again(tmp_path):
    path, vector = tmp_path / "products.bin", np.ones(3)

    def product():
        return SavedProducts(aslinearoperator(np.diag([1.0, 2.0, 3.0])), path, "k=2", print).matvec(vector).tolist()

    assert product() == [1.0, 2.0, 3.0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:])
    assert product() == [1.0, 2.0, 3.0]
    assert path.read_bytes() == whole
