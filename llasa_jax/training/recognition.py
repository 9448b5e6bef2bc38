"""What the recogniser and the speaker encoder minimise, and how they are validated."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from llasa_jax.config import RecogniserRun, SpeakerRun, to_dict
from llasa_jax.data.batches import speaker_crops, transcribable
from llasa_jax.data.store import WaveStore
from llasa_jax.errors import UserError
from llasa_jax.metrics.text import character_errors, normalise, word_errors
from llasa_jax.nn import merge
from llasa_jax.training.step import Objective
from llasa_jax.verifiers.recogniser import (
    BatchRecogniser,
    ctc_loss_per_character,
    init_recogniser,
    recogniser_definition,
)
from llasa_jax.verifiers.speaker import classifier_definition, init_classifier, margin_loss

VALID_BATCHES = 8


def recogniser_objective(run: RecogniserRun) -> Objective:
    """CTC loss a character; a batch is that of `data.batches.transcribed`.

    SpecAugment was tried and left out: in the few epochs of a quickstart it costs more than it
    gives (character error 0.36 against 0.30 after 450 steps).
    """
    graphdef = recogniser_definition(run.recogniser)

    def init(key: jax.Array) -> dict:
        return init_recogniser(run.recogniser, key)

    def loss(params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        logits, mask = merge(graphdef, params)(batch["wave"], batch["length"])
        return ctc_loss_per_character(logits, mask, batch["labels"]).mean(), {}

    return Objective("recogniser", init, loss, about=to_dict(run))


def recogniser_validation(
    run: RecogniserRun, store: WaveStore, indices: Sequence[int]
) -> Callable[[dict, int], dict]:
    """(params, step) -> character and word error rates, "cer" and "wer", of greedy transcripts.

    Raises:
        UserError: if none of the waves has a readable text.
    """
    usable = transcribable(store, indices, run.recogniser.alphabet, run.max_seconds)
    if not usable:
        raise UserError("no held-out recording with readable text to test a recogniser on")
    texts = [normalise(store.utterances[i].text) for i in usable]
    recogniser = BatchRecogniser(run.recogniser, {})

    def validate(params: dict, step: int) -> dict:
        recogniser.params = params
        heard = recogniser.transcribe([store[i][1] for i in usable])
        return {"cer": character_errors(texts, heard).rate, "wer": word_errors(texts, heard).rate}

    return validate


def speakers_of(store: WaveStore, indices: Sequence[int]) -> list[str]:
    """Names of the voices of these waves, sorted: the classes of the speaker encoder's training."""
    return sorted({store.utterances[i].speaker for i in indices})


def speaker_objective(run: SpeakerRun, speakers: Sequence[str]) -> Objective:
    """Additive-margin softmax over `speakers`; a batch is that of `data.batches.speaker_crops`.

    The encoder's own parameters are params["encoder"].
    """
    graphdef = classifier_definition(run.speaker, len(speakers))

    def init(key: jax.Array) -> dict:
        return init_classifier(run.speaker, len(speakers), key)

    def loss(params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        cosines = merge(graphdef, params)(batch["wave"], batch["length"])
        right = (cosines.argmax(-1) == batch["speaker"]).mean()
        return margin_loss(cosines, batch["speaker"]).mean(), {"accuracy": right}

    return Objective("speaker encoder", init, loss, about=to_dict(run))


def speaker_validation(
    run: SpeakerRun, store: WaveStore, indices: Sequence[int], speakers: Sequence[str]
) -> Callable[[dict, int], dict]:
    """(params, step) -> share of crops of known voices whose speaker is recognised, "accuracy"."""
    graphdef = classifier_definition(run.speaker, len(speakers))
    known = [i for i in indices if store.utterances[i].speaker in speakers]
    crops = speaker_crops(store, known, run.crop_seconds, run.train.batch, 0, speakers)
    predict = jax.jit(lambda p, wave, length: merge(graphdef, p)(wave, length).argmax(-1))

    def validate(params: dict, step: int) -> dict:
        batches = [crops[i] for i in range(VALID_BATCHES)]
        right = [predict(params, b["wave"], b["length"]) == b["speaker"] for b in batches]
        return {"accuracy": float(np.mean(right))}

    return validate
