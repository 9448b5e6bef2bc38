"""The released tokens: Llasa's own memory-mapped rows, read in place.

`{train,val}_input_ids.memmap` holds int32 rows of 2,048, their number in `..._shape.npy`. A row is
<|TEXT_UNDERSTANDING_START|> text <|TEXT_UNDERSTANDING_END|> <|SPEECH_GENERATION_START|> codes
<|SPEECH_GENERATION_END|>, filled up with <|eot_id|>. It holds no template, and one that was too
long is cut: it has lost its end, and whoever learns from it learns not to stop.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from llasa_jax.data.utterance import Split
from llasa_jax.errors import UserError
from llasa_jax.lm.vocabulary import TAGS, Vocabulary

FILES: dict[Split, str] = {"train": "train_input_ids", "valid": "val_input_ids"}
_ID = np.dtype("<i4")

TRUNCATED = "truncated: no end of speech"
NO_TEXT_TAGS = "text without its START or END"
NO_SPEECH_START = "no start of speech"
TWO_ENDS = "more than one end of speech"
AFTER_END = "something follows the end of speech"
NO_TEXT = "empty text"
NO_SPEECH = "no codes"
NOT_TEXT = "a speech id or a tag in the text"
NOT_SPEECH = "no speech id among the codes: was the offset added?"
UNKNOWN = "an id out of the vocabulary"


@dataclass(frozen=True)
class Parts:
    """The two halves of a row: ids of the text, int32 [n], and codes, int32 [T]."""

    text: np.ndarray
    codes: np.ndarray


def has_tokens(folder: Path) -> bool:
    """Whether the folder holds rows in this layout."""
    return any((folder / f"{name}.memmap").is_file() for name in FILES.values())


class TokenMemmap:
    """The rows of one split of a folder.

    Attributes:
        path: the file.
        rows: int32 [N, S], mapped.
    """

    def __init__(self, path: Path, rows: np.ndarray, vocabulary: Vocabulary) -> None:
        self.path, self.rows, self.vocabulary = path, rows, vocabulary
        self._text_start = vocabulary.text_vocab + TAGS.index("<|TEXT_UNDERSTANDING_START|>")
        self._text_end = vocabulary.text_vocab + TAGS.index("<|TEXT_UNDERSTANDING_END|>")

    @classmethod
    def open(cls, folder: str | Path, split: Split, vocabulary: Vocabulary) -> Self:
        """Maps the rows of a split; nothing is read.

        Raises:
            UserError: a file is missing, or the file is not as large as its shape says.
        """
        path = Path(folder) / f"{FILES[split]}.memmap"
        shape_path = path.with_name(f"{FILES[split]}_shape.npy")
        try:
            if shape_path.stat().st_size > 4096:
                raise ValueError("too large for a shape")
            shape = _read_shape(shape_path)
            count, size = (int(n) for n in shape)
            if count < 1 or size < 1 or count * size * _ID.itemsize != path.stat().st_size:
                raise ValueError(f"says {count} rows of {size}, the file differs")
        except FileNotFoundError as error:
            raise UserError(f"no {error.filename}; copy both files of the split") from error
        except (OSError, ValueError, TypeError, OverflowError) as error:
            raise UserError(f"{shape_path}: {error}; fetch both files again") from error
        return cls(path, np.memmap(path, _ID, mode="r", shape=(count, size)), vocabulary)

    def __len__(self) -> int:
        return len(self.rows)

    def parts(self, index: int) -> Parts | str:
        """Text and codes of a row, or what is wrong with it."""
        vocabulary = self.vocabulary
        row = np.asarray(self.rows[index])
        filled = np.flatnonzero(row != vocabulary.eot)
        row = row[: filled[-1] + 1] if filled.size else row[:0]
        if row.size and not 0 <= row.min() <= row.max() < vocabulary.size:
            return UNKNOWN
        starts, ends = (np.flatnonzero(row == id) for id in (self._text_start, self._text_end))
        if starts.tolist() != [0] or len(ends) != 1:
            return NO_TEXT_TAGS
        text, speech = row[1 : ends[0]], row[ends[0] + 1 :]
        if not speech.size or speech[0] != vocabulary.speech_start:
            return NO_SPEECH_START
        stops = np.flatnonzero(speech == vocabulary.speech_end)
        if not stops.size:
            return TRUNCATED if len(row) == self.rows.shape[1] else f"{TRUNCATED}, row not full"
        if len(stops) > 1:
            return TWO_ENDS
        if stops[0] != len(speech) - 1:
            return AFTER_END
        codes = speech[1:-1]
        if not text.size:
            return NO_TEXT
        if not codes.size:
            return NO_SPEECH
        if text.max() >= vocabulary.text_vocab:
            return NOT_TEXT
        if codes.min() < vocabulary.first_code:
            return NOT_SPEECH
        return Parts(text.astype(np.int32), vocabulary.codes(codes))


def _read_shape(path: Path) -> np.ndarray:
    """The array in a `.npy` file, mapped: numpy compares its shape with the file, and allocates
    nothing. It reads the header with Python's own parser, which may raise nearly anything."""
    try:
        with np.errstate(over="ignore"):
            return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError("holds no shape") from error
