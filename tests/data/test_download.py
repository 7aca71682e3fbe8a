"""Downloads, from a file instead of the network."""

import hashlib
import urllib.error
import urllib.request

import pytest
import torch
from data_samples import archived, small_cifar, write_pickles

from directional_pruning.data import cifar10
from directional_pruning.data.download import cache_folder, fetch
from directional_pruning.files import CorruptFileError


@pytest.fixture
def archive(tmp_path):
    return archived(tmp_path, write_pickles, "cifar-10-batches-py", "cifar-10-python.tar.gz", 10)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache folder, empty, and no other folder of data."""
    monkeypatch.delenv("DIRPRUNE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache_folder().mkdir(parents=True)
    assert cache_folder().is_relative_to(tmp_path)
    return cache_folder()


def test_a_file_is_downloaded_once_and_with_its_checksum(archive, tmp_path):
    content, url, path = archive.read_bytes(), archive.as_uri(), tmp_path / "new folder" / "copy.tar.gz"
    md5 = hashlib.md5(content).hexdigest()
    assert fetch(url, path, md5) == path
    assert path.read_bytes() == content
    archive.unlink()
    assert fetch(url, path, md5) == path
    assert list(path.parent.iterdir()) == [path]


def test_cifar_is_read_from_the_cache_folder(archive, cache):
    archive.rename(cache / archive.name)
    assert torch.equal(cifar10(validation=0).train.images, small_cifar(10)[0])


def test_cifar_with_another_checksum_leaves_nothing_behind(archive, cache, monkeypatch):
    urls, open_url = [], urllib.request.urlopen

    def open_archive(url, **options):
        urls.append(url)
        return open_url(archive.as_uri(), **options)

    monkeypatch.setattr(urllib.request, "urlopen", open_archive)
    with pytest.raises(
        CorruptFileError, match=r"is not the data set: its MD5 is .*, not c58f30108f718f92721af3b95e74349a"
    ):
        cifar10()
    assert urls == ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"]
    assert list(cache.iterdir()) == []


def test_without_a_network_the_message_says_what_to_do(cache, monkeypatch):
    def fails(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", fails)
    message = r"cifar-10-python.tar.gz cannot be downloaded \(no route to host\): name a folder that has it with --data"
    with pytest.raises(FileNotFoundError, match=message) as caught:
        cifar10()
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []
