"""The place of a database: a folder, or an address on an object store such as ``s3://bucket/filters``.

Files go through pyarrow's file systems, so both are one mechanism. A folder has locks that the operating system keeps. An object
store has none: processes of one machine lock each other out all the same, and between machines Delta's own check of concurrent
commits refuses the second of two that replace the same model.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from filelock import FileLock, Timeout
from pyarrow import fs

from filterdb.errors import StoreError

LOCK_SECONDS = 120.0
STAGING = ".staging"
"""The local folder for files that are being written, and for locks."""
FORBIDDEN = set("?#%\n\r\0") | ({"\\"} if os.sep == "/" else set())
"""Delta's library reads a path as a part of an address, where these mean something else."""


class Place:
    """A folder or an object-store address, and the files below it by their relative paths."""

    def __init__(self, where: str):
        """
        Args:
            where: a path, or an address with a scheme that pyarrow and Delta both know (s3, gs, file).

        Raises:
            StoreError: the address or path cannot be a database.
        """
        self.remote = "://" in where
        if self.remote:
            try:
                # Small files go up in one request, not in the parts that Arrow would begin before it knows the size.
                option = ("&" if "?" in where else "?") + "allow_delayed_open=true" if where.startswith("s3:") else ""
                self.files, self._base = fs.FileSystem.from_uri(where + option)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise StoreError(f"{where} is not an address of an object store: {' '.join(str(error).split())[:200]}") from error
            self.uri = where.split("?")[0].rstrip("/")
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "filterdb"
            self.scratch = cache / hashlib.blake2b(self.uri.encode(), digest_size=8).hexdigest()
            return
        self.files, path = fs.LocalFileSystem(), Path(where).expanduser().absolute()
        if bad := sorted(set(str(path)) & FORBIDDEN):
            raise StoreError(f"{path}: a database's path cannot have {' '.join(map(repr, bad))} in it. Choose another folder.")
        if path.exists() and not path.is_dir():
            raise StoreError(f"{path} is a file, not a database folder.")
        self.uri = self._base = str(path)
        self.scratch = path
        """A local folder for what is ours alone: staging, locks, indexes. The database's own where that is local."""

    def __str__(self) -> str:
        return self.uri

    def full(self, relative: str) -> str:
        """A path as the file system wants it."""
        return f"{self._base}/{relative}"

    def exists(self, relative: str) -> bool:
        """Whether there is a file or folder."""
        return self.files.get_file_info(self.full(relative)).type != fs.FileType.NotFound

    def size(self, relative: str) -> int:
        """Bytes of a file."""
        info = self.files.get_file_info(self.full(relative))
        if info.type != fs.FileType.File:
            raise FileNotFoundError(f"there is no file {relative} in {self}")
        return int(info.size)

    def list(self, folder: str) -> list[str]:
        """The relative paths of all files below a folder."""
        selector = fs.FileSelector(self.full(folder), allow_not_found=True, recursive=True)
        found = (info.path for info in self.files.get_file_info(selector) if info.type == fs.FileType.File)
        return sorted(path[len(self._base) + 1 :] for path in found)

    def open(self, relative: str) -> pa.NativeFile:
        """A file to read from, at any position."""
        return self.files.open_input_file(self.full(relative))

    def read_text(self, relative: str) -> str:
        """A small text file."""
        with self.open(relative) as file:
            return file.read().decode()

    def put(self, source: Path, relative: str) -> None:
        """Move a local file into place: at once in a folder, by an upload on an object store."""
        target = self.full(relative)
        if isinstance(self.files, fs.LocalFileSystem):  # an object store has no folders to make
            Path(target).parent.mkdir(parents=True, exist_ok=True)
        if self.remote:
            fs.copy_files(str(source), target, source_filesystem=fs.LocalFileSystem(), destination_filesystem=self.files)
            source.unlink()
        else:
            os.replace(source, target)

    def delete(self, relative: str) -> None:
        """Delete a file that may be gone already."""
        if self.exists(relative):
            self.files.delete_file(self.full(relative))

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Alone among the processes of this machine; on an object store other machines' commits are checked by Delta."""
        try:
            with FileLock(self.staging() / f"{name}.lock", timeout=LOCK_SECONDS):
                yield
        except Timeout:
            raise StoreError(
                f"The database {self} is busy: another process has held its lock for {LOCK_SECONDS:.0f} s. Try again."
            ) from None

    def staging(self) -> Path:
        """The folder ``STAGING``; made if it is not there."""
        folder = self.scratch / STAGING
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"The folder {self.scratch} cannot be written: {error.strerror}.") from error
        return folder
