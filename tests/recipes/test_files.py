import io
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import soundfile

from llasa_jax import nn
from llasa_jax.audio.io import read_audio
from llasa_jax.codec import batch
from llasa_jax.codec.model import Codec
from llasa_jax.config import CodecConfig, SpectralConfig, TransformerConfig
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import save_part
from llasa_jax.recipes import files
from llasa_jax.recipes.files import decode_files, encode_files, read_codes_file

SMALL = TransformerConfig(dim=8, ffn=8, layers=1, heads=2)
CONFIG = CodecConfig(
    levels=(4, 3, 5),
    spectral=SpectralConfig(mel_bins=8, transformer=SMALL),
    decoder=SMALL,
    norm_groups=4,
    scan_layers=False,
)
RATE, HOP = CONFIG.sample_rate, CONFIG.hop


def make_model(folder, config):
    """A model folder with a codec of random parameters, as quickstart leaves it."""
    rng = np.random.default_rng(0)
    _, template = nn.abstract(lambda rngs: Codec(config, rngs=rngs))
    params = jax.tree.map(lambda leaf: 0.5 * rng.normal(size=leaf.shape).astype("f4"), template)
    save_part(folder / "model", "codec", config, params)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("run"), CONFIG)


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """One codec's programs serve all commands here."""
    kept = {}
    make = batch.BatchCodec

    def once(config, params, size=16):
        return kept.setdefault((config, size), make(config, params, size))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llasa_jax.recipes.stages.BatchCodec", once)
        yield


def write_wave(path, samples=20 * HOP, rate=RATE, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(samples).normal(size=(samples, channels))
    soundfile.write(path, 0.1 * noise, rate)


def tree(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_folder_goes_to_codes_and_back_with_its_tree(model, tmp_path, capsys):
    source = tmp_path / "in"
    write_wave(source / "a.wav")
    write_wave(source / "deep" / "er" / "b.FLAC", samples=7 * HOP + 5)
    write_wave(source / "deep" / "a.wav", samples=HOP)
    (source / "notes.txt").write_text("no sound")
    assert encode_files([source], model, tmp_path / "codes") == 3
    assert tree(tmp_path / "codes") == ["a.npy", "deep/a.npy", "deep/er/b.npy"]
    codes = np.load(tmp_path / "codes" / "deep" / "er" / "b.npy")
    assert codes.dtype == np.int32 and codes.shape == (7,)
    assert decode_files([tmp_path / "codes"], model, tmp_path / "out") == 3
    assert tree(tmp_path / "out") == ["a.wav", "deep/a.wav", "deep/er/b.wav"]
    for name, frames in (("a", 20), ("deep/a", 1), ("deep/er/b", 7)):
        wave, rate = read_audio(tmp_path / "out" / f"{name}.wav")
        assert rate == RATE and len(wave) == frames * HOP
    captured = capsys.readouterr()
    assert captured.out == "" and "3 files written to" in captured.err
    assert tree(source) == ["a.wav", "deep/a.wav", "deep/er/b.FLAC", "notes.txt"]


def test_single_files_are_taken_too_and_equal_files_give_equal_codes(model, tmp_path):
    write_wave(tmp_path / "a.wav")
    write_wave(tmp_path / "sub" / "b.wav")
    assert encode_files([tmp_path / "a.wav", tmp_path / "sub"], model, tmp_path / "codes") == 2
    a, b = (np.load(tmp_path / "codes" / f"{name}.npy") for name in "ab")
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rate, channels", [(44100, 2), (8000, 1), (48000, 6)])
def test_other_rates_and_channels_are_resampled_and_mixed(model, tmp_path, rate, channels):
    write_wave(tmp_path / "a.wav", samples=rate, rate=rate, channels=channels)
    assert encode_files([tmp_path / "a.wav"], model, tmp_path) == 1
    assert np.load(tmp_path / "a.npy").shape == (50,)


@pytest.mark.parametrize("length, counts", [("training", (0, 3, 3)), ("package", (1, 4, 4))])
def test_the_length_convention_is_chosen(model, tmp_path, length, counts):
    source = tmp_path / "in"
    sizes = (HOP - 1, 3 * HOP, 4 * HOP - 1)
    for samples in sizes:
        write_wave(source / f"{samples}.wav", samples=samples)
    encode_files([source], model, tmp_path / "codes", length)
    for samples, count in zip(sizes, counts, strict=True):
        path = tmp_path / "codes" / f"{samples}.npy"
        assert (len(np.load(path)) if path.exists() else 0) == count


def test_waves_have_the_decoders_own_rate(tmp_path):
    model = make_model(tmp_path / "run", replace(CONFIG, output_rate=24000))
    np.save(tmp_path / "a.npy", np.arange(50))
    assert decode_files([tmp_path / "a.npy"], model, tmp_path) == 1
    wave, rate = read_audio(tmp_path / "a.wav")
    assert rate == 24000 and len(wave) == 24000


def test_silence_and_clipping_are_noted_and_encoded(model, tmp_path, capsys):
    source = tmp_path / "in"
    write_wave(source / "good.wav")
    write_wave(source / "clipped.wav")
    noise, _ = soundfile.read(source / "clipped.wav")
    soundfile.write(source / "clipped.wav", np.clip(20 * noise, -1, 1), RATE)
    soundfile.write(source / "silent.wav", np.zeros(9 * HOP), RATE)
    assert encode_files([source], model, tmp_path / "codes") == 3
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert [line.rsplit("/", 1)[1] for line in notes] == [
        "clipped.wav: is clipped",
        "silent.wav: is silent",
    ]


def test_decoding_in_chunks_says_how_late_it_is(model, tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.arange(200) % 60)
    assert decode_files([tmp_path / "a.npy"], model, tmp_path / "out", 0.5) == 1
    assert "25 codes at a time, heard 1.50 s after they began" in capsys.readouterr().err
    wave, _ = read_audio(tmp_path / "out" / "a.wav")
    assert len(wave) == 200 * HOP
    for wrong in (0.0, -1.0, 1e9, float("nan"), float("inf")):
        with pytest.raises(UserError, match="--chunk-seconds .*: give from 0.02 to 30.7"):
            decode_files([tmp_path / "a.npy"], model, tmp_path / "out", wrong)


def test_a_folder_is_read_in_groups_of_bounded_size(model, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SAMPLES_AT_ONCE", 4 * HOP)
    for number in range(5):
        write_wave(tmp_path / "in" / f"{number}.wav", samples=(number + 1) * HOP)
    groups = []
    encode = batch.BatchCodec.encode

    def counted(self, waves, *rest):
        groups.append(len(waves))
        return encode(self, waves, *rest)

    monkeypatch.setattr(batch.BatchCodec, "encode", counted)
    assert encode_files([tmp_path / "in"], model, tmp_path / "codes") == 5
    assert groups == [3, 1, 1]


def test_what_cannot_be_written_is_named_and_the_rest_goes_on(model, tmp_path, capsys):
    for name in "ab":
        write_wave(tmp_path / "in" / f"{name}.wav")
    (tmp_path / "codes" / "a.npy").mkdir(parents=True)  # in the way
    assert encode_files([tmp_path / "in"], model, tmp_path / "codes") == 1
    assert tree(tmp_path / "codes") == ["b.npy"]
    assert "left out: cannot write codes to" in capsys.readouterr().err


def test_a_truncated_model_is_one_line(model, tmp_path):
    whole = (model / "model" / "codec.safetensors").read_bytes()
    (tmp_path / "model").mkdir()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "model" / "codec.safetensors").write_bytes(whole[:size])
        with pytest.raises(UserError, match="codec.safetensors: no whole model part") as caught:
            decode_files([tmp_path], tmp_path, tmp_path / "out")
        assert "\n" not in str(caught.value)


def test_broken_and_too_short_recordings_are_left_out_and_counted(model, tmp_path, capsys):
    source = tmp_path / "in"
    write_wave(source / "good.wav")
    write_wave(source / "short.wav", samples=HOP - 1)
    (source / "broken.wav").write_bytes(b"RIFF nonsense")
    (source / "empty.flac").touch()
    assert encode_files([source], model, tmp_path / "codes") == 1
    assert tree(tmp_path / "codes") == ["good.npy"]
    lines = capsys.readouterr().err.splitlines()
    left_out = [line for line in lines if line.startswith("left out: ")]
    for name in ("short.wav", "broken.wav", "empty.flac"):
        assert sum(name in line for line in left_out) == 1
    assert "1 files written" in lines[-1] and "3 left out" in lines[-1]


def test_nothing_readable_is_an_error(model, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF nonsense")
    with pytest.raises(UserError, match="encode: none of the 1 files could be read"):
        encode_files([tmp_path], model, tmp_path / "codes")
    assert not (tmp_path / "codes").exists()


def test_two_files_of_one_name_are_refused_before_anything_is_written(model, tmp_path):
    write_wave(tmp_path / "in" / "a.wav")
    write_wave(tmp_path / "in" / "a.flac")
    with pytest.raises(UserError, match="a.wav and .*a.flac would both become .*a.npy; rename one"):
        encode_files([tmp_path / "in"], model, tmp_path / "codes")
    assert not (tmp_path / "codes").exists()


def test_what_is_not_there_is_named(model, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        encode_files([tmp_path / "nowhere"], model, tmp_path / "codes")
    with pytest.raises(UserError, match=r"no file with \.wav, .* in .*empty"):
        (tmp_path / "empty").mkdir()
        encode_files([tmp_path / "empty"], model, tmp_path / "codes")
    with pytest.raises(UserError, match="no model in"):
        encode_files([tmp_path], tmp_path / "nowhere", tmp_path / "codes")


class Bomb:
    """Unpickling this fails the test."""

    def __reduce__(self):
        return pytest.fail, ("a .npy file was unpickled",)


def saved(values, **settings):
    buffer = io.BytesIO()
    np.save(buffer, values, **settings)
    return buffer.getvalue()


def header(shape):
    buffer = io.BytesIO()
    about = {"descr": "<i4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, about)
    return buffer.getvalue() + bytes(8)


def archive():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.arange(3))
    return buffer.getvalue()


BAD_CODES = {
    "objects": saved(np.array([Bomb()], object), allow_pickle=True),
    "pickle": b"\x80\x04\x8c\x04hash.",
    "text": b"12 13 14",
    "cut": saved(np.arange(9))[:-3],
    "floats": saved(np.ones(3)),
    "table": saved(np.ones((2, 3), np.int32)),
    "flags": saved(np.ones(3, bool)),
    "none": saved(np.zeros(0, np.int32)),
    "negative": saved(np.array([0, -1])),
    "beyond": saved(np.array([59, 60])),
    "large": saved(np.array([2**63], np.uint64)),
    "empty file": b"",
    "archive": archive(),
    "broken archive": b"PK\x03\x04nonsense",
    "claims to be huge": header((10**13,)),
    "claims to be huger": header((10**20,)),
    "claims to be negative": header((-1,)),
    "overflows": header((2**32, 2**32)),
    "cut header": saved(np.arange(9))[:20],
    "long header": b"\x93NUMPY\x02\x00" + b"\xff" * 4 + b" " * 9000,
    "version": b"\x93NUMPY\x09\x00" + saved(np.arange(9))[8:],
    "not closed": b"\x93NUMPY\x01\x00" + (9).to_bytes(2, "little") + b"{'descr':",
    "nested header": b"\x93NUMPY\x01\x00" + (9000).to_bytes(2, "little") + b"(" * 9000,
}


@pytest.mark.parametrize("name", BAD_CODES)
def test_a_file_without_codes_of_this_codec_is_refused(model, tmp_path, name):
    (tmp_path / "bad.npy").write_bytes(BAD_CODES[name])
    with pytest.raises(UserError, match="bad.npy: ") as caught:
        read_codes_file(tmp_path / "bad.npy", SimpleNamespace(config=CONFIG))
    message = str(caught.value)
    assert "\n" not in message and "unsafe" not in message  # numpy would advise to unpickle it


def test_files_without_codes_are_left_out(model, tmp_path, capsys):
    bad = ("objects", "cut", "floats", "none", "beyond")
    (tmp_path / "in").mkdir()
    for name in bad:
        (tmp_path / "in" / f"{name}.npy").write_bytes(BAD_CODES[name])
    (tmp_path / "in" / "good.npy").write_bytes(saved(np.array([0, 59])))
    assert decode_files([tmp_path / "in"], model, tmp_path / "out") == 1
    assert tree(tmp_path / "out") == ["good.wav"]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out")]
    assert len(lines) == len(bad)
    assert all(any(f"{name}.npy" in line for line in lines) for name in bad)


def test_over_an_hour_of_codes_is_left_out(model, tmp_path, capsys):
    for size in (50 * 3600 + 1, 50 * 3600 * 3):
        np.save(tmp_path / "long.npy", np.zeros(size, np.int32))
        with pytest.raises(UserError, match="none of the 1 files"):
            decode_files([tmp_path / "long.npy"], model, tmp_path / "out")
        assert "over an hour of codes" in capsys.readouterr().err
