"""Speech recognition with Llasa-3B: speech codes in, text out (section 4.3 of the paper).

    llasa data prepare recordings/ --model runs/speech --out runs/asr/tokens \\
        --set 'kinds=["understanding"]'
    llasa train llasa_asr_3b --tokens runs/asr/tokens --model runs/speech --out runs/asr/3b

Model and recipe of `llasa_3b` (3.414 B parameters); only the token rows differ, whose loss is on
the text and its end (docs/language-model.md). Neither the paper's prompt nor its hours are known
here: these are three epochs of 50,000 hours, as LibriHeavy has them: 31e9 tokens (14,761 steps),
6.5e20 FLOPs, about 490 chip-hours of v6e at 40 % of its peak (estimated). The paper's model errs in
1.9 % of words on LibriSpeech test-clean, 5.9 % on test-other (table 3). Nobody has run it to
its end here.
"""

from dataclasses import replace

from llasa_jax.config import DecoderRun, SourceConfig
from llasa_jax.lm.released import LLASA_3B, paper_run


def get_config() -> DecoderRun:
    run = paper_run(LLASA_3B, hours=50_000)
    return replace(run, sources=(SourceConfig(kind="understanding"),))
