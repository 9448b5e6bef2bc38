"""Whole stages of work on folders: corpus to codec, to token rows, to language model.

Each leaves its result under one folder, and started again continues or returns what is there.
Both `llasa quickstart` and the single commands are made of these.
"""

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np

from llasa_jax.audio.io import resample
from llasa_jax.codec.batch import BatchCodec
from llasa_jax.codec.model import Codec
from llasa_jax.config import (
    CodecConfig,
    CodecRun,
    DecoderConfig,
    DecoderRun,
    RecogniserConfig,
    RecogniserRun,
    SamplerConfig,
    SpeakerConfig,
    SpeakerRun,
    from_dict,
)
from llasa_jax.data.batches import crops, speaker_crops, transcribed
from llasa_jax.data.debian import default_cache
from llasa_jax.data.pipeline import Source, ordered_batches, packed_batches
from llasa_jax.data.place import Place
from llasa_jax.data.shards import TokenShards
from llasa_jax.data.store import WaveStore
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import load_part, part_hash, save_part
from llasa_jax.lm.lora import join, merged
from llasa_jax.lm.model import Decoder
from llasa_jax.lm.vocabulary import Vocabulary
from llasa_jax.metrics.text import normalise
from llasa_jax.parallel.distributed import gather
from llasa_jax.recipes.warm import starting_codec, starting_parameters, starting_recogniser
from llasa_jax.training.codec import codec_objective, codec_validation, divided, whole
from llasa_jax.training.language import language_objective, validation_nats
from llasa_jax.training.loop import Fitted, fit
from llasa_jax.training.recognition import (
    recogniser_objective,
    recogniser_validation,
    speaker_objective,
    speaker_validation,
    speakers_of,
)
from llasa_jax.training.step import place_batch, training_mesh
from llasa_jax.verifiers.characters import alphabet_of
from llasa_jax.verifiers.recogniser import Recogniser
from llasa_jax.verifiers.speaker import SpeakerEncoder, speaker_verifier

SAMPLING = "sampling.json"  # of a model folder, where its takes are not drawn as usual
SPLITS = ("train", "valid", "test")
VALID_UTTERANCES = 64  # of a recogniser's validation
VOICE_UTTERANCES = 8  # of a voice's mean embedding


def train_codec(
    run: CodecRun,
    store: WaveStore,
    folder: Path,
    model: Path,
    *,
    seed: int,
    budget: float | None = None,
    init: Path | None = None,
) -> Fitted:
    """Trains the codec on the store's training waves and writes `codec.safetensors` to `model`.

    The store's validation waves are rebuilt every `valid_every` steps, and the first of them kept
    in `folder`/samples; a run of fewer steps does without.

    Args:
        init: a folder with the codec to begin with, its frozen semantic model too; without it,
            random numbers.

    Raises:
        UserError: as `fit`, `starting_codec`; if the store holds another rate than the codec
            writes, or the semantic branch has no model, two, or another one than configured.
    """
    rate, wanted = run.codec.sample_rate, run.codec.output_rate
    if store.rate != wanted:
        raise UserError(f"{store.folder}: holds {store.rate} Hz, the codec writes {wanted}")
    processes, process = jax.process_count(), jax.process_index()
    batches = crops(
        store,
        store.select(split="train"),
        run.crop_seconds,
        run.train.batch,
        seed,
        {"recorded": run.recorded_share, "synthetic": 1 - run.recorded_share},
        run.language_power,
        run.speed,
        process=process,
        processes=processes,
    )
    if rate != wanted:
        batches = batches.map(
            lambda batch: {
                "wave": np.stack([resample(wave, wanted, rate) for wave in batch["wave"]]),
                "target": batch["wave"],
            }
        )
    if init is not None and run.semantic_model:
        raise UserError("semantic_model: --init brings its own; leave one of them out")
    begin = {} if init is None else {"codec": starting_codec(init, run.codec)}
    begin, frozen = divided(begin) if begin else (None, {})
    if run.codec.semantic is not None and init is None:
        frozen = {"semantic_model": _semantic_model(run)}
    objective = replace(codec_objective(run, frozen.get("semantic_model")), begin=begin)
    validate = None
    if run.train.valid_every <= run.train.steps:
        valid = store.select(split="valid")
        validate = codec_validation(run, store, valid, folder / "samples")
    fitted = fit(objective, batches, run.train, folder, seed=seed, validate=validate, budget=budget)
    params = gather(fitted.params)
    if process == 0:
        params = whole(params | objective.frozen)["codec"]
        save_part(model, "codec", run.codec, params, {"steps": fitted.steps})
    return fitted


def _semantic_model(run: CodecRun) -> dict:
    """The parameters of the codec's frozen model, of the model folder that `run` names."""
    if not run.semantic_model:
        raise UserError(
            "codec.semantic: its model is not trained here; set semantic_model to a model folder "
            "that holds it, as `llasa convert` or `llasa quickstart` leaves one"
        )
    folder, wanted = Path(run.semantic_model), run.codec.semantic
    if wanted.kind == "recogniser":
        found, params = load_recogniser(folder, "recogniser")
        params = {name: value for name, value in params.items() if name != "head"}
        same = found == wanted.recogniser
    else:
        config, params, _ = load_part(folder, "codec", CodecConfig, lambda c, r: Codec(c, rngs=r))
        same = config.semantic == wanted
        params = params["semantic"]["model"] if same else {}
    if not same:
        raise UserError(f"{folder}: its model is not that of codec.semantic; set the latter alike")
    return params


def model_folder(folder: Path) -> Path:
    """The model in `folder`, or in its `model` sub-folder, as `llasa quickstart` leaves it."""
    for candidate in (folder, folder / "model"):
        if (candidate / "codec.safetensors").is_file():
            return candidate
    raise UserError(f"no model in {folder}; train one with `llasa quickstart --out {folder}`")


def shipped_model() -> Path:
    """The model folder that the package carries."""
    return Path(__file__).parents[1] / "nano"


def load_codec(model: Path, batch: int = 16) -> BatchCodec:
    """The codec of a model folder."""
    config, params, _ = load_part(model, "codec", CodecConfig, lambda c, r: Codec(c, rngs=r))
    return BatchCodec(config, params, batch)


def codec_config(model: Path) -> CodecConfig:
    return load_part(model, "codec", CodecConfig, lambda c, r: Codec(c, rngs=r))[0]


def open_tokens(folder: str | Path, model: Path, split: str) -> TokenShards:
    """The rows of a split in a folder of one kind of examples, as `data prepare` leaves it.

    Raises:
        UserError: there are none, or another codec or vocabulary made them.
    """
    vocabulary = Vocabulary.load(model)
    codec = part_hash(model, "codec")
    rows = Place(f"{folder}/{split}").fetch(default_cache())
    return TokenShards.open(rows, codec=codec, vocabulary=vocabulary.hash, ids=vocabulary.size)


def train_language(
    run: DecoderRun,
    tokens: str | Path,
    folder: Path,
    model: Path,
    *,
    seed: int,
    budget: float | None = None,
    init: Path | None = None,
) -> Fitted:
    """Trains the language model on packed rows and writes `lm.safetensors` to `model`.

    Validated is on the first of `run.sources`.

    Args:
        tokens: what `data prepare` wrote: a folder, or a bucket's address.
        init: a folder with the model to begin with; without it, random numbers. A run with
            `lm.lora` trains adapters for this model, and writes it with them merged.
    """
    lm, vocabulary = run.lm, check_vocabulary(run.lm, model)
    train, batches, held_out = language_rows(run, tokens, model, seed)
    begin = None if init is None else starting_parameters(init, run, vocabulary)
    if lm.lora is not None and begin is None:
        raise UserError("lm.lora: adapters need a model that they adapt, give --init FOLDER")
    objective = language_objective(run, codec_config(model).levels, begin)
    if lm.lora is None:
        objective = replace(objective, begin=begin)
    place = partial(place_batch, objective, training_mesh(run.train.mesh))
    validate = validation_nats(run, held_out, place)
    fitted = fit(objective, batches, run.train, folder, seed=seed, validate=validate, budget=budget)
    params = gather(fitted.params)
    if lm.lora is not None:
        params, lm = merged(lm, join(params["adapters"], begin)), replace(lm, lora=None)
    if jax.process_index() == 0:
        about = {"steps": fitted.steps} | learned_speech(train[0].shards)
        save_part(model, "lm", lm, params, about)
    return fitted


def check_vocabulary(lm: DecoderConfig, model: Path) -> Vocabulary:
    """The vocabulary of a model folder, if `lm` is of its size.

    Raises:
        UserError: it is not.
    """
    vocabulary = Vocabulary.load(model)
    found = (vocabulary.text_vocab, vocabulary.code_count)
    if found != (lm.text_vocab, lm.codes):
        raise UserError(
            f"{model}: the tokenizer has {found[0]} text ids and {found[1]} codes, lm.text_vocab "
            f"and lm.codes say {lm.text_vocab} and {lm.codes}; change the configuration"
        )
    if lm.unseen not in (None, vocabulary.eot):
        raise UserError(f"lm.unseen: {lm.unseen} is not <|eot_id|>, {vocabulary.eot} in {model}")
    return vocabulary


def language_rows(
    run: DecoderRun, tokens: str | Path, model: Path, seed: int
) -> tuple[list[Source], grain.MapDataset, grain.MapDataset]:
    """What `run` learns from: its sources, this process's training batches, and validation's."""
    where = [f"{source.folder or tokens}/{source.kind}" for source in run.sources]
    train = [
        Source(open_tokens(folder, model, "train"), source.weight)
        for folder, source in zip(where, run.sources, strict=True)
    ]
    valid = open_tokens(where[0], model, "valid")
    size = train[0].shards.row
    if size != run.row:
        raise UserError(f"{where[0]}: has rows of {size} ids, row says {run.row}; set it alike")
    rows = {"process": jax.process_index(), "processes": jax.process_count()}
    batches = packed_batches(train, run.train.batch, seed, **rows)
    return train, batches, ordered_batches(valid, run.train.batch, **rows)


def learned_speech(shards: TokenShards) -> dict[str, Any]:
    """What a model learns to speak from: its `speakers`, codes a character (`pace`), and the
    characters of its `longest` texts.

    Pace and length are the slowest and the longest but for one of a thousand utterances. Rows
    without texts tell none.
    """
    told = [one for one in shards.about() if one.get("text")]
    if not told:
        return {"speakers": []}
    rates = [one["codes"] / len(one["text"].strip()) for one in told]
    speakers = sorted({one["speaker"] for one in told})
    longest = float(np.quantile([len(one["text"].strip()) for one in told], 0.999))
    return {"speakers": speakers, "pace": float(np.quantile(rates, 0.999)), "longest": longest}


def load_language(model: Path) -> tuple[DecoderConfig, dict, Vocabulary, dict]:
    """The language model of a model folder, with its vocabulary and what is known of it."""
    config, params, about = load_part(model, "lm", DecoderConfig, lambda c, r: Decoder(c, rngs=r))
    return config, params, Vocabulary.load(model), about


def load_sampling(model: Path) -> SamplerConfig:
    """How the takes of a model folder's language model are drawn: as `SAMPLING` says, or as usual.

    Raises:
        UserError: the file is broken or has unknown settings.
    """
    path = model / SAMPLING
    if not path.is_file():
        return SamplerConfig()
    try:
        return from_dict(SamplerConfig, json.loads(path.read_text(encoding="utf-8")))
    except (UserError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: {error}") from error


def write_json(path: Path, value: dict) -> None:
    """Writes JSON whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    os.replace(temporary, path)


def train_recogniser(
    run: RecogniserRun,
    store: WaveStore,
    folder: Path,
    model: Path,
    name: str,
    *,
    train: list[int],
    valid: list[int],
    seed: int,
    budget: float | None = None,
    init: Path | None = None,
) -> dict:
    """Trains a CTC recogniser on waves with text and writes `NAME.safetensors` to `model`.

    Its alphabet is that of the training texts, its waves those of `run.part`. Returns its held-out
    error rates.

    Args:
        init: a folder with the recogniser to begin with; without it, random numbers.
    """
    first, step = run.part
    train = train[first::step]
    alphabet = alphabet_of([normalise(store.utterances[i].text) for i in train])
    config = replace(run.recogniser, alphabet=alphabet, sample_rate=store.rate)
    run = replace(run, recogniser=config)
    batches = transcribed(
        store, train, run.train.batch, run.max_seconds, alphabet, seed, speed=run.speed
    )
    validate = recogniser_validation(run, store, valid[:VALID_UTTERANCES])
    begin = None if init is None else starting_recogniser(init, config)
    objective = replace(recogniser_objective(run), begin=begin)
    fitted = fit(objective, batches, run.train, folder, seed=seed, validate=validate, budget=budget)
    last = fitted.curve[-1]
    found = {"cer": last["valid_cer"], "wer": last["valid_wer"], "steps": fitted.steps}
    save_part(model, name, config, fitted.params, found)
    return found


def train_verifier(
    run: RecogniserRun | SpeakerRun,
    store: Path,
    folder: Path,
    model: Path,
    *,
    seed: int,
    init: Path | None = None,
) -> dict:
    """Trains a verifier on all that a store has for it, in a sub-folder of `folder`.

    Raises:
        UserError: a speaker encoder, whose classes are the store's voices, is to begin with one.
    """
    waves = WaveStore.open(store)
    if isinstance(run, SpeakerRun):
        if init is not None:
            raise UserError("--init: a speaker encoder begins with random numbers; leave it out")
        return train_speaker(run, waves, folder / "speaker", model, seed=seed)
    train, valid = (waves.select(split=split, with_text=True) for split in ("train", "valid"))
    part = {"train": train, "valid": valid, "seed": seed, "init": init}
    return train_recogniser(run, waves, folder / "recogniser", model, "recogniser", **part)


def load_recogniser(model: Path, name: str) -> tuple[RecogniserConfig, dict]:
    config, params, _ = load_part(model, name, RecogniserConfig, lambda c, r: Recogniser(c, rngs=r))
    return config, params


def train_speaker(
    run: SpeakerRun,
    store: WaveStore,
    folder: Path,
    model: Path,
    *,
    seed: int,
    budget: float | None = None,
) -> dict:
    """Trains the speaker encoder on all voices and writes `speaker.safetensors` to `model`.

    The mean embedding of each voice goes with it. Returns its held-out accuracy.
    """
    train = store.select(split="train")
    valid = store.select(split="valid")
    speakers = speakers_of(store, train)
    batches = speaker_crops(store, train, run.crop_seconds, run.train.batch, seed, speakers)
    validate = speaker_validation(run, store, valid, speakers)
    objective = speaker_objective(run, speakers)
    fitted = fit(objective, batches, run.train, folder, seed=seed, validate=validate, budget=budget)
    encoder = fitted.params["encoder"]
    verifier = speaker_verifier(run.speaker, encoder)
    voices = {}
    for name in speakers:
        chosen = store.select(split="train", speaker=name)[:VOICE_UTTERANCES]
        total = sum(verifier.reference("", store[i][1]) for i in chosen)
        voices[name] = (total / np.linalg.norm(total)).tolist()
    found = {"accuracy": fitted.curve[-1]["valid_accuracy"], "steps": fitted.steps}
    save_part(model, "speaker", run.speaker, encoder, {"voices": voices} | found)
    return found | {"speakers": len(speakers)}


def load_speaker(model: Path) -> tuple[SpeakerConfig, dict, dict[str, np.ndarray]]:
    """The speaker encoder of a model folder, and each voice's mean embedding."""
    config, params, about = load_part(
        model, "speaker", SpeakerConfig, lambda c, r: SpeakerEncoder(c, rngs=r)
    )
    voices = {name: np.array(v, np.float32) for name, v in about["voices"].items()}
    return config, params, voices
