"""Options of the test suite."""

import importlib.util

import pytest

OPTIONS = {
    "parity": "also compare with torch and transformers",
    "network": "also run tests that download packages",
    "slow": "also run tests that take over half a minute",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    for name, meaning in OPTIONS.items():
        parser.addoption(f"--{name}", action="store_true", help=meaning)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--parity"):
        missing = [m for m in ("torch", "transformers") if importlib.util.find_spec(m) is None]
        if missing:  # else every comparison would be skipped in silence
            raise pytest.UsageError(f"--parity needs {', '.join(missing)} installed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for name in OPTIONS:
        if not config.getoption(f"--{name}"):
            skip = pytest.mark.skip(reason=f"runs with --{name}")
            for item in items:
                if item.get_closest_marker(name):
                    item.add_marker(skip)
