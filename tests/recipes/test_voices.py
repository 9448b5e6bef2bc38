"""Named voices: made of recordings, kept in small files, spoken on from by prompt."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from llasa_jax.audio.io import read_audio, write_audio
from llasa_jax.cli import main
from llasa_jax.data.store import WaveStore
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import load_part, part_hash
from llasa_jax.recipes import stages, voices
from llasa_jax.recipes.voice import Voice, guards
from llasa_jax.recipes.voices import VoiceMaker, load_voices

RATE = 16_000


@pytest.fixture(scope="module")
def model(speaking_model):
    return speaking_model


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("LLASA_JAX_VOICES", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def recording(tmp_path):
    rng = np.random.default_rng(0)
    time = np.arange(2 * RATE) / RATE
    wave = 0.2 * np.sin(2 * np.pi * 150 * time * (1 + 0.1 * time)) + rng.normal(size=time.size) / 50
    write_audio(tmp_path / "me.wav", wave, RATE)
    return tmp_path / "me.wav"


@pytest.fixture
def trusting(monkeypatch):
    """A recogniser of random weights hears nothing right."""
    monkeypatch.setattr(VoiceMaker, "fits", lambda self, wave, text: "wrong" not in text)


def add(recording, model, *more):
    words = ["voices", "add", recording, "--name", "me", "--prompt-text", "These are my words."]
    return main([str(word) for word in [*words, "--model", model, *more]])


def test_a_voice_is_added_listed_and_spoken_on_from(model, recording, home, trusting, capsys):
    assert add(recording, model, "--consent") == 0
    assert capsys.readouterr().out == "me\n"
    assert main(["voices", "list", "--model", str(model), "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed["name"] == "me" and listed["text"] == "These are my words."
    assert not home.exists()  # it went to the model that was named
    found = load_voices(model)["me"]
    wave = stages.load_codec(model).encode([read_audio(recording)[0]])
    assert abs(len(found.codes) - len(wave[0])) <= 5 and len(found.embedding) == 4
    np.testing.assert_allclose(np.linalg.norm(found.embedding), 1, rtol=1e-5)

    out = recording.with_name("out.wav")
    words = ["say", "hello there", "--model", model, "-o", out, "--voice", "me", "--candidates", 2]
    assert main([*map(str, words), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    (search,) = record["searches"]
    chosen = search["candidates"][search["choices"]["2"]]
    assert record["voice"] == "me"
    assert 0 < len(read_audio(out)[0]) <= 320 * chosen["codes"]  # the prompt is cut off
    (model / "voices" / "me.json").unlink()


def test_a_recording_is_spoken_on_from_at_once(model, recording, home, trusting, capsys):
    words = ["say", "hello", "--model", model, "-o", recording.with_name("o.wav"), "--voice"]
    words = [*map(str, words), str(recording), "--candidates", "1"]
    assert main([*words, "--prompt-text", "my words"]) == 2
    assert "--consent" in capsys.readouterr().err
    assert main([*words, "--prompt-text", "my words", "--consent"]) == 0
    assert recording.with_name("o.wav").is_file() and not home.exists()


def test_the_recogniser_hears_what_a_recording_says(
    model, recording, home, trusting, capsys, monkeypatch
):
    words = ["say", "hello", "--model", model, "-o", recording.with_name("o.wav"), "--voice"]
    words = [*map(str, words), str(recording), "--candidates", "1", "--consent"]
    monkeypatch.setattr(VoiceMaker, "transcribe", lambda self, path: "these were my words")
    assert main(words) == 0
    assert "heard 'these were my words'" in capsys.readouterr().err
    monkeypatch.setattr(VoiceMaker, "transcribe", lambda self, path: "")
    assert main(words) == 2 and "what does it say? give --prompt-text" in capsys.readouterr().err


def test_prompt_and_take_are_decoded_together_and_cut(model, monkeypatch):
    """What is heard is the end of the wave of both; the ids are prompt text, text, prompt codes."""
    voice = Voice(model, slots=4)
    codes = np.arange(40, dtype=np.int32)
    voice.voices["v"] = replace(voice.voices["s0"], name="v", text="One two.", codes=codes.tolist())
    asked = []
    prompt = voice.engine.vocabulary.prompt
    monkeypatch.setattr(
        voice.engine.vocabulary, "prompt", lambda *args: asked.append(args) or prompt(*args)
    )
    pools, _ = voice.pools(["three", "four"], ["v", "s0"], candidates=2, seed=0)
    (text, given), (plain,) = asked
    assert (text, plain) == ("One two. three", "four") and (given == codes).all()
    for take, wave in zip(pools[0].takes, pools[0].waves, strict=True):
        (both,) = voice.engine.codec.decode([np.concatenate([codes, take.codes])])
        np.testing.assert_allclose(wave, both[320 * 40 :], atol=1e-5)
    assert len(pools[1].waves[0]) == 320 * len(pools[1].takes[0].codes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((), "a voice is a person's own"),
        (("--consent", "--prompt-text", ""), "what does it say?"),
        (("--consent", "--prompt-text", "wrong"), "does not say 'wrong'"),
        (("--consent", "--name", "../me"), "give a name of letters"),
    ],
)
def test_what_is_no_voice_is_one_line(model, recording, trusting, capsys, change, message):
    assert add(recording, model, *change) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (model / "voices").exists() or not list((model / "voices").iterdir())


@pytest.mark.parametrize("seconds", [0.1, 60.0])
def test_prompts_have_bounds(model, tmp_path, trusting, capsys, seconds):
    rng = np.random.default_rng(0)
    write_audio(tmp_path / "a.wav", 0.1 * rng.normal(size=round(seconds * RATE)), RATE)
    assert add(tmp_path / "a.wav", model, "--consent") == 2
    assert f"has {seconds:.1f} s of speech" in capsys.readouterr().err


def test_a_text_fits_where_it_is_likelier_than_its_letters_backwards(model):
    maker = VoiceMaker(model)
    likes_rising = lambda p, c, target: [float(np.diff(target[target > 0]).sum())]  # noqa: E731
    maker.content = replace(maker.content, score=likes_rising)
    wave = np.zeros(RATE, np.float32)
    assert maker.fits(wave, "a b c d") and not maker.fits(wave, "d c b a")


def test_synthetic_speakers_of_a_corpus_become_voices(model, tones, trusting):
    store = WaveStore.open(tones)
    with pytest.raises(UserError, match="no synthetic speech"):
        VoiceMaker(model).of_corpus(store)


def test_users_voices_lie_beside_the_models_own(model, home):
    codec = part_hash(model, "codec")
    mine = voices.NamedVoice("mine", [1.0, 0, 0, 0])
    voices.save_voice(voices.voices_home(codec), mine, codec)
    assert list(load_voices(model)) == ["mine"]
    path = voices.save_voice(voices.voices_home(codec), mine, "another")
    with pytest.raises(UserError, match="made with codec another"):
        load_voices(model)
    for text in ("{", "[]", '{"version": 1}', json.dumps({"version": 1, "codec": codec})):
        path.write_text(text)
        with pytest.raises(UserError, match="no readable voice"):
            load_voices(model)


def test_guards_follow_the_rate_of_codes():
    usual, slow = guards(50, None), guards(25, 1.75)
    assert (usual.min_codes, slow.min_codes) == (2.0, 1.0)
    assert (slow.max_codes, slow.loop_codes) == (1.75, usual.loop_codes // 2)


def test_a_model_folder_is_copied_in_half(model, tmp_path, capsys, speaking_parts):
    words = ["convert", str(model), "--out", str(tmp_path / "half"), "--dtype", "float16"]
    (model / "sampling.json").write_text('{"temperature": 0.5}')
    assert main(words) == 0
    (model / "sampling.json").unlink()
    assert main(words) == 2 and "exists already" in capsys.readouterr().err
    for name, (config, module) in speaking_parts.items():
        read = [
            load_part(folder, name, type(config), lambda c, r, m=module: m(c, rngs=r))
            for folder in (model, tmp_path / "half")
        ]
        assert read[0][::2] == read[1][::2]
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)  # noqa: E731
        jax.tree.map(close, read[0][1], read[1][1])
        sizes = [(f / f"{name}.safetensors").stat().st_size for f in (model, tmp_path / "half")]
        assert sizes[1] < 0.75 * sizes[0]
    half = Voice(tmp_path / "half")
    assert half.sampling.temperature == 0.5 and Voice(model).sampling.temperature == 0.8
    (tmp_path / "half" / "sampling.json").write_text('{"heat": 1}')
    with pytest.raises(UserError, match="sampling.json: heat: unknown setting"):
        Voice(tmp_path / "half")
