import subprocess
from types import SimpleNamespace

import pytest

from llasa_jax.data import debian
from llasa_jax.data.debian import fetch_packages, library_path
from llasa_jax.errors import UserError

TOOLS = {
    "apt-get": """
for last; do :; done
lists=$(echo "$*" | sed 's/.*Lists=\\([^ ]*\\).*/\\1/')
case "$*" in
*update*) echo update >> $REPO/log; [ -e $REPO/offline ] || touch $lists/some_Packages ;;
*download*)
  echo download >> $REPO/log
  [ -e $REPO/stale ] && rm $REPO/stale && echo "E: 404 Not Found" >&2 && exit 100
  [ -e $REPO/cut ] && echo "E: Failed to fetch" >&2 && exit 100
  while [ "$1" != download ]; do shift; done; shift
  for name; do cp $REPO/${name}_1_all.deb . || exit 100; done ;;
esac
""",
    "apt-cache": """
for name; do :; done
[ -e $REPO/offline ] && echo "N: Unable to locate package $name" >&2 && exit 100
cat $REPO/$name.show 2>/dev/null || exit 100
""",
    "dpkg-deb": 'mkdir -p "$3" && tar -xf "$2" -C "$3"\n',
}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Stand-ins for apt-get, apt-cache and dpkg-deb that serve packages out of a folder."""
    tools, repo = tmp_path / "bin", tmp_path / "repo"
    tools.mkdir()
    repo.mkdir()
    for name, text in TOOLS.items():
        (tools / name).write_text(f"#!/bin/sh\nREPO={repo}\n{text}")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    monkeypatch.setattr(debian, "_ENVIRONMENT", {"PATH": f"{tools}:/usr/bin:/bin"})

    def add(name, files, depends="libc6 (>= 2.3)", size=100):
        tree = tmp_path / "trees" / name
        for path, text in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(text)
        subprocess.run(["tar", "-cf", repo / f"{name}_1_all.deb", "-C", tree, "."], check=True)
        (repo / f"{name}.show").write_text(
            f"Package: {name}\nVersion: 1\nInstalled-Size: 9\nDepends: {depends}\nSize: {size}\n"
            "Description: words\n more: words\n"
        )

    def log():
        return (repo / "log").read_text().split() if (repo / "log").exists() else []

    return SimpleNamespace(add=add, log=log, folder=repo)


def test_packages_are_fetched_once(repository, tmp_path):
    repository.add("a", {"usr/share/a.txt": "A"})
    repository.add("b", {"usr/share/b.txt": "B"})
    roots = fetch_packages(["a", "b"], tmp_path / "cache")
    assert [(root / f"usr/share/{root.name}.txt").read_text() for root in roots] == ["A", "B"]
    assert repository.log() == ["update", "download"]
    assert fetch_packages(["b", "a"], tmp_path / "cache") == roots[::-1]
    assert repository.log() == ["update", "download"]
    assert not list((tmp_path / "cache/debian").glob(".unpack*"))


def test_libraries_are_resolved_through_their_dependencies(repository, tmp_path):
    repository.add("tool", {"usr/bin/tool": ""}, depends="libx1 (= 1) | libother, python3, libc6")
    repository.add("libx1", {"usr/lib/arm/libx.so.1": ""}, depends="liby2t64:any, libgcc-s1, libx1")
    repository.add("liby2t64", {"usr/lib/arm/deep/liby.so.2": ""}, depends="liby-data")
    roots = fetch_packages(["tool"], tmp_path / "cache", libraries=True)
    assert [root.name for root in roots] == ["tool", "libx1", "liby2t64"]
    folders = library_path(roots).split(":")
    assert [folder.split("usr/lib/")[1] for folder in folders] == ["arm", "arm/deep"]
    assert fetch_packages(["tool"], tmp_path / "cache", libraries=True) == roots
    assert repository.log() == ["update", "download"]


def test_old_lists_are_refreshed(repository, tmp_path):
    repository.add("a", {"x": ""})
    (repository.folder / "stale").touch()
    fetch_packages(["a"], tmp_path / "cache")
    assert repository.log() == ["update", "download", "update", "download"]


def test_a_broken_download_resumes_next_time(repository, tmp_path):
    repository.add("a", {"x": "X"})
    (repository.folder / "cut").touch()
    with pytest.raises(UserError, match="Failed to fetch.*check the network"):
        fetch_packages(["a"], tmp_path / "cache")
    assert not (tmp_path / "cache/debian/a").exists()
    (repository.folder / "cut").unlink()
    (root,) = fetch_packages(["a"], tmp_path / "cache")
    assert (root / "x").read_text() == "X"


def test_no_network_no_tool_no_space_are_one_line(repository, tmp_path, monkeypatch):
    repository.add("big", {"x": ""}, size=10**15)
    with pytest.raises(UserError, match="no disk space.*LLASA_JAX_CACHE"):
        fetch_packages(["big"], tmp_path / "cache")
    with pytest.raises(UserError, match="unknown is not found"):
        fetch_packages(["unknown"], tmp_path / "cache")
    (repository.folder / "offline").touch()
    with pytest.raises(UserError, match="not found: the network"):
        fetch_packages(["big"], tmp_path / "cache2")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot use the cache.*LLASA_JAX_CACHE"):
        fetch_packages(["big"], tmp_path / "file")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get is missing.*--corpus DIR"):
        fetch_packages(["big"], tmp_path / "cache")


def test_the_cache_folder_is_configurable(monkeypatch, tmp_path):
    monkeypatch.setenv("LLASA_JAX_CACHE", str(tmp_path))
    assert debian.default_cache() == tmp_path
    monkeypatch.delenv("LLASA_JAX_CACHE")
    assert debian.default_cache().name == "llasa_jax"
