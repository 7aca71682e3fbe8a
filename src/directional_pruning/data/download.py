"""Download a data set once, into a cache folder."""

import hashlib
import os
import sys
import urllib.request
from pathlib import Path

from ..files import CorruptFileError, append, replacing

__all__ = ["cache_folder", "fetch"]


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/directional-pruning``, by default in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "directional-pruning"


def fetch(url: str, path: Path, md5: str) -> Path:
    """Return ``path``; download it from ``url`` if it does not exist. A partial download is never left at ``path``.

    Progress is shown if standard error is a terminal.

    Raises:
        FileNotFoundError: if the file cannot be downloaded.
        CorruptFileError: if the downloaded file has another checksum.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, done, show_progress = hashlib.md5(usedforsecurity=False), 0, sys.stderr.isatty()
    with replacing(path) as temporary:
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                total = int(response.headers.get("Content-Length") or 0)
                while chunk := response.read(1 << 20):
                    digest.update(chunk)
                    append(temporary, chunk)
                    done += len(chunk)
                    if show_progress:
                        of = f" of {total / 1e6:.0f}" if total else ""
                        print(f"\r{path.name}: {done / 1e6:.0f}{of} MB", end="", file=sys.stderr, flush=True)
        except OSError as error:
            if error.filename is not None:  # the disk, not the network
                raise
            reason = getattr(error, "reason", None) or error
            raise FileNotFoundError(
                f"{path} is not there, and {url} cannot be downloaded ({reason}): name a folder that has it with --data"
            ) from error
        finally:
            if show_progress and done:
                print(file=sys.stderr)
        if digest.hexdigest() != md5:
            raise CorruptFileError(f"what {url} sent is not the data set: its MD5 is {digest.hexdigest()}, not {md5}")
    return path
