"""A folder on a disk or in a bucket: whole writes, and files that only one process can create.

The names below it are plain paths with "/". Buckets go through fsspec: `gs://` needs gcsfs.
"""

import os
import shutil
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import fsspec
from fsspec.implementations.local import LocalFileSystem

from llasa_jax.errors import UserError


class Place:
    """The folder `url`; it need not exist.

    Attributes:
        url: what was given.
        local: its path, where it is on a disk; else None.
    """

    def __init__(self, url: str | Path, scratch: str = ".") -> None:
        """`scratch` is the folder in it where files on a disk are made before they appear."""
        self.url, self._scratch = str(url), scratch
        try:
            self._files, self._root = fsspec.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise UserError(f"{self.url}: {error}; use a folder or a gs:// address") from error
        self.local = Path(self._root) if isinstance(self._files, LocalFileSystem) else None

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def __str__(self) -> str:
        return self.url

    def exists(self, name: str) -> bool:
        return self._files.exists(self._path(name))

    def read(self, name: str) -> bytes:
        """The contents of a file.

        Raises:
            FileNotFoundError: it is not there.
        """
        return self._files.cat_file(self._path(name))

    def write(self, name: str, data: bytes) -> None:
        """Writes a file whole or not at all; another of that name is replaced."""
        if self.local is None:
            self._files.pipe_file(self._path(name), data)
            return
        temporary = self._temporary(name)
        try:
            temporary.write_bytes(data)
            os.replace(temporary, self.local / name)
        finally:
            temporary.unlink(missing_ok=True)

    def create(self, name: str, data: bytes) -> bool:
        """Writes a file unless there is one of that name; of many who try, one is told True."""
        if self.local is None:
            try:
                self._files.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
            return True
        temporary = self._temporary(name)
        try:
            temporary.write_bytes(data)
            os.link(temporary, self.local / name)  # fails where the name is taken
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _temporary(self, name: str) -> Path:
        (self.local / name).parent.mkdir(parents=True, exist_ok=True)
        (self.local / self._scratch).mkdir(parents=True, exist_ok=True)
        mark = f"{os.uname().nodename}.{os.getpid()}.{threading.get_ident()}"
        return self.local / self._scratch / f".{name.replace('/', '_')}.{mark}"

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        try:
            self._files.rm_file(self._path(name))
        except FileNotFoundError:
            pass

    def remove_folder(self, name: str) -> None:
        """Removes a folder and all below it, if it is there."""
        if self.local is not None:
            shutil.rmtree(self.local / name, ignore_errors=True)
        elif self.exists(name):
            self._files.rm(self._path(name), recursive=True)

    def age(self, name: str) -> float:
        """Seconds since a file was written.

        Raises:
            FileNotFoundError: it is not there.
        """
        if self.local is not None:
            return time.time() - (self.local / name).stat().st_mtime
        return time.time() - self._files.modified(self._path(name)).timestamp()

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted; none if it is not there."""
        try:
            found = self._files.ls(self._path(folder), detail=False)
        except FileNotFoundError:
            return []
        names = (str(path).rstrip("/").rpartition("/")[2] for path in found)
        return sorted(name for name in names if not name.startswith("."))

    def refuse_others(self, known: Collection[str]) -> None:
        """Refuses a folder in which somebody else has begun to write.

        Raises:
            UserError: it holds a name that is not `known`.
        """
        other = set(self.names("")) - set(known)
        if other:
            raise UserError(f"{self}: holds other files ({min(other)}); choose another --out")

    @contextmanager
    def files(self, folder: str) -> Iterator[Path]:
        """A new folder on the disk, whose files go to `folder` when the block ends without error.

        They appear one by one, each whole.
        """
        near = None if self.local is None else self.local / self._scratch
        if near is not None:
            near.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=near, prefix=".made-") as temporary:
            yield Path(temporary)
            for path in sorted(Path(temporary).iterdir()):
                if near is not None:
                    (self.local / folder).mkdir(parents=True, exist_ok=True)
                    os.replace(path, self.local / folder / path.name)
                else:
                    self._files.put_file(str(path), self._path(f"{folder}/{path.name}"))

    def fetch(self, cache: Path) -> Path:
        """The folder on the disk: itself, or a copy of the bucket's files kept below `cache`.

        Raises:
            UserError: there is nothing in the bucket.
        """
        if self.local is not None:
            return self.local
        target = cache / "fetched" / self.url.replace("://", "/").strip("/")
        names = self.names("")
        if not names:
            raise UserError(f"nothing at {self.url}; check the address")
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            size = self._files.info(self._path(name)).get("size")
            if not (target / name).is_file() or (target / name).stat().st_size != size:
                temporary = target / f".{name}.{os.getpid()}"
                self._files.get_file(self._path(name), str(temporary))
                os.replace(temporary, target / name)
        return target
