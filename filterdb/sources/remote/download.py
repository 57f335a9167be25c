"""Whole files from plain servers, kept in the folder where torch.hub and timm keep theirs."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from filterdb.errors import HubError
from filterdb.sources.options import Progress
from filterdb.sources.remote.http import download


def cached_download(url: str, path: Path, what: str, progress: Progress | None) -> int:
    """Fetch ``url`` into ``path`` unless it is there. Returns the bytes that were moved.

    The hosts of timm and torchvision write the first digits of the SHA-256 into the file's name; they are checked.
    """
    if path.is_file():
        return 0
    done = 0

    def moved(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, None)

    size = download(url, path, what, moved)
    named = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if named:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not digest.startswith(named[1]):
            path.unlink()
            raise HubError(
                f"{what}: the downloaded file has the SHA-256 {digest[:8]}..., not {named[1]} as its name says. Try again."
            )
    return size
