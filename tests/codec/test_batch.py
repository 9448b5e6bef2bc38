import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa_jax.codec import batch
from llasa_jax.codec.batch import BatchCodec
from llasa_jax.errors import UserError


@pytest.fixture(scope="module")
def codec(tiny, fill):
    return BatchCodec(tiny[0], fill(tiny[0], 6), batch=4)


@pytest.fixture(scope="module")
def conv_codec(miniature):
    """With a convolutional encoder and a semantic branch."""
    return BatchCodec(*miniature, batch=4)


@pytest.mark.parametrize("kind", ["codec", "conv_codec"])
def test_a_padded_batch_gives_what_each_item_gives_alone(kind, sound, request):
    codec = request.getfixturevalue(kind)
    hop = codec.config.hop
    sizes = (3 * hop + 5, 60 * hop, 50 * hop + 31, hop, 20 * hop, 36 * hop)
    some = [sound(size) for size in sizes]
    done = []
    codes = codec.encode(some, done.append)
    assert done == [4, 2]
    assert [len(c) for c in codes] == [3, 60, 50, 1, 20, 36]
    assert len(np.unique(np.concatenate(codes))) > 10
    rebuilt = codec.decode(codes, done.append)
    assert done == [4, 2, 4, 2]
    for wave, code, sound in zip(some, codes, rebuilt, strict=True):
        assert sound.shape == (len(code) * codec.config.output_hop,) and sound.dtype == np.float32
        np.testing.assert_array_equal(codec.encode([wave])[0], code)
        (alone,) = codec.decode([code])
        np.testing.assert_allclose(sound, alone, atol=1e-5 * np.abs(alone).max())


def test_every_length_has_a_code_for_each_whole_hop(codec, sound):
    hop = codec.config.hop
    some = [sound(size) for size in range(hop, 3 * hop + 1)]
    codes = codec.encode(some)
    assert [len(c) for c in codes] == [len(wave) // hop for wave in some]
    assert all(c.dtype == np.int32 for c in codes)
    whole = codec.encode([wave[: len(wave) // hop * hop] for wave in some])
    for a, b in zip(codes, whole, strict=True):
        np.testing.assert_array_equal(a, b)  # the incomplete frame counts for nothing
    out = codec.config.output_hop
    assert [len(wave) for wave in codec.decode(codes)] == [len(c) * out for c in codes]


def test_the_packages_convention_shows_the_incomplete_frame(codec, sound):
    hop = codec.config.hop
    some = [sound(size) for size in (1, hop - 1, hop, 2 * hop + 7, 70 * hop)]
    codes = codec.encode(some, length="package")
    assert [len(c) for c in codes] == [1, 1, 2, 3, 71]
    for a, b in zip(codes, codec.encode(some, length="transformers"), strict=True):
        np.testing.assert_array_equal(a, b)
    filled = [np.pad(wave, (0, hop - len(wave) % hop)) for wave in some]
    for a, b in zip(codes, codec.encode(filled), strict=True):
        np.testing.assert_array_equal(a, b)


def test_filter_banks_without_edges_leave_a_code_less(miniature):
    """NeuCodec's way; every length from one to three hops."""
    config, params = miniature
    config = replace(config, semantic=replace(config.semantic, edge=0))
    codec, hop = BatchCodec(config, params, batch=65), config.hop
    wave = np.random.default_rng(0).uniform(-1, 1, 3 * hop).astype(np.float32)
    some = [wave[:size] for size in range(hop, 3 * hop + 1)]
    codes = {length: codec.encode(some, length=length) for length in ("training", "package")}
    for found in codes.values():
        assert [len(c) for c in found] == [len(w) // hop for w in some]
    heard = []
    for i, w in enumerate(some):
        cut = codes["training"][len(w) // hop * hop - hop]
        np.testing.assert_array_equal(codes["training"][i], cut)
        heard.append((codes["training"][i] != codes["package"][i]).any())
    assert not any(heard[::hop]) and any(heard)  # only the package hears incomplete frames
    with pytest.raises(UserError, match="shorter than one frame"):
        codec.encode([wave[: hop - 1]], length="package")


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 100_000))
def test_windows_cover_every_frame_once_with_context(frames):
    windows = list(batch.cut(0, frames))
    kept = [(window.first, window.last) for window in windows]
    assert [first for first, _ in kept] == [0, *(last for _, last in kept[:-1])]
    assert kept[-1][1] == frames
    for _, start, stop, first, last in windows:
        assert stop - start <= batch.LONGEST
        assert start == max(0, first - batch.CONTEXT) and stop == min(frames, last + batch.CONTEXT)
    assert len(windows) == 1 or frames > batch.LONGEST


def test_what_is_long_goes_through_in_parts(codec, sound, monkeypatch):
    """As an hour does at real sizes; far more codes than by chance are those of the whole."""
    hop, out = codec.config.hop, codec.config.output_hop
    some = [sound(300 * hop + 5), sound(100 * hop)]
    codes, waves = codec.encode(some), codec.decode(codec.encode(some))
    monkeypatch.setattr(batch, "LONGEST", 128)
    monkeypatch.setattr(batch, "CONTEXT", 16)
    parts, done = BatchCodec(codec.config, codec.params), []
    found = parts.encode(some, done.append)
    assert [len(c) for c in found] == [300, 100] and sum(done) == 2
    assert np.mean(found[0] == codes[0]) > 0.4
    np.testing.assert_array_equal(found[1], codes[1])
    rebuilt = parts.decode(codes, done.append)
    assert [len(wave) for wave in rebuilt] == [300 * out, 100 * out] and sum(done) == 4
    assert np.corrcoef(rebuilt[0], waves[0])[0, 1] > 0.9
    np.testing.assert_allclose(rebuilt[1], waves[1], atol=1e-5 * np.abs(waves[1]).max())


@given(st.integers(1, 4 * batch.LONGEST))
def test_padding_wastes_less_than_a_quarter_beyond_the_first_step(frames):
    padded = batch._padded(frames)
    assert frames <= padded < max(frames * 1.25, frames + batch.FRAMES)


def test_what_no_codec_can_take_is_refused(codec, sound):
    for size in (0, 1, codec.config.hop - 1):
        with pytest.raises(UserError, match="shorter than one frame of 32 samples"):
            codec.encode([sound(320), sound(size)])
    with pytest.raises(UserError, match="shorter than one frame"):
        codec.encode([sound(0)], length="package")
    for codes in ([0, 60], [-1], [], np.zeros(0, np.int32)):
        with pytest.raises(UserError, match=r"each in 0\.\.59"):
            codec.decode([np.array([1]), codes])
    assert codec.encode([]) == codec.decode([]) == []


def test_all_codes_can_be_decoded(codec):
    (wave,) = codec.decode([np.arange(60)])
    assert np.isfinite(wave).all() and len(wave) == 60 * codec.config.output_hop


def test_eight_devices_give_what_one_gives():
    script = Path(__file__).with_name("eight_devices.py")
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiles faster
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["devices"] == 8 and found["differing"] == 0 and found["error"] < 1e-5
