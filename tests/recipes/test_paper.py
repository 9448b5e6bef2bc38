"""The paper's table 2 beside ours; `--slow` runs launch/paper.sh whole, on random weights."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.audio.io import write_audio
from llasa_jax.cli import main
from llasa_jax.codec.model import Codec
from llasa_jax.config import CodecConfig, WavlmConfig, WhisperConfig, load_config
from llasa_jax.evaluation import published
from llasa_jax.interop import wavlm, whisper
from llasa_jax.interop.bundle import flatten, unflatten
from llasa_jax.interop.layouts import views
from llasa_jax.interop.llama import export_llama
from llasa_jax.interop.weights import write_tensors
from llasa_jax.interop.xcodec2 import export_codec
from llasa_jax.lm.model import Decoder
from llasa_jax.lm.released import LLASA_1B
from llasa_jax.verifiers.wavlm import WavlmSpeaker
from llasa_jax.verifiers.whisper import Whisper

ROOT = Path(__file__).parents[2]


def interval(value, width=0.0):
    return {"value": value, "low": value - width, "high": value + width, "n": 9, "level": 0.95}


def summary(utterances=1088):
    def run(title, rate, o, r):
        scores = {"whisper": {"rate": interval(rate, 0.001)}, "wavlm": {"o": interval(o)}}
        scores["wavlm"]["r"] = interval(r)
        return {"title": title, "scores": scores}

    return {
        "utterances": utterances,
        "kinds": {"whisper": "words", "wavlm": "voice"},
        "runs": [
            run("llasa-1b, truth", 0.0214, 0.734, 1.0),
            run("llasa-1b, direct", 0.0330, 0.570, 0.705),
            run("llasa-1b, partial", 0.0503, 0.781, 0.809),
            run("strange, direct", 0.5, 0.1, 0.1),
        ],
    }


def write(folder, name, found):
    path = folder / "results" / name / "summary.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))


def test_ours_are_held_against_the_papers_figures(tmp_path, capsys):
    for name in ("en", "zh", "hard"):
        write(tmp_path, name, summary() if name == "en" else {**summary(9999), "runs": []})
    plan = {"utterance_s": [36.0, 72.0], "chips": 8, "utterances": 4, "command": "llasa plan"}
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "llasa-1b.json").write_text(json.dumps(plan))
    (tmp_path / "plans" / "llasa-8b.json").write_text('{"utterance_s": null}')
    assert main(["eval", "paper", str(tmp_path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    by_name = {(one["row"], one["measure"]): one for one in found["figures"]}
    assert len(by_name) == 8  # the paper has no SIM-r of recordings
    direct = by_name["llasa-1b-250k, direct", "word error, %"]
    assert direct["paper"] == 3.22 and direct["ours"] == pytest.approx(3.3) and direct["agrees"]
    assert not by_name["llasa-1b-250k, process reward", "word error, %"]["agrees"]
    assert found["outside"] == 1 and not found["missing"] and not found["partial"]
    hours = found["chip_hours"]
    assert hours["llasa-1b"]["hours"]["en"] == pytest.approx([1088 * 72 / 3600, 1088 * 144 / 3600])
    assert "does not fit" in hours["llasa-8b"]["reason"]
    assert main(["eval", "paper", str(tmp_path)]) == 1
    assert "missed" in capsys.readouterr().out


def test_what_was_not_run_is_named(tmp_path, capsys):
    assert main(["eval", "paper", str(tmp_path)]) == 2
    assert "holds no result" in capsys.readouterr().err
    write(tmp_path, "en", summary(100))
    assert main(["eval", "paper", str(tmp_path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["missing"] == ["zh", "hard"] and found["partial"] == {"en": 100}
    write(tmp_path, "en", [])
    (tmp_path / "results" / "en" / "summary.json").write_text("{")
    assert main(["eval", "paper", str(tmp_path)]) == 2


def test_every_published_row_is_a_rate_and_a_cosine():
    for column, count in (("en", 17), ("zh", 17), ("hard", 16)):
        rows = published.rows(column, "en")
        assert len(rows) == count and len({row.name for row in rows}) == count
        for row in rows:
            assert 0 < row.wer < 20 and 0 < row.o < 1 and (row.r is None or row.o < row.r)
    assert published.table_of("en-meta") == "en" and published.table_of("zh-hardcase") == "hard"
    assert published.table_of("LibriSpeech-test-clean") == "librispeech"
    assert published.table_of("understanding-en") is None
    assert len(published.rows("librispeech", "en")) == 17 and len(published.rows("esd", "zh")) == 11


def random_of(build, scale=1.0):
    """Random parameters that keep activations lively."""
    rng = np.random.default_rng(0)
    _, template = nn.abstract(build)
    flat = {}
    for key, leaf in flatten(template).items():
        x = rng.standard_normal(leaf.shape, np.float32)
        name = key.rsplit(".", 1)[-1]
        if name == "scale" or name == "variance":
            x = 1 + 0.1 * np.abs(x)
        elif name in ("kernel", "embedding"):
            x *= np.float32(scale * max(1, np.prod(leaf.shape[-3:-1])) ** -0.5)
        else:
            x *= np.float32(0.05)
        flat[key] = x
    return unflatten(template, flat)


def released_tokenizer():
    """128,256 text ids: bytes, and pairs of them that no text needs; then Llama 3's own tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from llasa_jax.lm.vocabulary import BEGIN, END_OF_TEXT, EOT, HEADER, HEADER_END, Vocabulary

    specials = [BEGIN, END_OF_TEXT, HEADER, HEADER_END, EOT]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate(letters)}
    for i in range(len(letters), 128256 - len(specials)):
        vocab[f"<unused {i}>"] = i
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    vocabulary = Vocabulary.extend(tokenizer, 65536)
    assert vocabulary.size == 193800
    return vocabulary


def whisper_folder(folder):
    """Whisper-large-v3's widths, one layer each side, three words to a transcript at most."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    config = WhisperConfig(
        mel_bins=128,
        dim=1280,
        ffn=5120,
        heads=20,
        encoder_layers=1,
        decoder_layers=1,
        vocab=51866,
        positions=24,
    )
    names = ("endoftext", "startoftranscript", "en", "translate", "transcribe", "notimestamps")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate(letters)}
    vocab |= {f"<unused {i}>": i for i in range(len(letters), config.vocab - len(names))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>") for name in names])
    tensors = {}
    params = random_of(lambda rngs: Whisper(config, rngs=rngs))
    for key, leaf in flatten(params).items():
        tensors |= views(whisper.TABLE, key, leaf)
    sizes = {"attention_heads": config.heads, "ffn_dim": config.ffn}
    settings = {"model_type": "whisper", "num_mel_bins": 128, "d_model": 1280}
    settings |= {"vocab_size": config.vocab, "max_source_positions": config.frames}
    settings |= {"max_target_positions": config.positions}
    for side in ("encoder", "decoder"):
        settings |= {f"{side}_{name}": size for name, size in sizes.items()}
        settings[f"{side}_layers"] = 1
    folder.mkdir(parents=True)
    write_tensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"is_multilingual": True}))
    tokenizer.save(str(folder / "tokenizer.json"))


def wavlm_file(path):
    """WavLM-large with ECAPA, one layer; weight norm taken apart as it is published."""
    config = WavlmConfig(layers=1)
    flat = flatten(random_of(lambda rngs: WavlmSpeaker(config, rngs=rngs)))
    tensors = {wavlm.MIXTURE: flat.pop(f"wavlm.{wavlm.MIXTURE}")}
    for key, leaf in flat.items():
        tensors |= views(wavlm.table(config.scale), key, leaf)
    name = f"{wavlm.POSITIONS}.weight"
    kernel = tensors.pop(name)
    tensors[f"{name}_g"] = np.sqrt((kernel**2).sum((0, 1), keepdims=True))
    tensors[f"{name}_v"] = kernel
    import torch

    torch.save({"model": {key: torch.from_numpy(x.copy()) for key, x in tensors.items()}}, path)


@pytest.mark.slow
@pytest.mark.parity  # torch writes a file as the judge of voices is published
@pytest.mark.timeout(5400)
def test_the_papers_path_runs_whole_on_the_released_shapes(tmp_path):
    """Llasa-1B, X-Codec2, Whisper-large-v3 and WavLM-large with their widths and vocabularies, one
    layer deep, random weights: converted, searched, judged and compared by launch/paper.sh."""
    weights = tmp_path / "run" / "weights"
    whisper_folder(weights / "whisper-large-v3")
    wavlm_file(weights / "wavlm_large_finetune.pth")
    plain = dict(layers=1, attention="reference", compute_dtype="float32", remat="none")
    lm = dataclasses.replace(LLASA_1B, **plain)
    params = random_of(lambda rngs: Decoder(lm, rngs=rngs))
    export_llama(weights / "llasa-1b", lm, params, released_tokenizer())
    del params
    from llasa_jax.config import CodecRun

    released: CodecConfig = load_config("xcodec2", CodecRun, []).codec
    codec = dataclasses.replace(
        released,
        semantic=dataclasses.replace(released.semantic, layers=1),
        decoder=dataclasses.replace(released.decoder, layers=1),
    )
    params = random_of(lambda rngs: Codec(codec, rngs=rngs), 0.7)
    export_codec(weights / "xcodec2", "transformers", codec, params)
    del params
    lists = tmp_path / "run" / "seedtts_testset" / "en"
    (lists / "prompts").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(2):
        wave = 0.1 * np.sin(np.arange(16000) * (0.05 + i / 50)) + rng.normal(0, 0.01, 16000)
        write_audio(lists / "prompts" / f"{i}.wav", wave.astype(np.float32), 16000)
    lines = [f"u{i}|a prompt|prompts/{i}.wav|good day|prompts/{1 - i}.wav" for i in range(2)]
    (lists / "meta.lst").write_text("\n".join(lines))
    # The script in a checkout whose .venv is the Python that runs this test.
    root = tmp_path / "checkout"
    (root / ".venv/bin").mkdir(parents=True)
    for name in ("launch", "pyproject.toml", *(p.name for p in ROOT.glob("requirements*.txt"))):
        (root / name).symlink_to(ROOT / name)
    (root / ".venv/bin/python").write_text(
        f'#!/bin/bash\ncase "$*" in "-m pip"*) exit 0 ;; "-c import libtpu") exit 1 ;; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    (root / ".venv/bin/llasa").write_text(f'#!/bin/bash\nexec {sys.executable} -m llasa_jax "$@"\n')
    for path in (root / ".venv/bin").iterdir():
        path.chmod(0o755)
    assert importlib.util.find_spec("llasa_jax")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment |= {"PAPER_MODELS": "llasa-1b", "PAPER_SETS": "en"}
    environment |= {"PAPER_OPTIONS": "--candidates 2 --beams 2 --prefix-seconds 0.5"}
    (root / ".venv/.installed-packages").touch()
    done = subprocess.run(
        ["bash", str(root / "launch/paper.sh"), str(tmp_path / "run")],
        env=environment,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stderr[-3000:]  # random weights do not reach the paper
    found = json.loads((tmp_path / "run/results/en/summary.json").read_text())
    assert len(found["runs"]) == 5 and all(one["utterances"] == 2 for one in found["runs"])
    for one in found["runs"]:
        assert one["without_sound"] == 0 and one["scores"]["whisper"]["rate"]["n"] == 2
        assert -1 <= one["scores"]["wavlm"]["o"]["value"] <= 1
    assert "Table 2 of the paper" in done.stdout and "llasa-1b-250k" in done.stdout
