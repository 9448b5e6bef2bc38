"""`llasa convert`: codecs and language models between model folders and published layouts."""

import json
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llasa_jax import nn
from llasa_jax.cli import main
from llasa_jax.codec.model import Codec
from llasa_jax.config import (
    CodecConfig,
    ConvConfig,
    DecoderConfig,
    SemanticConfig,
    TransformerConfig,
)
from llasa_jax.interop.bundle import flatten, load_part, save_part, unflatten
from llasa_jax.interop.llama import export_llama
from llasa_jax.interop.xcodec2 import export_codec
from llasa_jax.lm.model import Decoder
from llasa_jax.lm.vocabulary import nano_vocabulary

CODEC = CodecConfig(
    spectral=None,
    conv=ConvConfig(channels=2, strides=(16, 20), dim=64),
    semantic=SemanticConfig(dim=32, ffn=48, layers=1, heads=4, mel_bins=8, conv_width=5, left=6),
    decoder=TransformerConfig(dim=64, ffn=96, layers=1, heads=1),
)
LM = DecoderConfig(
    dim=16, ffn=24, layers=2, heads=2, kv_heads=1, head_dim=8, text_vocab=267, codes=30
)


def random_params(build):
    rng = np.random.default_rng(0)
    _, template = nn.abstract(build)
    leaves = flatten(template)
    flat = {key: rng.standard_normal(leaf.shape, np.float32) for key, leaf in leaves.items()}
    return unflatten(template, flat)


@pytest.fixture(autouse=True)
def handler():
    """`main` takes over SIGTERM; the tests' own process gets it back."""
    old = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, old)


@pytest.fixture(scope="module")
def codec():
    return random_params(lambda rngs: Codec(CODEC, rngs=rngs))


@pytest.fixture(scope="module")
def original(codec, tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    export_codec(folder, "xcodec2", CODEC, codec)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    params = random_params(lambda rngs: Decoder(LM, rngs=rngs))
    export_llama(folder, LM, params, nano_vocabulary(LM.codes))
    return folder


def llasa(*arguments):
    return main(["convert", *map(str, arguments)])


def refused(capsys, message, *arguments):
    assert llasa(*arguments) == 2
    captured = capsys.readouterr()
    (error,) = [line for line in captured.err.splitlines() if line.startswith("llasa: error: ")]
    assert message in error and captured.out == ""


def test_a_codec_comes_in_and_goes_out(codec, original, tmp_path, capsys):
    ours = tmp_path / "ours"
    assert llasa(original, "--out", ours) == 0
    assert "layout xcodec2" in capsys.readouterr().err
    build = lambda config, rngs: Codec(config, rngs=rngs)  # noqa: E731
    config, params, about = load_part(ours, "codec", CodecConfig, build)
    assert config == CODEC and about == {"converted_from": "xcodec2", "ignored": []}
    one, two = flatten(params), flatten(codec)
    for key in two:
        np.testing.assert_array_equal(one[key], two[key], key)
    assert llasa(ours, "--out", tmp_path / "again", "--layout", "xcodec2") == 0
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    for path in original.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path
    assert not list(tmp_path.glob("**/.*"))


def test_one_published_layout_becomes_another(original, tmp_path):
    assert llasa(original, "--out", tmp_path / "one", "--layout", "transformers") == 0
    assert llasa(tmp_path / "one", "--out", tmp_path / "two", "--layout", "xcodec2") == 0
    one, two = (
        load_file(original / "model.safetensors"),
        load_file(tmp_path / "two" / "model.safetensors"),
    )
    assert one.keys() == two.keys()
    for name in one:
        if "weight_" not in name:  # weight norm starts anew
            np.testing.assert_array_equal(one[name], two[name], name)


def test_a_language_model_joins_its_codec(original, llama, tmp_path, capsys):
    ours = tmp_path / "ours"
    assert llasa(original, "--out", ours) == llasa(llama, "--out", ours) == 0
    assert {path.name for path in ours.iterdir()} == {
        "codec.safetensors",
        "lm.safetensors",
        "tokenizer.json",
    }
    assert llasa(ours, "--out", tmp_path / "llama", "--layout", "llama") == 0
    for path in llama.iterdir():
        assert path.read_bytes() == (tmp_path / "llama" / path.name).read_bytes(), path
    refused(capsys, "lm.safetensors: exists already", llama, "--out", ours)
    refused(capsys, "codec.safetensors: exists already", original, "--out", ours)


def test_a_text_llama_becomes_a_speech_model(llama, tmp_path, capsys):
    """Its tokenizer has no tags, its table no rows for them."""
    text = tmp_path / "text"
    shutil.copytree(llama, text)
    description = json.loads((text / "tokenizer.json").read_text())
    description["added_tokens"] = [t for t in description["added_tokens"] if t["id"] < 267]
    (text / "tokenizer.json").write_text(json.dumps(description))
    settings = json.loads((text / "config.json").read_text())
    (text / "config.json").write_text(json.dumps(settings | {"vocab_size": 267}))
    tensors = load_file(text / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:267].copy()
    save_file(tensors, text / "model.safetensors")

    refused(capsys, "lacks <|TEXT_GENERATION_START|>", text, "--out", tmp_path / "ours")
    options = ("--codes", 30, "--rows", "mean")
    assert llasa(text, "--out", tmp_path / "ours", *options) == 0
    out, export = tmp_path / "again", ("--layout", "llama", "--dtype", "bfloat16")
    assert llasa(tmp_path / "ours", "--out", out, *export, "--shard-gb", 1e-6) == 0
    files = sorted(out.glob("model-*.safetensors"))
    assert len(files) > 5 and not (out / "model.safetensors").exists()
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert (out / "tokenizer.json").read_bytes() == (llama / "tokenizer.json").read_bytes()
    table = load_file(files[0])["model.embed_tokens.weight"]
    assert table.shape == (305, 16)
    np.testing.assert_array_equal(table[267:], np.tile(table[267], (38, 1)))
    refused(capsys, "--codes 31", llama, "--out", tmp_path / "other", "--codes", 31)
    refused(capsys, "--dtype: is for --layout llama", text, "--out", tmp_path / "o", *export[2:])


def test_another_tokenizer_is_not_replaced(llama, tmp_path, capsys):
    nano_vocabulary(LM.codes + 1).save(tmp_path / "ours")
    refused(capsys, "has another tokenizer", llama, "--out", tmp_path / "ours")
    assert not (tmp_path / "ours" / "lm.safetensors").exists()


def test_what_cannot_be_converted_is_refused(codec, original, llama, tmp_path, capsys):
    out, ours = tmp_path / "out", tmp_path / "ours"
    save_part(ours, "codec", replace(CODEC, causal=True), codec)
    refused(capsys, "is in layout llasa already", ours, "--out", out)
    layout = ("--layout", "transformers")
    refused(capsys, "no place for a causal decoder", ours, "--out", out, *layout)
    refused(capsys, "is a llama, which layout transformers", llama, "--out", out, *layout)
    refused(capsys, "is a codec, which layout llama", original, "--out", out, "--layout", "llama")
    refused(capsys, "no model.safetensors", tmp_path, "--out", out)
    refused(capsys, "invalid choice: 'dac'", original, "--out", out, "--layout", "dac")
    broken = tmp_path / "model.safetensors"
    broken.write_bytes((original / "model.safetensors").read_bytes()[:-1])
    refused(capsys, "no readable safetensors", broken, "--out", out)
    broken.write_bytes((original / "model.safetensors").read_bytes())
    refused(
        capsys, "config.json: exists already", original, "--out", original / "config.json", *layout
    )
    refused(capsys, "exists already; give a new folder", broken, "--out", ours, *layout)
    assert {path.name for path in tmp_path.iterdir()} == {"ours", "model.safetensors"}
    assert not out.exists()


def test_a_checkpoint_file_needs_no_folder(original, tmp_path):
    assert llasa(original / "model.safetensors", "--out", tmp_path / "ours") == 0
    assert (tmp_path / "ours" / "codec.safetensors").is_file()


def test_a_full_disk_leaves_nothing(original, tmp_path, capsys, monkeypatch):
    def full(path, tensors):
        path.write_bytes(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llasa_jax.interop.xcodec2.write_tensors", full)
    refused(
        capsys, "No space left", original, "--out", tmp_path / "out", "--layout", "transformers"
    )
    assert not any(tmp_path.iterdir())
