"""Light text normalisation, for splitting corpora and for scoring transcripts."""

import re
import unicodedata

_NOT_WORD = re.compile(r"[^\w']+|[\d_]+")
_LOOSE_APOSTROPHE = re.compile(r"(?<!\w)'+|'+(?!\w)")


def normalise(text: str) -> str:
    """Lower-case words of letters and inner apostrophes, one space between them.

    Letters are those of any script, composed (NFC), so Dutch and Czech keep their marks.
    """
    text = unicodedata.normalize("NFC", text).replace("\u2019", "'").lower()
    text = _NOT_WORD.sub(" ", text)
    return " ".join(_LOOSE_APOSTROPHE.sub(" ", text).split())


def has_letters(text: str) -> bool:
    """Whether there is anything to speak: at least one letter of any script."""
    return any(character.isalpha() for character in text)
