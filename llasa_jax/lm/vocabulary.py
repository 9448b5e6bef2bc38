"""Text ids, the 8 tags and the speech ids: one vocabulary, and the template that joins them.

The order of ids is that of the released models: a Llama-3 text tokenizer with its special tokens,
then the tags in the order of `TAGS`, then `<|s_0|>`, `<|s_1|>`, ... one for each code of the codec.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from llasa_jax.errors import UserError

TAGS = tuple(
    f"<|{name}_{end}|>"
    for name in (
        "TEXT_GENERATION",
        "TEXT_UNDERSTANDING",
        "SPEECH_GENERATION",
        "SPEECH_UNDERSTANDING",
    )
    for end in ("START", "END")
)

BEGIN, END_OF_TEXT, EOT = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
HEADER, HEADER_END = "<|start_header_id|>", "<|end_header_id|>"

# Llama-3's template writes the current day, or this one where it knows none: ours never changes.
SYSTEM = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
INSTRUCTION = "Convert the text to speech:"
TRANSCRIBE = "Convert the speech to text:"

Direction = Literal["generation", "understanding"]


def _frame(instruction: str, given: str, made: str) -> tuple[str, str, str]:
    """What stands before, between and after the two parts, each between START and END of its tag.

    The exact chat of the paper's training code, which is Llama-3's template.
    """
    return (
        f"{BEGIN}{HEADER}system{HEADER_END}\n\n{SYSTEM}{EOT}"
        f"{HEADER}user{HEADER_END}\n\n{instruction}<|{given}_START|>",
        f"<|{given}_END|>{EOT}{HEADER}assistant{HEADER_END}\n\n<|{made}_START|>",
        f"<|{made}_END|>{EOT}",
    )


# Text, then speech; or speech, then text. Of the latter the paper tells only the order: the
# instruction is ours, the tags are those whose names say it.
FRAMES: dict[Direction, tuple[str, str, str]] = {
    "generation": _frame(INSTRUCTION, "TEXT_UNDERSTANDING", "SPEECH_GENERATION"),
    "understanding": _frame(TRANSCRIBE, "SPEECH_UNDERSTANDING", "TEXT_GENERATION"),
}


class Vocabulary:
    """A tokenizer with the tags and speech ids, and the sequences made of them.

    Attributes:
        text_vocab: number of text ids, with the text tokenizer's own special tokens.
        code_count: number of codes of the codec.
        size: all ids.
        speech_start: <|SPEECH_GENERATION_START|>, the last id before the codes.
        speech_end: <|SPEECH_GENERATION_END|>, which ends an utterance.
        text_end: <|TEXT_GENERATION_END|>, which ends a transcript.
        eot: <|eot_id|>, which ends a turn and which the paper's training hides from attention.
        first_code: id of code 0.
    """

    def __init__(self, tokenizer: Tokenizer):
        """Checks that the added tokens are there, at the end and in their order.

        Raises:
            UserError: naming the first token that is missing or has another id.
        """
        first = tokenizer.token_to_id(TAGS[0])
        if first is None:
            raise UserError(f"tokenizer: lacks {TAGS[0]}, add the speech tokens with `extend`")
        self.text_vocab = first
        self.size = tokenizer.get_vocab_size(with_added_tokens=True)
        self.code_count = self.size - first - len(TAGS)
        self.first_code = first + len(TAGS)
        for place, token in enumerate(_added(self.code_count)):
            found = tokenizer.token_to_id(token)
            if found != first + place:
                raise UserError(f"tokenizer: {token} has id {found}, must be {first + place}")
        if self.code_count < 1:
            raise UserError("tokenizer: has no speech token <|s_0|>")
        for token in (BEGIN, HEADER, HEADER_END, EOT):
            if tokenizer.token_to_id(token) is None:
                raise UserError(f"tokenizer: lacks {token}, a Llama-3 tokenizer is needed")
        self.tokenizer = tokenizer
        self.speech_start = first + TAGS.index("<|SPEECH_GENERATION_START|>")
        self.speech_end = first + TAGS.index("<|SPEECH_GENERATION_END|>")
        self.text_end = first + TAGS.index("<|TEXT_GENERATION_END|>")
        self.eot = tokenizer.token_to_id(EOT)
        self._text = _without_added_tokens(tokenizer)
        self._frames = {
            direction: [self._encode(piece) for piece in pieces]
            for direction, pieces in FRAMES.items()
        }

    @classmethod
    def extend(cls, tokenizer: Tokenizer, codes: int) -> "Vocabulary":
        """A text tokenizer with the tags and `codes` speech ids appended."""
        if tokenizer.token_to_id(TAGS[0]) is not None:
            raise UserError(f"tokenizer: already has {TAGS[0]}, load it as it is")
        tokenizer = Tokenizer.from_str(tokenizer.to_str())
        tokenizer.add_tokens([AddedToken(token, normalized=False) for token in _added(codes)])
        return cls(tokenizer)

    @classmethod
    def load(cls, path: str | Path, codes: int | None = None) -> "Vocabulary":
        """Reads a `tokenizer.json`, or that of a folder.

        Args:
            codes: appends the tags and so many speech ids to a text tokenizer, which has none.

        Raises:
            UserError: if it is missing, broken, or lacks or misorders the added tokens.
        """
        path = Path(path)
        path = path if path.is_file() else path / "tokenizer.json"
        tokenizer = read_tokenizer(path)
        try:
            if codes is not None and tokenizer.token_to_id(TAGS[0]) is None:
                return cls.extend(tokenizer, codes)
            return cls(tokenizer)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def save(self, folder: str | Path) -> None:
        """Writes `tokenizer.json`."""
        path = Path(folder) / "tokenizer.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(self.tokenizer.to_str(), encoding="utf-8")
        os.replace(temporary, path)

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that name the tokenizer: every id and rule."""
        return hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()[:16]

    def frame(self, direction: Direction) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids int32 [n] before, between and after what is given and what is made."""
        return tuple(self._frames[direction])

    def encode_text(self, text: str) -> np.ndarray:
        """Ids int32 [n] of a user's text; the names of tags and special tokens stay plain text.

        Raises:
            UserError: if the text is empty or not valid Unicode.
        """
        if not text.strip():
            raise UserError("text: is empty, give at least one word")
        try:
            ids = self._text.encode(text, add_special_tokens=False).ids
        except (UnicodeEncodeError, TypeError) as error:
            raise UserError(f"text: {text!r} is not valid Unicode") from error
        if not ids:
            raise UserError(f"text: {text!r} has no token in this vocabulary")
        return np.array(ids, np.int32)

    def speech_ids(self, codes: Sequence[int] | np.ndarray) -> np.ndarray:
        """Ids int32 [T] of codes [T].

        Raises:
            UserError: if a code is out of range.
        """
        return _integers(codes, 0, self.code_count, "code") + np.int32(self.first_code)

    def codes(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Codes int32 [T] of speech ids [T].

        Raises:
            UserError: if an id is not a speech id.
        """
        return _integers(ids, self.first_code, self.size, "speech id") - np.int32(self.first_code)

    def prompt(self, text: str, prompt_codes: Sequence[int] | np.ndarray = ()) -> np.ndarray:
        """Ids int32 [n] up to where the model speaks on: ... START and the prompt's codes.

        For cloning, `text` is the prompt's text, a blank and the text to be spoken.
        """
        text_ids, codes = self.encode_text(text), self.speech_ids(prompt_codes)
        before, between, _ = self._frames["generation"]
        return np.concatenate([before, text_ids, between, codes])

    def transcription_prompt(self, codes: Sequence[int] | np.ndarray) -> np.ndarray:
        """Ids int32 [n] up to where the model writes what it hears: ... <|TEXT_GENERATION_START|>.

        Raises:
            UserError: if there are no codes, or one is out of range.
        """
        heard = self.speech_ids(codes)
        if not len(heard):
            raise UserError("codes: are none, there is nothing to transcribe")
        before, between, _ = self._frames["understanding"]
        return np.concatenate([before, heard, between])

    def example(
        self,
        text: str,
        codes: Sequence[int] | np.ndarray,
        direction: Direction = "generation",
        known: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """A whole training sequence: ids int32 [n] and loss weights float32 [n].

        `weights[i]` is that of predicting `ids[i]`: 1 for START, the codes and END of generated
        speech, or for the text and END of a transcript; else 0. So it is for START and the first
        `known` codes of generated speech, where they are a prompt's that the model goes on from.
        """
        ids, weights = self.assemble(self.encode_text(text), codes, direction)
        if known:
            start = int(np.flatnonzero(ids == self.speech_start)[0])
            weights[start : start + 1 + known] = 0
        return ids, weights

    def assemble(
        self,
        text: np.ndarray,
        codes: Sequence[int] | np.ndarray,
        direction: Direction = "generation",
    ) -> tuple[np.ndarray, np.ndarray]:
        """`example` of a text that is ids already, int [n]."""
        before, between, after = self._frames[direction]
        parts = [np.asarray(text, np.int32), self.speech_ids(codes)]
        given, made = parts if direction == "generation" else parts[::-1]
        if not len(given):
            raise UserError("example: nothing is given, text and codes must not be empty")
        ids = np.concatenate([before, given, between, made, after])
        first = len(before) + len(given) + len(between)
        weights = np.zeros(len(ids), np.float32)
        weights[first : first + len(made) + 1] = 1
        if direction == "generation":
            weights[first - 1] = 1  # the released models learn START as well
        return ids, weights

    def chat(self, messages: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        """Ids int32 [n] and loss weights float32 [n] of a conversation in Llama-3's template.

        Learned is what the assistant says, with the end of its turn.

        Args:
            messages: (role, text) in turn; roles are system, user and assistant. The usual system
                text stands first where none is given.

        Raises:
            UserError: on another role, an empty text, or if the assistant says nothing.
        """
        pieces = [self._encode(BEGIN)]
        learned = [np.zeros(1, np.float32)]
        given = list(messages)
        if not given or given[0][0] != "system":
            given.insert(0, ("system", ""))
        for role, text in given:
            if role not in ("system", "user", "assistant"):
                raise UserError(f"chat: role {role!r} is none of system, user, assistant")
            head = self._encode(f"{HEADER}{role}{HEADER_END}\n\n")
            said = self.encode_text(text) if text or role != "system" else self._encode(SYSTEM)
            turn = np.concatenate([head, said, self._encode(EOT)])
            pieces.append(turn)
            learned.append(np.float32((np.arange(len(turn)) >= len(head)) & (role == "assistant")))
        ids, weights = np.concatenate(pieces), np.concatenate(learned)
        if not weights.any():
            raise UserError("chat: the assistant says nothing, there is nothing to learn")
        return ids, weights

    def _encode(self, piece: str) -> np.ndarray:
        """Ids int32 [n] of a piece of the template."""
        return np.array(self.tokenizer.encode(piece, add_special_tokens=False).ids, np.int32)


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json; UserError if it is missing or broken."""
    if not path.is_file():
        raise UserError(f"{path}: not found, expected the model's tokenizer")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{path}: no readable tokenizer ({error})") from error


# A text as English speech needs it: no case, no accents, stops and commas as the only signs.
SPOKEN_ENGLISH = (
    (r"[\u2018\u2019`]", "'"),
    (r"[!?;:\u2026]", "."),
    (r"[\u2013\u2014()\[\]{}/]", ","),
    (r"&", " and "),
    (r"[^a-z0-9',. -]", " "),
    (r"\s+", " "),
    (r" *,[ ,]*", ", "),
    (r"[ ,.-]+$", ""),
    (r"^[ ,.-]+", ""),
)


def english_vocabulary(codes: int) -> Vocabulary:
    """As `nano_vocabulary`, for English alone: texts lose what cannot be heard before their bytes
    are taken, and the instruction to transcribe is one token, too."""
    rules = [normalizers.Replace(Regex(wrong), right) for wrong, right in SPOKEN_ENGLISH]
    plain = [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    return _byte_vocabulary(codes, (TRANSCRIBE,), normalizers.Sequence([*plain, *rules]))


def nano_vocabulary(codes: int) -> Vocabulary:
    """Built-in vocabulary for small models: the ids 0 to 255 are the text's UTF-8 bytes.

    The constant phrases of the template are one token each, so that it costs 22 ids in place of
    about 170. A user's text is never encoded with them.
    """
    return _byte_vocabulary(codes)


def _byte_vocabulary(
    codes: int, more: Sequence[str] = (), normalizer: normalizers.Normalizer | None = None
) -> Vocabulary:
    letters = {letter: byte for byte, letter in enumerate(_byte_letters())}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BEGIN, END_OF_TEXT, HEADER, HEADER_END, EOT])
    phrases = ("\n\n", SYSTEM, "system", "user", "assistant", INSTRUCTION, *more)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    return Vocabulary.extend(tokenizer, codes)


def _added(codes: int) -> list[str]:
    return [*TAGS, *(f"<|s_{code}|>" for code in range(codes))]


def _byte_letters() -> list[str]:
    """The printable character that stands for each byte in byte-level tokenizers (GPT-2)."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    letters = {byte: chr(byte) for byte in kept}
    letters |= {byte: chr(256 + place) for place, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def _without_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer without its added tokens, which no text can spell then."""
    description = json.loads(tokenizer.to_str())
    description |= {"added_tokens": [], "post_processor": None}
    return Tokenizer.from_str(json.dumps(description))


def _integers(values: Sequence[int] | np.ndarray, low: int, high: int, what: str) -> np.ndarray:
    """`values` as int32 [n], each low <= value < high."""
    array = np.asarray(values)
    if array.size == 0:
        return np.zeros(0, np.int32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UserError(f"{what}s: expected a list of integers, got {array.dtype} {array.shape}")
    wrong = (array < low) | (array >= high)
    if wrong.any():
        place = int(wrong.argmax())
        raise UserError(f"{what} {array[place]} at {place}: must be in {low}..{high - 1}")
    return array.astype(np.int32)
