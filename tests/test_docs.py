"""The documentation: it builds as a site, its examples run, its commands are understood."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llasa_jax.cli import make_parser

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs/howto").glob("*.md")), ROOT / "docs/tutorial.md"]
PAGES += [ROOT / "docs/long-text.md", ROOT / "docs/index.md"]


def commands(text):
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            found = re.search(r"(?:^|\s|/)llasa (.*)", line.partition(" #")[0])
            if found:
                yield shlex.split(re.split(r"\s[>|]\s", found[1])[0])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_understood(page):
    for words in commands(page.read_text()):
        make_parser().parse_args(words)


def test_the_example_of_a_verifier_runs():
    text = (ROOT / "docs/howto/add-a-verifier.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "add-a-verifier.md", "exec"), {})  # noqa: S102


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("material", reason="pip install -r requirements-docs.txt")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    page = (tmp_path / "reference/commands.html").read_text()
    assert "llasa voices train" in page and "--normalise" in page
    page = (tmp_path / "reference/configuration.html").read_text()
    assert "repetition_penalty" in page and "finetune_nano" in page
    assert (tmp_path / "figures/search.png").stat().st_size > 1000
    for built in tmp_path.rglob("*.html"):  # nothing is fetched from elsewhere
        assert not re.search(
            r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//', built.read_text()
        )
