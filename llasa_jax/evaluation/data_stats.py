"""`llasa data stats`: how much speech of whom token rows hold, how long, and how full they are."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from llasa_jax.data.shards import TokenShards, decode_row
from llasa_jax.errors import UserError
from llasa_jax.evaluation.figures import codebook_use, drawn, grid, rank_shares
from llasa_jax.lm.vocabulary import Vocabulary

BY = ("speaker", "language", "licence", "kind")
BINS = 24
SHOWN = 20  # speakers in a figure


def data_stats(folder: str | Path, out: Path | None = None) -> dict[str, Any]:
    """Numbers of everything in a folder of `data prepare`; with `out` also plots and stats.json.

    Returns:
        `hours`, `utterances`, `speakers`, `rows`, `ids` of each kind/split in `folders`, with
        `hours_by` and the share of `used` positions; `lengths` of the first kind's utterances:
        seconds, characters and ids, each with mean, median, shortest, longest and a histogram;
        `codebook`: size, used share, entropy and shares by rank.

    Raises:
        UserError: the folder holds no finished preparation, or a shard is damaged.
    """
    folder = Path(folder)
    try:
        data = json.loads((folder / "data.json").read_text(encoding="utf-8"))
        folders = {name: _summary(values) for name, values in data["folders"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} holds no finished preparation ({error}); run `llasa data prepare`"
        ) from error
    vocabulary = Vocabulary.load(folder)
    kind = min(name.partition("/")[0] for name in folders)
    counts = np.zeros(vocabulary.code_count, np.int64)
    lengths: dict[str, list[float]] = {"seconds": [], "characters": [], "ids": []}
    for name in [name for name in folders if name.startswith(f"{kind}/")]:
        shards = TokenShards.open(folder / name)
        seconds = _seconds_a_code(data["folders"][name])
        for ids, about in _examples(shards):
            codes = ids[ids >= vocabulary.first_code] - vocabulary.first_code
            counts += np.bincount(codes, minlength=len(counts))
            lengths["ids"].append(len(ids))
            lengths["seconds"].append(len(codes) * seconds)
            if "text" in about:
                lengths["characters"].append(len(about["text"]))
    total = {name: Counter() for name in BY}
    for name, values in folders.items():
        if name.startswith(f"{kind}/"):
            for by in BY:
                total[by].update(values["hours_by"].get(by, {}))
    found = {
        "folder": str(folder),
        "hours": sum(v["hours"] for n, v in folders.items() if n.startswith(f"{kind}/")),
        "utterances": len(lengths["ids"]),
        "speakers": len(total["speaker"]),
        "hours_by": {by: dict(total[by].most_common()) for by in BY},
        "folders": folders,
        "lengths": {name: _lengths(values) for name, values in lengths.items() if values},
        "codebook": _codebook(counts),
        "rejects": data.get("rejects", {}),
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "stats.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        (out / "lengths.png").write_bytes(length_figure(found["lengths"]))
        (out / "speech.png").write_bytes(speech_figure(found["hours_by"]))
        (out / "rows.png").write_bytes(rows_figure(folders))
        if found["codebook"]["ranks"]:
            (out / "codebook.png").write_bytes(codebook_use(found["codebook"]))
    return found


def _summary(values: Mapping[str, Any]) -> dict[str, Any]:
    names = ("hours", "utterances", "examples", "rows", "ids", "learned", "used", "hours_by")
    return {name: values[name] for name in names}


def _seconds_a_code(values: Mapping[str, Any]) -> float:
    return values["hop"] / values["sample_rate"]


def _examples(shards: TokenShards) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    told = shards.about()
    for number in range(len(shards)):
        row = decode_row(shards[number])
        for ids in np.split(row.ids, np.cumsum(row.lengths)[:-1]):
            yield ids, next(told, {})


def _lengths(values: list[float]) -> dict[str, Any]:
    array = np.array(values, np.float64)
    counts, edges = np.histogram(array, BINS)
    return {
        "mean": float(array.mean()),
        "median": float(np.median(array)),
        "shortest": float(array.min()),
        "longest": float(array.max()),
        "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
    }


def _codebook(counts: np.ndarray) -> dict[str, Any]:
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return {
        "size": len(counts),
        "codes": int(counts.sum()),
        "used_share": float(np.mean(counts > 0)),
        "entropy_bits": float(-(shares * np.log2(shares)).sum()) if shares.size else 0.0,
        "ranks": rank_shares(counts),
    }


@drawn
def length_figure(lengths: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Histograms of seconds, characters and ids of the utterances."""
    figure, axes = grid(len(lengths))
    for axis, (name, found) in zip(axes, lengths.items(), strict=False):
        edges = np.array(found["histogram"]["edges"])
        axis.bar(edges[:-1], found["histogram"]["counts"], np.diff(edges), align="edge")
        axis.axvline(found["median"], color="C1", linestyle="--")
        axis.set(xlabel=f"{name}, median {found['median']:.3g}", ylabel="utterances")
    return figure


@drawn
def speech_figure(hours_by: Mapping[str, Mapping[str, float]]) -> Figure:
    """Hours of the languages and of the speakers with most."""
    panels = {name: hours_by[name] for name in ("language", "speaker") if hours_by[name]}
    figure, axes = grid(max(len(panels), 1))
    for axis, (name, hours) in zip(axes, panels.items(), strict=False):
        shown = list(hours.items())[:SHOWN][::-1]
        axis.barh([key for key, _ in shown], [value for _, value in shown])
        axis.grid(visible=False, axis="y")
        more = f", {len(hours) - SHOWN} more" if len(hours) > SHOWN else ""
        axis.set(xlabel="hours", title=f"{name}{more}")
    return figure


@drawn
def rows_figure(folders: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Share of used and of learned positions of each kind and split."""
    figure, (axis,) = grid(1)
    names = list(folders)
    used = [folders[name]["used"] for name in names]
    shares = [f["used"] * f["learned"] / max(f["ids"], 1) for f in folders.values()]
    place = np.arange(len(names))
    axis.barh(place - 0.2, used, 0.4, label="used")
    axis.barh(place + 0.2, shares, 0.4, label="learned")
    axis.set(yticks=place, yticklabels=names, xlim=(0, 1.05), xlabel="share of positions")
    axis.grid(visible=False, axis="y")
    axis.legend(loc="lower left")
    return figure


def lines(found: Mapping[str, Any]) -> str:
    """What `data_stats` found, to read."""
    rows = [
        f"{found['folder']}: {found['hours']:.2f} hours, {found['utterances']} utterances, "
        f"{found['speakers']} speakers"
    ]
    for by, hours in found["hours_by"].items():
        shown = ", ".join(f"{name} {value:.2f}" for name, value in list(hours.items())[:SHOWN])
        rows.append(f"hours by {by}: {shown}")
    for name, one in found["lengths"].items():
        rows.append(
            f"{name} of an utterance: median {one['median']:.3g}, from {one['shortest']:.3g} to "
            f"{one['longest']:.3g}"
        )
    codebook = found["codebook"]
    rows.append(
        f"codebook: {codebook['used_share']:.1%} of {codebook['size']} codes occur, "
        f"{codebook['entropy_bits']:.2f} bits a code"
    )
    for name, one in found["folders"].items():
        rows.append(
            f"{name}: {one['rows']} rows, {one['used']:.2%} of positions used, "
            f"{one['examples']} examples"
        )
    if found["rejects"]:
        rejects = ", ".join(f"{count} {reason}" for reason, count in found["rejects"].items())
        rows.append(f"left out: {rejects}")
    return "\n".join(rows)
