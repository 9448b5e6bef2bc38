"""The command `llasa`: parses and calls, nothing else."""

import argparse
import signal
import sys
import traceback
from collections.abc import Sequence

from llasa_jax import __version__
from llasa_jax.cli import codec, data, measure, serve, speak, train
from llasa_jax.cli.common import Parser
from llasa_jax.errors import Saved, UserError

SAVED = 75  # EX_TEMPFAIL of sysexits.h


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status (0 done, 1 something is wrong with what was to be
    checked, 2 refused, 75 saved and stopped as asked, 130 interrupted)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        options = make_parser().parse_args(given)
        return options.run(options) or 0
    except UserError as error:
        if "--debug" in given:
            traceback.print_exc()
        print(f"llasa: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        if "--debug" in given:
            traceback.print_exc()
        place, reason = error.filename or "a file", error.strerror or error
        print(f"llasa: error: {place}: {reason}; what was done before is kept", file=sys.stderr)
        return 2
    except Saved as stopped:
        print(f"llasa: {stopped}; run the same command again to continue", file=sys.stderr)
        return SAVED
    except KeyboardInterrupt:
        print("llasa: interrupted; run the same command again to continue", file=sys.stderr)
        return 130


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def make_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = Parser(prog="llasa", description="Llasa text to speech in JAX.")
    parser.add_argument("--version", action="version", version=f"llasa {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        speak.add_quickstart,
        speak.add_say,
        speak.add_voices,
        serve.add_serve,
        codec.add_codec,
        data.add_data,
        train.add_train,
        train.add_convert,
        train.add_plan,
        measure.add_eval,
        measure.add_curve,
        measure.add_bench,
    ):
        add(commands)
    return parser
