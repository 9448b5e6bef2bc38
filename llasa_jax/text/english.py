"""English as it is read aloud: numerals, dates, money, times, units and abbreviations in words.

Numerals are num2words'; what surrounds them are the rules below, each one pattern and what it
becomes, in this order. What is left is letters and the stops , . ? ! ' - of the training texts.
"""

import re
import unicodedata
from collections.abc import Callable

from llasa_jax.text.numerals import (
    CURRENCIES,
    ROMAN,
    cardinal,
    decade,
    fraction,
    money,
    ordinal,
    roman,
    spelled,
    year,
)

MONTHS = (
    "January February March April May June July August September October November December"
).split()
_MONTH = "|".join(MONTHS)
_SHORT_MONTH = "Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept|Sep|Oct|Nov|Dec"
_LONG_MONTH = {month[:3]: month for month in MONTHS}
_DAYS = {"Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday"}
_DAYS |= {"Thu": "Thursday", "Thurs": "Thursday", "Fri": "Friday", "Sat": "Saturday"}
_DAYS |= {"Sun": "Sunday"}

TITLES = {  # a stop may follow
    "Dr": "Doctor", "Mr": "Mister", "Mrs": "Missus", "Ms": "Miz", "Prof": "Professor",
    "Gen": "General", "Col": "Colonel", "Lt": "Lieutenant", "Capt": "Captain", "Sgt": "Sergeant",
    "Maj": "Major", "Rev": "Reverend", "Hon": "Honorable", "Gov": "Governor", "Sen": "Senator",
    "Rep": "Representative", "Pres": "President", "Mt": "Mount", "Ft": "Fort",
}  # fmt: skip
STOPPED = {  # with their stop
    "Jr": "Junior", "Sr": "Senior", "Inc": "Incorporated", "Ltd": "Limited", "Corp": "Corporation",
    "Co": "Company", "Ave": "Avenue", "Blvd": "Boulevard", "Rd": "Road", "Bros": "Brothers",
    "Dept": "Department", "dept": "department", "etc": "et cetera", "vs": "versus",
    "approx": "approximately", "est": "established", "govt": "government", "misc": "miscellaneous",
    "cf": "compare", "al": "al", "viz": "namely", "ca": "circa",
}  # fmt: skip
DOTTED = {  # their letters with stops between
    "eg": "for example", "ie": "that is", "aka": "also known as", "phd": "P H D", "md": "M D",
    "ba": "B A", "am": "A M", "pm": "P M", "ad": "A D", "bc": "B C",
}  # fmt: skip
NUMBERED = {  # before a number
    "No": "number", "Nos": "numbers", "Fig": "figure", "fig": "figure", "Figs": "figures",
    "Vol": "volume", "vol": "volume", "p": "page", "pp": "pages", "Ch": "chapter", "ch": "chapter",
    "Sec": "section", "Eq": "equation", "Art": "article", "no": "number",
}  # fmt: skip
UNITS = {  # one, many
    "km": ("kilometer", "kilometers"), "m": ("meter", "meters"),
    "cm": ("centimeter", "centimeters"), "mm": ("millimeter", "millimeters"),
    "kg": ("kilogram", "kilograms"), "g": ("gram", "grams"),
    "mg": ("milligram", "milligrams"), "l": ("liter", "liters"), "L": ("liter", "liters"),
    "ml": ("milliliter", "milliliters"), "mL": ("milliliter", "milliliters"),
    "mi": ("mile", "miles"), "ft": ("foot", "feet"), "yd": ("yard", "yards"),
    "lb": ("pound", "pounds"), "lbs": ("pound", "pounds"), "oz": ("ounce", "ounces"),
    "s": ("second", "seconds"), "sec": ("second", "seconds"), "min": ("minute", "minutes"),
    "h": ("hour", "hours"), "hr": ("hour", "hours"), "hrs": ("hour", "hours"),
    "ms": ("millisecond", "milliseconds"), "Hz": ("hertz", "hertz"), "kHz": ("kilohertz",) * 2,
    "MHz": ("megahertz",) * 2, "GHz": ("gigahertz",) * 2, "W": ("watt", "watts"),
    "kW": ("kilowatt", "kilowatts"), "V": ("volt", "volts"), "KB": ("kilobyte", "kilobytes"),
    "MB": ("megabyte", "megabytes"), "GB": ("gigabyte", "gigabytes"),
    "TB": ("terabyte", "terabytes"), "mph": ("mile per hour", "miles per hour"),
    "dB": ("decibel", "decibels"), "°C": ("degree Celsius", "degrees Celsius"),
    "°F": ("degree Fahrenheit", "degrees Fahrenheit"), "°": ("degree", "degrees"),
    "%": ("percent", "percent"), "ha": ("hectare", "hectares"), "cal": ("calorie", "calories"),
}  # fmt: skip
_PER = {"h": "hour", "hr": "hour", "s": "second", "sec": "second", "min": "minute", "d": "day"}
SPELLED = frozenset(  # letter by letter, though a vowel is among them
    "AI API ATM CEO CIA DIY DNA EU FAQ FBI GPU IBM ID IQ IT LA MIT RNA UAE UFO UK UN URL US USA "
    "USB UV CPU HIV IP OK".split()
)
REIGNED = "Henry|Louis|George|Elizabeth|Charles|James|Edward|Richard|William|Philip|Pius|Benedict"
REIGNED += "|Leo|Gregory|Alexander|Nicholas|Catherine|Ivan|Peter|Napoleon|Frederick|John|Paul"
SIGNS = {
    "&": " and ", "@": " at ", "%": " percent ", "+": " plus ", "=": " equals ", "×": " times ",
    "÷": " divided by ", "±": " plus or minus ", "<": " less than ", ">": " greater than ",
    "°": " degrees ", "#": " hash ", "*": " ", "^": " ", "~": " ", "_": " ", "|": " ", "\\": " ",
    "/": " slash ", "$": " dollars ", "£": " pounds ", "€": " euros ", "¥": " yen ",
    "(": ", ", ")": ", ", "[": ", ", "]": ", ", "{": ", ", "}": ", ", ";": ",", ":": ",",
    '"': " ", "`": " ", "—": ", ", "–": ", ", "…": ". ",
}  # fmt: skip

_NUMBER = r"\d+(?:,\d{3})+(?:\.\d+)?|\d+\.\d+|\d+"
_FREE = r"(?<![\w.,])"  # no number or word goes on before
_UNITS = "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True))
_CURRENCY = "".join(CURRENCIES)
_ROMAN = r"[IVXL]+"

Rule = tuple[re.Pattern, str | Callable[[re.Match], str]]


def read_aloud(text: str) -> str:
    """A text in words as they are spoken: no digit, no sign, no abbreviation that is known.

    Of letters and the stops , . ? ! ' - alone; letters of other scripts stay.
    """
    text = _plain(text)
    words = text.split()
    shouting = len(words) > 3 and not any(word.islower() for word in words)
    for pattern, becomes in _RULES:
        text = pattern.sub(becomes, text)
    if not shouting:
        text = re.sub(r"\b[A-Z]{2,5}\b", _acronym, text)
    return _tidy(text)


def _plain(text: str) -> str:
    """With ASCII's digits, quotes and hyphens."""
    text = re.sub("[‘’ʼ′]", "'", text)
    text = re.sub("[“”„«»″]", '"', text)
    text = re.sub("[‐‑−]", "-", text).replace("℃", "°C").replace("℉", "°F")
    text = text.replace("²", " squared ").replace("³", " cubed ")
    parts = []
    for sign in text:
        if unicodedata.decimal(sign, None) is not None:
            parts.append(str(unicodedata.decimal(sign)))
        elif unicodedata.numeric(sign, None) is not None and not sign.isalpha():
            wide = unicodedata.normalize("NFKC", sign).replace("⁄", "/")  # ½, ③
            parts.append(f" {wide} ")
        else:
            parts.append(sign)
    return "".join(parts)


def _date(day: str, month: str, of: str | None) -> str:
    return f"{month} {ordinal(day)}" + (f", {year(of)}" if of else "")


def _numeric_date(of: str, month: str, day: str, match: re.Match) -> str:
    if int(month) > 12:  # the day came first
        month, day = day, month
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return match[0].replace("-", " ").replace("/", " ")
    return _date(day, MONTHS[int(month) - 1], of)


def _named_date(match: re.Match) -> str:
    return _date(match["day"], _LONG_MONTH[match["month"][:3]], match["year"])


def _time(match: re.Match) -> str:
    hour, minute, half = match["hour"], match["minute"] or "00", match["half"]
    if int(hour) > 24 or int(minute) > 59:
        return match[0].replace(":", " ")
    words = cardinal(str(int(hour)))
    if int(minute):
        words += f" {'oh ' if minute[0] == '0' else ''}{cardinal(str(int(minute)))}"
    elif not half:
        words += " o'clock" if 1 <= int(hour) <= 12 else " hundred hours"
    if match["second"]:
        words += f" and {cardinal(str(int(match['second'])))} seconds"
    return f"{words} {half.upper()} M" if half else words


def _unit(match: re.Match) -> str:
    number, unit, per = match["number"], match["unit"], match["per"]
    name = UNITS[unit][number != "1"]
    return f"{number} {name}" + (f" per {_PER[per]}" if per else "")


def _numeral_after(word: str, numeral: str, match: re.Match) -> str:
    known = ROMAN.fullmatch(numeral)
    if not known:
        return match[0]
    return f"{word} {cardinal(roman(numeral))}"


def _king(match: re.Match) -> str:
    known = ROMAN.fullmatch(match[2])
    return f"{match[1]} the {ordinal(roman(match[2]))}" if known else match[0]


def _initials(match: re.Match) -> str:
    letters = match[0].replace(".", "").replace(" ", "")
    known = DOTTED.get(letters.lower())
    ends = not match.string[match.end() :].strip()  # then its stop is the sentence's, too
    return (known or " ".join(letters.upper())) + ("." if ends else "")


def _acronym(match: re.Match) -> str:
    word = match[0]
    if ROMAN.fullmatch(word) or not (word in SPELLED or not set(word) & set("AEIOUY")):
        return word
    return " ".join(word)


def _address(match: re.Match) -> str:
    words = re.sub(r"^(https?://)?", "", match[0])
    words = words.replace("www.", "W W W dot ")
    for sign, name in (
        (".", "dot"),
        ("@", "at"),
        ("/", "slash"),
        ("-", "dash"),
        ("_", "underscore"),
    ):
        words = words.replace(sign, f" {name} ")
    return f" {words.rstrip()} "


def _street(match: re.Match) -> str:
    return "Saint " if match[1] is None else f"{match[1]} Street"


def _rule(pattern: str, becomes: str | Callable[[re.Match], str]) -> Rule:
    return re.compile(pattern), becomes


_YEAR = r"(?P<year>\d{4})"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_WRITTEN = rf"(?P<month>{_MONTH}|(?:{_SHORT_MONTH})\b\.?)"
_RULES: list[Rule] = [
    _rule(r"\bhttps?://[\w./-]*\w|\bwww\.[\w./-]*\w|[\w.-]+@[\w-]+(?:\.[\w-]+)+", _address),
    _rule(r"\b(?:\w+\.)+(?:com|org|net|edu|gov|io)\b(?:/[\w./-]*\w)?", _address),
    # Abbreviations.
    _rule(rf"\b({'|'.join(TITLES)})\.(?=\s*[A-Z])", lambda m: f"{TITLES[m[1]]} "),
    _rule(r"\b(Mr|Mrs|Ms|Dr|Prof)\.(?= )", lambda m: TITLES[m[1]]),
    _rule(rf"\b({'|'.join(k for k in TITLES if k not in ('Gen', 'Ft', 'Mt'))})(?= [A-Z])",
          lambda m: TITLES[m[1]]),
    _rule(r"(?:\b([A-Z][a-z]+) )?\bSt\.(?= [A-Z]|)", lambda m: _street(m)),
    _rule(r"\b(?:[A-Za-z]\.){2,}(?![A-Za-z])|\b[Pp]h\.\s?[Dd]\.", _initials),
    _rule(r"\b([A-Z])\.(?= ?[A-Z])", r"\1 "),
    _rule(rf"\b({'|'.join(NUMBERED)})\.?\s?(?=\d)(?<!\bno )", lambda m: f"{NUMBERED[m[1]]} "),
    _rule(rf"\b({'|'.join(STOPPED)})\.(?=\s*$)", lambda m: f"{STOPPED[m[1]]}."),
    _rule(rf"\b({'|'.join(STOPPED)})\.", lambda m: STOPPED[m[1]]),
    _rule(rf"\b({'|'.join(_DAYS)})\.(?=,? )", lambda m: _DAYS[m[1]]),
    # Money.
    _rule(rf"([{_CURRENCY}])\s?({_NUMBER})(?:\s?(hundred|thousand|[mbt]r?illion)\b|"
          r"(k|m|mn|bn|b|tn|K|M|B)\b)?", lambda m: money(m[1], m[2], m[3] or m[4] or "")),
    # Dates and times.
    _rule(r"\b(\d{4})[-/](\d{1,2})[-/](\d{1,2})\b", lambda m: _numeric_date(m[1], m[2], m[3], m)),
    _rule(r"\b(\d{1,2})/(\d{1,2})/(\d{4})\b", lambda m: _numeric_date(m[3], m[1], m[2], m)),
    _rule(rf"\b{_WRITTEN}\s{_DAY}\b(?!:)(?:,?\s{_YEAR}\b)?", _named_date),
    _rule(rf"\b{_DAY}(?: of)?\s{_WRITTEN}(?:,?\s{_YEAR}\b)?", _named_date),
    _rule(rf"\b({_SHORT_MONTH})\.(?= )", lambda m: _LONG_MONTH[m[1][:3]]),
    _rule(r"\b(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}))?\b"
          r"(?:\s?(?P<half>[AaPp])\s?[Mm]\b)?", _time),
    _rule(rf"{_FREE}(?P<hour>\d{{1,2}})(?P<minute>)(?P<second>)\s?(?P<half>[AaPp])\s?[Mm]\b",
          _time),
    # Numbers with something to them.
    _rule(r"(?<!\w)(?:\+\d{1,3}[ -])?\(?\d{3}\)?[ -]\d{3}-\d{4}\b|\b\d{3}-\d{4}\b",
          lambda m: ", ".join(spelled(part) for part in re.findall(r"\d+", m[0]))),
    _rule(r"\b24/7\b", "twenty-four seven"),
    _rule(r"'(\d0)s\b", lambda m: decade(m[1])),
    _rule(r"\b([12]\d\d0|[2-9]0)'?s\b", lambda m: decade(m[1])),
    _rule(rf"\b({_NUMBER})(?:st|nd|rd|th)\b", lambda m: ordinal(m[1].partition(".")[0])),
    _rule(rf"{_FREE}(\d{{4}})\s?[-–]\s?(\d{{4}})\b(?!-)", lambda m: f"{m[1]} to {m[2]}"),
    _rule(rf"{_FREE}({_NUMBER})\s?[-–]\s?({_NUMBER})\b(?!-)", r"\1 to \2"),
    _rule(r"(?<![\w/.])(\d{1,3})\s+(\d{1,2})/(\d{1,2})(?![\w/])",
          lambda m: f"{cardinal(m[1])} and {_fraction(m[2], m[3])}"),
    _rule(r"(?<![\w/.])(\d{1,2})/(\d{1,2})(?![\w/])", lambda m: _fraction(m[1], m[2])),
    _rule(rf"(?<![\w.,])(?P<number>{_NUMBER})\s?(?P<unit>{_UNITS})(?:/(?P<per>hr|h|sec|s|min|d))?"
          r"(?![\w°/])\.?(?=(?P<end>\s*$)?)",
          lambda m: _unit(m) + ("." if m["end"] is not None and m[0].endswith(".") else "")),
    _rule(r"(\d)\s?[x×]\s?(?=\d)", r"\1 times "),
    _rule(r"(\d)\^(?=\d)", r"\1 to the power of "),
    _rule(r"#(?=\d)", "number "),
    # Numerals.
    _rule(rf"\b({REIGNED}) ({_ROMAN})\b(?!')", _king),
    _rule(rf"\b(Chapter|Part|Book|Volume|War|Act|Scene|Section|Type|Phase|Appendix) ({_ROMAN})\b",
          lambda m: _numeral_after(m[1], m[2], m)),
    _rule(r"(?<![\w.])-(?=\d)", " minus "),
    _rule(rf"{_FREE}(1\d\d\d|20\d\d)(?![\w]|[.,]\d)", lambda m: year(m[1])),
    _rule(r"(\d+)\.(\d+)\.(?=\d)", r"\1 point \2 point "),
    _rule(_NUMBER, lambda m: f" {cardinal(m[0])} "),
]  # fmt: skip


def _fraction(above: str, below: str) -> str:
    if int(below) < 2 or not int(above):
        return f"{cardinal(above)} over {cardinal(below)}"
    return fraction(above, below)


def _tidy(text: str) -> str:
    """Signs in words, other ones gone, one space between words, no stop twice or alone."""
    text = "".join(SIGNS.get(sign, sign) for sign in text)
    text = "".join(
        s if s.isalpha() or unicodedata.combining(s) or s in " ,.?!'-" else " " for s in text
    )
    text = re.sub(r"(?<![^\W\d_])['-]+|['-]+(?![^\W\d_])", " ", text)
    text = re.sub(r"\s+([,.?!])", r"\1", " ".join(text.split()))
    text = re.sub(r",*([.?!])[,.?!]*|,+", lambda m: m[1] or ",", text)
    text = re.sub(r"([,.?!])(?=[^\s])", r"\1 ", text)
    return text.strip(" ,")
