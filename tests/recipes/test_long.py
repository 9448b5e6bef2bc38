"""Long texts: planned, mended where they were not heard, and what is cut or doubled is noticed."""

from types import SimpleNamespace

import numpy as np
import pytest

from llasa_jax.audio.joining import join
from llasa_jax.errors import UserError
from llasa_jax.recipes import long, stages
from llasa_jax.recipes.eval_longtext import compose, judges_of, jumps, share_of, tamper
from llasa_jax.recipes.strategy import Search
from llasa_jax.text.reconcile import reconcile
from llasa_jax.text.sentences import Chunk
from llasa_jax.verifiers.recogniser import BatchRecogniser

TEXT = "The river was very high. Nobody crossed the old bridge. A dog barked at the moon all night."
RATE = 16_000


@pytest.fixture
def world(monkeypatch):
    """Pieces whose record says what is heard of them: `said` by (chunk text, seed), else the
    text."""
    said, drawn = {}, []

    def speak(voice, parts, *, name, search, seed, at_once=long.AT_ONCE):
        for part in parts:
            drawn.append((part.text, seed))
            heard = said.get((part.text, seed), part.text)
            yield long.Piece(part, np.full(800, 0.1, np.float32), {"heard": heard})

    def listen(judge, speech):
        heard = " ".join(piece.record["heard"] for piece in speech.pieces)
        return reconcile([one.spoken for one in speech.sentences], heard)

    monkeypatch.setattr(long, "speak", speak)
    monkeypatch.setattr(long, "listen", listen)
    return SimpleNamespace(said=said, drawn=drawn)


def spoken(limit=60):
    found, parts = long.plan(TEXT, limit, str)
    settings = {"name": "v", "search": Search(), "seed": 0}
    speech = long.Speech(found, list(long.speak(None, parts, **settings)), RATE)
    return long.mend(speech, None, None, **settings)


def seed(turn):
    return turn * long.ANOTHER


def test_what_is_heard_once_stays(world):
    speech = spoken()
    assert len(world.drawn) == 3 and speech.history == [{"ok": 3}] and not speech.redrawn
    assert [one.status for one in speech.findings] == ["ok"] * 3
    assert speech.spans[1][0] == 800 + RATE * long.PAUSES["sentence"]


def test_lost_garbled_and_repeated_sentences_are_drawn_again(world):
    one, two, three = (sentence.text for sentence in long.plan(TEXT, 60, str)[0])
    world.said |= {(one, 0): "", (two, 0): f"{two} {two}", (three, 0): "a dog xxx yyy zzz qqq vvv"}
    world.said |= {(one, seed(1)): "xx", (three, seed(1)): "a dog barked zzz"}
    speech = spoken()
    assert [one.status for one in speech.findings] == ["ok"] * 3
    assert speech.history[0].get("ok") is None and speech.history[-1] == {"ok": 3}
    assert [s for t, s in world.drawn if t == one] == [0, seed(1), seed(2)]
    assert [s for t, s in world.drawn if t == two] == [0, seed(1)]
    assert speech.record()["sentences"][0]["status"] == "ok"


def test_a_worse_take_does_not_stay_and_rounds_are_bounded(world):
    one = long.plan(TEXT, 60, str)[0][0].text
    world.said |= {(one, seed(turn)): "" for turn in range(9)}
    world.said[one, 0] = "the river"
    speech = spoken()
    assert speech.pieces[0].record["heard"] == "the river"
    assert speech.redrawn == {0: long.ROUNDS} and len(world.drawn) == 3 + long.ROUNDS


def test_pieces_of_one_sentence_are_kept_together(world):
    speech = spoken(limit=24)
    assert len(speech.pieces) > 3 and [one.status for one in speech.findings] == ["ok"] * 3
    first, last = speech.span(2)
    own = [s for s, p in zip(speech.spans, speech.pieces, strict=True) if 2 in p.chunk.sentences]
    assert (first, last) == (own[0][0], own[-1][1]) and len(own) > 1


def test_texts_without_words_or_end_are_refused():
    with pytest.raises(UserError, match="no letter to speak"):
        long.plan("?! ...", 90, str)
    with pytest.raises(UserError, match="split it"):
        long.plan("a " * long.MOST_CHARACTERS, 90, str)


def test_a_text_is_made_of_different_sentences():
    import random

    sentences = [f"word number {i} of all" for i in range(40)]
    text = compose(sentences, 100, random.Random(0))
    assert 100 <= len(text.split()) < 110 and len(set(text.split(". "))) == len(text.split(". "))
    with pytest.raises(UserError, match="more than the held-out sentences have"):
        compose(sentences, 1000, random.Random(0))


def test_content_words_are_counted():
    assert share_of("The cat sat on the mat.", "a cat and the mat") == pytest.approx(2 / 3)
    assert share_of("It was the one.", "") == 1.0 and share_of("A cat.", "") == 0.0
    heard = "the catte sad on te mit"  # by who knows no words: "mit" has two of three letters
    assert share_of("The cat sat on the mat.", heard, letters=True) == 1.0
    assert share_of("The cat sat on the mat.", heard) == 0.0
    assert share_of("The cat sat on the mat.", "", letters=True) == 0.0


def test_who_chose_or_mended_is_no_judge():
    model = stages.shipped_model()
    with pytest.raises(UserError, match="judge content: it already selected"):
        judges_of({"content": ""}, ["content"], model)
    with pytest.raises(UserError, match="recogniser=.*: it mends the text, too"):
        judges_of({"recogniser": str(model)}, ["content"], model)
    with pytest.raises(UserError, match="speaker: hears no words"):
        judges_of({"speaker": ""}, ["content"], model)


@pytest.mark.network
@pytest.mark.timeout(900)
def test_what_is_cut_and_doubled_in_speech_is_all_found():
    """Sentences by flite, heard by the shipped recogniser."""
    from llasa_jax.data.debian import default_cache
    from llasa_jax.data.store import level, trim_silence
    from llasa_jax.data.synthetic import FliteEnglish
    from llasa_jax.text.sentences import Sentence

    corpus = FliteEnglish(default_cache())
    texts = corpus.held_out(40)
    waves = [level(trim_silence(corpus.speak(text, "slt")[0], RATE)) for text in texts]
    pieces = [
        long.Piece(Chunk(text, (i,), "sentence"), wave, {})
        for i, (text, wave) in enumerate(zip(texts, waves, strict=True))
    ]
    speech = long.Speech([Sentence(t, t, 0) for t in texts], pieces, RATE).joined()
    model = stages.shipped_model()
    judge = BatchRecogniser(*stages.load_recogniser(model, "recogniser"), batch=8)
    found = tamper(judge, speech, 0)
    assert found["cut_found"] == found["cut"] == 4
    assert found["doubled_found"] == found["doubled"] == 4
    assert found["others_flagged"] == 0
    steps = jumps(speech)
    assert steps["joins"] <= steps["inside"]
    joined, _ = join(waves, [0.25] * 39, RATE)
    np.testing.assert_array_equal(joined, speech.wave)
