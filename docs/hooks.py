"""What the site takes from the code: commands, settings, the model card and measured figures."""

import argparse
import dataclasses
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
FIGURES = {
    "figures/search.png": "results/search/best-of/curve.png",
    "figures/quickstart.png": "results/quickstart-english/search_curve.png",
    "figures/learning.png": "results/voice/learning/learning.png",
    "figures/confusion.png": "results/voice/eval/confusion-16.png",
    "figures/scaling.png": "results/scaling/isoflop.png",
    "figures/forecast.png": "results/scaling/compute.png",
    "figures/mix.png": "results/scaling/search.png",
    "figures/codec.png": "results/nano-codec/quality.png",
}


def on_files(files, config):
    """Adds the generated pages and the figures of results/."""
    pages = {
        "reference/commands.md": commands(),
        "reference/configuration.md": configuration(),
        "reference/model-card.md": (ROOT / "llasa_jax/nano/README.md").read_text("utf-8"),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    for name, path in FIGURES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links that hold in the repository become links that hold on the site."""
    markdown = markdown.replace("](../llasa_jax/nano/README.md)", "](reference/model-card.md)")
    return markdown.replace("](../../docs/", "](../")


def commands() -> str:
    """Every command with its options, as its own `--help` has them."""
    from llasa_jax.cli import make_parser

    parts = ["# Commands\n\nGenerated from the parser: what `llasa COMMAND --help` prints.\n"]

    def describe(parser: argparse.ArgumentParser, depth: int) -> None:
        groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if depth:
            parts.append(f"\n{'#' * (depth + 1)} {parser.prog}\n\n{parser.description or ''}\n")
        rows = [a for a in parser._actions if a not in groups and a.help != argparse.SUPPRESS]
        rows = [a for a in rows if not isinstance(a, argparse._HelpAction)]
        if depth and rows and not groups:
            parts.append("\n| argument | meaning |\n|---|---|\n")
            parts.extend(f"| {spelling(a)} | {cell(a.help or '')} |\n" for a in rows)
        for group in groups:
            for sub in group.choices.values():
                describe(sub, depth + 1)

    describe(make_parser(), 0)
    return "".join(parts)


def spelling(action: argparse.Action) -> str:
    """An argument as it is typed."""
    value = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    if action.choices and not action.metavar:
        value = ",".join(map(str, action.choices))
    value = " ".join(value) if isinstance(value, tuple) else value
    if not action.option_strings:
        return f"`{value}`"
    takes = "" if action.nargs == 0 else f" {value}"
    return f"`{', '.join(action.option_strings)}{takes}`"


def configuration() -> str:
    """Every setting with its default, and every named configuration."""
    import llasa_jax.config as settings

    parts = [
        "# Configuration\n\nGenerated from the dataclasses in `llasa_jax/config/` and the files in "
        "`configs/`. Any setting of a run is changed by `--set PATH=VALUE`, for example "
        "`--set train.steps=200`; an unknown one is an error.\n\n## Named configurations\n\n"
        "| name | what it is |\n|---|---|\n"
    ]
    for path in sorted((ROOT / "configs").glob("*.py")):
        first = path.read_text("utf-8").split('"""')[1].strip().splitlines()[0]
        parts.append(f"| `{path.stem}` | {cell(first)} |\n")
    kinds = {
        name: kind
        for name, kind in vars(settings).items()
        if dataclasses.is_dataclass(kind) and isinstance(kind, type)
    }
    for name, kind in sorted(kinds.items()):
        text = "\n".join(line.strip() for line in (kind.__doc__ or "").splitlines())
        parts.append(f"\n## {name}\n\n{attributes(text)}\n\n")
        parts.append("| setting | type | default |\n|---|---|---|\n")
        for field in dataclasses.fields(kind):
            kind_name = str(getattr(field.type, "__name__", field.type))
            parts.append(f"| `{field.name}` | `{code(kind_name)}` | {default(field)} |\n")
    return "".join(parts)


def attributes(text: str) -> str:
    """A docstring's list of attributes as a Markdown list."""
    return re.sub(r"\n([a-z_0-9, `]+): ", r"\n- \1: ", text.replace("\nAttributes:\n", "\n\n"))


def default(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
        shown = type(value).__name__ + "()" if dataclasses.is_dataclass(value) else repr(value)
        return f"`{code(shown)}`"
    if field.default_factory is not dataclasses.MISSING:
        return f"`{code(repr(field.default_factory()))}`"
    return "must be given"


def code(text: str) -> str:
    return " ".join(text.split())


def cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
