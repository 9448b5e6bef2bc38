"""How many codes a recording has: the published implementations do not agree.

Of a recording of N samples and a codec of `hop` samples a code:

* "training": floor(N / hop) codes; the incomplete last frame is dropped. Llasa's training data.
* "package": 1 to hop zeros are always added, as X-Codec2's and NeuCodec's own packages do before
  encoding a prompt: floor(N / hop) + 1 codes.
* "transformers": its feature extractors add one zero and fill the last frame, which comes to the
  same: all of its `audio_codes`. (Its `audio_codes_mask` marks only floor((N + 1) / hop) of them.)

Filter banks are normalised over the samples that are encoded, added zeros included, and over
nothing else. X-Codec2 puts `edge` further zeros around them. NeuCodec does not: its semantic branch
is one frame short, and the last frame is dropped from both branches. That leaves floor(N / hop)
codes under every convention; "package" then still shows the incomplete frame to the last code.
"""

from typing import Literal, get_args

from llasa_jax.config import CodecConfig

Length = Literal["training", "package", "transformers"]
LENGTHS: tuple[Length, ...] = get_args(Length)


def lost_frames(config: CodecConfig) -> int:
    """Frames at the end of a wave that get no code: 1 where the filter banks lack their edges."""
    semantic, rate = config.semantic, config.sample_rate
    if semantic is None or semantic.kind != "wav2vec2-bert":
        return 0
    return int(2 * semantic.edge < rate // 40 - rate // 100)  # frames of 25 ms every 10 ms


def code_count(config: CodecConfig, samples: int, length: Length) -> int:
    """Codes of a recording of so many samples."""
    whole = samples // config.hop
    return whole if length == "training" else whole + 1 - lost_frames(config)
