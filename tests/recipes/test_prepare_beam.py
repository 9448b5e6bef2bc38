"""On Beam's local runner; skipped where apache-beam is not installed (extra `beam`)."""

import sys

import pytest

from llasa_jax.config import DataRun
from llasa_jax.errors import UserError
from llasa_jax.recipes.prepare import prepare
from llasa_jax.recipes.prepare_beam import prepare_with_beam


@pytest.fixture(scope="module")
def model(make_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_model(folder)
    return folder


@pytest.fixture
def run(tones):
    return DataRun(corpora=(str(tones),), row=192, item=8, group=2)


def contents(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_pipeline_leaves_the_same_bytes(run, model, tmp_path):
    pytest.importorskip("apache_beam")
    options = ["--runner=DirectRunner", "--direct_running_mode=in_memory"]
    found = prepare_with_beam(run, tmp_path / "beam", model, options=options)
    assert found == prepare(run, tmp_path / "plain", model)
    assert contents(tmp_path / "beam") == contents(tmp_path / "plain")
    assert prepare_with_beam(run, tmp_path / "beam", model, options=options) == found


def test_without_beam_one_is_told(run, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"llasa-jax\[beam\]"):
        prepare_with_beam(run, tmp_path / "out", model)
    assert not (tmp_path / "out").exists()
