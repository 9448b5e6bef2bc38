"""What `llasa codec train` minimises, and how it is validated."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llasa_jax import nn
from llasa_jax.audio.io import resample, write_audio
from llasa_jax.codec.batch import BatchCodec
from llasa_jax.codec.discriminators import Discriminators
from llasa_jax.codec.losses import feature_loss, judged_loss, masked_mse, mel_loss, spread_loss
from llasa_jax.codec.loudness import loudness_loss
from llasa_jax.codec.model import Codec
from llasa_jax.codec.semantic import SemanticDecoder
from llasa_jax.config import CodecRun, GanConfig, to_dict
from llasa_jax.data.store import WaveStore
from llasa_jax.errors import UserError
from llasa_jax.metrics.codes import codebook_use
from llasa_jax.metrics.waves import mel_distance, stoi
from llasa_jax.parallel.distributed import gather
from llasa_jax.training.step import Objective, Rival

SILENCE = 1e-3  # of full scale; frames that never exceed it are padding
VALID_WAVES = 32  # whose codes are counted; the first of them are rebuilt
REBUILT_WAVES = 8
VALID_SECONDS = 8.0  # at most, of each
SAMPLES = 4  # rebuilt waves kept to listen to


class Trainee(nnx.Module):
    """The codec, and what only its training needs: the way back to the semantic features."""

    def __init__(self, run: CodecRun, *, rngs: nnx.Rngs):
        codec = run.codec
        self.codec = Codec(codec, rngs=rngs)
        if codec.semantic is not None and run.semantic_weight:
            dim = codec.semantic.dim
            self.fc_post_s = nn.Linear(codec.fused_dim, dim, (None, "embed"), rngs=rngs)
            self.semantic_decoder = SemanticDecoder(dim, rngs=rngs)


def codec_objective(run: CodecRun, semantic: dict | None = None) -> Objective:
    """X-Codec2's losses with the weights of `run`.

    A batch is {"wave": float32 [B, T * hop]}, and where the codec writes at another rate than it
    hears, also "target": float32 [B, T * output_hop], the same at that rate.

    Codec and discriminators learn from one and the same rebuilt wave, both at once: X-Codec2 lets
    the discriminators move first, so that its codec faces discriminators that are one step on.
    This way every judgement is computed once, and the gradients of parts of a batch add up.

    The perceptual loss compares features of the semantic model; X-Codec2's compares several layers
    of a wav2vec 2.0 (XLSR-53).

    Args:
        semantic: the parameters of the semantic branch's frozen model; without them the objective
            of a codec that has one can be compiled, but not run.
    """
    codec, gan = run.codec, run.gan
    graphdef, shapes = nn.abstract(lambda rngs: Trainee(run, rngs=rngs))
    axes, frozen_axes = divided(nn.logical_axes(graphdef, shapes))
    frozen = divided(shapes)[1] if semantic is None else {"semantic_model": semantic}
    judge, rival = (None, None) if gan is None else _rival(gan, codec.compute_dtype)

    def init(key: jax.Array) -> dict:
        return divided(nn.split(Trainee(run, rngs=nnx.Rngs(key)))[1])[0]

    def loss(params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        wave, target = batch["wave"], batch.get("target", batch["wave"])
        frames = wave.reshape(wave.shape[0], -1, codec.hop)
        mask = jnp.ones(frames.shape[:2])
        trainee = nn.merge(graphdef, whole(params))
        model, branch = trainee.codec, trainee.codec.semantic
        hidden = None if branch is None else model.semantic_hidden(wave, mask)
        latents = model.latents(wave, mask, hidden)
        features = model.features(latents)
        rebuilt = model.synthesise(features, mask)
        mel = mel_loss(rebuilt, target, codec.output_rate, run.mel_floor)
        terms = {"mel": (run.mel_weight, mel)}
        if run.spread_weight:
            active = jnp.abs(frames).max(-1) > SILENCE
            terms["spread"] = run.spread_weight, spread_loss(latents, active)
        if branch is not None and run.semantic_weight:
            back = trainee.semantic_decoder(trainee.fc_post_s(features.astype(model.dtype)), mask)
            known = masked_mse(back, hidden, branch.valid(mask))
            terms["semantic"] = run.semantic_weight, known
        if run.perceptual_weight:
            heard = masked_mse(branch.heard(rebuilt, mask), hidden, branch.valid(mask))
            terms["perceptual"] = run.perceptual_weight, heard
        if run.loudness_weight:
            loudness = loudness_loss(rebuilt, target, codec.output_rate)
            terms["loudness"] = run.loudness_weight, loudness
        if "discriminators" in params:
            terms |= _adversarial(gan, judge, params["discriminators"], target, rebuilt)
        total = sum(weight * value for weight, value in terms.values())
        return total, {name: value for name, (_, value) in terms.items()}

    return Objective(
        "codec",
        init,
        loss,
        axes=axes | frozen_axes,
        frozen=frozen,
        rival=rival,
        about=to_dict(run),
    )


def divided(params: dict) -> tuple[dict, dict]:
    """Parameters of a `Trainee` that are trained, and the frozen {"semantic_model": ...} or {}."""
    codec = params["codec"]
    if "semantic" not in codec:
        return params, {}
    trained = {name: value for name, value in codec["semantic"].items() if name != "model"}
    frozen = {"semantic_model": codec["semantic"]["model"]}
    return params | {"codec": codec | {"semantic": trained}}, frozen


def whole(params: dict) -> dict:
    """The inverse of `divided`, of both in one dict; discriminators are left out."""
    params = {name: value for name, value in params.items() if name != "discriminators"}
    if "semantic_model" in params:
        model = params.pop("semantic_model")
        branch = params["codec"]["semantic"] | {"model": model}
        params["codec"] = params["codec"] | {"semantic": branch}
    return params


def _rival(gan: GanConfig, dtype: str) -> tuple[nnx.GraphDef, Rival]:
    build = lambda rngs: Discriminators(gan.discriminators, dtype, rngs=rngs)  # noqa: E731
    graphdef, shapes = nn.abstract(build)
    axes = nn.logical_axes(graphdef, shapes)
    init = lambda key: nn.split(build(nnx.Rngs(key)))[1]  # noqa: E731
    return graphdef, Rival("discriminators", init, axes, gan.optimizer, gan.start)


def _adversarial(
    gan: GanConfig, graphdef: nnx.GraphDef, params: dict, wave: jax.Array, rebuilt: jax.Array
) -> dict[str, tuple[float, jax.Array]]:
    """Weights and losses: "judged" and "features" reach the codec alone, "discriminators" those."""
    stop = jax.lax.stop_gradient
    judge, critic = nn.merge(graphdef, params), nn.merge(graphdef, stop(params))
    real, fake, ours = judge(wave), judge(stop(rebuilt)), critic(rebuilt)
    return {
        "judged": (gan.adversarial_weight, judged_loss(ours, 1.0)),
        "features": (gan.feature_weight, feature_loss(ours, real)),
        "discriminators": (1.0, judged_loss(real, 1.0) + judged_loss(fake, 0.0)),
    }


def codec_validation(
    run: CodecRun, store: WaveStore, indices: Sequence[int], folder: Path
) -> Callable[[dict, int], dict]:
    """(params, step) -> how well waves of `store` are rebuilt, and how the codebook is used.

    "stoi" and "mel" (`metrics.waves`) are means over rebuilt waves, of which the first lie
    afterwards in `folder` as STEP_i.wav; "codebook_share" is the share of the codes that occur in
    the validation waves, "codebook_bits" their entropy.

    Raises:
        UserError: if none of the waves is as long as a code.
    """
    codec, rate = run.codec, run.codec.output_rate
    longest = round(VALID_SECONDS * rate)
    usable = [i for i in indices if store.samples(i) >= codec.output_hop][:VALID_WAVES]
    if not usable:
        raise UserError("no held-out recording as long as a code to validate a codec on")
    waves = [store[i][1][:longest] for i in usable]
    heard = [resample(wave, rate, codec.sample_rate) for wave in waves]

    def validate(params: dict, step: int) -> dict:
        batch = BatchCodec(codec, whole(gather(params))["codec"])
        codes = batch.encode(heard)
        rebuilt = batch.decode(codes[:REBUILT_WAVES])
        pairs = list(zip(waves, rebuilt, strict=False))
        if jax.process_index() == 0:
            for i, wave in enumerate(rebuilt[:SAMPLES]):
                write_audio(folder / f"{step}_{i}.wav", wave, rate)
        scores = [score for pair in pairs if (score := stoi(*pair, rate)) is not None]
        use = codebook_use(np.concatenate(codes), codec.levels)
        found = {"mel": float(np.mean([mel_distance(*pair, rate) for pair in pairs]))}
        if scores:  # none is long enough to have one
            found["stoi"] = float(np.mean(scores))
        return found | {"codebook_share": use.used, "codebook_bits": use.entropy_bits}

    return validate
