"""Synthetic corpora: sentences out of WordNet's glosses, spoken by flite's voices."""

import random
import re
from pathlib import Path

import numpy as np

from llasa_jax.data.debian import fetch_packages
from llasa_jax.data.flite import VOICES, Flite, Identity, Take, text_key
from llasa_jax.data.utterance import Split, Utterance, split_of
from llasa_jax.errors import UserError
from llasa_jax.metrics.text import normalise

SHARED_TEST_SENTENCES = 8  # said by every voice, to compare voices on the same words
PAIRED_LETTERS = 60  # of a sentence that may be half of a pair
PAIRED_SHARE = 0.45  # of these that are
_SENTENCE = re.compile(r"[A-Za-z][A-Za-z ,.'-]{18,88}[A-Za-z]")
# A word with a vowel in it, else flite spells it.
_WORD = r"(?:I\b|(?=[A-Za-z]?[a-z]*[aeiouy])[A-Za-z][a-z]*(?:['-][a-z]+)*)"
_PLAIN = re.compile(f"{_WORD}(?:,? {_WORD})*")


def read_glosses(folder: Path) -> list[str]:
    """Speakable first clauses of WordNet's glosses (20 to 90 characters, 4 to 15 words), sorted.

    Args:
      folder: WordNet's database folder, with ``data.noun`` and its siblings.
    """
    return _clauses(folder, _SENTENCE, 4, 90)


def read_sentences(folder: Path) -> list[str]:
    """First clauses that are read as they are spelled (10 to 90 characters, 3 to 15 words), sorted.

    Words of letters alone, no abbreviations, no acronyms; commas are the only stops.
    """
    return [one for one in _clauses(folder, _PLAIN, 3, 90) if len(one) >= 10]


def _clauses(folder: Path, form: re.Pattern, fewest: int, longest: int) -> list[str]:
    found = {}
    for name in ("data.noun", "data.verb", "data.adj", "data.adv"):
        for line in (folder / name).read_text(encoding="latin-1").splitlines():
            clause = line.partition(" | ")[2].partition(";")[0].strip()
            fits = len(clause) <= longest and fewest <= len(clause.split()) <= 15
            if fits and form.fullmatch(clause):
                found[normalise(clause)] = clause
    return [found[key] for key in sorted(found)]


class FliteCorpus:
    """At least `minutes` of synthetic English by flite's four voices, text and audio paired.

    Each sentence is spoken by exactly one voice, except the first few of the test split, which
    all voices speak. The same seed gives the same sentences, voices and bytes.
    """

    name = "quickstart-synthetic"
    version = ""
    rejects = ()
    licence = "WordNet 3.0 licence (text), CMU flite licence (voices)"
    identities = tuple(Identity(voice, voice) for voice in VOICES)

    def __init__(self, cache: Path, minutes: float = 60.0, seed: int = 0) -> None:
        if not minutes > 0:
            raise UserError(f"minutes of synthetic speech must be above 0, not {minutes}")
        self.minutes = minutes
        self.seed = seed
        (wordnet,) = fetch_packages(["wordnet-base"], cache)
        self._glosses = wordnet / "usr/share/wordnet"
        self._flite = Flite(cache)
        self._named = {one.name: one for one in self.identities}

    def _plan(self) -> list[Take]:
        """Who says what, in the order in which they are taken."""
        sentences = read_glosses(self._glosses)
        random.Random(self.seed).shuffle(sentences)
        plan, shared = [], 0
        for index, sentence in enumerate(sentences):
            voices = [self.identities[index % len(self.identities)]]
            if shared < SHARED_TEST_SENTENCES and self._split(sentence) == "test":
                voices, shared = list(self.identities), shared + 1
            plan += [(voice, sentence) for voice in voices]
        return plan

    def _split(self, text: str) -> Split:
        return split_of("", text)

    def utterances(self) -> list[Utterance]:
        """Speak sentences until there are enough minutes (kept in the cache), and list them."""
        chosen = self._flite.first(self._plan(), 60 * self.minutes)
        return [self._utterance(identity, text) for identity, text in chosen]

    def _utterance(self, identity: Identity, text: str) -> Utterance:
        return Utterance(
            id=f"{self.name}/{identity.name}/{text_key(text)}",
            text=text,
            speaker=f"flite-{identity.name}",
            language="en",
            licence=self.licence,
            kind="synthetic",
            split=self._split(text),
        )

    def read(self, utterance: Utterance) -> tuple[np.ndarray, int]:
        """The wave, float32 [samples], and its sample rate."""
        return self._flite.read((self._named[utterance.id.split("/")[1]], utterance.text))


class FliteEnglish(FliteCorpus):
    """What the shipped voice learns from: as `FliteCorpus`, but by more identities, in any length.

    A fifth of the utterances are two sentences, as where a text follows a voice's prompt; both are
    of the utterance's split, so that no sentence stands in two. Each is spoken once.
    """

    name = "flite-en"
    identities = (
        *FliteCorpus.identities,
        Identity("slt-large", "slt", 0.86),
        Identity("rms-small", "rms", 1.16),
        Identity("awb-small", "awb", 1.16),
        Identity("kal16-small", "kal16", 1.16),
    )

    def _plan(self) -> list[Take]:
        sentences = read_sentences(self._glosses)
        draw = random.Random(self.seed)
        draw.shuffle(sentences)
        texts, held = [], {}  # a sentence of each split that waits for its second half
        for sentence in sentences:
            if len(sentence) <= PAIRED_LETTERS and draw.random() < PAIRED_SHARE:
                split = self._split(sentence)
                if split in held:
                    texts.append(f"{held.pop(split)}. {sentence}")
                else:
                    held[split] = sentence
            else:
                texts.append(sentence)
        return [
            (self.identities[index % len(self.identities)], text)
            for index, text in enumerate(texts)
        ]

    def held_out(self, count: int) -> list[str]:
        """Sentences of the test split, which no length of the corpus trains on."""
        return self.sentences("test", count)

    def sentences(self, split: Split, count: int) -> list[str]:
        """The first single sentences of a split, of the longest corpus that there could be."""
        texts = [text for _, text in self._plan() if ". " not in text]
        return [text for text in texts if self._split(text) == split][:count]

    def speak(self, text: str, name: str) -> tuple[np.ndarray, int]:
        """The wave of a text said by the identity of that name, and its sample rate."""
        return self._flite.read((self._named[name], text))

    def _split(self, text: str) -> Split:
        return split_of("", text.partition(". ")[0])
