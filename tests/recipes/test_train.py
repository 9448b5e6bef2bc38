"""`llasa train` through the command line: alone, as two processes, and from another model."""

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from llasa_jax import cli, nn
from llasa_jax.codec.model import Codec
from llasa_jax.config import (
    CodecConfig,
    DecoderRun,
    SpectralConfig,
    TrainConfig,
    TransformerConfig,
    load_config,
)
from llasa_jax.data.pipeline import ordered_batches
from llasa_jax.data.shards import TokenShards, write_shards
from llasa_jax.interop.bundle import part_hash, save_part
from llasa_jax.interop.llama import export_llama
from llasa_jax.lm.model import Decoder
from llasa_jax.lm.vocabulary import Vocabulary, nano_vocabulary
from llasa_jax.recipes.stages import load_language
from llasa_jax.recipes.start import start
from llasa_jax.recipes.warm import starting_parameters
from llasa_jax.training.language import validation_nats
from llasa_jax.training.meter import TIMED
from llasa_jax.training.record import read_curve

SMALL = TransformerConfig(dim=8, ffn=8, layers=1, heads=2)
CODEC = CodecConfig(
    levels=(4, 4, 4),
    spectral=SpectralConfig(mel_bins=8, transformer=SMALL),
    decoder=SMALL,
    norm_groups=4,
)
CONFIG = """
from llasa_jax.config import *

def get_config():
    lm = DecoderConfig(dim=16, ffn=32, layers=2, heads=4, kv_heads=2, head_dim=8,
                       text_vocab=267, codes=64, vocab_multiple=4)
    train = TrainConfig(steps=4, batch=8, log_every=1, valid_every=4, save_every=2,
                        optimizer=OptimizerConfig(peak=0.01))
    return DecoderRun(lm=lm, train=train, row=320, loss_chunk=64)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a configuration, a codec, and token rows of both splits."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "tiny.py").write_text(CONFIG)
    rng = np.random.default_rng(0)
    _, template = nn.abstract(lambda rngs: Codec(CODEC, rngs=rngs))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f4"), template)
    save_part(folder / "model", "codec", CODEC, params)
    vocabulary = nano_vocabulary(CODEC.codebook_size)
    vocabulary.save(folder / "model")
    made = {"codec": part_hash(folder / "model", "codec"), "vocabulary": vocabulary.hash}
    for split, count in (("train", 24), ("valid", 9)):
        some = [vocabulary.example("ab", rng.integers(0, 64, 8 + i)) for i in range(count)]
        write_shards(folder / "tokens" / "generation" / split, some, row=320, about={}, **made)
    lm = load_config(str(folder / "tiny.py"), DecoderRun).lm
    _, template = nn.abstract(lambda rngs: Decoder(lm, rngs=rngs))
    params = jax.tree.map(lambda leaf: 0.1 * rng.normal(size=leaf.shape).astype("f4"), template)
    save_part(folder / "given", "lm", lm, params)
    vocabulary.save(folder / "given")
    export_llama(folder / "llama", lm, params, vocabulary)
    return folder


def command(place, out, *more, init="given"):
    """From given parameters: a cold start takes longer to compile."""
    folders = {"tokens": "tokens", "model": "model", "out": out, "init": init}
    words = [word for name, folder in folders.items() for word in (f"--{name}", place / folder)]
    settings = ["--set", "train.compile_cache=False"]
    return [str(word) for word in ("train", place / "tiny.py", *words, *settings, *more)]


@pytest.fixture(scope="module")
def alone(place):
    assert cli.main(command(place, "alone")) == 0
    return read_curve(place / "alone" / "curve.csv"), load_language(place / "model")[:2]


def close(curve, expected):
    assert len(curve) == len(expected)
    for row, other in zip(curve, expected, strict=True):
        row, other = ({k: v for k, v in r.items() if k not in TIMED} for r in (row, other))
        assert row == pytest.approx(other, rel=1e-5, abs=1e-6)


def test_a_run_alone_has_rates_and_a_ledger(place, alone):
    curve, _ = alone
    assert [row["step"] for row in curve] == [1, 2, 3, 4]
    assert all(row["tokens_s_chip"] > 0 and "mfu" not in row for row in curve)  # a CPU has no peak
    assert "valid_nats" in curve[-1] and curve[-1]["nats"] < curve[0]["nats"]
    seconds = json.loads((place / "alone" / "ledger.json").read_text())["seconds"]
    assert min(seconds[name] for name in ("useful", "compile", "validation", "checkpoint")) > 0
    assert curve[-1]["goodput"] < 1


def test_two_processes_with_two_devices_train_as_one(place, alone):
    """Found by the environment; each reads its own rows, and the first writes."""
    curve, (config, params) = alone
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    running = []
    for number in range(2):
        environment = os.environ | {
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "2",
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(number),
            "XLA_FLAGS": "--xla_backend_optimization_level=0",  # compiles faster
        }
        words = command(place, "two", "--set", "train.mesh.fsdp=2", "--set", "train.mesh.data=2")
        running.append(
            subprocess.Popen(
                [sys.executable, "-m", "llasa_jax", *words],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    errors = [process.communicate(timeout=200)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    assert "train language model" in errors[0] and "train language model" not in errors[1]
    close(read_curve(place / "two" / "curve.csv"), curve)
    found = load_language(place / "model")
    assert found[0] == config
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found[1], params)


def test_adapters_are_trained_and_merged(place):
    """What is written is a plain model, and computes what the run last measured."""
    few = ["train.steps=2", "train.valid_every=2", "lm.lora={'rank': 2}"]
    words = [word for setting in few for word in ("--set", setting)]
    assert cli.main(command(place, "adapters", *words)) == 0
    run = load_config(str(place / "tiny.py"), DecoderRun)
    config, params, *_ = load_language(place / "model")
    given = starting_parameters(place / "given", run, nano_vocabulary(64))
    assert config == run.lm
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), params, given)
    attention = changed["layers"]["layers"].pop("attention")
    assert attention == {"q": True, "k": False, "v": True, "out": False}
    assert not any(jax.tree.leaves(changed))
    valid = ordered_batches(TokenShards.open(place / "tokens" / "generation" / "valid"), 8)
    found = validation_nats(run, valid, lambda batch: batch)(params, 0)["nats"]
    measured = read_curve(place / "adapters" / "curve.csv")[-1]["valid_nats"]
    np.testing.assert_allclose(found, measured, rtol=1e-5)


def test_adapters_need_a_model(place, capsys):
    words = command(place, "refused", "--set", "lm.lora={'rank': 2}")
    at = words.index("--init")
    assert cli.main(words[:at] + words[at + 2 :]) == 2
    assert "give --init" in capsys.readouterr().err


def test_a_llama_folder_gives_the_same_parameters(place):
    run = load_config(str(place / "tiny.py"), DecoderRun)
    vocabulary = nano_vocabulary(64)
    found = [starting_parameters(place / name, run, vocabulary) for name in ("given", "llama")]
    rows = found[0]["embedding"]
    assert rows.shape == (run.lm.padded_vocab, 16) and not rows[run.lm.vocab :].any()
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_a_text_llama_gets_rows(place, tmp_path):
    """Its own rows stay, those of the 8 tags and the 64 codes are new."""
    run = load_config(str(place / "tiny.py"), DecoderRun)
    text = json.loads((place / "llama" / "tokenizer.json").read_text())
    text["added_tokens"] = [one for one in text["added_tokens"] if one["id"] < 267]
    config = json.loads((place / "llama" / "config.json").read_text()) | {"vocab_size": 267}
    (tmp_path / "tokenizer.json").write_text(json.dumps(text))
    (tmp_path / "config.json").write_text(json.dumps(config))
    with safe_open(place / "llama" / "model.safetensors", "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    table = tensors["model.embed_tokens.weight"][:267]
    save_file(tensors | {"model.embed_tokens.weight": table}, tmp_path / "model.safetensors")
    vocabulary = Vocabulary.load(tmp_path, 64)
    for rows in ("normal", "mean"):
        found = starting_parameters(tmp_path, replace(run, new_rows=rows), vocabulary)["embedding"]
        np.testing.assert_array_equal(found[:267], table)
        new = found[267 : run.lm.vocab]
        if rows == "normal":
            assert 0.018 < new.std() < 0.022
        else:
            np.testing.assert_allclose(new, table.mean(0) + 0 * new, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["lm.ffn=16"], "lm.ffn is 32 there, 16 in the configuration"),
        (["lm.rope_theta=1e4"], "lm.rope_theta is 500000.0 there, 10000.0"),
    ],
)
def test_another_shape_is_refused(place, capsys, settings, message):
    changed = [word for setting in settings for word in ("--set", setting)]
    assert cli.main(command(place, "refused", *changed)) == 2
    assert message in capsys.readouterr().err


def test_another_tokenizer_is_refused(place, capsys):
    shutil.copytree(place / "given", place / "other")
    path = place / "other" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": {"type": "NFC"}}))
    assert cli.main(command(place, "refused", init="other")) == 2
    assert "its tokenizer is not the one of the token rows" in capsys.readouterr().err


def test_compiled_programs_are_kept_unless_jax_is_told_where(monkeypatch, tmp_path):
    monkeypatch.setenv("LLASA_JAX_CACHE", str(tmp_path))
    names = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size")
    old = {name: getattr(jax.config, name) for name in names}
    try:
        for told, keeps, expected in (
            (None, True, str(tmp_path / "compiled")),
            (None, False, None),
            ("elsewhere", True, "elsewhere"),
        ):
            jax.config.update(names[0], told)
            start(TrainConfig(compile_cache=keeps))
            assert jax.config.jax_compilation_cache_dir == expected
    finally:
        for name, value in old.items():
            jax.config.update(name, value)
