"""The report of a run: one page to listen to and read, its figures, and every number as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llasa_jax.evaluation import figures
from llasa_jax.evaluation.page import (
    Clip,
    Picture,
    fill_players,
    json_bytes,
    make_picture,
    plain,
    template,
    write_files,
)
from llasa_jax.evaluation.tables import (
    anything,
    data_name,
    data_of,
    expectation,
    number,
    opening,
    percent,
    section,
    tables,
    words,
)

MAX_SAMPLES = 24
PICTURED_SAMPLES = 2


def write_report(folder: Path, report: dict[str, Any], samples: Sequence[dict[str, Any]]) -> Path:
    """Write `report.html`, the figures as PNG files, and `report.json` into `folder`.

    The page holds its style, figures and sound, and loads nothing. Whatever is absent, None or
    NaN in the report is shown as not measured. Nothing is written before all of it is made.

    Args:
        folder: made if it is missing.
        report: the run's numbers; the keys are those of `report.json`. Word error rates and other
            shares are from 0 to 1, intervals [low, high] at 95 %. A part may say what it was
            measured on: "data" ("synthetic", "recorded_nl", ...), "wer_data" for the codec.
        samples: sentences to listen to, the most telling first: {"text", "speaker", "kind",
            "reference", "resynthesis", "candidates"}. A sound is {"wave": float [samples],
            "rate"}; a candidate also has "scores" {name: float}, "chosen_at" [N, ...],
            "transcript" and "status".

    Returns:
        The path of the page.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(folder)
    report = plain(report)
    samples = list(samples)[:MAX_SAMPLES]
    drawn = [*_figures(report)]
    listened, made = _listening(samples), tables(report)
    page = template("report.html.jinja").render(
        title=f"Llasa on {anything(report.get('corpus_name') or 'an unnamed corpus')}",
        opening=opening(report),
        expectation=expectation(report),
        verifiers=anything(section(report, "search").get("verifiers") or "not stated"),
        judges=anything(section(report, "search").get("judges") or "not stated"),
        listening=listened,
        figures=drawn,
        tables=[table for table in made if table.rows],
        absent=[table.caption for table in made if not table.rows],
        words=words,
        number=number,
    )
    pictures = [*drawn, *(s.picture for s in listened if s.picture)]
    files = {picture.file: picture.png for picture in pictures}
    files |= {"report.json": json_bytes(report), "report.html": page.encode()}
    write_files(folder, files)
    return folder / "report.html"


def _figures(report: Mapping[str, Any]) -> Iterator[Picture]:
    """The figures that the report has numbers for."""
    lm, curves = section(report, "lm"), section(report, "curves")
    kinds = [data_name(k) for k in section(report, "corpus") if k in ("synthetic", "recorded")]
    mixed = " and ".join(kinds) + " mixed" * (len(kinds) > 1) if kinds else "data not stated"
    baselines = {"unigram": lm.get("unigram_nats"), "bigram": lm.get("bigram_nats")}
    for name, title, caption, options in (
        ("codec", "Codec training", f"Trained on {mixed}.", {"label": "loss"}),
        (
            "lm",
            "Language model training",
            "Lower is better. The horizontal lines are what counting single codes (unigram) and "
            "pairs of codes (bigram) reaches: below them the model knows more. "
            f"Measured on: {data_of(report, lm)}.",
            {"label": "nats a code", "baselines": baselines},
        ),
        (
            "recogniser",
            "Recogniser training",
            f"Lower is better. Measured on: {data_of(report, section(report, 'recogniser'))}.",
            {"label": "CTC loss"},
        ),
    ):
        points = curves.get(name) or []
        steps, losses = figures.curve(points, "loss")
        if steps:
            alt = f"The loss goes from {losses[0]:.3g} to {losses[-1]:.3g} in {steps[-1]:,} steps"
            for baseline, value in options.get("baselines", {}).items():
                alt += f"; {baseline} baseline: {number(value)}"
            draw = figures.loss_curves
            yield make_picture(f"{name}_loss.png", title, alt, caption, draw, points, **options)
    book = section(report, "codec", "codebook")
    if figures.finite(book.get("size")) and book["size"] > 1:
        alt = (
            f"{percent(book.get('used_share'))} of {number(book['size'])} codes are used; "
            f"entropy {number(book.get('entropy_bits'), 1)} bits"
        )
        caption = (
            "How many of its codes the codec uses, and how evenly: the closer to 100 %, the less "
            f"is wasted. Measured on: {data_of(report, book)}."
        )
        draw = figures.codebook_use
        yield make_picture("codebook_use.png", "Codebook use", alt, caption, draw, book)
    search = section(report, "search")
    points = [p for p in search.get("points") or [] if figures.finite(p.get("n"))]
    if points:
        alt = "; ".join(
            f"N {p['n']}: word error rate {percent(p.get('judge_wer'))}, "
            f"similarity {number(p.get('similarity'))}"
            for p in points
        )
        caption = (
            "What choosing among more candidates brings. The judges took no part in the choice; "
            "the verifiers' own scores show only that the choice works. Bars are 95 % "
            f"intervals. Measured on: {data_of(report, search)}."
        )
        draw = figures.search_curve
        yield make_picture("search_curve.png", "Search", alt, caption, draw, search)


@dataclass(frozen=True)
class Listening:
    """One sentence to listen to."""

    text: str
    about: str
    originals: list[Clip]
    kept: list[Clip]
    others: list[Clip]
    picture: Picture | None


def _listening(samples: Sequence[Mapping[str, Any]]) -> list[Listening]:
    """The sentences with their players; the chosen ones are sure of a place before the others."""
    listened = [_sentence(sample, index) for index, sample in enumerate(samples, 1)]
    first = [clip for s in listened for clip in (*s.originals, *s.kept)]
    rest = [clip for s in listened for clip in s.others]
    fill_players((*first, *rest))
    return listened


def _sentence(sample: Mapping[str, Any], index: int) -> Listening:
    originals = [
        Clip(name, sample[key])
        for key, name in (("reference", "Reference"), ("resynthesis", "Codec resynthesis"))
        if sample.get(key)
    ]
    candidates = [
        Clip(
            name=f"Candidate {i}",
            sound=candidate,
            chosen_at=sorted(int(n) for n in candidate.get("chosen_at") or []),
            scores=plain(candidate.get("scores") or {}),
            transcript=str(candidate.get("transcript") or ""),
            status="" if candidate.get("status") == "ok" else words(candidate.get("status") or ""),
        )
        for i, candidate in enumerate(sample.get("candidates") or [], 1)
    ]
    kept = sorted((c for c in candidates if c.chosen_at), key=lambda c: c.chosen_at[0])
    others = [c for c in candidates if not c.chosen_at]
    shown = {clip.name: (clip.wave, clip.rate) for clip in originals if clip.wave.size}
    best = max(kept, key=lambda c: c.chosen_at[-1], default=None)
    if best and best.wave.size:
        shown[f"Kept of {best.chosen_at[-1]}"] = (best.wave, best.rate)
    picture = None
    if shown and index <= PICTURED_SAMPLES:
        title, draw = f"Pictures of sentence {index}", figures.spectrogram
        alt = f"Waveforms and spectrograms of sentence {index}: {', '.join(shown)}"
        picture = make_picture(f"sample_{index}.png", title, alt, "", draw, shown)
    about = f"Speaker: {sample.get('speaker') or 'not stated'}"
    if sample.get("kind"):
        about += f". Reference: {data_name(str(sample['kind']))}"
    return Listening(str(sample.get("text", "")), about, originals, kept, others, picture)
