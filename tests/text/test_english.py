"""English read aloud: a table of cases, and what holds for any text."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa_jax.metrics.text import normalise
from llasa_jax.text.english import read_aloud
from llasa_jax.text.numerals import ROMAN, roman

CASES = {
    # numbers
    "3 apples and 21 pears": "three apples and twenty-one pears",
    "0": "zero",
    "100,000 people": "one hundred thousand people",
    "1,234.56": "one thousand two hundred thirty-four point five six",
    "3.14159": "three point one four one five nine",
    "0.5 and 1.0": "zero point five and one point zero",
    "agent 007": "agent zero zero seven",
    "1000000000000": "one trillion",
    "1234567890123456": "one two three four five six seven eight nine zero one two three four "
    "five six",
    "-3 today": "minus three today",
    "3x4=12": "three times four equals twelve",
    "3 × 4": "three times four",
    "1 + 1": "one plus one",
    "10^6": "ten to the power of six",
    "x² + y³": "x squared plus y cubed",
    "version 2.0.1": "version two point zero point one",
    "#1 & #2": "number one and number two",
    "10-15 people": "ten to fifteen people",
    "２ cats and ٣ dogs": "two cats and three dogs",
    # ordinals and fractions
    "1st, 2nd, 3rd, 4th": "first, second, third, fourth",
    "the 22nd and the 101st": "the twenty-second and the one hundred first",
    "21st century": "twenty-first century",
    "1/2 of it": "one half of it",
    "3/4 of it": "three quarters of it",
    "2/3 of it": "two thirds of it",
    "2 1/2 cups": "two and one half cups",
    "½ cup": "one half cup",
    "7/0": "seven over zero",
    # years and decades
    "in 1999": "in nineteen ninety-nine",
    "in 1905": "in nineteen oh five",
    "in 1066": "in ten sixty-six",
    "in 2005": "in two thousand five",
    "by 2026.": "by twenty twenty-six.",
    "1990-1995": "nineteen ninety to nineteen ninety-five",
    "the 1980s": "the nineteen eighties",
    "the '90s": "the nineties",
    "the 1800s": "the eighteen hundreds",
    # dates
    "March 3rd, 2024": "March third, twenty twenty-four",
    "Jan. 5": "January fifth",
    "Sept. 9": "September ninth",
    "5 January 2020": "January fifth, twenty twenty",
    "the 4th of July": "the July fourth",
    "2026-11-26": "November twenty-sixth, twenty twenty-six",
    "11/26/2026": "November twenty-sixth, twenty twenty-six",
    "26/11/2026": "November twenty-sixth, twenty twenty-six",
    "2026-19-45": "twenty twenty-six nineteen forty-five",
    "Mon., Feb. 2": "Monday, February second",
    "in Dec. it snows": "in December it snows",
    # times
    "5:30 pm": "five thirty P M",
    "10:05 a.m.": "ten oh five A M.",
    "at 9:00": "at nine o'clock",
    "at 17:45": "at seventeen forty-five",
    "at 14:00": "at fourteen hundred hours",
    "7am": "seven A M",
    "10 a.m. today": "ten A M today",
    "20:15:30": "twenty fifteen and thirty seconds",
    "24/7": "twenty-four seven",
    "99:99": "ninety-nine ninety-nine",
    # money
    "$3.50": "three dollars and fifty cents",
    "$1": "one dollar",
    "$1.01": "one dollar and one cent",
    "$0.99": "ninety-nine cents",
    "$0": "zero dollars",
    "£20": "twenty pounds",
    "£3.20": "three pounds and twenty pence",
    "€1,000,000": "one million euros",
    "¥100": "one hundred yen",
    "$2.5 million": "two point five million dollars",
    "$1.5bn": "one point five billion dollars",
    "$10k": "ten thousand dollars",
    # units
    "5 km": "five kilometers",
    "1 km": "one kilometer",
    "10 km/h": "ten kilometers per hour",
    "a 6ft man": "a six feet man",
    "70mph": "seventy miles per hour",
    "12 oz.": "twelve ounces.",
    "20 min. later": "twenty minutes later",
    "32°F": "thirty-two degrees Fahrenheit",
    "-5 °C": "minus five degrees Celsius",
    "50%": "fifty percent",
    "3.5 %": "three point five percent",
    "5GB": "five gigabytes",
    "10MB/s": "ten megabytes per second",
    "5 ft 10 in": "five feet ten in",
    # abbreviations, titles, initials
    "Dr. Smith": "Doctor Smith",
    "Mr. and Mrs. Jones": "Mister and Missus Jones",
    "Prof. J. R. Brown": "Professor J R Brown",
    "Gen. Lee and Capt. Kirk": "General Lee and Captain Kirk",
    "J.K. Rowling": "J K Rowling",
    "St. Peter": "Saint Peter",
    "221B Baker St. near it": "two hundred twenty-one B Baker Street near it",
    "Mt. Everest": "Mount Everest",
    "the U.S. Army": "the U S Army",
    "FBI, BBC and NASA": "F B I, B B C and NASA",
    "e.g. this, i.e. that": "for example this, that is that",
    "and so on, etc.": "and so on, et cetera.",
    "cats vs. dogs": "cats versus dogs",
    "Acme Inc. pays": "Acme Incorporated pays",
    "No. 5, vol. 3, pp. 10-12": "number five, volume three, pages ten to twelve",
    "Fig. 3": "figure three",
    "He said no. 5 came.": "He said number five came.",
    "a Ph.D. thesis": "a P H D thesis",
    # Roman numerals
    "Chapter IV": "Chapter four",
    "World War II": "World War two",
    "Henry VIII": "Henry the eighth",
    "Louis XIV": "Louis the fourteenth",
    "I was ill": "I was ill",
    # telephones, addresses, names with digits
    "555-1234": "five five five, one two three four",
    "(555) 123-4567": "five five five, one two three, four five six seven",
    "www.example.com": "W W W dot example dot com",
    "mail a.b@c.org": "mail a dot b at c dot org",
    "https://a.com/b": "a dot com slash b",
    "COVID-19": "COVID nineteen",
    "B2B in 3D": "B two B in three D",
    "R&D": "R and D",
    # stops and signs
    "“Quoted,” she said — twice…": "Quoted, she said, twice.",
    "it (really) works; yes: now": "it, really, works, yes, now",
    "What?! No!!!": "What? No!",
    "I can't, don't, won't": "I can't, don't, won't",
    "well-known": "well-known",
    "emoji 😀 here": "emoji here",
    "THE BBC NEWS AT TEN": "THE BBC NEWS AT TEN",
}


def test_there_are_enough_cases():
    assert len(CASES) >= 80


@pytest.mark.parametrize(("text", "spoken"), CASES.items())
def test_cases(text, spoken):
    assert read_aloud(text) == spoken


PIECES = st.sampled_from(
    [
        *"0123456789",
        *"$£€¥%°#&@/:.,;-'\"()[]",
        " ",
        "  ",
        "\n",
        "st",
        "th",
        "am",
        "p.m.",
        "km",
        "kg",
    ]
    + ["Dr.", "St.", "No.", "Jan.", "March", "IV", "Henry", "U.S.", "½", "²", "你", "é", "x", "FBI"]
)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=25).map("".join)))
def test_any_text_becomes_letters_and_stops(text):
    spoken = read_aloud(text)
    assert not re.search(r"\d", spoken)
    assert all(s.isalpha() or s in " ,.?!'-" or not s.isascii() for s in spoken)
    assert spoken == " ".join(spoken.split())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("a cat sat by the well-known don't sea".split()), max_size=20))
def test_words_alone_stay(words):
    text = ", ".join(words)
    assert read_aloud(text) == text


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(categories=["L"]), max_size=40))
def test_no_word_is_lost(text):
    assert bool(normalise(read_aloud(text))) == bool(normalise(text))


@given(st.integers(1, 89))
def test_roman_numerals(number):
    tens, ones = divmod(number, 10)
    tens = ["", "X", "XX", "XXX", "XL", "L", "LX", "LXX", "LXXX"][tens]
    numeral = tens + ["", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"][ones]
    assert ROMAN.fullmatch(numeral) and roman(numeral) == str(number)
