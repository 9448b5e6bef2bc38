"""What codecs scored, side by side: a table to read, two figures, and a page to listen to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llasa_jax.evaluation import figures, published
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
from llasa_jax.evaluation.peers import RATE
from llasa_jax.evaluation.tables import (
    NOT_MEASURED,
    Table,
    anything,
    data_name,
    duration,
    interval,
    number,
    percent,
    words,
)

LABELS = {
    "original": "Original",
    "ours": "Ours",
    "opus_6000": "Opus 6000",
    "opus_6000_constant": "Opus 6000 CBR",
    "codec2_3200": "Codec2 3200",
    "codec2_1600": "Codec2 1600",
    "codec2_1200": "Codec2 1200",
    "codec2_700": "Codec2 700C",
}


def _whole(value: Any) -> str:
    return number(value, 0)


def _two(value: Any) -> str:
    return number(value, 2)


MEASURES = (
    ("tokens_per_second", "Tokens a second", number),
    ("codebook", "Codebook", _whole),
    ("bits_per_second", "Bits a second", _whole),
    ("stoi", "STOI", number),
    ("pesq_wb", "PESQ-WB", _two),
    ("pesq_nb", "PESQ-NB", _two),
    ("mel_distance", "Mel distance", number),
    ("si_sdr", "SI-SDR, dB", _two),
    ("dnsmos", "DNSMOS (overall)", _two),
    ("similarity", "Speaker similarity", number),
    ("wer", "Word error rate", percent),
    ("wer_whisper", "The same by Whisper", percent),
    ("wer_hubert", "The same by HuBERT", percent),
    ("wer_content", "The same by the model's recogniser", percent),
    ("similarity_wavlm", "Speaker similarity by WavLM", number),
    ("similarity_speaker", "The same by the model's encoder", number),
    ("similarity_emotion2vec", "Emotion similarity", number),
    ("utmos", "UTMOS", _two),
    ("encode_rtf", "Encode, s a second", number),
    ("decode_rtf", "Decode, s a second", number),
    ("stream_si_sdr", "Streamed to whole, SI-SDR, dB", _two),
    ("codebook_entropy_bits", "Code entropy, bits", _two),
    ("codebook_used", "Codes used", percent),
)


def score_table(found: Mapping[str, Any], intervals: bool = False) -> Table:
    """A row a measure, a column a codec; "" where a codec has no such measure.

    With `intervals` each stands on a line of its own below its value.
    """
    codecs = {key: found[key] for key in LABELS if key in found}
    rows = []
    for key, label, show in MEASURES:
        if not any(key in scores for scores in codecs.values()):
            continue
        cells = []
        for scores in codecs.values():
            cell = show(scores[key]) if key in scores else ""
            text = interval(scores.get(f"{key}_interval"), show) if intervals else ""
            cells.append(f"{cell}\n{text}" if text else cell)
        rows.append((label, *cells))
    head, note = ["Measure", *map(LABELS.get, codecs)], ""
    if intervals:
        note = "The second line of a cell is the 95\N{NO-BREAK SPACE}% interval of its value."
    return Table("Codecs on the same recordings", head, rows, note)


def paper_table(found: Mapping[str, Any]) -> Table:
    """Ours and the peers in the columns of the paper's table 1, and some of its rows below."""
    judges = found.get("judges", {})
    words = "hubert" if "hubert" in judges else "pocketsphinx"
    voice = "wavlm" if "wavlm" in judges else "ge2e"
    wer = "wer_hubert" if words == "hubert" else "wer"
    similarity = "similarity_wavlm" if voice == "wavlm" else "similarity"
    columns = (
        ("tokens_per_second", number),
        ("codebook", _whole),
        (wer, lambda x: number(None if x is None else 100 * x, 2)),
        ("stoi", _two),
        ("pesq_wb", _two),
        ("pesq_nb", _two),
        (similarity, _two),
        ("utmos", _two),
        ("dnsmos", _two),
    )
    rows = []
    for key in (key for key in LABELS if key in found):
        cells = (show(found[key].get(name)) for name, show in columns)
        rows.append((LABELS[key], *("-" if cell == NOT_MEASURED else cell for cell in cells)))
    for name, values in published.CODECS.items():
        cells = ("-" if value is None else f"{value:g}" for value in (*values, None))
        rows.append((f"{published.PAPER}: {name}", *cells))
    head = ("Codec", "Tokens/s", "Codebook", "WER, %", "STOI", "PESQ-WB", "PESQ-NB", "SIM")
    note = (
        f"Ours and its peers: WER by {words}, SIM by {voice}, on {found['data']['utterances']} "
        "recordings named above. The paper: LibriSpeech test-clean, WER by HuBERT-large, SIM by "
        "WavLM-large. Rows of other recordings or judges are not comparable."
    )
    return Table("In the layout of the paper's table 1", (*head, "UTMOS", "DNSMOS"), rows, note)


def write_codec_report(
    folder: Path, found: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]
) -> Path:
    """Write `eval.json`, `codecs.html`, and its figures as PNG files into `folder`.

    Args:
        found: as `llasa eval codec --json` prints it.
        samples: recordings to listen to: {"name", "text", "speaker", "kind", "waves": by the keys
            of `LABELS`, float [samples] at 16 kHz}; the first is pictured.

    Returns:
        The path of the page.

    Raises:
        UserError: the folder cannot be written.
    """
    found = plain(found)
    pictures = _pictures(found, samples[0])
    listening = [
        {
            "title": sample["text"] or sample["name"],
            "about": f"Speaker: {sample['speaker'] or 'not stated'}. {data_name(sample['kind'])}",
            "clips": [
                Clip(label, {"wave": sample["waves"][key], "rate": RATE})
                for key, label in LABELS.items()
                if key in sample["waves"]
            ],
        }
        for sample in samples
    ]
    fill_players(clip for entry in listening for clip in entry["clips"])
    page = template("codecs.html.jinja").render(
        title="Speech codecs, side by side",
        opening=opening(found),
        notes=found["notes"],
        table=score_table(found, intervals=True),
        paper=paper_table(found),
        absent=found["not_measured"],
        versions=Table("Versions and machine", ("What", "Which"), _versions(found)),
        pictures=pictures,
        listening=listening,
        words=words,
        number=number,
    )
    files = {picture.file: picture.png for picture in pictures}
    write_files(folder, files | {"eval.json": json_bytes(found), "codecs.html": page.encode()})
    return folder / "codecs.html"


def opening(found: Mapping[str, Any]) -> str:
    """One plain paragraph: which codecs, on how much of which speech."""
    data = found["data"]
    text = f"Every codec rebuilt the same {data['utterances']} recordings: "
    text += f"{duration(3600 * data['hours'])} of {' and '.join(map(data_name, data['kinds']))}"
    if data["voices"]:
        text += f" from {anything(data['corpora'])}, by voices {data['heard']}"
        text += f" ({anything(data['voices'])})"
    text += ". Scores compare what came out with what went in, at 16 kHz. "
    heard = data.get("wer")
    if heard:
        text += (
            f"Words were counted on {heard['utterances']} English recordings with a known text "
            f"({' and '.join(map(data_name, heard['kinds']))}), by a recogniser that took no part "
            "in training. "
        )
    return text + (
        "Original is the recording itself: what the judges say of it is the most that a codec can "
        "be expected to reach."
    )


def _pictures(found: Mapping[str, Any], sample: Mapping[str, Any]) -> list[Picture]:
    coders = {LABELS[key]: found[key] for key in LABELS if key in found and key != "original"}
    alt = "; ".join(
        f"{name}: {number(x.get('bits_per_second'), 0)} bits a second, PESQ-WB "
        f"{number(x.get('pesq_wb'), 2)}, STOI {number(x.get('stoi'))}"
        for name, x in coders.items()
    )
    waves: dict[str, tuple[np.ndarray, int]] = {
        label: (sample["waves"][key], RATE)
        for key, label in LABELS.items()
        if key in sample["waves"]
    }
    return [
        make_picture(
            "quality.png",
            "Quality at a rate",
            alt,
            "Further left is fewer bits, further up is better. Bars are 95 % intervals.",
            figures.quality_by_rate,
            coders,
        ),
        make_picture(
            "spectrograms.png",
            "One recording through every codec",
            f"Spectrograms of {', '.join(waves)}",
            f"{sample['text'] or sample['name']}.",
            figures.spectrograms,
            waves,
        ),
    ]


def _versions(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    entries = found["versions"] | found["machine"]
    known = {name: value for name, value in entries.items() if value is not None}
    return [(words(name), anything(value)) for name, value in known.items()]
