"""Debian and Ubuntu packages without root.

apt runs on private lists and a private cache, so that neither root nor a prepared system is
needed; apt itself checks signatures and hashes. Packages are unpacked, never installed.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from llasa_jax.console import bar, log
from llasa_jax.errors import UserError

_ENVIRONMENT = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
_BASE_LIBRARIES = {"libc6", "libgcc-s1", "libstdc++6"}  # on every system that runs Python


def default_cache() -> Path:
    """Where downloads are kept: ``$LLASA_JAX_CACHE``, else ``~/.cache/llasa_jax``."""
    return Path(os.environ.get("LLASA_JAX_CACHE") or Path.home() / ".cache" / "llasa_jax")


def fetch_packages(names: list[str], cache: Path, libraries: bool = False) -> list[Path]:
    """Download packages and unpack each into a folder of its own below `cache`.

    What is already there is kept; a folder appears whole or not at all.

    Args:
      names: package names.
      cache: folder for everything that is downloaded.
      libraries: fetch the shared libraries that the packages depend on, too.

    Returns:
      The root folder of every package (those of libraries behind the named ones).

    Raises:
      UserError: without apt-get or dpkg-deb, network, disk space, or for an unknown package.
    """
    home = cache.resolve() / "debian"
    try:
        return _fetch(names, home, libraries)
    except OSError as error:
        raise UserError(
            f"cannot use the cache {home}: {error.strerror}; set LLASA_JAX_CACHE to a folder"
        ) from error


def _fetch(names: list[str], home: Path, libraries: bool) -> list[Path]:
    listing = home / f"{'+'.join(sorted(names))}.packages"  # names with the libraries resolved
    wanted = names
    if libraries:
        wanted = listing.read_text().split() if listing.exists() else []
    if not wanted or any(not (home / name).is_dir() for name in wanted):
        apt = _Apt(home)
        if libraries and not wanted:
            wanted = apt.with_libraries(names)
            _write_text(listing, "\n".join(wanted))
        apt.unpack([name for name in wanted if not (home / name).is_dir()])
    return [home / name for name in wanted]


def library_path(roots: list[Path]) -> str:
    """``LD_LIBRARY_PATH`` for programs out of unpacked packages."""
    folders = {path.parent for root in roots for path in root.glob("usr/lib/**/*.so*")}
    return os.pathsep.join(sorted(map(str, folders)))


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, path)


class _Apt:
    """apt-get and apt-cache with private state below `home`."""

    def __init__(self, home: Path) -> None:
        for tool in ("apt-get", "apt-cache", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise UserError(
                    f"the command {tool} is missing, which fetches the built-in corpora on Debian "
                    "and Ubuntu; elsewhere give your own recordings with --corpus DIR"
                )
        self.home = home
        lists, archives = home / "apt" / "lists", home / "apt" / "cache"
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        (archives / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        self.options = [f"-oDir::State::Lists={lists}", f"-oDir::Cache={archives}"]
        # Containers turn apt's index off; without it every question takes a second.
        self.options += ["-oDir::Cache::pkgcache=pkgcache.bin", "-oDir::Cache::srcpkgcache="]
        self.options += ["-oAcquire::Retries=3", "-oAPT::Sandbox::User=root"]
        if not any(lists.glob("*Packages*")):
            self.update()

    def run(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        tool, *arguments = command
        return subprocess.run(
            [tool, *self.options, *arguments],
            cwd=cwd,
            capture_output=True,
            text=True,
            env=_ENVIRONMENT,
        )

    def update(self) -> None:
        # The exit status also tells of other people's broken sources: what counts is whether
        # the packages are found afterwards.
        log("Reading the lists of Debian packages")
        self.run("apt-get", "update")

    def show(self, name: str) -> dict[str, str]:
        """The fields of a package's newest version."""
        shown = self.run("apt-cache", "show", "--no-all-versions", name)
        if shown.returncode or not shown.stdout.strip():
            raise UserError(
                f"Debian package {name} is not found: the network or the package sources do not "
                "answer; check `apt-get update` (Ubuntu: 'universe'), or give --corpus DIR"
            )
        return dict(re.findall(r"^([A-Za-z-]+): (.*)$", shown.stdout, re.MULTILINE))

    def with_libraries(self, names: list[str]) -> list[str]:
        """`names` and, behind them, the library packages they depend on, in any depth."""
        found = list(names)
        for name in found:  # grows while it is read
            for group in self.show(name).get("Depends", "").split(","):
                needed = group.split("|")[0].split("(")[0].split(":")[0].strip()
                library = needed.startswith("lib") and not needed.endswith(("-data", "-common"))
                if library and needed not in _BASE_LIBRARIES and needed not in found:
                    found.append(needed)
        return found

    def unpack(self, names: list[str]) -> None:
        """Download packages and unpack each to ``home/name``."""
        fields = [self.show(name) for name in names]
        needed = sum(int(f["Size"]) + 1024 * int(f.get("Installed-Size", 0)) for f in fields)
        free = shutil.disk_usage(self.home).free
        if free < 1.2 * needed:
            raise UserError(
                f"no disk space: {self.home} has {free >> 20} MiB free and {needed >> 20} MiB are "
                "needed; make room or set LLASA_JAX_CACHE to another disk"
            )
        with tempfile.TemporaryDirectory(dir=self.home, prefix=".unpack-") as temporary:
            folder = Path(temporary)
            complaint = self._download(names, sum(int(f["Size"]) for f in fields), folder)
            if complaint:  # old lists name versions that the mirror has dropped
                self.update()
                complaint = self._download(names, sum(int(f["Size"]) for f in fields), folder)
            if complaint:
                raise UserError(f"cannot download Debian packages ({complaint}); check the network")
            for name in names:
                self._extract(folder, name)

    def _download(self, names: list[str], size: int, folder: Path) -> str:
        """Download into `folder`; why it failed, or nothing."""

        def arrived() -> float:
            return sum(path.stat().st_size for path in folder.iterdir()) / 1e6

        command = ["apt-get", *self.options, "download", *names]
        with (
            (folder / "complaints").open("w+") as complaints,
            bar(f"Downloading {', '.join(names)}", size / 1e6, "MB") as shown,
            subprocess.Popen(
                command, cwd=folder, env=_ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=complaints
            ) as process,
        ):
            try:
                while process.poll() is None:
                    time.sleep(0.1)
                    shown.advance(max(0.0, arrived() - shown.done))
            except BaseException:
                process.terminate()
                raise
            complaints.seek(0)
            lines = complaints.read().strip().splitlines()
        return (lines or ["no reason given"])[-1] if process.returncode else ""

    def _extract(self, folder: Path, name: str) -> None:
        (archive,) = folder.glob(f"{name}_*.deb")
        root = folder / name
        done = subprocess.run(["dpkg-deb", "-x", archive, root], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"cannot unpack {archive.name}: {done.stderr.strip()[:200]}")
        archive.unlink()
        if not (self.home / name).is_dir():
            os.replace(root, self.home / name)
