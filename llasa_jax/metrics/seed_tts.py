"""Word error as seed-tts-eval counts it (github.com/BytedanceSpeech/seed-tts-eval, run_wer.py and
average_wer.py at 752f429): its rules, none of its code, which has no licence.

All punctuation goes but the apostrophe, without a blank in its place; pairs of blanks become one,
once; English is lower-cased, Chinese split into characters. Numbers stay as they are written. A
text's rate is its errors over the reference's words, and a set's is the mean of its texts' rates.
"""

import importlib.util
import string
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jiwer
import numpy as np

from llasa_jax.errors import UserError

Language = Literal["en", "zh"]

# The signs that zhon 2.1.1 lists as `zhon.hanzi.punctuation`.
HANZI_SIGNS = (
    "＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､\u3000、〃〈〉《》「」『』【】〔〕〖〗"
    "〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏﹑﹔·．！？｡。"
)
_SIGNS = str.maketrans("", "", (HANZI_SIGNS + string.punctuation).replace("'", ""))


class Errors(NamedTuple):
    """Of one text: counts, and the reference's words (of Chinese: characters)."""

    substitutions: int
    deletions: int
    insertions: int
    words: int

    @property
    def rate(self) -> float:
        return (self.substitutions + self.deletions + self.insertions) / self.words


def normalise(text: str, language: Language) -> str:
    """A text as it is compared."""
    text = text.translate(_SIGNS).replace("  ", " ")
    return " ".join(text) if language == "zh" else text.lower()


def simplified(text: str) -> str:
    """Chinese in simplified characters, as what Paraformer hears is compared.

    Raises:
        UserError: if the package zhconv, which is under the GPL and so no dependency, is missing.
    """
    if importlib.util.find_spec("zhconv") is None:
        raise UserError("scoring Chinese: zhconv is not installed; run: pip install zhconv")
    import zhconv

    return zhconv.convert(text, "zh-cn")


def errors(reference: str, heard: str, language: Language) -> Errors:
    """What is wrong in what was heard, by jiwer (minimum edit distance).

    Raises:
        UserError: if the reference holds nothing but punctuation; the original stops there.
    """
    wanted, found = normalise(reference, language), normalise(heard, language)
    if not wanted.strip():
        raise UserError(f"text {reference[:40]!r}: has no word to be heard; correct the list")
    out = jiwer.process_words(wanted, found)
    words = out.hits + out.substitutions + out.deletions
    return Errors(out.substitutions, out.deletions, out.insertions, words)


def average(rates: Sequence[float]) -> float:
    """The original's figure: the mean of utterances' rates in percent, to three decimals."""
    return round(float(np.mean(rates)) * 100, 3)
