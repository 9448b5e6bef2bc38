"""`llasa train` of a `GrpoRun`: takes of the model as it is now, scored by its verifiers."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np

from llasa_jax import nn
from llasa_jax.config import GrpoRun, SamplerConfig
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import save_part
from llasa_jax.lm.model import Decoder
from llasa_jax.parallel.distributed import gather
from llasa_jax.recipes import stages
from llasa_jax.recipes.distil import require_verifiers, training_sentences
from llasa_jax.recipes.voice import Voice
from llasa_jax.recipes.warm import starting_parameters
from llasa_jax.search.sampler import Sampler
from llasa_jax.search.strategies import Pool
from llasa_jax.search.take import OK
from llasa_jax.training.grpo import (
    advantages,
    grpo_objective,
    log_probabilities,
    policy_batch,
    policy_rows,
)
from llasa_jax.training.loop import Fitted, fit

ROLLOUTS = "rollouts"  # of a run's folder


def train_grpo(
    run: GrpoRun, folder: Path, model: Path, *, init: Path, sentences: Path | None, seed: int
) -> Fitted:
    """Trains the language model of `init` and writes `lm.safetensors` to `model`.

    Args:
        model: with codec, verifiers and voices.
        sentences: a file with one a line; None: training sentences of the shipped voice's corpus.

    Raises:
        UserError: as `Voice`, `starting_parameters` and `fit`.
    """
    if jax.process_count() > 1:
        raise UserError("train: GRPO draws its takes in one process; start one")
    voice = Voice(model, slots=run.prompts * run.group, sampling=policy_sampling(run))
    vocabulary = voice.engine.vocabulary
    begin = starting_parameters(init, run, vocabulary)
    about = stages.load_language(init)[3] if (init / "lm.safetensors").is_file() else {}
    rows = policy_rows(run, vocabulary.first_code, vocabulary.speech_end)
    texts = training_sentences(run.sentences, sentences)
    rollouts = Rollouts(run, voice, texts, rows, begin, folder / ROLLOUTS, seed)
    fitted = fit(grpo_objective(run, rows, begin), rollouts, run.train, folder, seed=seed)
    save_part(model, "lm", run.lm, gather(fitted.params), about | {"grpo_steps": fitted.steps})
    return fitted


def policy_sampling(run: GrpoRun) -> SamplerConfig:
    """How takes are drawn that the policy is to learn from: nothing is cut off."""
    return SamplerConfig(temperature=run.temperature, top_k=0)


class Rollouts:
    """(parameters, step) -> the batch of that step, for `training.loop.fit`.

    The takes of a rollout are drawn with the parameters of its first step. They are kept in
    `folder`, so that a run that was stopped between its steps goes on with the same.

    Args:
        begin: parameters of the reference, which `run.kl` holds the policy near to.
    """

    def __init__(
        self,
        run: GrpoRun,
        voice: Voice,
        texts: Sequence[str],
        rows: jax.Array,
        begin: dict,
        folder: Path,
        seed: int,
    ) -> None:
        require_verifiers([one.verifier for one in run.select], voice.engine.verifiers)
        if not voice.voices:
            raise UserError("train: the model has no voice; add one with `llasa voices add`")
        self.run, self.voice, self.texts = run, voice, list(texts)
        self.begin, self.folder, self.seed = begin, folder, seed
        # A take that failed is a lesson: it is not drawn again.
        voice.engine.guards = replace(voice.engine.guards, retries=0)
        self.graphdef, _ = nn.abstract(lambda rngs: Decoder(run.lm, rngs=rngs))
        self.held: tuple[int, dict[str, np.ndarray]] | None = None

        @jax.jit
        def score(params: dict, batch: dict) -> jax.Array:
            return log_probabilities(nn.merge(self.graphdef, params), batch, run, rows)

        self.score = score

    def __call__(self, params: dict, step: int) -> dict[str, np.ndarray]:
        number, part = divmod(step, self.run.updates)
        if part == 0:
            self.held = number, self.draw(params, number)
            self.save(*self.held)
        elif self.held is None or self.held[0] != number:
            self.held = number, self.load(number)
        size = self.run.train.batch
        return {name: x[part * size :][:size] for name, x in self.held[1].items()}

    def draw(self, params: dict, number: int) -> dict[str, np.ndarray]:
        """A rollout: takes of the next sentences, each with its advantage in its group."""
        run, voice, names = self.run, self.voice, list(self.voice.voices)
        places = [number * run.prompts + i for i in range(run.prompts)]
        texts = [self.texts[i % len(self.texts)] for i in places]
        speakers = [names[i % len(names)] for i in places]
        engine = voice.engine
        engine.sampler = Sampler(
            self.graphdef, params, engine.vocabulary, voice.sampling, slots=voice.slots
        )
        pools, _ = voice.pools(texts, speakers, candidates=run.group, seed=self.seed + number)
        references, prompts = voice.arguments(texts, speakers)
        ids = [task.ids for task in engine.tasks(texts, references, prompts)]
        longest = max(map(len, ids))
        if longest >= run.row:
            raise UserError(f"row: {run.row} ids hold no take after a prompt of {longest}; more")
        takes = [take for pool in pools for take in pool.takes]
        batch = policy_batch(
            [own for own in ids for _ in range(run.group)],
            [take.codes for take in takes],
            [take.stopped for take in takes],
            first_code=engine.vocabulary.first_code,
            end=run.lm.codes,
            row=run.row,
            most=run.codes,
        )
        rewards = np.stack([self.rewards(pool) for pool in pools])
        batch["rewards"] = np.float32(rewards.reshape(-1))
        batch["advantages"] = np.float32(advantages(rewards).reshape(-1))
        batch["old"] = self.scored(params, batch)
        if run.kl:
            batch["reference"] = self.scored(self.begin, batch)
        return batch

    def rewards(self, pool: Pool) -> np.ndarray:
        """What the verifiers think of each take of a pool [G]."""
        total = np.zeros(len(pool.takes))
        ok = np.array([status == OK for status in pool.statuses])
        for one in self.run.select:
            scores = np.maximum(pool.scores[one.verifier], one.least)
            total += one.weight * np.where(ok, scores, one.least)
        return total

    def scored(self, params: dict, batch: dict[str, np.ndarray]) -> np.ndarray:
        """Log-probabilities of a rollout's choices, as many takes at once as a step learns from."""
        size = self.run.train.batch
        one = partial(self.score, params)
        parts = [
            one({name: x[first : first + size] for name, x in batch.items()})
            for first in range(0, len(batch["tokens"]), size)
        ]
        return np.concatenate([np.asarray(part) for part in parts])

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"

    def save(self, number: int, batch: dict[str, np.ndarray]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / ".rollout.tmp"
        with temporary.open("wb") as file:
            np.savez_compressed(file, **batch)
        os.replace(temporary, self._path(number))

    def load(self, number: int) -> dict[str, np.ndarray]:
        """A rollout that an earlier process drew.

        Raises:
            UserError: it is missing or damaged.
        """
        path = self._path(number)
        try:
            with np.load(path, allow_pickle=False) as found:
                return dict(found)
        except Exception as error:  # of what a damaged file may raise there is no list
            raise UserError(
                f"{path}: is missing or damaged; the run was stopped in the midst of its takes. "
                "Delete the newest checkpoints, or begin anew"
            ) from error
