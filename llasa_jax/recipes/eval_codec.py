"""`llasa eval codec`: a trained codec, and real codecs, on the same held-out recordings."""

import importlib.util
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from llasa_jax import __version__
from llasa_jax.audio.io import read_audio, resample
from llasa_jax.codec.batch import BatchCodec
from llasa_jax.codec.stream import StreamDecoder
from llasa_jax.console import bar, log
from llasa_jax.data.debian import default_cache
from llasa_jax.data.store import SILENT_PEAK, WaveStore
from llasa_jax.errors import UserError
from llasa_jax.evaluation.codec_report import write_codec_report
from llasa_jax.evaluation.codec_scores import (
    Rebuilt,
    Recording,
    describe,
    judged,
    paired_scores,
    rebuild,
    summary,
    word_scores,
)
from llasa_jax.evaluation.lists import read_set
from llasa_jax.evaluation.peers import (
    CODEC2_FRAMES,
    RATE,
    Codec2,
    Codec2Programs,
    Opus,
    Ours,
    WaveCodec,
)
from llasa_jax.evaluation.scorers import Listeners, parse_scorers
from llasa_jax.interop.resemblyzer import load_ge2e
from llasa_jax.metrics.codes import codebook_use
from llasa_jax.metrics.dnsmos import dnsmos
from llasa_jax.metrics.waves import si_sdr
from llasa_jax.recipes.files import AUDIO
from llasa_jax.recipes.measure import hear, machine
from llasa_jax.recipes.stages import load_codec, model_folder
from llasa_jax.verifiers.external import Pocketsphinx
from llasa_jax.verifiers.ge2e import Ge2eEncoder

EXTRA = ("onnxruntime", "pesq", "speechmos")
PACKAGES = ("jax", "av", "librosa", "pystoi", *EXTRA, "pocketsphinx", "Resemblyzer")
MIN_SECONDS, MAX_SECONDS = 1.0, 10.0  # of a recording in the test split
MAX_FILE_SECONDS = 30.0  # of a file, from its beginning
DNSMOS_UTTERANCES = 8  # it takes about as long as the sound itself
CODEBOOK_SECONDS = 3600.0  # of a store's training speech, whose codes are counted
AT_ONCE = 512  # waves held in memory
SHOWN = 3  # recordings to listen to
NOTES = (
    "Every codec got the same waves at 16 kHz. Codec2 works at 8 kHz: resampled on the way in and "
    "on the way out. Ours and Opus, whose decoder takes its delay off, are scored as they come.",
    "From Codec2's waves the delay that they have in common is taken off: where the "
    "cross-correlation of envelopes, summed over all recordings, is largest within 100 ms.",
    "Opus at 6 kbit/s chooses narrow band. Its packets vary in size, as is its default, or are all "
    "alike (CBR), as our frames are.",
    "Bits a second: log2 of the codebook times the frame rate for ours, the bytes of the packets "
    "without a container for Opus, the nominal rate for Codec2.",
    "Streamed: our sound in chunks of 2 s against the same codes decoded at once, of recordings "
    "that are longer than the stream's latency.",
    "Encoding and decoding times are of this machine: ours in batches, compiled before; Opus in "
    "this process; Codec2 with a start of its program for each recording.",
    f"DNSMOS is of at most {DNSMOS_UTTERANCES} of the recordings, because it is slow.",
)


@dataclass(frozen=True)
class Chosen:
    """Recordings to put through the codecs.

    Attributes:
        recordings: all of them.
        scored: so many, from the first on, are compared with what comes out.
        spoken: places of those whose words are counted.
        data: what the recordings are, for the report.
    """

    recordings: list[Recording]
    scored: int
    spoken: list[int]
    data: dict[str, Any]


def eval_codec(
    model: Path,
    *,
    store: Path | None = None,
    audio: Sequence[Path] = (),
    scorers: Sequence[str] = (),
    utterances: int = 40,
    out: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores of the codec in `model` and of real codecs, and what they were measured on.

    Args:
        store: a prepared corpus, of which `held_out` says what is used.
        audio: files, or folders of them, instead of a store; or one list (`lists.read_set`), whose
            recordings have texts, or a folder of LibriSpeech.
        scorers: further judges, NAME or NAME=PATH each (`evaluation.scorers`), as of the paper's
            table 1 hubert, wavlm and utmos: `wer_NAME`, `similarity_NAME` or the quality's name.
        utterances: how many recordings at most; words are counted on as many with English text.
        out: folder for `eval.json`, the page and its figures.

    Returns:
        A part for each codec by its key, "original", "data", "versions", "machine", "notes" and
        "not_measured". A measure is a mean, with its `_interval` [low, high] and `_utterances`.

    Raises:
        UserError: without the packages of the extra `eval`, or a recording to measure on.
    """
    require_extra()
    if (store is None) == (not audio):
        raise UserError("eval codec: give either --store DIR or recordings to measure on")
    if utterances < 1:
        raise UserError(f"--utterances {utterances}: at least 1 is needed")
    codec = load_codec(model_folder(model))
    paths = parse_scorers(scorers)
    listeners = Listeners(paths, model_folder(model), "en")
    judges = [listeners.scorer(name) for name in paths]
    speakers, judge = Ge2eEncoder(load_ge2e()), Pocketsphinx()
    opened = None if store is None else WaveStore.open(store)
    if opened is not None:
        chosen = held_out(opened, utterances)
    elif is_list(audio):
        chosen = read_listed(audio[0], utterances)
    else:
        chosen = read_files(audio, utterances)
    codecs, versions, missing = all_codecs(codec)
    originals = [one.wave for one in chosen.recordings]
    rebuilt = rebuild_all(codecs, originals)
    waves = {"original": originals} | {name: each.waves for name, each in rebuilt.items()}
    found: dict[str, Any] = {name: dict(each.about) for name, each in rebuilt.items()}
    found["original"] = {}
    config = codec.config
    found["ours"] |= {"tokens_per_second": config.frame_rate, "codebook": config.codebook_size}
    with bar("score", len(rebuilt) * chosen.scored, "waves") as progress:
        for name in rebuilt:
            pairs = originals[: chosen.scored], waves[name][: chosen.scored]
            found[name] |= paired_scores(*pairs, progress.advance)
    targets = speakers.embed(originals[: chosen.scored])
    for name in rebuilt:
        closeness = (speakers.embed(waves[name][: chosen.scored]) * targets).sum(1)
        found[name] |= summary("similarity", closeness)
    rated = _spread(chosen.scored, DNSMOS_UTTERANCES)
    with bar("DNSMOS", len(waves) * len(rated), "waves") as progress:
        for name, each in waves.items():
            values = []
            for i in rated:
                values.append(dnsmos(each[i], RATE))
                progress.advance()
            found[name] |= summary("dnsmos", values)
    spoken = {name: [each[i] for i in chosen.spoken] for name, each in waves.items()}
    texts = [chosen.recordings[i].text for i in chosen.spoken]
    for name, scores in word_scores(texts, spoken, partial(hear, judge)).items():
        found[name] |= scores
    for one in judges:
        for name, scores in judged(one, texts, spoken, waves, chosen.scored).items():
            found[name] |= scores
    if opened is None:
        codes, counted = rebuilt["ours"].payloads, {"from": "the recordings"}
    else:
        codes, counted = training_codes(codec, opened, seed)
    found["ours"] |= stream_scores(codec, rebuilt["ours"].payloads[: chosen.scored])
    use = codebook_use(np.concatenate(codes), codec.config.levels)
    found["ours"] |= {"codebook_entropy_bits": use.entropy_bits, "codebook_used": use.used}
    counted |= {"codes": use.count, "most_bits": math.log2(min(use.count, use.codebook))}
    found |= {
        "data": chosen.data | {"codebook": counted},
        "versions": versions,
        "machine": machine(),
        "notes": list(NOTES),
        "not_measured": missing,
        "judges": {one.name: one.source for one in judges},
    }
    if out is not None:
        shown = [sample(chosen, waves, i) for i in _spread(chosen.scored, SHOWN)]
        page = write_codec_report(out, found, shown)
        log(f"The page to read and listen to: {page}")
    return found


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` places, evenly spread: the first ones may all be one voice."""
    return np.unique(np.linspace(0, count - 1, most).round().astype(int)).tolist()


def require_extra() -> None:
    """Before any work is done.

    Raises:
        UserError: if a package of the extra `eval` is missing.
    """
    absent = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if absent:
        raise UserError(
            f"eval codec: needs the packages {', '.join(absent)}: pip install 'llasa-jax[eval]'"
        )


def held_out(store: WaveStore, count: int) -> Chosen:
    """Recordings of voices that are never trained on; else of the test split.

    Of a test split, people are heard where it has any, else synthetic voices, of 1 to 10 s, all
    voices in turn. Words are counted on English recordings with text of the test split, which
    may be others.

    Raises:
        UserError: if there are none.
    """
    scored, voices = store.prompts(count), "never trained on"
    if not scored:
        voices = "trained on, other recordings of theirs"
        fit = partial(_fit, store)
        test = fit(store.select("test", "recorded")) or fit(store.select("test", "synthetic"))
        scored = _in_turn(store, test)[:count]
    if not scored:
        raise UserError(
            f"{store.folder}: no held-out recording of {MIN_SECONDS:g} to {MAX_SECONDS:g} s; "
            "prepare a larger corpus"
        )
    english = _fit(store, store.select("test", with_text=True, language="en"))
    spoken = _in_turn(store, english)[:count]
    order = list(dict.fromkeys([*scored, *spoken]))
    recordings = [_recording(store, i) for i in order]
    data = describe(recordings[: len(scored)]) | {"store": store.folder.name, "heard": voices}
    data["wer"] = describe([_recording(store, i) for i in spoken]) if spoken else None
    return Chosen(recordings, len(scored), [order.index(i) for i in spoken], data)


def _recording(store: WaveStore, index: int) -> Recording:
    one, wave = store[index]
    wave = resample(wave, store.rate, RATE)
    return Recording(one.id, wave, one.text, one.speaker, one.language, one.kind, one.corpus)


def _fit(store: WaveStore, indices: Sequence[int]) -> list[int]:
    """Those that are neither too short nor too long."""
    return [i for i in indices if MIN_SECONDS <= store.samples(i) / store.rate <= MAX_SECONDS]


def _in_turn(store: WaveStore, indices: Sequence[int]) -> list[int]:
    """The indices in another order: all voices take turns."""
    by_voice: dict[str, list[int]] = {}
    for i in indices:
        by_voice.setdefault(store.utterances[i].speaker, []).append(i)
    return [i for turn in zip_longest(*by_voice.values()) for i in turn if i is not None]


def read_files(inputs: Sequence[Path], count: int) -> Chosen:
    """The first `count` usable recordings; the others are named and left out.

    Raises:
        UserError: if a file or folder is missing, or nothing is usable.
    """
    paths: list[Path] = []
    for given in inputs:
        if not given.exists():
            raise UserError(f"{given}: no such file or folder")
        inside = sorted(p for p in given.rglob("*") if p.suffix.lower() in AUDIO)
        paths += inside if given.is_dir() else [given]
    recordings: list[Recording] = []
    for path in paths:
        try:
            recordings.append(Recording(str(path), _usable(path), kind="given files"))
        except UserError as error:
            log(f"left out: {error}")
        if len(recordings) == count:
            break
    if not recordings:
        raise UserError(f"eval codec: none of {len(paths)} recordings is usable; give others")
    data = describe(recordings) | {"heard": "not known", "wer": None}
    return Chosen(recordings, len(recordings), [], data)


def is_list(inputs: Sequence[Path]) -> bool:
    """Whether what is given is one list of recordings with texts, or a folder of LibriSpeech."""
    if len(inputs) != 1:
        return False
    (one,) = inputs
    return one.suffix == ".lst" or (one.is_dir() and any(one.rglob("*.trans.txt")))


def read_listed(path: Path, count: int) -> Chosen:
    """The first `count` usable recordings of a list; the others are named and left out.

    Raises:
        UserError: as `lists.read_set`, or nothing is usable.
    """
    which, recordings = read_set(str(path)), []
    for one in which.refused:
        log(f"left out: {path}, line {one.line}: {one.reason}")
    for item in which.items:
        recording, text = item.spoken
        try:
            if recording is None:
                raise UserError(f"{item.id}: the list has no recording of it")
            wave = _usable(recording)
        except UserError as error:
            log(f"left out: {error}")
            continue
        language, kind = which.language, "given files"
        recordings.append(Recording(item.id, wave, text, "", language, kind, which.name))
        if len(recordings) == count:
            break
    if not recordings:
        raise UserError(f"{path}: none of its recordings is usable; give another list")
    data = describe(recordings) | {"heard": "not known", "wer": describe(recordings)}
    return Chosen(recordings, len(recordings), list(range(len(recordings))), data)


def _usable(path: Path) -> np.ndarray:
    """A recording at 16 kHz, at most `MAX_FILE_SECONDS` of it; UserError if it is of no use."""
    wave = read_audio(path, RATE)[0][: round(MAX_FILE_SECONDS * RATE)]
    if len(wave) < 0.5 * RATE:
        raise UserError(f"{path}: is shorter than half a second")
    if np.abs(wave).max() < SILENT_PEAK:
        raise UserError(f"{path}: is silent")
    return np.clip(wave, -1, 1)


def all_codecs(codec: BatchCodec) -> tuple[dict[str, WaveCodec], dict[str, str], dict[str, str]]:
    """Ours and its peers by key, the versions of all that measures, and why a peer is missing."""
    codecs: dict[str, WaveCodec] = {"ours": Ours(codec), "opus_6000": Opus()}
    codecs["opus_6000_constant"] = Opus(constant=True)
    versions = {"llasa_jax": __version__} | {name: metadata.version(name) for name in PACKAGES}
    missing = {}
    try:
        programs = Codec2Programs.find(default_cache())
        codecs |= {f"codec2_{bits}": Codec2(bits, programs) for bits in CODEC2_FRAMES}
        versions["codec2"] = programs.version
    except UserError as error:
        log(f"Codec2 is left out: {error}")
        missing = {f"codec2_{bits}": str(error) for bits in CODEC2_FRAMES}
    return codecs, versions, missing


def rebuild_all(codecs: Mapping[str, WaveCodec], waves: Sequence[np.ndarray]) -> dict[str, Rebuilt]:
    """The waves through every codec; ours goes twice, so that compiling is not in its times."""
    found = {}
    with bar("codecs", len(codecs), "codecs") as progress:
        for name, codec in codecs.items():
            if isinstance(codec, Ours):
                codec.decode(codec.encode(waves))
            found[name] = rebuild(codec, waves)
            progress.advance()
    return found


def stream_scores(codec: BatchCodec, codes: Sequence[np.ndarray]) -> dict[str, Any]:
    """How near the streamed sound is to that of the whole, where it does not fit into one chunk."""
    stream = StreamDecoder(codec.config, codec.params)
    codes = [each for each in codes if len(each) > stream.chunk + stream.right]
    with bar("stream", len(codes), "waves") as progress:
        values = []
        for each, whole in zip(codes, codec.decode(codes), strict=True):
            values.append(si_sdr(whole, np.concatenate(list(stream([each])))))
            progress.advance()
    return summary("stream_si_sdr", values) | {"stream_latency": stream.latency}


def training_codes(
    codec: BatchCodec, store: WaveStore, seed: int
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Codes of at most an hour of the store's training speech, drawn at random, and its size."""
    indices = store.select("train")
    random.Random(seed).shuffle(indices)
    ends = np.cumsum([store.samples(i) for i in indices]) / store.rate
    indices = indices[: int(np.searchsorted(ends, CODEBOOK_SECONDS)) + 1]
    codes: list[np.ndarray] = []
    with bar("count codes", len(indices), "waves") as progress:
        for start in range(0, len(indices), AT_ONCE):
            waves = [_recording(store, i).wave for i in indices[start : start + AT_ONCE]]
            codes += Ours(codec).encode(waves)
            progress.advance(len(waves))
    hours = float(ends[len(indices) - 1]) / 3600 if indices else 0.0
    return codes, {"from": "training speech", "utterances": len(indices), "hours": hours}


def sample(chosen: Chosen, waves: Mapping[str, Sequence[np.ndarray]], place: int) -> dict:
    """A recording as the page plays it."""
    one = chosen.recordings[place]
    about = {"name": one.name, "text": one.text, "speaker": one.speaker, "kind": one.kind}
    return about | {"waves": {name: each[place] for name, each in waves.items()}}
