"""Corpora inside Debian packages, on stand-ins for the unpacked packages."""

import numpy as np
import pytest
import soundfile

from llasa_jax.data.corpora import MIXTURES, Mixture, named_corpus
from llasa_jax.data.recordings import COLLECTIONS, AsteriskCorpus, CollectedCorpus, FilletsCorpus
from llasa_jax.errors import UserError


def write_prompts(cache, language, folder, names):
    package = f"debian/asterisk-core-sounds-{language}-g722/usr/share/asterisk/sounds/{folder}"
    for name in names:
        path = cache / package / f"{name}.g722"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(8000))


def write_collection(cache, name, rates):
    collection = COLLECTIONS[name]
    for path, rate in rates.items():
        path = cache / "debian" / collection.package / collection.folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        wave = 0.3 * np.sin(np.arange(rate) / 9)
        soundfile.write(path, wave, rate, format="WAV" if path.suffix == ".wav" else "OGG")


def test_asterisk_prompts_leave_silence_and_noise_out(tmp_path):
    write_prompts(tmp_path, "en", "en_US_f", ("hello", "beep", "silence/1", "digits/7"))
    corpus = AsteriskCorpus("en", tmp_path)
    first, second = corpus.utterances()
    assert [first.id, second.id] == ["asterisk-en/digits/7", "asterisk-en/hello"]
    assert first.text == "" and first.kind == "recorded" and first.speaker == "allison"
    assert first.corpus == "asterisk-en"
    wave, rate = corpus.read(first)
    assert rate == 16_000 and wave.shape == (16_000,)


def test_held_out_voices_and_languages_are_never_trained_on(tmp_path):
    names = [f"digits/{n}" for n in range(40)]
    for language in ("en", "fr", "it"):
        write_prompts(tmp_path, language, f"{language}_XX", names)
    splits = {
        language: {one.split for one in AsteriskCorpus(language, tmp_path).utterances()}
        for language in ("en", "fr", "it")
    }
    assert splits == {"en": {"train", "valid", "test"}, "fr": {"test"}, "it": {"test"}}
    letters = {f"{language}/alpha/{n}.ogg": 16_000 for language in ("it", "fr") for n in range(40)}
    write_collection(tmp_path, "klettres", letters)
    found = CollectedCorpus("klettres", tmp_path).utterances()
    assert {one.split for one in found if one.language == "it"} == {"test"}
    assert "train" in {one.split for one in found if one.language == "fr"}


SCRIPT = """
dialogId("x-m-hi", "font_small", "Hi \\"you\\".")
dialogStr("Hoi \\"jij\\", één.")

dialogId("x-v-hm", "font_big", "Hm (really).")

dialogStr("Hm?")
dialogId("x-p-aa", "font_parrot", "")
dialogStr("Kra")
dialogId("x-m-none", "font_small", "No recording.")
dialogStr("Geen opname.")
dialogId("x-m-dots", "font_small", "...")
dialogStr("...")
"""


def test_fillets_lines_match_their_recordings(tmp_path):
    base = "usr/share/games/fillets-ng"
    script = tmp_path / "debian/fillets-ng-data" / base / "script/lake/dialogs_nl.lua"
    sounds = tmp_path / "debian/fillets-ng-data-nl" / base / "sound/lake/nl"
    script.parent.mkdir(parents=True)
    sounds.mkdir(parents=True)
    script.write_text(SCRIPT, encoding="utf-8")
    for name in ("x-m-hi", "x-v-hm", "x-p-aa", "x-m-dots"):
        soundfile.write(sounds / f"{name}.ogg", np.zeros(4410), 22_050)
    corpus = FilletsCorpus("nl", tmp_path)
    found = [(one.id, one.speaker, one.text) for one in corpus.utterances()]
    assert found == [
        ("fillets-nl/lake/x-m-hi", "fillets-nl-small", 'Hoi "jij", één.'),
        ("fillets-nl/lake/x-v-hm", "fillets-nl-big", "Hm?"),
        ("fillets-nl/lake/x-p-aa", "fillets-nl-other", "Kra"),
    ]
    wave, rate = corpus.read(corpus.utterances()[0])
    assert rate == 22_050 and wave.shape == (4410,)


@pytest.mark.parametrize(
    ("name", "paths", "expected"),
    [
        (
            "klettres",
            ["da/alpha/a.ogg", "en_GB/syllab/ab.ogg", "pics/alpha/a.ogg", "da/a.ogg"],
            [("da/alpha/a.ogg", "da", "da"), ("en_GB/syllab/ab.ogg", "en_GB", "en")],
        ),
        (
            "ktuberling",
            ["nds/eye.ogg", "sr/hat.wav", "sr@latin/hat.wav"],
            [("nds/eye.ogg", "nds", "nds"), ("sr/hat.wav", "sr", "sr")],
        ),
        (
            "tuxpaint",
            ["a/cow.ogg", "a/cow_desc.ogg", "a/cow_desc_el.ogg"],
            [("a/cow_desc.ogg", "en", "en"), ("a/cow_desc_el.ogg", "el", "el")],
        ),
        (
            "hedgewars",
            ["Default_pl/Hi.ogg", "Pirate/Hi.ogg", "Robot/Hi.ogg", "Singer/Hi.ogg"],
            [("Default_pl/Hi.ogg", "Default_pl", "pl"), ("Pirate/Hi.ogg", "Pirate", "en")],
        ),
        (
            "gcin",
            ["ㄚ/3.ogg", "ㄚ/5.ogg", "ㄚ/x.ogg"],
            [("ㄚ/3.ogg", "3", "zh"), ("ㄚ/5.ogg", "5", "zh")],
        ),
    ],
)
def test_paths_tell_voice_and_language(tmp_path, name, paths, expected):
    write_collection(tmp_path, name, dict.fromkeys(paths, 22_050))
    corpus = CollectedCorpus(name, tmp_path)
    found = [(one.id, one.speaker, one.language) for one in corpus.utterances()]
    assert found == [(f"{name}/{path}", f"{name}-{voice}", lang) for path, voice, lang in expected]
    assert corpus.read(corpus.utterances()[0])[0].shape == (22_050,)


def test_narrow_copied_and_broken_recordings(tmp_path):
    write_collection(tmp_path, "ktuberling", {"fi/hat.wav": 8000, "fi/tie.wav": 16_000})
    folder = tmp_path / "debian/ktuberling-data/usr/share/ktuberling/sounds/fi"
    (folder / "link.wav").symlink_to(folder / "tie.wav")
    corpus = CollectedCorpus("ktuberling", tmp_path)
    assert [one.id for one in corpus.utterances()] == ["ktuberling/fi/tie.wav"]
    (folder / "cut.wav").write_bytes(b"RIFF")
    with pytest.raises(UserError, match="cut.wav.*fetch it again"):
        corpus.utterances()


def test_a_mixture_reads_each_utterance_from_its_own_corpus(tmp_path):
    write_prompts(tmp_path, "en", "en_US_f", ["hello"])
    write_collection(tmp_path, "klettres", {"da/alpha/a.ogg": 44_100})
    parts = [AsteriskCorpus("en", tmp_path), CollectedCorpus("klettres", tmp_path)]
    mixture = Mixture("both", parts)
    assert [mixture.read(one)[1] for one in mixture.utterances()] == [16_000, 44_100]
    before = mixture.version
    parts[0].version = "repaired"
    assert Mixture("both", parts).version != before


@pytest.mark.network
def test_the_real_packages(tmp_path):
    least = {"asterisk": 500, "fillets": 1500, "tuxpaint": 7000, "klettres": 1500, "gcin": 2000}
    for name in MIXTURES["nano"]:
        if name != "quickstart-synthetic":
            corpus = named_corpus(name, tmp_path)
            found = corpus.utterances()
            assert len(found) > least.get(name.partition("-")[0], 500), name
            assert corpus.read(found[0])[1] >= 16_000
    dutch = named_corpus("fillets-nl", tmp_path).utterances()
    assert sum(one.speaker.endswith("other") for one in dutch) < 300
