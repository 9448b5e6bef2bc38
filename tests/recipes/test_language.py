"""Token rows and `llasa train` on them; what cannot be trained is refused before it compiles."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from llasa_jax.cli import main
from llasa_jax.config import CodecConfig, DataRun, SpectralConfig, TransformerConfig
from llasa_jax.data.shards import write_shards
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import part_hash
from llasa_jax.lm.vocabulary import Vocabulary, nano_vocabulary
from llasa_jax.recipes.prepare import prepare, settle_vocabulary

SMALL = TransformerConfig(dim=8, ffn=8, layers=1, heads=2)
CODEC = CodecConfig(
    levels=(4, 3, 5), spectral=SpectralConfig(8, SMALL), decoder=SMALL, norm_groups=4
)
RUN = """
from llasa_jax.config import DecoderConfig, DecoderRun, TrainConfig
def get_config():
    lm = DecoderConfig(
        dim=16, ffn=24, layers=1, heads=2, kv_heads=2, head_dim=8, text_vocab=267, codes=60
    )
    return DecoderRun(lm=lm, train=TrainConfig(steps=2, batch=2), row=128, loss_chunk=32)
"""


@pytest.fixture(autouse=True)
def handler():
    """`main` takes over SIGTERM; the tests' own process gets it back."""
    old = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, old)


@pytest.fixture
def work(tmp_path, tones, make_model):
    """A folder with a model, token rows of both directions and a configuration."""
    make_model(tmp_path / "model")
    run = DataRun(corpora=(str(tones),), kinds=("generation", "understanding"), row=128)
    prepare(run, tmp_path / "tokens", tmp_path / "model")
    (tmp_path / "run.py").write_text(RUN)
    return tmp_path


def arguments(work, *more):
    line = ["train", work / "run.py", "--tokens", work / "tokens", "--model", work / "model"]
    return [str(word) for word in [*line, "--out", work / "out", *more]]


def refused(capsys, line):
    capsys.readouterr()
    assert main(line) == 2
    captured = capsys.readouterr()
    (error,) = captured.err.splitlines()
    assert error.startswith("llasa: error: ") and captured.out == ""
    return error


def test_both_directions_in_one_mixture(work):
    sources = '[{"kind": "generation", "weight": 1}, {"kind": "understanding", "weight": 0.5}]'
    assert main(arguments(work, "--set", f"sources={sources}")) == 0
    assert (work / "model" / "lm.safetensors").is_file()


def test_a_tokenizer_of_ones_own_gets_the_speech_ids(work, tmp_path, make_model):
    description = json.loads(nano_vocabulary(1).tokenizer.to_str())
    description["added_tokens"] = [t for t in description["added_tokens"] if t["id"] < 267]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "tokenizer.json").write_text(
        json.dumps(description).replace("end_of_text", "own")
    )
    make_model(tmp_path / "two")
    settle_vocabulary(tmp_path / "two", tmp_path / "own")
    made = Vocabulary.load(tmp_path / "two")
    assert (made.text_vocab, made.code_count) == (267, 60)
    with pytest.raises(UserError, match="has another tokenizer"):
        settle_vocabulary(work / "model", tmp_path / "own")
    make_model(tmp_path / "three", replace(CODEC, levels=(4, 4)))
    nano_vocabulary(60).save(tmp_path / "three")
    with pytest.raises(UserError, match="has 60 codes, the codec 16"):
        settle_vocabulary(tmp_path / "three", None)


def test_trains_and_goes_on_only_with_the_same_shape(work, capsys):
    assert main(arguments(work)) == 0
    assert (work / "model" / "lm.safetensors").is_file()
    for setting, message in (
        ("lm.dim=32", "model.params.embedding is (512, 16) there, (512, 32) in this configuration"),
        ("lm.tied_embeddings=False", "model.params.head is missing there"),
    ):
        error = refused(capsys, arguments(work, "--set", setting))
        assert "checkpoint" in error and message in error


def test_ids_out_of_the_vocabulary(work, capsys):
    vocabulary, codec = Vocabulary.load(work / "model"), part_hash(work / "model", "codec")
    wrong = [(np.array([256, vocabulary.size]), np.array([0, 1]))]
    made = dict(row=128, codec=codec, vocabulary=vocabulary.hash, about={})
    write_shards(work / "tokens" / "generation" / "train", wrong, **made)
    error = refused(capsys, arguments(work))
    assert f"id {vocabulary.size} is out of the vocabulary of {vocabulary.size} ids" in error


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("<|TEXT_GENERATION_START|>", "other", "lacks <|TEXT_GENERATION_START|>"),
        ("<|s_59|>", "<|s_60|>", "<|s_59|> has id None, must be 334"),
        ("<|SPEECH_GENERATION_END|>", "<|x|>", "<|SPEECH_GENERATION_END|> has id None"),
        ("<|eot_id|>", "<|end|>", "lacks <|eot_id|>"),
    ],
)
def test_a_tokenizer_without_its_added_tokens(work, capsys, old, new, message):
    path = work / "model" / "tokenizer.json"
    path.write_text(path.read_text().replace(old, new))
    error = refused(capsys, arguments(work))
    assert message in error and str(path) in error


def test_configurations_of_another_shape(work, capsys):
    error = refused(capsys, arguments(work, "--set", "lm.codes=64"))
    assert "267 text ids and 60 codes" in error
    assert "tokenizer" in refused(capsys, arguments(work, "--set", "lm.text_vocab=128256"))
    assert "lm.kv_heads: 3 heads" in refused(capsys, arguments(work, "--set", "lm.heads=3"))
    error = refused(capsys, arguments(work, "--set", "row=64"))
    assert "has rows of 128 ids, row says 64" in error
    error = refused(capsys, arguments(work, "--set", "lm.unseen=128009"))
    assert "lm.unseen: 128009 is not <|eot_id|>, 260 in" in error
    error = refused(capsys, arguments(work, "--set", "train.mesh.fsdp=3"))
    assert "fsdp=3" in error and "does not fit 1 devices" in error
    assert not (work / "out").exists()


def test_a_mesh_that_does_not_divide_the_model(work):
    """Eight devices: two key-value heads over four of them, and two rows over eight."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    lines = [
        arguments(work, "--set", "train.mesh.tensor=4", "--set", "train.mesh.fsdp=2"),
        arguments(work, "--set", "train.mesh.fsdp=8"),
    ]
    code = f"from llasa_jax.cli import main\nfor line in {lines}: print(main(line))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | flags,
        timeout=250,
    )
    assert done.stdout == "2\n2\n", done.stderr
    heads, rows = [x for x in done.stderr.splitlines() if x.startswith("llasa: error: ")]
    assert "kv_heads 2 does not divide by tensor = 4" in heads
    assert "batch 2 does not divide by data x fsdp = 8" in rows
