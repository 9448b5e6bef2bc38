"""The paper's own tables (Ye et al. 2025, arXiv 2502.04128v1), to stand beside ours.

Word errors in percent, means over utterances; cosines with the prompt (o) and with the prompt as
the codec gives it back (r). What the paper does not give is None.
"""

from typing import NamedTuple

PAPER = "Ye et al. 2025"
HARNESS = {
    "en": "seed-tts-eval: Whisper-large-v3, WavLM-large + ECAPA",
    "zh": "seed-tts-eval: Paraformer, WavLM-large + ECAPA",
    "hard": "seed-tts-eval: Paraformer, WavLM-large + ECAPA",
    "librispeech": "HuBERT-large CTC, WavLM-large + ECAPA",
    "esd": "emotion2vec+ large",
}


class Published(NamedTuple):
    """A row of table 2 or 5: word error, cosines."""

    name: str
    wer: float | None
    o: float | None
    r: float | None


_MODELS = ("llasa-1b-80k", "llasa-1b-160k", "llasa-1b-250k", "llasa-3b-250k", "llasa-8b-250k")
_PARTIAL, _BOTH = "process reward", "process reward + best-of-N"
# zh, en, hard: word error, o, r of each.
_TABLE_2 = {
    "Human": ((1.26, 0.755, None), (2.14, 0.734, None), (None, None, None)),
    "codec, resynthesised": ((1.92, 0.677, None), (2.91, 0.619, None), (None, None, None)),
    "llasa-1b-80k, direct": ((2.69, 0.648, 0.779), (3.71, 0.541, 0.685), (17.11, 0.618, 0.765)),
    "llasa-1b-160k, direct": ((2.22, 0.658, 0.783), (3.60, 0.563, 0.701), (16.73, 0.627, 0.770)),
    "llasa-1b-250k, direct": ((1.89, 0.669, 0.794), (3.22, 0.572, 0.708), (12.13, 0.638, 0.779)),
    "llasa-3b-250k, direct": ((1.60, 0.675, 0.792), (3.14, 0.579, 0.708), (13.37, 0.652, 0.782)),
    "llasa-8b-250k, direct": ((1.59, 0.684, 0.798), (2.97, 0.574, 0.706), (11.09, 0.660, 0.787)),
    f"llasa-1b-80k, {_PARTIAL}": (
        (1.52, 0.811, 0.849),
        (2.30, 0.761, 0.798),
        (16.09, 0.759, 0.824),
    ),
    f"llasa-1b-160k, {_PARTIAL}": (
        (1.29, 0.815, 0.851),
        (2.29, 0.774, 0.804),
        (14.10, 0.768, 0.830),
    ),
    f"llasa-1b-250k, {_PARTIAL}": (
        (1.11, 0.818, 0.855),
        (2.03, 0.781, 0.809),
        (11.30, 0.773, 0.833),
    ),
    f"llasa-3b-250k, {_PARTIAL}": (
        (1.06, 0.824, 0.856),
        (1.89, 0.784, 0.812),
        (11.22, 0.780, 0.836),
    ),
    f"llasa-8b-250k, {_PARTIAL}": (
        (1.04, 0.827, 0.856),
        (1.84, 0.783, 0.806),
        (10.59, 0.785, 0.839),
    ),
    f"llasa-1b-80k, {_BOTH}": ((0.53, 0.809, 0.840), (1.43, 0.761, 0.792), (7.22, 0.732, 0.789)),
    f"llasa-1b-160k, {_BOTH}": ((0.53, 0.812, 0.841), (1.49, 0.775, 0.798), (6.35, 0.745, 0.799)),
    f"llasa-1b-250k, {_BOTH}": ((0.45, 0.818, 0.845), (1.46, 0.782, 0.801), (5.24, 0.750, 0.803)),
    f"llasa-3b-250k, {_BOTH}": ((0.50, 0.823, 0.848), (1.31, 0.783, 0.803), (5.39, 0.759, 0.808)),
    f"llasa-8b-250k, {_BOTH}": ((0.47, 0.825, 0.848), (1.39, 0.783, 0.799), (4.38, 0.767, 0.812)),
    "llasa-8b-250k, in chunks": ((None, None, None), (None, None, None), (3.12, 0.770, 0.791)),
}
_TABLE_5 = {
    "Human": (2.15, 0.668, None),
    "codec, resynthesised": (2.49, 0.580, 0.638),
    **{
        f"{name}, direct": row
        for name, row in zip(
            _MODELS,
            (
                (2.57, 0.457, 0.614),
                (2.48, 0.475, 0.625),
                (2.47, 0.478, 0.627),
                (2.35, 0.484, 0.628),
                (2.29, 0.483, 0.626),
            ),
            strict=True,
        )
    },
    **{
        f"{name}, {_PARTIAL}": row
        for name, row in zip(
            _MODELS,
            (
                (2.43, 0.699, 0.738),
                (2.36, 0.712, 0.744),
                (2.37, 0.712, 0.743),
                (2.26, 0.715, 0.745),
                (2.24, 0.714, 0.741),
            ),
            strict=True,
        )
    },
    **{
        f"{name}, {_BOTH}": row
        for name, row in zip(
            _MODELS,
            (
                (1.76, 0.700, 0.738),
                (1.66, 0.710, 0.743),
                (1.62, 0.712, 0.744),
                (1.57, 0.714, 0.742),
                (1.49, 0.714, 0.740),
            ),
            strict=True,
        )
    },
}
# Cosines with the prompt by emotion2vec+, of English and Chinese.
_TABLE_4 = {
    "Human": (0.94, 0.94),
    **{
        f"{name}, direct": row
        for name, row in zip(
            _MODELS,
            ((0.753, 0.815), (0.762, 0.822), (0.768, 0.836), (0.769, 0.852), (0.778, 0.861)),
            strict=True,
        )
    },
    **{
        f"{name}, {_PARTIAL} (emotion)": row
        for name, row in zip(
            _MODELS,
            ((0.933, 0.970), (0.936, 0.971), (0.937, 0.974), (0.949, 0.975), (0.951, 0.974)),
            strict=True,
        )
    },
}
# Table 1: tokens a second, codebook, word error in percent (HuBERT-large), STOI, PESQ-WB, PESQ-NB,
# speaker similarity, UTMOS; LibriSpeech test-clean.
CODECS = {
    "Ground truth": (None, None, 1.96, 1.00, 4.64, 4.55, 1.00, 4.09),
    "DAC, 600 tokens a second": (600, 1024, 2.00, 0.95, 4.01, 4.15, 0.95, 4.00),
    "Encodec, 600": (600, 1024, 2.15, 0.94, 2.77, 3.18, 0.89, 3.09),
    "Mimi, 100": (100, 2048, 2.96, 0.91, 2.25, 2.80, 0.73, 3.56),
    "BigCodec, 80": (80, 8192, 2.76, 0.93, 2.68, 3.27, 0.84, 4.11),
    "WavTokenizer, 75": (75, 4096, 3.98, 0.90, 2.13, 2.63, 0.65, 3.79),
    "StableCodec, 50": (50, 15625, 5.12, 0.91, 2.24, 2.91, 0.62, 4.23),
    "X-codec, 50": (50, 1024, 3.42, 0.83, 1.84, 2.38, 0.52, 4.05),
    "X-codec2, 50": (50, 65536, 2.47, 0.92, 2.43, 3.04, 0.82, 4.13),
}
# Table 3: LibriSpeech, word error in percent on test-clean and test-other.
RECOGNISERS = {
    "whisper-large-v2": (2.7, 5.2),
    "whisper-large-v3": (1.8, 3.6),
    "llasa-asr-1b": (2.3, 7.2),
    "llasa-asr-3b": (1.9, 5.9),
}


def table_of(name: str) -> str | None:
    """Which of the paper's columns a set's figures belong beside, by the set's name."""
    words = name.lower()
    if "hardcase" in words:
        return "hard"
    if words in ("en-meta", "zh-meta"):
        return words[:2]
    if "test-clean" in words:
        return "librispeech"
    return "esd" if "esd" in words or "emotional speech" in words else None


def rows(column: str, language: str) -> list[Published]:
    """The paper's rows of a column that `table_of` names."""
    if column == "librispeech":
        return [Published(name, *values) for name, values in _TABLE_5.items()]
    if column == "esd":
        place = 0 if language == "en" else 1
        return [Published(name, None, pair[place], None) for name, pair in _TABLE_4.items()]
    place = ("zh", "en", "hard").index(column)
    return [
        Published(name, *values[place])
        for name, values in _TABLE_2.items()
        if any(x is not None for x in values[place])
    ]
