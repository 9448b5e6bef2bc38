import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from llasa_jax.data.place import Place
from llasa_jax.errors import UserError


@pytest.fixture(params=["disk", "bucket"])
def place(request, tmp_path):
    return Place(tmp_path / "p" if request.param == "disk" else f"memory://{uuid.uuid4()}/p")


def test_write_read_list_remove(place):
    assert place.names("") == [] and not place.exists("a/b")
    place.write("a/b", b"one")
    place.write("a/b", b"two")
    place.write("a/c", b"")
    assert place.read("a/b") == b"two" and place.exists("a/b")
    assert place.names("a") == ["b", "c"]
    assert 0 <= place.age("a/b") < 60
    place.remove("a/b")
    place.remove("a/b")
    assert place.names("a") == ["c"]
    with pytest.raises(FileNotFoundError):
        place.read("a/b")
    with pytest.raises(FileNotFoundError):
        place.age("a/b")
    place.remove_folder("a")
    assert not place.exists("a/c")


def test_one_of_many_creates(place):
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda n: place.create("x/claim", str(n).encode()), range(8)))
    assert sum(told) == 1
    assert place.read("x/claim") == str(told.index(True)).encode()
    assert place.names("x") == ["claim"]


def test_files_appear_when_the_block_ends(place):
    with place.files("shards") as folder:
        (folder / "a").write_bytes(b"1")
        (folder / "b").write_bytes(b"2")
        assert place.names("shards") == []
    assert place.names("shards") == ["a", "b"] and place.read("shards/b") == b"2"
    with pytest.raises(RuntimeError), place.files("shards") as folder:
        (folder / "c").write_bytes(b"3")
        raise RuntimeError
    assert place.names("shards") == ["a", "b"]


def test_a_bucket_is_fetched_once(tmp_path):
    place = Place(f"memory://{uuid.uuid4()}/p")
    with pytest.raises(UserError, match="nothing at memory"):
        place.fetch(tmp_path)
    place.write("manifest.json", b"{}")
    folder = place.fetch(tmp_path)
    assert (folder / "manifest.json").read_bytes() == b"{}"
    place.write("manifest.json", b"[1]")
    assert (place.fetch(tmp_path) / "manifest.json").read_bytes() == b"[1]"
    assert Place(tmp_path).fetch(tmp_path / "cache") == tmp_path


def test_an_unknown_kind_of_address():
    with pytest.raises(UserError, match="nosuch://"):
        Place("nosuch://bucket/a")
