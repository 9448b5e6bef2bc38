"""What quickstart measures and shows: codec, search, and the report made of all stages."""

import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from llasa_jax import __version__, nn
from llasa_jax.audio.io import read_audio, write_audio
from llasa_jax.console import bar
from llasa_jax.data.codes import read_codes
from llasa_jax.data.store import WaveStore
from llasa_jax.evaluation.codec import mean_stoi, resynthesise, word_error_ratio
from llasa_jax.evaluation.figures import rank_shares
from llasa_jax.evaluation.report import write_report
from llasa_jax.interop.resemblyzer import load_ge2e
from llasa_jax.metrics import statistics
from llasa_jax.metrics.codes import codebook_use
from llasa_jax.metrics.text import word_errors
from llasa_jax.parallel.distributed import usable_cores
from llasa_jax.recipes import stages
from llasa_jax.recipes.voice import WEIGHTS, Voice
from llasa_jax.search.guards import OK
from llasa_jax.search.record import search_record
from llasa_jax.search.strategies import Pool, best_of
from llasa_jax.search.take import Take
from llasa_jax.training.loop import Fitted
from llasa_jax.training.record import read_curve
from llasa_jax.verifiers.external import Judge, Pocketsphinx
from llasa_jax.verifiers.ge2e import Ge2eEncoder
from llasa_jax.verifiers.protocol import ensure_judge_differs
from llasa_jax.verifiers.recogniser import BatchRecogniser

if TYPE_CHECKING:
    from llasa_jax.recipes.quickstart import Ledger, Quickstart

STOI_UTTERANCES = 40  # of each kind of speech
JUDGED_UTTERANCES = 60  # whose words the judge counts on originals and resynthesis
SENTENCES = 16  # that are searched
SPOKEN = 64  # that are spoken once, to see whether they stop by themselves
CANDIDATES = (1, 4, 16)
SHOWN = 5  # sentences to listen to in the report
SHOWN_CURVES = ("step", "loss", "valid_nats", "valid_cer")


def describe_corpus(store: WaveStore) -> dict:
    """Minutes, utterances and speakers of each kind of speech, recorded speech by language."""

    def describe(indices: Sequence[int]) -> dict:
        seconds = sum(store.samples(i) for i in indices) / store.rate
        speakers = sorted({store.utterances[i].speaker for i in indices})
        licences = sorted({store.utterances[i].licence for i in indices})
        return {
            "minutes": round(seconds / 60, 2),
            "utterances": len(indices),
            "speakers": speakers,
            "licences": licences,
        }

    found: dict[str, Any] = {"rejects": store.info["rejects"]}
    synthetic = store.select(kind="synthetic")
    recorded = store.select(kind="recorded")
    if synthetic:
        found["synthetic"] = describe(synthetic)
    if recorded:
        languages = sorted({store.utterances[i].language for i in recorded})
        found["recorded"] = {
            language: describe(store.select(kind="recorded", language=language))
            for language in languages
        }
    return found


def describe_training(fitted: Fitted) -> dict:
    return {"steps": fitted.steps, "parameters": nn.parameter_count(fitted.params)}


def test_groups(run: "Quickstart", store: WaveStore) -> dict[str, list[int]]:
    """Held-out utterances of 1 to 10 seconds by the data they are: the codec is measured on each.

    "recorded" is the recorded speech of the first language: English where there is some.
    """
    groups: dict[str, list[int]] = {"synthetic": store.select(split="test", kind="synthetic")}
    recorded = store.select(split="test", kind="recorded")
    languages = sorted(
        {store.utterances[i].language for i in recorded}, key=lambda x: (x != "en", x)
    )
    for place, language in enumerate(languages):
        name = "recorded" if place == 0 else f"recorded_{language}"
        groups[name] = store.select(split="test", kind="recorded", language=language)
    return {
        name: [i for i in indices if 1.0 <= store.samples(i) / store.rate <= 10.0]
        for name, indices in groups.items()
        if indices
    }


def judge_codec(run: "Quickstart") -> dict:
    """STOI by kind of speech, an independent recogniser's word error, and the codebook's use."""
    store, codec = run.store(), stages.load_codec(run.model)
    judge = load_judge(run)
    found: dict[str, Any] = {"judge": judge.name, "stoi": {}, "stoi_interval": {}}
    for name, indices in test_groups(run, store).items():
        waves = [store[i][1] for i in indices[:STOI_UTTERANCES]]
        rebuilt = resynthesise(codec, waves)
        interval = mean_stoi(waves, rebuilt, store.rate)
        found["stoi"][name] = interval.value
        found["stoi_interval"][name] = bounds(interval)
    spoken = run.spoken(store, "test")[:JUDGED_UTTERANCES]
    waves = [store[i][1] for i in spoken]
    texts = [store.utterances[i].text for i in spoken]
    rebuilt = resynthesise(codec, waves)
    found |= word_error_ratio(texts, waves, rebuilt, partial(hear, judge))
    found["wer_data"] = data_key(store, spoken)
    folder = run.out / "resynthesis"
    folder.mkdir(exist_ok=True)
    for index, wave in zip(spoken, rebuilt, strict=True):
        write_audio(folder / f"{index}.wav", wave, store.rate)
    codes = [e.codes for e in read_codes(run.out / "tokens" / "codes")]
    return found | {"codebook": describe_codebook(np.concatenate(codes), codec.config.levels)}


def describe_codebook(codes: np.ndarray, levels: Sequence[int]) -> dict:
    """Use of the codebook by the codes of the paired speech, with the share of the n-th code."""
    use = codebook_use(codes, levels)
    ranks = rank_shares(np.bincount(codes, minlength=use.codebook))
    return {
        "size": use.codebook,
        "used_share": use.used,
        "entropy_bits": use.entropy_bits,
        "levels": use.levels,
        "ranks": ranks,
    }


def data_key(store: WaveStore, indices: Sequence[int]) -> str:
    """ "synthetic" or "recorded_LANGUAGE": what a number over these utterances was measured on."""
    first = store.utterances[indices[0]]
    return "synthetic" if first.kind == "synthetic" else f"recorded_{first.language}"


def search(run: "Quickstart") -> dict:
    """Speaks held-out sentences with pools of 1, 4 and 16 takes, and has the choices judged.

    Selection is by the in-project recogniser and speaker encoder; what they keep is judged by a
    recogniser and a speaker encoder that took no part.
    """
    store, voice = run.store(), Voice(run.model)
    test = run.spoken(store, "test")
    fit = [i for i in test if 1.5 <= store.samples(i) / store.rate <= 6] or test
    many = different_first(store, fit)[:SPOKEN]
    indices = many[:SENTENCES]
    texts = [store.utterances[i].text for i in many]
    speakers = [store.utterances[i].speaker for i in many]
    judge, similarity = load_judge(run), Ge2eEncoder(load_ge2e())
    names = [verifier.name for verifier in voice.engine.verifiers]
    for other in (judge, similarity):
        ensure_judge_differs(names, other.name)
    counts = {n: len(many) if n == 1 else len(indices) for n in CANDIDATES}
    first, seconds = [], {}  # seconds a sentence
    with bar("speak and search", sum(counts.values()), "texts") as progress:
        for n, count in counts.items():
            settings = {"candidates": n, "seed": run.seed}
            turn = -(-voice.slots // n)
            voice.pools(texts[:turn], speakers[:turn], **settings)  # compiles
            pools, total = voice.pools(texts[:count], speakers[:count], **settings)
            first, seconds[n] = first or pools, total / count
            progress.advance(count)
    texts = texts[:SENTENCES]
    choices = [{n: best_of(pool.first(n), WEIGHTS) for n in CANDIDATES} for pool in pools]
    kept = [pool.waves[c[n]] for n in CANDIDATES for pool, c in zip(pools, choices, strict=True)]
    heard = hear(judge, kept)
    targets = similarity.embed([store[i][1] for i in indices])
    points = []
    for place, n in enumerate(CANDIDATES):
        part = slice(place * len(texts), (place + 1) * len(texts))
        errors = word_errors(texts, heard[part])
        closeness = (similarity.embed(kept[part]) * targets).sum(1)
        chosen = [(pool, c[n]) for pool, c in zip(pools, choices, strict=True)]
        scores = {k: float(np.mean([p.scores[k][i] for p, i in chosen])) for k in names}
        points.append(
            {
                "n": n,
                "judge": judge.name,
                "judge_wer": errors.rate,
                "judge_wer_interval": bounds(errors.interval()),
                "similarity": float(closeness.mean()),
                "similarity_interval": bounds(statistics.mean(closeness)),
                "scores": scores,
                "failures": sum(p.statuses[i] != OK for p, i in chosen),
                "seconds": seconds[n],
            }
        )
    _keep(run, indices, pools, choices, heard, seconds[max(CANDIDATES)], voice)
    return {
        "strategy": "best-of",
        "verifiers": names,
        "judges": [judge.name, similarity.name],
        "sentences": len(texts),
        "data": data_key(store, indices),
        "points": points,
        "lengths": describe_lengths(
            [pool.takes[0] for pool in first],
            [store.samples(i) // voice.engine.codec.config.hop for i in many],
        ),
    }


def different_first(store: WaveStore, indices: Sequence[int]) -> list[int]:
    """Those with a text of their own before those that repeat one in another voice."""
    first = {store.utterances[i].text: i for i in reversed(indices)}.values()
    chosen = set(first)
    return sorted(chosen) + [i for i in indices if i not in chosen]


def describe_lengths(takes: Sequence[Take], references: Sequence[int]) -> dict:
    """How first takes end, against the number of codes of the reference recordings.

    `stopped_first_share` is without those that the guards had drawn again.
    """
    ratios = np.array([len(t.codes) / n for t, n in zip(takes, references, strict=True)])
    stopped = np.array([take.stopped for take in takes])
    fits = stopped & (ratios >= 0.5) & (ratios <= 2)
    once = np.array([take.discarded == 0 for take in takes])
    return {
        "stopped_share": float(fits.mean()),
        "stopped_first_share": float((fits & once).mean()),
        "stopped_sentences": len(takes),
        "length_ratio_median": float(np.median(ratios)),
    }


def bounds(interval: statistics.Interval) -> list[float]:
    return [interval.low, interval.high]


def load_judge(run: "Quickstart") -> Judge:
    """Pocketsphinx for the built-in English run, else the second recogniser of the project."""
    if run.english:
        return Pocketsphinx()
    config, params = stages.load_recogniser(run.out / "judge", "judge")
    return BatchRecogniser(config, params, name="judge")


def hear(judge: Judge, waves: Sequence[np.ndarray]) -> list[str]:
    """The judge's transcripts, with progress."""
    with bar(f"judge: {judge.name}", len(waves), "waves") as progress:
        return judge.transcribe(waves, progress.advance)


def _keep(
    run: "Quickstart",
    indices: Sequence[int],
    pools: Sequence[Pool],
    choices: Sequence[dict[int, int]],
    heard: Sequence[str],
    seconds: float,
    voice: Voice,
) -> None:
    """Writes each search's record, and the takes of the sentences that the report plays."""
    folder = run.out / "search"
    folder.mkdir(exist_ok=True)
    for place, (index, pool, chosen) in enumerate(zip(indices, pools, choices, strict=True)):
        record = search_record(
            pool,
            WEIGHTS,
            chosen,
            strategy="best-of",
            seconds=seconds,
            seed=run.seed,
            settings=voice.settings,
        )
        texts = [heard[turn * len(pools) + place] for turn in range(len(CANDIDATES))]
        record["heard"] = dict(zip(map(str, CANDIDATES), texts, strict=True))
        stages.write_json(folder / f"{index}.json", record)
        if place < SHOWN:
            for take, wave in enumerate(pool.waves):
                write_audio(folder / f"{index}-{take}.wav", wave, voice.engine.rate)


def samples(run: "Quickstart") -> list[dict]:
    """What the report plays: reference, resynthesis and takes of the first held-out sentences."""
    store, found = run.store(), []
    for path in sorted((run.out / "search").glob("*.json"), key=lambda p: int(p.stem)):
        index, record = int(path.stem), json.loads(path.read_text())
        if not (path.parent / f"{index}-0.wav").is_file():
            continue
        utterance, wave = store[index]
        kept: dict[int, list[int]] = {}
        for n, place in record["choices"].items():
            kept.setdefault(place, []).append(int(n))
        candidates = []
        for place, candidate in enumerate(record["candidates"]):
            sound, rate = read_audio(path.parent / f"{index}-{place}.wav")
            candidates.append(
                {
                    "wave": sound,
                    "rate": rate,
                    "scores": candidate["scores"],
                    "status": candidate["status"],
                    "chosen_at": kept.get(place, []),
                    "transcript": record["heard"][str(kept[place][0])] if place in kept else None,
                }
            )
        sample = {"text": utterance.text, "speaker": utterance.speaker, "kind": utterance.kind}
        sample["reference"] = {"wave": wave, "rate": store.rate}
        rebuilt = run.out / "resynthesis" / f"{index}.wav"
        if rebuilt.is_file():
            sound, rate = read_audio(rebuilt)
            sample["resynthesis"] = {"wave": sound, "rate": rate}
        found.append(sample | {"candidates": candidates})
    return found


def report(run: "Quickstart", ledger: "Ledger") -> dict:
    """Writes `report.html`, its figures and `report.json` from what the stages left."""
    corpus, codec, lm = (ledger.result(name) for name in ("corpus", "codec", "lm"))
    found = dict(ledger.result("search"))
    recognisers = ledger.result("recogniser")
    data = found["data"]
    lm = lm | found.pop("lengths")
    codec = codec | ledger.result("judge codec")
    codec["codebook"]["data"] = data
    times = [{"name": n, "seconds": e["seconds"]} for n, e in ledger.entries.items()]
    value = {
        "version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": run.seed,
        "minutes": run.minutes,
        "corpus_name": run.corpus or "built-in English",
        "machine": machine(),
        "corpus": corpus,
        "codec": codec,
        "lm": lm | {"data": data},
        "recogniser": recognisers["content"] | {"data": data},
        "speaker": ledger.result("speaker"),
        "search": found,
        "stages": times,
        "seconds": {"total": sum(t["seconds"] for t in times)},
        "peak_memory_gib": max(e["peak_memory_gib"] for e in ledger.entries.values()),
        "curves": {
            name: [{k: v for k, v in row.items() if k in SHOWN_CURVES} for row in curve(run, name)]
            for name in ("codec", "lm", "recogniser")
        },
    }
    if "judge" in recognisers:
        value["judge"] = recognisers["judge"] | {"data": data}
    value["targets"] = targets(value, run.english)
    write_report(run.out, value, samples(run))
    return {"page": "report.html"}


def curve(run: "Quickstart", name: str) -> list[dict]:
    return read_curve(run.out / name / "curve.csv")


def targets(value: dict, english: bool) -> list[dict]:
    """What a run of the default length is meant to reach, beside what it did."""
    codec, lm = value["codec"], value["lm"]
    best_ngram = min(lm["unigram_nats"], lm["bigram_nats"])
    rows = [
        ("codec word error ratio", codec["wer_ratio"], 1.5, True),
        ("language model, nats below the n-grams", best_ngram - lm["valid_nats"], 0.2, False),
        ("sentences that stop by themselves", lm["stopped_share"], 0.95, False),
        ("peak memory, GiB", value["peak_memory_gib"], 6.0, True),
    ]
    if english:
        stoi = codec["stoi"]
        rows.insert(0, ("STOI, recorded English", stoi["recorded"], 0.80, False))
        rows.insert(0, ("STOI, synthetic voices", stoi["synthetic"], 0.88, False))
    return [
        {
            "name": name,
            "value": measured,
            "target": f"at {'most' if most else 'least'} {bound:g}",
            "met": None
            if measured is None
            else bool(measured <= bound if most else measured >= bound),
        }
        for name, measured, bound, most in rows
    ]


def machine() -> dict:
    """Where the run ran, as far as a reader of its times needs it."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            x.split(":")[1].strip() for x in info.read_text().splitlines() if "model name" in x
        ]
        cpu = names[0] if names else cpu
    accelerator = {d.device_kind for d in jax.devices() if d.platform != "cpu"}
    return {
        "cores": usable_cores(),
        "cpu": cpu,
        "accelerator": ", ".join(sorted(accelerator)) or None,
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
