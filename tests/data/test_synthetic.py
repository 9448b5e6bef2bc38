import random
import shutil

import numpy as np
import pytest

from llasa_jax.audio.io import write_audio
from llasa_jax.data import flite as flite_module
from llasa_jax.data import synthetic
from llasa_jax.data.synthetic import (
    VOICES,
    FliteCorpus,
    FliteEnglish,
    read_glosses,
    read_sentences,
)
from llasa_jax.data.utterance import split_of
from llasa_jax.errors import UserError
from llasa_jax.metrics.text import normalise

WORDS = "river stone garden lantern people carry across morning silver quiet under bread".split()


def write_wordnet(cache, count=400):
    folder = cache / "debian/wordnet-base/usr/share/wordnet"
    folder.mkdir(parents=True)
    draw = random.Random(0)
    lines = [f'1 n | {" ".join(draw.choices(WORDS, k=6))}; "an example"' for _ in range(count)]
    (folder / "data.noun").write_text("\n".join(lines) + "\n")
    for name in ("data.verb", "data.adj", "data.adv"):
        (folder / name).write_text("  1 This is the licence text\n")
    return folder


@pytest.fixture
def flite(tmp_path, monkeypatch):
    """A stand-in for flite on PATH: 4.25 s of tone, whatever the text; its calls are logged."""
    tools = tmp_path / "bin"
    for number, voice in enumerate(VOICES):
        write_audio(tools / f"{voice}.wav", 0.3 * np.sin(np.arange(68_000) / (9 + number)), 16_000)
    script = tools / "flite"
    script.write_text(
        f'#!/bin/sh\n[ "$1" = -lv ] && echo "Voices available: {" ".join(VOICES)}" && exit\n'
        f'echo "$2|$4|$7 $8" >> {tools}/calls; cp {tools}/$2.wav "$6"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    monkeypatch.setattr(flite_module, "_BATCH", 8)
    return tools


def test_glosses_are_speakable_first_clauses(tmp_path):
    folder = write_wordnet(tmp_path, count=0)
    good = "a small boat that people row"
    bad = ["too short", "holds 3 digits and so is left out", "has (parentheses) in the middle",
           "word " * 16, "supercalifragilistic expialidocious words", "x" * 95]  # fmt: skip
    lines = [f'1 n 2 | {text}; more; "example"' for text in [good, f"{good},", *bad]]
    (folder / "data.noun").write_text("\n".join(lines))
    assert read_glosses(folder) == [good]


def test_enough_minutes_in_the_rules_of_the_corpus(tmp_path, flite):
    write_wordnet(tmp_path)
    corpus = FliteCorpus(tmp_path, minutes=4.0, seed=3)
    utterances = corpus.utterances()
    assert len(utterances) == 60  # four seconds each without the silence
    assert {one.speaker for one in utterances} == {f"flite-{voice}" for voice in VOICES}
    assert all(one.kind == "synthetic" and one.text for one in utterances)
    assert len({one.id for one in utterances}) == len(utterances)
    voices_of = {}
    for one in utterances:
        assert one.split == split_of("", one.text)
        voices_of.setdefault(normalise(one.text), set()).add(one.speaker)
    shared = [text for text, voices in voices_of.items() if len(voices) == len(VOICES)]
    assert 0 < len(shared) <= synthetic.SHARED_TEST_SENTENCES
    assert all(split_of("", text) == "test" for text in shared)
    assert sum(len(voices) > 1 for voices in voices_of.values()) - len(shared) <= 1  # cut short
    wave, rate = corpus.read(utterances[0])
    assert rate == 16_000 and wave.shape == (68_000,)


def test_the_seed_decides_and_the_cache_spares_the_work(tmp_path, flite):
    write_wordnet(tmp_path)
    first = FliteCorpus(tmp_path, minutes=0.5, seed=1).utterances()
    calls = (flite / "calls").read_text()
    assert FliteCorpus(tmp_path, minutes=0.5, seed=1).utterances() == first
    assert (flite / "calls").read_text() == calls
    assert FliteCorpus(tmp_path, minutes=0.5, seed=2).utterances() != first
    longer = FliteCorpus(tmp_path, minutes=1.0, seed=1).utterances()
    assert longer[: len(first)] == first


def test_more_than_there_is_is_an_error(tmp_path, flite):
    write_wordnet(tmp_path, count=20)
    with pytest.raises(UserError, match="ask for fewer minutes"):
        FliteCorpus(tmp_path, minutes=5).utterances()
    for minutes in (0, -1, float("nan")):
        with pytest.raises(UserError, match="above 0"):
            FliteCorpus(tmp_path, minutes=minutes)


def test_a_flite_without_the_voices_or_that_fails_is_one_line(tmp_path, flite):
    write_wordnet(tmp_path)
    corpus = FliteCorpus(tmp_path, minutes=0.1)
    (flite / "flite").write_text("#!/bin/sh\necho broken >&2; exit 1\n")
    with pytest.raises(UserError, match="cannot speak .broken"):
        corpus.utterances()
    with pytest.raises(UserError, match="does not run with the voices"):
        FliteCorpus(tmp_path, minutes=0.1)


def test_half_a_sentence_is_never_taken_for_a_whole_one(tmp_path, flite):
    write_wordnet(tmp_path)
    corpus = FliteCorpus(tmp_path, minutes=0.1)
    (flite / "flite").write_text('#!/bin/sh\nprintf RIFF > "$6"\n')  # what a full disk leaves
    with pytest.raises(UserError, match="check"):
        corpus.utterances()
    assert not list((tmp_path / "flite").rglob("[!.]*.wav"))


@pytest.mark.network
def test_the_real_voices(tmp_path):
    first, *_ = utterances = FliteCorpus(tmp_path, minutes=0.3).utterances()
    wave, rate = FliteCorpus(tmp_path, minutes=0.3).read(first)
    assert rate == 16_000 and 0.1 < np.abs(wave).max() <= 1 and len(utterances) > 4
    if shutil.which("flite") is None:
        assert (tmp_path / "debian/libflite1").is_dir()


def test_sentences_are_read_as_they_are_spelled(tmp_path):
    folder = write_wordnet(tmp_path, count=0)
    good = ["a dog runs", "an old man's boat, well-known in Norway", "things that I saw"]
    bad = ["a dog", "used by the BBC here", "weighs ten kg or so", "a letter in e.g. Greek",
           "the letter B after it", "half a Mr. Smith", "word " * 18]  # fmt: skip
    lines = [f"1 n 2 | {text}; more" for text in [*good, *bad]]
    (folder / "data.noun").write_text("\n".join(lines))
    assert read_sentences(folder) == good


def test_pairs_keep_to_one_split_and_one_voice(tmp_path, flite):
    write_wordnet(tmp_path)
    corpus = FliteEnglish(tmp_path, minutes=8.0, seed=3)
    utterances = corpus.utterances()
    parts = [one.text.split(". ") for one in utterances]
    assert {len(texts) for texts in parts} == {1, 2}
    for one, texts in zip(utterances, parts, strict=True):
        assert {split_of("", text) for text in texts} == {one.split}
    spoken = [text for texts in parts for text in texts]
    assert len(set(spoken)) == len(spoken)
    assert {one.speaker for one in utterances} == {f"flite-{i.name}" for i in corpus.identities}
    assert corpus.utterances() == utterances


def test_another_identity_is_a_voice_spoken_slower_and_played_faster(tmp_path, flite):
    write_wordnet(tmp_path)
    corpus = FliteEnglish(tmp_path, minutes=2.0)
    other = next(i for i in corpus.identities if i.scale != 1)
    chosen = [one for one in corpus.utterances() if one.speaker == f"flite-{other.name}"]
    wave, rate = corpus.read(chosen[0])
    assert rate == 16_000 and len(wave) == pytest.approx(68_000 / other.scale, abs=2)
    calls = [line for line in (flite / "calls").read_text().splitlines() if chosen[0].text in line]
    assert calls == [f"{other.voice}|{chosen[0].text}|--setf duration_stretch={other.scale:g}"]
