"""`llasa train` of a `GrpoRun` from the command line, with a tiny model of random weights."""

import shutil

import jax
import numpy as np
import pytest

from llasa_jax.cli import main
from llasa_jax.recipes import grpo
from llasa_jax.recipes.stages import load_language
from llasa_jax.training.meter import TIMED
from llasa_jax.training.record import read_curve

RUN = """
from llasa_jax.config import DecoderConfig, GrpoRun, OptimizerConfig, SelectConfig, TrainConfig
def get_config():
    lm = DecoderConfig(
        dim=16, ffn=16, layers=1, heads=2, kv_heads=1, head_dim=8, text_vocab=268, codes=60
    )
    train = TrainConfig(
        steps=4, batch=4, optimizer=OptimizerConfig(peak=0.01), log_every=1, save_every=1
    )
    return GrpoRun(
        lm=lm, train=train, group=4, updates=2, kl=0.1, row=96, codes=16, loss_chunk=8,
        select=(SelectConfig("content", least=-30.0), SelectConfig("speaker", 0.5, least=-1.0)),
    )
"""


@pytest.fixture(scope="module")
def work(speaking_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grpo")
    (folder / "run.py").write_text(RUN)
    (folder / "sentences.txt").write_text("one small bird sings\ntwo tall trees\nso it is\n")
    shutil.copytree(speaking_model, folder / "init")
    return folder


def line(work, out, *more):
    words = ["train", work / "run.py", "--init", work / "init", "--model", out / "model"]
    words += ["--sentences", work / "sentences.txt", "--out", out / "run"]
    return [str(word) for word in (*words, *more)]


def trained(work, out, *more):
    if not (out / "model").exists():
        shutil.copytree(work / "init", out / "model")
    return main(line(work, out, *more))


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_it_trains_and_killed_between_two_steps_of_a_rollout_ends_alike(
    work, tmp_path, monkeypatch
):
    assert trained(work, tmp_path) == 0
    before, after = (load_language(f) for f in (work / "init", tmp_path / "model"))
    assert not same(before[1], after[1])
    assert after[3]["pace"] == 1.5 and after[3]["grpo_steps"] == 4
    curve = read_curve(tmp_path / "run/curve.csv")
    assert [row["step"] for row in curve] == [1, 2, 3, 4]
    assert all({"reward", "kl", "clipped", "nats"} < set(row) for row in curve)
    assert curve[0]["kl"] == pytest.approx(0, abs=1e-5)  # it is the reference still
    assert curve[-1]["kl"] > 1e-5

    shutil.rmtree(tmp_path / "run/checkpoints/4")  # as if killed after the third step
    monkeypatch.setattr(grpo.Rollouts, "draw", None)  # the fourth one's takes were kept
    assert trained(work, tmp_path) == 0
    resumed = load_language(tmp_path / "model")[1]
    assert same(after[1], resumed)
    bare = lambda row: {k: v for k, v in row.items() if k not in TIMED}  # noqa: E731
    assert [*map(bare, read_curve(tmp_path / "run/curve.csv"))] == [*map(bare, curve)]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--tokens", "t"), "is trained on --sentences, not on --tokens"),
        (("--set", "select=[{'verifier':'loud','least':0}]"), "verifier loud: unknown, there are"),
        (("--set", "lm.dim=32"), "lm.dim is 16 there, 32 in the configuration"),
        (("--set", "row=20"), "row: 20 ids hold no take after a prompt of"),
        (("--set", "group=3"), "group: 8 takes of a rollout are no whole number of 3"),
    ],
)
def test_bad_input_is_one_line(work, tmp_path, capsys, more, message):
    assert trained(work, tmp_path, *more) == 2
    errors = [x for x in capsys.readouterr().err.splitlines() if x.startswith("llasa: error")]
    assert len(errors) == 1 and message in errors[0]
