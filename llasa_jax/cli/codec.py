"""The codec: `llasa codec`."""

from pathlib import Path

from llasa_jax.cli.common import MODEL, command, seed, settings
from llasa_jax.codec.lengths import LENGTHS


def add_codec(commands) -> None:
    text = "Train the codec, or turn recordings into codes and back."
    codec = command(commands, "codec", None, text)
    parts = codec.add_subparsers(dest="part", required=True, metavar="PART")
    train = command(parts, "train", _run_codec_train, "Train a codec on a prepared corpus.")
    settings(train)
    train.add_argument("--store", type=Path, required=True, help="prepared corpus")
    train.add_argument("--out", type=Path, required=True, help="folder of the run")
    help = "time for it; a machine too slow for the configured steps makes fewer"
    train.add_argument("--minutes", type=float, default=None, help=help)
    help = "model folder whose codec to begin with (default: random numbers)"
    train.add_argument("--init", type=Path, default=None, metavar="FOLDER", help=help)
    seed(train)
    encode = command(parts, "encode", _run_encode, "Recordings to codes: a .npy file for each.")
    help = "codes of N samples: floor(N / hop), as in training data, or as X-Codec2's package or "
    help += "transformers count, one more (docs/codec.md)"
    encode.add_argument("--length", choices=LENGTHS, default="training", help=help)
    decode = command(parts, "decode", _run_decode, "Codes (.npy, integers [T]) to .wav files.")
    help = "decode as a stream does, so much at a time (default: whole files, to 30 seconds)"
    decode.add_argument("--chunk-seconds", type=float, default=None, help=help)
    for part in (encode, decode):
        part.add_argument("inputs", type=Path, nargs="+", help="files, or folders of them")
        part.add_argument("--model", type=Path, default=None, help=MODEL)
        part.add_argument("--out", type=Path, required=True, help="folder for the results")


def _run_codec_train(options) -> None:
    from llasa_jax.config import CodecRun, load_config
    from llasa_jax.data.store import WaveStore
    from llasa_jax.recipes.stages import train_codec
    from llasa_jax.recipes.start import start

    run = load_config(options.config, CodecRun, options.set)
    start(run.train)
    store = WaveStore.open(options.store)
    budget = None if options.minutes is None else 60 * options.minutes
    folder, model = options.out / "codec", options.out / "model"
    more = {"seed": options.seed, "budget": budget, "init": options.init}
    train_codec(run, store, folder, model, **more)


def _run_encode(options) -> None:
    from llasa_jax.recipes.files import encode_files
    from llasa_jax.recipes.stages import shipped_model

    encode_files(options.inputs, options.model or shipped_model(), options.out, options.length)


def _run_decode(options) -> None:
    from llasa_jax.recipes.files import decode_files
    from llasa_jax.recipes.stages import shipped_model

    decode_files(
        options.inputs, options.model or shipped_model(), options.out, options.chunk_seconds
    )
