"""A run's report as words and tables: what was measured, on which data, and what was not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.table import Table as ConsoleTable

from llasa_jax.evaluation.figures import finite, verifier_scores
from llasa_jax.metrics.statistics import failure_text

NOT_MEASURED = "not measured"
MAX_LISTED = 12
LANGUAGES = {"en": "English", "nl": "Dutch", "cs": "Czech"}


@dataclass(frozen=True)
class Table:
    """One table of the page: a caption, column heads, rows of text; `note` stands below.

    The first line of a cell is its value; a second one is shown small below it.
    """

    caption: str
    head: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    note: str = ""


def for_console(table: Table) -> ConsoleTable:
    """A table for a terminal."""
    style = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "show_edge": False}
    shown = ConsoleTable(title=table.caption, pad_edge=False, **style)
    for place, name in enumerate(table.head):
        shown.add_column(name, justify="right" if place else "left", no_wrap=not place)
    for row in table.rows:
        narrow = (cell.replace("\N{NO-BREAK SPACE}", "") for cell in row)
        shown.add_row(*(cell.replace(NOT_MEASURED, "-") for cell in narrow))
    return shown


def section(report: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """The part of the report at `path`; empty where it is absent or of another kind."""
    for name in path:
        report = report.get(name) or {}
        if not isinstance(report, Mapping):
            return {}
    return dict(report)


def number(value: Any, digits: int = 3) -> str:
    """A number with at most `digits` decimals, or "not measured"."""
    if not finite(value):
        return NOT_MEASURED
    if isinstance(value, int) or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.{digits}f}"


def percent(value: Any) -> str:
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%" if finite(value) else NOT_MEASURED


def duration(seconds: Any) -> str:
    if not finite(seconds):
        return NOT_MEASURED
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def interval(bounds: Any, show=number) -> str:
    """A 95 % interval in words; empty where there is none."""
    if not isinstance(bounds, list | tuple) or len(bounds) != 2 or not all(map(finite, bounds)):
        return ""
    low, high = map(show, bounds)
    return low.removesuffix("\N{NO-BREAK SPACE}%") + f" to {high}"


def with_interval(value: Any, bounds: Any, show=number) -> str:
    text = interval(bounds, show)
    return (
        f"{show(value)} (95\N{NO-BREAK SPACE}%: {text})" if text and finite(value) else show(value)
    )


def anything(value: Any) -> str:
    """Any value of the report as text."""
    if value is None:
        return NOT_MEASURED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if finite(value):
        return number(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{words(k)} {anything(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list | tuple):
        more = [f"and {len(value) - MAX_LISTED} more"] if len(value) > MAX_LISTED else []
        return ", ".join([*map(anything, value[:MAX_LISTED]), *more]) or "none"
    return str(value)


def words(key: Any) -> str:
    return str(key).replace("_", " ")


def failures(count: Any, sentences: Any) -> str:
    """A count of failures with its upper bound, where the number of sentences is known."""
    if finite(count) and finite(sentences) and 0 <= count <= sentences > 0:
        return failure_text(int(count), int(sentences))
    return anything(count)


def data_name(key: str | None) -> str:
    """The data of a measurement in words: synthetic speech is always called so."""
    if not key:
        return "not stated"
    for kind, name in (("synthetic", "synthetic speech"), ("recorded", "recorded human speech")):
        if key == kind:
            return name
        if key.startswith(f"{kind}_"):
            rest = key.removeprefix(f"{kind}_")
            return f"{name} ({LANGUAGES.get(rest) or words(rest)})"
    return words(key)


def data_of(report: Mapping[str, Any], part: Mapping[str, Any], key: str = "data") -> str:
    """What `part` was measured on: as it says, else the corpus's only kind of speech."""
    kinds = [kind for kind in ("synthetic", "recorded") if section(report, "corpus", kind)]
    only = kinds[0] if len(kinds) == 1 else None
    return data_name(part.get(key) or only)


def opening(report: Mapping[str, Any]) -> str:
    """One plain paragraph: what ran, how long, where, on which data."""
    machine, seconds = section(report, "machine"), section(report, "seconds").get("total")
    spent = f"In {duration(seconds)}" if finite(seconds) else "In a time that was not measured"
    parts = [f"{number(machine['cores'])} cores"] if finite(machine.get("cores")) else []
    parts += [str(machine[k]) for k in ("cpu", "accelerator") if machine.get(k)]
    where = f" on one machine ({', '.join(parts)})" if parts else " on one machine"
    text = f"{spent}{where}, this run trained a speech codec and a language model from nothing"
    sources = []
    for kind in ("synthetic", "recorded"):
        part = section(report, "corpus", kind)
        if part:
            minutes = [p.get("minutes") for p in _languages(part).values()]
            known = bool(minutes) and all(map(finite, minutes))
            amount = f"{number(float(sum(minutes)), 0)} minutes of " if known else ""
            sources.append(amount + data_name(kind))
    text += f", on {' and '.join(sources)}. " if sources else ". "
    if section(report, "corpus", "synthetic"):
        text += "Synthetic speech is text spoken by a speech synthesiser, not by people. "
    return text + (
        "The codec turns sound into some 50 codes a second and back; the language model reads "
        "a text and writes such codes; verifiers listen to several attempts and keep one. "
        "All that you hear, and all that is judged, was kept out of training."
    )


def expectation(report: Mapping[str, Any]) -> str:
    """What to expect of so short a training, with the independent judge's number."""
    text = (
        "What to expect: a language model trained for so few minutes need not be intelligible. It "
        "should have a voice and a rhythm and stop by itself; words are not promised. "
    )
    search, codec = section(report, "search"), section(report, "codec")
    judged = [p for p in search.get("points") or [] if finite(p.get("judge_wer"))]
    if not judged:
        return text + "How many words an independent judge got wrong was not measured in this run."
    best = max(judged, key=lambda p: p["n"])
    share = with_interval(best["judge_wer"], best.get("judge_wer_interval"), percent)
    text += (
        f"The independent judge here, {best.get('judge') or 'not named'}, took no part in training "
        f"or choosing; its word error rate on the kept of {best['n']} candidates is {share} "
        f"({data_of(report, search)})."
    )
    if finite(codec.get("wer_original")) and finite(codec.get("wer_resynthesis")):
        text += (
            f" For comparison: {percent(codec['wer_original'])} on the originals and "
            f"{percent(codec['wer_resynthesis'])} after the codec alone, by "
            f"{codec.get('judge') or 'its judge'} ({data_of(report, codec, 'wer_data')})."
        )
    return text


def tables(report: Mapping[str, Any]) -> list[Table]:
    """All tables of the page, in order; one about nothing in the report has no rows."""
    return [
        _targets(report),
        _codec(report),
        _language_model(report),
        _verifiers(report),
        _search(report),
        _corpus(report),
        _time(report),
    ]


MEASURED = ("Measure", "Measured on", "Value")


def _targets(report: Mapping[str, Any]) -> Table:
    verdicts = {True: "met", False: "missed"}
    rows = [
        (words(t.get("name", "")), anything(t.get("value")), anything(t.get("target")))
        + (verdicts.get(t.get("met"), NOT_MEASURED),)
        for t in report.get("targets") or []
    ]
    return Table("Targets", ("Target", "Measured", "Asked for", "Verdict"), rows)


def _codec(report: Mapping[str, Any]) -> Table:
    codec, book = section(report, "codec"), section(report, "codec", "codebook")
    stoi, spread = section(report, "codec", "stoi"), section(report, "codec", "stoi_interval")
    kinds = [k for k in ("synthetic", "recorded") if section(report, "corpus", k)]
    data = data_of(report, codec, "wer_data")
    errors = f"Word error rate of {codec.get('judge') or 'a recogniser'}"
    rows = [
        (
            "Intelligibility, STOI (0 to 1)",
            data_name(kind),
            with_interval(stoi.get(kind), spread.get(kind)),
        )
        for kind in dict.fromkeys([*kinds, *stoi])
    ]
    ratio = with_interval(codec.get("wer_ratio"), codec.get("wer_interval_ratio"))
    use = percent(book.get("used_share"))
    if finite(book.get("used_share")) and finite(book.get("size")):
        use += f" of {number(book['size'])}"
    rows += [
        (f"{errors} on originals", data, percent(codec.get("wer_original"))),
        (f"{errors} after the codec", data, percent(codec.get("wer_resynthesis"))),
        ("Ratio of the two", data, ratio),
        ("Codes used", data_of(report, book), use),
        ("Entropy of the codes, bits", data_of(report, book), number(book.get("entropy_bits"), 2)),
        ("Bits a second", "", number(codec.get("bits_per_second"), 0)),
        *_size(codec),
    ]
    return Table("Codec", MEASURED, rows if codec else [])


def _size(part: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [
        ("Parameters", "", number(part.get("parameters"))),
        ("Training steps", "", number(part.get("steps"))),
    ]


def _language_model(report: Mapping[str, Any]) -> Table:
    lm = section(report, "lm")
    data = data_of(report, lm)
    losses = [lm.get(name) for name in ("valid_nats", "unigram_nats", "bigram_nats")]
    below = min(losses[1:]) - losses[0] if all(map(finite, losses)) else None
    rows = [
        ("Validation loss, nats a code", data, number(losses[0])),
        ("The same of a unigram model", data, number(losses[1])),
        ("The same of a bigram model (Kneser-Ney)", data, number(losses[2])),
        ("Below the better of the two by, nats", data, number(below)),
        (
            "Sentences that stop by themselves at 0.5 to 2 times the reference's length",
            data,
            percent(lm.get("stopped_share")),
        ),
        (
            "The same without drawing failed takes again",
            data,
            percent(lm.get("stopped_first_share")),
        ),
        ("Median length, times the reference", data, number(lm.get("length_ratio_median"), 2)),
        *_size(lm),
        ("Training tokens", "", number(lm.get("tokens"))),
    ]
    return Table("Language model", MEASURED, rows if lm else [])


def _verifiers(report: Mapping[str, Any]) -> Table:
    rows = []
    recogniser, speaker = section(report, "recogniser"), section(report, "speaker")
    if recogniser:
        value = percent(recogniser.get("cer"))
        rows.append(("Recogniser: character error rate", data_of(report, recogniser), value))
    if speaker:
        value = percent(speaker.get("accuracy"))
        rows.append(("Speaker encoder: accuracy", data_of(report, speaker), value))
    note = "Trained on the same corpus and used to choose, so they do not judge."
    return Table("Selection verifiers", MEASURED, rows, note)


def _search(report: Mapping[str, Any]) -> Table:
    search = section(report, "search")
    points = sorted(
        (p for p in search.get("points") or [] if finite(p.get("n"))), key=lambda p: p["n"]
    )
    verifiers = list(dict.fromkeys(name for p in points for name in verifier_scores(p)))
    head = ["N", "Judge of words", "Word error rate (95 %)", "Speaker similarity (95 %)"]
    head += [f"Verifier {words(name)}" for name in verifiers] + ["Time", "Failures"]
    rows = [
        (
            number(p["n"]),
            str(p.get("judge") or NOT_MEASURED),
            with_interval(p.get("judge_wer"), p.get("judge_wer_interval"), percent),
            with_interval(p.get("similarity"), p.get("similarity_interval")),
            *(number(verifier_scores(p).get(name)) for name in verifiers),
            duration(p.get("seconds")),
            failures(p.get("failures"), search.get("sentences")),
        )
        for p in points
    ]
    note = (
        f"Strategy: {words(search.get('strategy') or 'not stated')}. "
        f"Sentences: {number(search.get('sentences'))}, {data_of(report, search)}. "
        f"Chosen by: {anything(search.get('verifiers') or 'not stated')}. "
        f"Judged by: {anything(search.get('judges') or 'not stated')}; "
        "judges took no part in the choice."
    )
    return Table("Search: the kept of N candidates", head, rows, note)


def _languages(part: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """A corpus part by language; one that is not divided stands under the empty name."""
    divided = {k: v for k, v in part.items() if isinstance(v, Mapping)}
    return divided if any("minutes" in v for v in divided.values()) else {"": part}


def _corpus(report: Mapping[str, Any]) -> Table:
    rows = []
    for kind in ("synthetic", "recorded"):
        part = section(report, "corpus", kind)
        for language, values in _languages(part).items() if part else ():
            name = data_name(f"{kind}_{language}" if language else kind)
            rest = {k: v for k, v in values.items() if k not in ("minutes", "utterances")}
            minutes, count = values.get("minutes"), values.get("utterances")
            rows.append((name, number(minutes, 1), number(count), anything(rest) if rest else ""))
    rejects = section(report, "corpus", "rejects")
    counted = sum(v for v in rejects.values() if finite(v))
    note = f"Left out: {number(counted)} recordings ({anything(rejects)})." if rejects else ""
    return Table("Corpus", ("Speech", "Minutes", "Utterances", "More"), rows, note)


def _time(report: Mapping[str, Any]) -> Table:
    stages = report.get("stages") or []
    rows = [(words(s.get("name", "")), duration(s.get("seconds"))) for s in stages]
    total, memory = section(report, "seconds").get("total"), report.get("peak_memory_gib")
    budget = report.get("minutes")
    rows += [
        ("In all", duration(total) + (f" of {number(budget)} min allowed" if budget else "")),
        ("Most memory used", f"{number(memory, 2)} GiB" if finite(memory) else NOT_MEASURED),
    ]
    machine = section(report, "machine")
    rows += [(words(k), anything(v)) for k, v in machine.items() if v is not None]
    names = {"seed": "Random seed", "version": "Version", "created": "Made"}
    rows += [(text, str(report[k])) for k, text in names.items() if report.get(k) is not None]
    return Table("Time, memory and machine", ("What", "How much"), rows)
