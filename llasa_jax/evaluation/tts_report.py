"""What `llasa eval tts` found in the layout of the paper's tables, and a page to hear the worst."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llasa_jax.audio.io import read_audio
from llasa_jax.evaluation import published
from llasa_jax.evaluation.page import Clip, fill_players, json_bytes, plain, template, write_files
from llasa_jax.evaluation.tables import Table, failures, interval, number, words
from llasa_jax.evaluation.tts_summary import keys_of, worst

SHOWN = 8  # utterances to hear of each run
OTHER_SET = "Another set and another harness: hold no number against ours, only the order."
SIGNS = {"o": "SIM-o", "r": "SIM-r", "value": "score"}
SIGNS |= {"rate": "WER, points", "letters": "CER, points"}  # of differences
LOWER = {"rate": "word error", "letters": "character error"}


def per_cent(value: Any) -> str:
    """A share as the paper prints it: percent, without the sign."""
    return number(None if value is None else 100 * value, 2)


def _cell(found: Mapping[str, Any] | None, show: Any) -> str:
    if not found:
        return "-"
    text = interval([found["low"], found["high"]], show)
    return f"{show(found['value'])}\n{text}" if text else show(found["value"])


def score_table(found: Mapping[str, Any]) -> Table:
    """A row a run: word errors, cosines with the prompt, quality, failures."""
    head, columns = ["System"], []
    for name, kind in found["kinds"].items():
        chinese = found["language"] == "zh"  # whose words are characters
        for key in keys_of(name):
            if kind == "words" and not (chinese and key == "letters"):
                head.append(f"{'CER' if chinese or key == 'letters' else 'WER'}, % ({name})")
                columns.append((name, key, per_cent))
            elif kind != "words" and any(key in run["scores"][name] for run in found["runs"]):
                head.append(f"{SIGNS[key]} ({name})")
                columns.append((name, key, number))
    rows, starred = [], False
    for run in found["runs"]:
        chose = {name.removesuffix("-wer") for name in run["chosen_by"]}
        cells = []
        for name, key, show in columns:
            cell = _cell(run["scores"][name].get(key), show)
            if name in chose:
                cell, starred = cell.replace("\n", " *\n") if "\n" in cell else f"{cell} *", True
            cells.append(cell)
        rows.append((run["title"], *cells, failures(run["failures"]["any"], run["utterances"])))
    note = (
        f"{found['utterances']} utterances of {found['set']}. Word errors are means over "
        "utterances, counted as seed-tts-eval does, an utterance without sound as all wrong; below "
        "each value its 95 % interval. Failures: loops, runaways, silence, early stops, and what "
        "was not spoken."
    )
    if starred:
        note += " * This judge took part in choosing the takes: it is no independent one there."
    return Table("Measured here", [*head, "Failures"], rows, note)


def original_table(found: Mapping[str, Any]) -> Table:
    """Seed-tts-eval's own figure, which leaves out what is missing."""
    rows = [
        (
            f"{run['title']} ({name})",
            number(run["scores"][name]["original"]),
            f"{run['scores'][name]['original_utterances']} of {run['utterances']}",
            number(run["scores"][name]["over_half_wrong"]),
            per_cent(run["scores"][name]["corpus"]),
        )
        for run in found["runs"]
        for name, kind in found["kinds"].items()
        if kind == "words"
    ]
    head = ("System", "WER, %", "Utterances in it", "Over half wrong", "Errors over words, %")
    note = "The original harness leaves out utterances without a file; this is its figure."
    return Table("As seed-tts-eval prints it", head, rows, note)


def paper_table(found: Mapping[str, Any]) -> Table:
    """The paper's rows for the same set; else those for English, to compare the order with."""
    column = published.table_of(found["set"])
    rows = published.rows(column or "en", found["language"])
    note = "" if column else OTHER_SET
    column = column or "en"
    table = {"librispeech": 5, "esd": 4}.get(column, 2)
    caption = f"Published ({published.PAPER}, table {table}): {published.HARNESS[column]}"
    shown = [(row.name, number(row.wer), number(row.o), number(row.r)) for row in rows]
    shown = [tuple("-" if cell == "not measured" else cell for cell in row) for row in shown]
    return Table(caption, ("System", "WER, %", "SIM-o", "SIM-r"), shown, note)


def difference_table(found: Mapping[str, Any]) -> Table:
    """Paired differences, a row each."""
    rows = []
    for pair in found["differences"]:
        for name, one in pair["scores"].items():
            scorer, _, key = name.partition(" ")
            show = per_cent if key in LOWER else number
            measure = SIGNS[key]
            difference = one["difference"]
            rows.append(
                (
                    f"{pair['against']} → {pair['of']}",
                    f"{measure} ({scorer})",
                    _cell(difference, show),
                    f"{one['p']:.2g}",
                    one["verdict"],
                )
            )
    note = (
        "Paired by utterance. p by random signs, 10,000 times, two-sided; significant under 0.05."
    )
    return Table("Differences", ("Runs", "Measure", "Difference", "p", "Verdict"), rows, note)


def ordering(found: Mapping[str, Any]) -> list[str]:
    """Where search gains what it gains in the paper, and where it does not, in words.

    In the paper's table 2 partial process reward lowers word error and raises similarity, and
    best-of-N after it lowers word error again.
    """
    claims = {
        ("direct", "partial"): (*LOWER, "o", "r"),
        ("partial", "partial+best-of"): tuple(LOWER),
        ("direct", "partial+best-of"): (*LOWER, "o", "r"),
    }
    strategies = {run["title"]: run["strategy"] for run in found["runs"]}
    lines = []
    for pair in found["differences"]:
        keys = claims.get((strategies[pair["against"]], strategies[pair["of"]]), ())
        for name, one in pair["scores"].items():
            scorer, _, key = name.partition(" ")
            if key not in keys:
                continue
            expected = f"a lower {LOWER[key]}" if key in LOWER else f"a higher {SIGNS[key]}"
            held = one["verdict"] == "better"
            said = "as in the paper" if held else f"NOT here: {one['verdict']}"
            said += f" (p {one['p']:.2g})"
            lines.append(f"{pair['against']} → {pair['of']}, {expected} by {scorer}: {said}.")
    return lines


def category_table(found: Mapping[str, Any]) -> Table:
    """Word error by category, where a set has some."""
    rows = []
    for run in found["runs"]:
        for scores in run["scores"].values():
            for name, value in scores.get("categories", {}).items():
                rows.append((words(name), run["title"], _cell(value, per_cent)))
    return Table("By category", ("Category", "System", "WER, %"), sorted(rows))


def wrong_table(found: Mapping[str, Any]) -> Table:
    """All that is wrong with the list, and what failed, named and counted."""
    rows = [
        (f"line {one['line']}" + (f", {one['id']}" if one["id"] else ""), one["reason"])
        for one in found["refused"]
    ]
    for run in found["runs"]:
        counted = {k: v for k, v in run["failures"].items() if k not in ("of", "any", "under")}
        for name, count in counted.items():
            rows.append((run["title"], f"{words(name)}: {count} of {run['utterances']}"))
        rows += [(run["title"], reason) for reason in run["why"]]
    return Table("Lines refused, and failures", ("Where", "What"), rows)


def tables(found: Mapping[str, Any]) -> list[Table]:
    """All that are about something."""
    made = [
        score_table(found),
        difference_table(found),
        original_table(found),
        category_table(found),
        wrong_table(found),
        paper_table(found),
    ]
    return [table for table in made if table.rows]


def harness_of(found: Mapping[str, Any]) -> str:
    """Who judged, by name and version."""
    judges = found["runs"][0]["scorers"]
    return ", ".join(f"{name} ({source})" for name, source in judges.items())


def write_tts_report(
    out: Path, found: Mapping[str, Any], runs: Mapping[str, tuple[Path, Sequence[Mapping]]]
) -> Path:
    """Writes `summary.json` and `tts.html` into `out`, and each run's `utterances.jsonl`.

    Args:
        found: as `eval_tts.summary`.
        runs: by title, a run's folder, with `waves`, and its rows.

    Returns:
        The path of the page.
    """
    found = plain(found)
    listening = []
    for title, (folder, rows) in runs.items():
        write_files(folder, {"utterances.jsonl": _lines(rows)})
        for row in worst(rows, list(found["kinds"]), SHOWN):
            listening.append(_entry(title, folder, row))
    fill_players(clip for entry in listening for clip in entry["clips"])
    page = template("tts.html.jinja").render(
        title=f"Text to speech, measured on {found['set']}",
        harness=harness_of(found),
        ordering=ordering(found),
        tables=tables(found),
        listening=listening,
        words=words,
        number=number,
    )
    write_files(out, {"summary.json": json_bytes(found), "tts.html": page.encode()})
    return out / "tts.html"


def _lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """JSON Lines, a row each."""
    return b"".join(json_bytes(row).replace(b"\n", b"") + b"\n" for row in rows)


def _entry(title: str, folder: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    sound, scores = {}, {}
    if row["sound"]:
        wave, rate = read_audio(folder / "waves" / f"{row['id']}.wav")
        sound = {"wave": wave, "rate": rate}
    for name, one in row["scores"].items():
        if "rate" in one:
            scores[f"{name}, wrong"] = one["rate"]
        scores |= {f"{name} {SIGNS[key]}": one[key] for key in SIGNS if key in one}
    heard = [
        f"{one['heard'] or '(nothing)'} [{name}]"
        for name, one in row["scores"].items()
        if "heard" in one
    ]
    clip = Clip(row["id"], sound, scores=scores, transcript="; ".join(heard), status=row["status"])
    about = f"{title}. Voice: {row['voice']}." if row["voice"] else f"{title}."
    return {"title": row["text"], "about": about, "clips": [clip]}
