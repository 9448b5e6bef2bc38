"""English numerals in words, by num2words."""

import re
from decimal import Decimal

from num2words import num2words

LONGEST = 15  # digits of a number that is read as one; longer ones are read digit by digit
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SCALES = {"k": "thousand", "m": "million", "mn": "million", "bn": "billion", "b": "billion"}
SCALES |= {"tn": "trillion", "t": "trillion"}
CURRENCIES = {  # sign -> one, many, hundredths
    "$": ("dollar", "dollars", "cent"),
    "£": ("pound", "pounds", "penny"),
    "€": ("euro", "euros", "cent"),
    "¥": ("yen", "yen", ""),
}


def cardinal(number: str) -> str:
    """ "1,234.50" -> "one thousand two hundred thirty-four point five zero".

    Digits that begin with a zero, or are too many, are read one by one.
    """
    whole, point, fraction = number.replace(",", "").partition(".")
    if len(whole) > LONGEST or (len(whole) > 1 and whole[0] == "0"):
        words = spelled(whole)
    else:
        words = _plain(num2words(int(whole or 0)))
    return f"{words} point {spelled(fraction)}" if point and fraction else words


def spelled(digits: str) -> str:
    """ "07" -> "zero seven"."""
    return " ".join(DIGITS[int(digit)] for digit in digits)


def ordinal(number: str) -> str:
    """ "22" -> "twenty-second"; of too many digits, their cardinal."""
    digits = number.replace(",", "")
    return (
        cardinal(digits) if len(digits) > LONGEST else _plain(num2words(int(digits), to="ordinal"))
    )


def year(number: str) -> str:
    """ "1905" -> "nineteen oh-five"."""
    return _plain(num2words(int(number), to="year")).replace("oh-", "oh ")


def decade(number: str) -> str:
    """ "1980" or "80" -> "nineteen eighties" or "eighties"."""
    words = year(number) if len(number) == 4 else cardinal(number)
    return words[:-1] + "ies" if words.endswith("y") else f"{words}s"


def money(sign: str, number: str, scale: str) -> str:
    """ "$", "3.50", "" -> "three dollars and fifty cents"; "$", "2.5", "m" -> "two point five
    million dollars"."""
    one, many, hundredth = CURRENCIES[sign]
    amount = Decimal(number.replace(",", ""))
    scale = SCALES.get(scale.lower(), scale.lower())
    if scale:
        return f"{cardinal(number)} {scale} {many}"
    whole, _, cents = number.replace(",", "").partition(".")
    if cents and (len(cents) != 2 or not hundredth):
        return f"{cardinal(number)} {many}"
    parts = [f"{cardinal(whole)} {one if int(whole) == 1 else many}"] if int(whole or 0) else []
    if cents and int(cents):
        pence = {"penny": "pence"}.get(hundredth, f"{hundredth}s")
        parts.append(f"{cardinal(str(int(cents)))} {hundredth if int(cents) == 1 else pence}")
    return " and ".join(parts) if amount else f"zero {many}"


def fraction(above: str, below: str) -> str:
    """ "3", "4" -> "three quarters"."""
    single = int(above) == 1
    if int(below) in (2, 4):
        name = {2: ("half", "halves"), 4: ("quarter", "quarters")}[int(below)][not single]
    else:
        name = ordinal(below) + ("" if single else "s")
    return f"{cardinal(above)} {name}"


ROMAN = re.compile(r"(?=[IVXL])(XL|L?X{0,3})(IX|IV|V?I{0,3})")
_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50}


def roman(numeral: str) -> str:
    """ "XIV" -> "14"; the numeral must match `ROMAN`."""
    values = [_VALUES[letter] for letter in numeral]
    pairs = zip(values, [*values[1:], 0], strict=True)
    return str(sum(-value if value < after else value for value, after in pairs))


def _plain(words: str) -> str:
    """In the American way, without commas and "and"."""
    return words.replace(",", "").replace(" and ", " ")
