"""What several commands share."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from llasa_jax.errors import UserError

MODEL = "model folder (default: the voice that the package carries)"


class Parser(argparse.ArgumentParser):
    """Wrong usage is one line and exit status 2, as every other bad input."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


def command(commands, name: str, run, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    return parser


def seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")


def model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, default=None, help=MODEL)


def utterances(parser: argparse.ArgumentParser, count: int) -> None:
    parser.add_argument("--utterances", type=int, default=count, help=f"at most so many ({count})")


def as_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print every number as JSON")


def show(found: Mapping[str, Any], json: bool, *tables: Callable[[Mapping], Any]) -> None:
    """Prints what was measured on stdout: all as JSON, or these tables of it."""
    from rich.console import Console

    from llasa_jax.evaluation.page import json_bytes
    from llasa_jax.evaluation.tables import for_console

    if json:
        print(json_bytes(found).decode(), end="")
        return
    for table in tables:
        made = table(found)
        if made.rows:
            Console().print(for_console(made))
            if made.note:
                Console().print(made.note, style="dim")


def settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a file, or the name of one in configs/")
    help = "override a setting, e.g. train.steps=200; may be repeated"
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help=help)


def numbers(text: str) -> dict[str, float]:
    """ "content=1,speaker=0.5" as a dict."""
    try:
        pairs = [word.split("=") for word in text.split(",")]
        return {name: float(value) for name, value in pairs}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=NUMBER, as content=1") from error
