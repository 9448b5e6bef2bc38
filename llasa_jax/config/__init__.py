"""Every setting of the project: frozen dataclasses, checked when they are made.

A named run is a Python file in `configs/` with a `get_config()`; `load_config` reads it by name or
path and applies `--set path=value` overrides. An unknown key, a wrong type or a value out of range
is a `UserError` that names the setting.
"""

from llasa_jax.config.checks import require
from llasa_jax.config.codec import (
    CodecConfig,
    ConvConfig,
    DiscriminatorConfig,
    SemanticConfig,
    SpectralConfig,
    TransformerConfig,
)
from llasa_jax.config.data import (
    DataRun,
    DistilRun,
    ExampleKind,
    FilterConfig,
    SelectConfig,
    SourceConfig,
)
from llasa_jax.config.lm import (
    AttentionBlocks,
    DecoderConfig,
    GuideConfig,
    LoraConfig,
    RopeScaling,
)
from llasa_jax.config.loading import (
    config_folder,
    config_hash,
    from_dict,
    load_config,
    override,
    to_dict,
    values_hash,
)
from llasa_jax.config.runs import (
    CodecRun,
    DecoderRun,
    GanConfig,
    GrpoRun,
    RecogniserRun,
    SpeakerRun,
)
from llasa_jax.config.scaling import (
    RungConfig,
    SweepPlan,
)
from llasa_jax.config.search import (
    BeamConfig,
    GuardConfig,
    SamplerConfig,
)
from llasa_jax.config.training import (
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
)
from llasa_jax.config.verifiers import (
    Emotion2vecConfig,
    HubertConfig,
    RecogniserConfig,
    SpeakerConfig,
    SpeechConfig,
    WavlmConfig,
    WhisperConfig,
)

__all__ = [
    "AttentionBlocks",
    "BeamConfig",
    "CodecConfig",
    "CodecRun",
    "ConvConfig",
    "DataRun",
    "DecoderConfig",
    "DecoderRun",
    "DiscriminatorConfig",
    "DistilRun",
    "Emotion2vecConfig",
    "ExampleKind",
    "FilterConfig",
    "GanConfig",
    "GrpoRun",
    "GuardConfig",
    "GuideConfig",
    "HubertConfig",
    "LoraConfig",
    "MeshConfig",
    "OptimizerConfig",
    "RecogniserConfig",
    "RecogniserRun",
    "RopeScaling",
    "RungConfig",
    "SamplerConfig",
    "SelectConfig",
    "SemanticConfig",
    "SourceConfig",
    "SpeakerConfig",
    "SpeakerRun",
    "SpectralConfig",
    "SpeechConfig",
    "SweepPlan",
    "TrainConfig",
    "TransformerConfig",
    "WavlmConfig",
    "WhisperConfig",
    "config_folder",
    "config_hash",
    "from_dict",
    "load_config",
    "override",
    "require",
    "to_dict",
    "values_hash",
]
