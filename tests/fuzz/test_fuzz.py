"""Every reader of strangers' input, with inputs that hypothesis makes: it takes or refuses them.

The long runs: `python tests/fuzz/fuzz.py all`, and `guided.py` with atheris (docs/reliability.md).
"""

import json
import random
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from fuzz import changed, fuzz  # noqa: E402
from targets import TARGETS, accepts  # noqa: E402


@pytest.fixture(scope="module", params=list(TARGETS))
def target(request):
    return request.param


@pytest.fixture(scope="module")
def seeds(target):
    return TARGETS[target].seeds()


def test_whole_inputs_are_taken(target, seeds):
    assert any(accepts(target, seed) for seed in seeds)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rng=st.integers(0, 2**32), anything=st.binary(max_size=64))
def test_anything_else_is_taken_or_refused(target, seeds, rng, anything):
    accepts(target, changed(random.Random(rng), seeds, TARGETS[target].words))
    accepts(target, anything)


FAULTS = Path(__file__).parent / "found"


@pytest.mark.parametrize("path", sorted(FAULTS.glob("*")), ids=lambda path: path.name)
def test_what_once_broke_a_reader_is_refused(path):
    assert not accepts(path.name.partition("-")[0], path.read_bytes())


@pytest.mark.slow
def test_the_fuzzer_finds_and_keeps_what_breaks(tmp_path, monkeypatch):
    found = fuzz("voice", 2_000, 60.0, 0, tmp_path)
    assert found["inputs"] > 200 and not found["faults"], json.dumps(found)
