"""The project's figures: each function draws one and returns it as PNG bytes, light or dark."""

import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib import mlab
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import (
    EngFormatter,
    FixedLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
    StrMethodFormatter,
)
from PIL import Image

WIDTH = 6.0  # inches; at 150 dots an inch a figure is 900 pixels wide
STYLE = {
    "figure.dpi": 150,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "text.parse_math": False,  # names may hold dollar signs
}


def _theme(paper: str, ink: str, grid: str, colors: Sequence[str]) -> dict[str, Any]:
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    papered = ("figure.facecolor", "savefig.facecolor", "axes.facecolor")
    return {
        **STYLE,
        **dict.fromkeys(inked, ink),
        **dict.fromkeys(papered, paper),
        "grid.color": grid,
        "axes.prop_cycle": cycler(color=colors),
    }


# Two blues, oranges, greens and violets that colour-blind readers can tell apart.
THEMES = {
    "light": _theme("#ffffff", "#1d2129", "#e2e5ea", ("#0b63b5", "#c04d00", "#00775a", "#86398c")),
    "dark": _theme("#191c22", "#e4e7ec", "#343a45", ("#6cb4ff", "#ff9f5f", "#4fd0a4", "#d59be0")),
}

TOGETHER = {"loss": "training", "valid_loss": "validation", "valid_nats": "validation"}
POINT_KEYS = frozenset(
    "n judge judge_wer judge_wer_interval similarity similarity_interval seconds failures beams "
    "step_tokens prefix_seconds failures_under tokens takes flops sound".split()
)


def drawn(draw: Callable[..., Figure]) -> Callable[..., bytes]:
    """Makes a function that returns a Figure into one that returns PNG bytes in a theme."""

    @functools.wraps(draw)
    def png(*args: Any, theme: str = "light", **kwargs: Any) -> bytes:
        # Matplotlib makes some ticks only when it draws, so saving belongs under the theme too.
        with matplotlib.rc_context(THEMES[theme]):
            full, small = io.BytesIO(), io.BytesIO()
            draw(*args, **kwargs).savefig(full, format="png")
        # A palette of 256 colours looks the same here at a third of the size.
        Image.open(full).convert("RGB").quantize(256).save(small, "PNG", optimize=True)
        return small.getvalue()

    return png


def finite(value: Any) -> bool:
    """Whether `value` is a number that can be shown: no bool, None, NaN or infinity."""
    number = isinstance(value, int | float | np.integer | np.floating)
    return number and not isinstance(value, bool) and math.isfinite(value)


def curve(points: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of the points that hold a number under `key`."""
    kept = [p for p in points if finite(p.get("step")) and finite(p.get(key))]
    return [p["step"] for p in kept], [p[key] for p in kept]


def verifier_scores(point: Mapping[str, Any]) -> dict[str, float]:
    """The verifiers' scores in a point of the search curve.

    They stand under `scores` by the verifier's name, or beside the point's other keys.
    """
    named = {**point, **(point.get("scores") or {})}
    return {k: v for k, v in named.items() if k not in POINT_KEYS and finite(v)}


@drawn
def loss_curves(
    points: Sequence[Mapping[str, Any]],
    *,
    label: str = "loss",
    baselines: Mapping[str, float | None] | None = None,
) -> Figure:
    """Training and validation loss over steps; other measures get a panel each.

    Args:
        points: logged steps, each {"step", "loss", "valid_loss" or "valid_nats", ...}; any may be
            absent. Keys with other names are drawn on axes of their own.
        label: the loss with its unit.
        baselines: horizontal lines by name, in the loss's unit.
    """
    names = list(dict.fromkeys(k for p in points for k in p if k != "step" and curve([p], k)[0]))
    others = [name for name in names if name not in TOGETHER]
    figure, axes = grid(1 + len(others))
    main = axes[0]
    settled: list[float] = []
    for name in TOGETHER:
        steps, values = curve(points, name)
        if values:
            marker = "" if name == "loss" and len(values) > 1 else "o"
            color = "C0" if name == "loss" else "C1"
            main.plot(steps, values, label=TOGETHER[name], color=color, marker=marker)
            settled += [v for s, v in zip(steps, values, strict=True) if s >= 0.1 * steps[-1]]
    for i, (name, value) in enumerate((baselines or {}).items()):
        if finite(value):
            style = ("--", ":", "-.")[i % 3]
            text = f"{name} {value:.2f}"
            main.axhline(value, color=f"C{2 + i % 2}", linestyle=style, label=text)
            settled.append(value)
    if settled:
        # The first steps of a loss lie far above the rest and would flatten what matters.
        margin = 0.06 * (max(settled) - min(settled)) or 0.1 * abs(settled[0]) or 1.0
        main.set_ylim(min(settled) - margin, max(settled) + margin)
        main.legend()
    main.set(xlabel="step", ylabel=label)
    for i, (axis, name) in enumerate(zip(axes[1:], others, strict=False)):
        text = name.replace("_", " ").replace("valid ", "validation ").replace("stoi", "STOI")
        axis.plot(*curve(points, name), marker="o", color=f"C{1 + i % 3}")
        axis.set(xlabel="step", ylabel=text)
    return figure


@drawn
def search_curve(search: Mapping[str, Any]) -> Figure:
    """Independent judges above, the verifiers that chose below, each against N.

    Args:
        search: {"judges": names, "points": [{"n", "judge", "judge_wer", "judge_wer_interval",
            "similarity", "similarity_interval", "scores": {verifier: score}}]}. Word error rates
            are shares; intervals are [low, high].
    """
    points = [p for p in search.get("points") or [] if finite(p.get("n"))]
    content = _judges(points, "judge_wer")
    # A point names the judge of its words; the other judge compared the speakers.
    speaker = [name for name in search.get("judges") or [] if name not in content]
    judged = [
        ("judge_wer", "word error rate", content),
        ("similarity", "speaker similarity", speaker or _judges(points, "similarity")),
    ]
    judged = [entry for entry in judged if any(finite(p.get(entry[0])) for p in points)]
    verifiers = list(dict.fromkeys(name for p in points for name in verifier_scores(p)))
    rows = [row for row in (judged, verifiers) if row]
    figure = Figure(figsize=(WIDTH, 2.7 * len(rows) or 2.7), layout="constrained")
    blocks = np.atleast_1d(figure.subfigures(max(len(rows), 1), 1))
    for block, row in zip(blocks, rows, strict=False):
        is_judged = row is judged
        who = "Independent judges: took no part in the choice"
        block.suptitle(
            who if is_judged else "Selection verifiers: these chose the candidates",
            x=0.02,
            ha="left",
            fontsize=11,
            fontweight="bold",
        )
        axes = np.atleast_1d(block.subplots(1, len(row)))
        for i, (axis, entry) in enumerate(zip(axes, row, strict=True)):
            if is_judged:
                _judge_panel(axis, points, *entry, first_color=i)
            else:
                scored = [(p["n"], verifier_scores(p).get(entry)) for p in points]
                scored = sorted({(n, v) for n, v in scored if v is not None})
                axis.plot(*zip(*scored, strict=True), marker="s", color="C2")
                axis.set(title=entry, ylabel="mean score of the kept")
            _candidate_axis(axis, [p["n"] for p in points])
    return figure


def _judges(points: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """Names of the judges that gave a number under `key`."""
    return list(dict.fromkeys(str(p.get("judge") or "") for p in points if finite(p.get(key))))


def _judge_panel(
    axis: Axes, points: list, key: str, text: str, names: Sequence[str], first_color: int
) -> None:
    """One judged measure against N, with its intervals; a line for each judge in the points."""
    lines = _judges(points, key)
    for j, judge in enumerate(lines):
        own = [p for p in points if str(p.get("judge") or "") == judge and finite(p.get(key))]
        own.sort(key=lambda p: p["n"])
        values = np.array([p[key] for p in own], float)
        low, high = np.array([_interval(p, key) for p in own], float).reshape(-1, 2).T
        errors = np.maximum([values - low, high - values], 0.0)
        axis.errorbar(
            [p["n"] for p in own],
            values,
            errors,
            marker="o",
            capsize=4,
            color=f"C{(first_color + 2 * j) % 4}",
            label=judge,
        )
    if key == "judge_wer":
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    if len(lines) > 1:
        axis.legend()
    axis.set(title=", ".join(names), ylabel=text)


def _interval(point: Mapping[str, Any], key: str) -> tuple[float, float]:
    """The interval of a measure; where there is none, the value itself: no bar."""
    bounds = point.get(f"{key}_interval")
    if isinstance(bounds, list | tuple) and len(bounds) == 2 and all(map(finite, bounds)):
        return tuple(bounds)
    return point[key], point[key]


def _candidate_axis(axis: Axes, counts: Sequence[float]) -> None:
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(FixedLocator(sorted(set(counts))))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.margins(x=0.08, y=0.15)
    axis.set_xlabel("N, candidates a sentence")


def rank_shares(counts: np.ndarray, points: int = 64) -> list[dict[str, float]]:
    """How unevenly codes are used, small enough to keep: shares of the codes by rank.

    Args:
        counts: how often each code occurs, [codes].
        points: at most so many ranks, evenly spread on a logarithmic scale.

    Returns:
        {"rank", "share"} of used codes, the most frequent (rank 1) first.
    """
    used = np.sort(np.asarray(counts)[np.asarray(counts) > 0])[::-1]
    if used.size == 0:
        return []
    ranks = np.unique(np.geomspace(1, used.size, points).round().astype(int))
    shares = used[ranks - 1] / used.sum()
    return [{"rank": int(r), "share": float(s)} for r, s in zip(ranks, shares, strict=True)]


@drawn
def codebook_use(codebook: Mapping[str, Any]) -> Figure:
    """How much of the codebook is used.

    Args:
        codebook: {"size", "used_share", "entropy_bits", "ranks": see `rank_shares`}; the ranks may
            be absent.
    """
    size, ranks = codebook["size"], codebook.get("ranks") or []
    figure, axes = grid(1 + bool(ranks))
    bars = []
    if finite(codebook.get("used_share")):
        bars.append((f"used of\n{size:,}\ncodes", codebook["used_share"], "{:.1%}"))
    if finite(codebook.get("entropy_bits")):
        bits = codebook["entropy_bits"]
        bars.append(("entropy", bits / math.log2(size), f"{bits:.1f} of {math.log2(size):g} bits"))
    for i, (name, share, text) in enumerate(bars):
        axes[0].bar(name, share, width=0.6, color=f"C{i}")
        axes[0].annotate(
            text.format(share), (i, share), (0, 3), textcoords="offset points", ha="center"
        )
    axes[0].set(ylim=(0, 1.12), ylabel="share of the largest possible", yticks=np.arange(6) / 5)
    axes[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    axes[0].grid(visible=False, axis="x")
    if ranks:
        x, y = zip(*((p["rank"], p["share"]) for p in ranks), strict=True)
        axes[1].loglog(x, y, marker=".")
        axes[1].axhline(1 / size, color="C1", linestyle="--")
        axes[1].text(1, 1.2 / size, "if all were equal", color="C1")
        axes[1].xaxis.set_major_formatter(EngFormatter(sep=""))
        axes[1].yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
        axes[1].set(xlabel="rank of the code", ylabel="share of all frames")
    return figure


@drawn
def spectrogram(waves: Mapping[str, tuple[np.ndarray, int]]) -> Figure:
    """Waveform above spectrogram for each named sound, on one scale of time, level and colour.

    Args:
        waves: by title, the wave, float [samples], and its sample rate.
    """
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    grid = figure.subplots(
        2, len(waves), sharex=True, sharey="row", squeeze=False, height_ratios=(1, 2)
    )
    peak = max(float(np.max(np.abs(wave), initial=0.0)) for wave, _ in waves.values()) or 1.0
    for (title, (wave, rate)), (above, below) in zip(waves.items(), grid.T, strict=True):
        wave = np.pad(np.asarray(wave, np.float64), (0, max(0, 512 - len(wave))))
        above.plot(np.arange(wave.size) / rate, wave, linewidth=0.5)
        above.set(title=title, ylim=(-1.05 * peak, 1.05 * peak))
        image = _spectrogram_panel(below, wave, rate)
        below.set(xlabel="time (s)")
    longest = max(len(wave) / rate for wave, rate in waves.values())
    grid[1, 0].set_xlim(0, longest)
    grid[1, 0].xaxis.set_major_locator(MaxNLocator(4, integer=longest >= 2))
    grid[0, 0].set_ylabel("amplitude")
    grid[1, 0].set_ylabel("frequency (kHz)")
    colors = figure.colorbar(image, ax=grid[1, :], pad=0.01)
    colors.set_label("dB per Hz")
    return figure


def _spectrogram_panel(axis: Axes, wave: np.ndarray, rate: int) -> AxesImage:
    """Draws the spectrogram of a wave of at least 512 samples, up to 8 kHz."""
    power, _, _ = mlab.specgram(wave, NFFT=400, noverlap=240, pad_to=512, Fs=rate)
    axis.grid(visible=False)
    image = axis.imshow(
        10 * np.log10(np.maximum(power, 1e-12)),
        origin="lower",
        aspect="auto",
        extent=(0, wave.size / rate, 0, rate / 2000),
        vmin=-110,
        vmax=-35,
        cmap="magma",
    )
    axis.set_ylim(0, min(rate / 2000, 8))
    return image


@drawn
def spectrograms(waves: Mapping[str, tuple[np.ndarray, int]]) -> Figure:
    """One spectrogram for each named sound, two beside each other, on one scale of all.

    Args:
        waves: by title, the wave, float [samples], and its sample rate.
    """
    rows = -(-len(waves) // 2)
    figure = Figure(figsize=(1.5 * WIDTH, 1.7 * rows), layout="constrained")
    axes = list(figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).flat)
    for axis, (title, (wave, rate)) in zip(axes, waves.items(), strict=False):
        padded = np.pad(np.asarray(wave, np.float64), (0, max(0, 512 - len(wave))))
        image = _spectrogram_panel(axis, padded, rate)
        axis.set_title(title)
    for axis in axes[len(waves) :]:
        axis.set_axis_off()
    axes[0].set_xlim(0, max(len(wave) / rate for wave, rate in waves.values()))
    figure.supxlabel("time (s)", fontsize=10)
    figure.supylabel("frequency (kHz)", fontsize=10)
    figure.colorbar(image, ax=axes, pad=0.01).set_label("dB per Hz")
    return figure


@drawn
def quality_by_rate(codecs: Mapping[str, Mapping[str, Any]]) -> Figure:
    """What each codec reaches at its bits a second: PESQ-WB and STOI, a panel each.

    Args:
        codecs: by name, {"bits_per_second", "pesq_wb", "pesq_wb_interval", "stoi",
            "stoi_interval"}; names that begin with the same word share a colour.
    """
    families = list(dict.fromkeys(name.split()[0] for name in codecs))
    panels = {"pesq_wb": "PESQ-WB", "stoi": "STOI"}
    figure = Figure(figsize=(1.5 * WIDTH, 4.0), layout="constrained")
    for axis, (key, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for place, (name, scores) in enumerate(codecs.items()):
            rate, value = scores.get("bits_per_second"), scores.get(key)
            if finite(rate) and finite(value):
                low, high = _interval(scores, key)
                bar = [[max(value - low, 0)], [max(high - value, 0)]]
                color = "C" + "1023"[families.index(name.split()[0]) % 4]
                style = {"marker": "DosP^vX"[place % 7], "color": color}
                axis.errorbar(rate, value, bar, label=name, linestyle="", capsize=4, **style)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_locator(FixedLocator([500, 1000, 2000, 4000, 8000]))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.margins(x=0.12, y=0.12)
        axis.set(xlabel="bits a second", ylabel=label)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def grid(panels: int) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels, at most two beside each other."""
    columns = min(panels, 2)
    rows = -(-panels // columns)
    figure = Figure(figsize=(WIDTH, 2.8 * rows if columns > 1 else 3.3), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[panels:]:
        axis.set_axis_off()
    return figure, axes[:panels]
