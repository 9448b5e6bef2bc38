"""`llasa eval learning`: what a language model's run could say, at each checkpoint that it kept.

Loss is of the run's own curve. Words and failures are of first takes of held-out sentences, with
the guards and the settings of `llasa say`, counted by pocketsphinx.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from llasa_jax import nn
from llasa_jax.config import DecoderRun
from llasa_jax.console import bar
from llasa_jax.data.debian import default_cache
from llasa_jax.data.synthetic import FliteEnglish
from llasa_jax.errors import UserError
from llasa_jax.evaluation.learning_report import write_learning_report
from llasa_jax.lm.model import Decoder
from llasa_jax.metrics import statistics
from llasa_jax.metrics.text import word_errors
from llasa_jax.recipes.measure import bounds
from llasa_jax.recipes.stages import codec_config, language_rows, model_folder
from llasa_jax.recipes.voice import Voice
from llasa_jax.search.guards import OK
from llasa_jax.search.sampler import Sampler
from llasa_jax.training.language import language_objective, row_work
from llasa_jax.training.loop import kept_along
from llasa_jax.training.record import read_curve
from llasa_jax.verifiers.external import Judge, Pocketsphinx

SAMPLED = 32  # batches whose work stands for all


def learning(
    run: DecoderRun,
    folder: Path,
    tokens: str | Path,
    model: Path,
    *,
    utterances: int = 50,
    out: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Speaks held-out sentences with every kept checkpoint of a run.

    Args:
        folder: of the run, as `llasa train --out`.
        tokens, model: what it was trained on, and with which codec.
        out: folder for learning.json, learning.csv and its figure.

    Returns:
        {"points": [{"step", "tokens", "flops", "valid_nats", "judge_wer", "judge_wer_interval",
        "failures", "failures_bound", "sentences"}], ...}.

    Raises:
        UserError: as `Voice` and `kept_along`; a run of adapters is not spoken with.
    """
    if run.lm.lora is not None:
        raise UserError("eval learning: the run trains adapters; give one of whole models")
    model = model_folder(model)
    voice, judge = Voice(model), Pocketsphinx()
    texts = FliteEnglish(default_cache()).held_out(utterances)
    names = list(voice.voices)
    speakers = [names[i % len(names)] for i in range(len(texts))]
    _, batches, _ = language_rows(run, tokens, model, seed)
    works = [row_work(run.lm, batches[i]) for i in range(SAMPLED)]
    step_tokens = float(np.mean([work.tokens for work in works]))
    step_flops = float(np.mean([work.flops for work in works]))
    curve = read_curve(folder / "curve.csv")
    nats = {row["step"]: row["valid_nats"] for row in curve if row.get("valid_nats") is not None}
    objective = language_objective(run, codec_config(model).levels)
    graphdef, _ = nn.abstract(lambda rngs: Decoder(run.lm, rngs=rngs))
    points = []
    with bar("speak with each checkpoint", 0, "checkpoints") as progress:
        for step, params in kept_along(objective, run.train, folder):
            engine = voice.engine
            engine.sampler = Sampler(
                graphdef,
                jax.device_get(params),
                engine.vocabulary,
                voice.sampling,
                slots=voice.slots,
            )
            said = spoken(voice, judge, texts, speakers, seed)
            points.append(
                {
                    "step": step,
                    "tokens": step * step_tokens,
                    "flops": step * step_flops,
                    "valid_nats": nats.get(step),
                }
                | said
            )
            progress.advance(1, step=step, judge_wer=said["judge_wer"], failures=said["failures"])
    losses = [
        {"step": s, "tokens": s * step_tokens, "flops": s * step_flops, "valid_nats": n}
        for s, n in nats.items()
    ]
    found = {"data": "synthetic speech (flite)", "judge": judge.name, "seed": seed}
    found |= {"points": points, "losses": losses}
    if out is not None:
        write_learning_report(out, found)
    return found


def spoken(
    voice: Voice, judge: Judge, texts: Sequence[str], speakers: Sequence[str], seed: int
) -> dict[str, Any]:
    """Word error with its interval, and failures, of a first take of each text."""
    pools, _ = voice.pools(texts, speakers, candidates=1, seed=seed)
    errors = word_errors(texts, judge.transcribe([pool.waves[0] for pool in pools]))
    failures = sum(pool.statuses[0] != OK for pool in pools)
    return {
        "judge_wer": errors.rate,
        "judge_wer_interval": bounds(errors.interval()),
        "failures": failures,
        "failures_bound": statistics.upper_bound(failures, len(texts)),
        "sentences": len(texts),
    }
