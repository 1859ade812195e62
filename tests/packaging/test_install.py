"""The wheel in an environment that has only the dependencies which its metadata declares."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest

from tests.packaging.support import Environment, pyproject, run

_EXPECT_HINT = """
import sys
for name in {missing!r}:
    sys.modules[name] = None
try:
    import channel_layer_{extra}
except ImportError as error:
    assert 'pip install "channel-layer[{extra}]"' in str(error), str(error)
    assert error.__cause__ is not None, "the original error must stay visible"
else:
    raise SystemExit("imported without its extra")
"""

_BROKEN = """
import sys
sys.path.insert(0, {path!r})
try:
    import channel_layer_redis
except ImportError as error:
    print(error.name)
"""

_WITHOUT_PYTEST = """
import sys
sys.modules["pytest"] = None
from hypothesis import settings
from channel_layer import testing
from channel_layer_memory import MemoryBackend

backends = {}
def make_store(rules, clock):
    return backends.setdefault(rules.prefix, MemoryBackend(rules, clock))

few = settings(max_examples=5, database=None)
testing.run_async_conformance_test(make_store, settings=few)
testing.run_layer_conformance_test(testing.layers_over(make_store), settings=few)
try:
    testing.LayerSuite
except ImportError:
    pass
else:
    raise SystemExit("loaded without pytest")
"""

_ROUND_TRIP = """
import asyncio
from channel_layer_memory import MemoryChannelLayer

async def main():
    async with MemoryChannelLayer() as layer:
        name = await layer.new_channel()
        await layer.group_add("room", name)
        await layer.group_send("room", {"type": "hello"})
        print(await layer.receive(name))

asyncio.run(main())
"""


def test_memory_layer_needs_no_extra(bare: Environment) -> None:
    """Without any extra a message travels through the memory layer."""
    assert bare.execute(_ROUND_TRIP).strip() == "{'type': 'hello'}"


@pytest.mark.parametrize("extra", ["ipc", "redis"])
def test_a_layer_without_its_extra_says_what_to_install(bare: Environment, extra: str) -> None:
    """Importing a layer without its extra raises an ImportError that says how to install the extra."""
    bare.execute(_EXPECT_HINT.format(missing=[], extra=extra))


@pytest.mark.parametrize("missing", ["hiredis", "redis"])
def test_half_an_extra_says_the_same(full: Environment, missing: str) -> None:
    """If only one package of the extra is missing, the error still names the extra."""
    full.execute(_EXPECT_HINT.format(missing=[missing], extra="redis"))


def test_the_command_needs_no_extra(bare: Environment, tmp_path: Path) -> None:
    """Without any extra the command checks a configuration, prints a schema and makes a key."""
    command = bare.path / "bin" / "channel-layer"
    assert pyproject(str, "project", "version") in run(command, "--version")
    file = tmp_path / "layer.json"
    file.write_text('{"capacity": 200}', encoding="utf-8")
    assert run(command, "check", "--layer", "memory", file) == "0 errors, 0 warnings\n"
    assert len(base64.urlsafe_b64decode(run(command, "genkey").strip())) == 32
    assert "symmetric_encryption_keys" in run(command, "schema", "--layer", "memory")


def test_the_benchmark_without_its_extra_says_what_to_install(bare: Environment) -> None:
    """Without its extra the benchmark prints the command that installs it, and fails."""
    command = bare.path / "bin" / "channel-layer"
    done = subprocess.run([command, "bench"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == ('channel-layer bench needs asgiref, matplotlib, rich: pip install "channel-layer[bench]"\n')


def test_the_benchmark_runs_when_installed(full: Environment) -> None:
    """With its extra the benchmark has its options and finds its bars."""
    assert "--workload" in run(full.path / "bin" / "channel-layer", "bench", "--help")
    full.execute("from channel_layer_bench import bars; assert bars.load(bars.DEFAULT)")


def test_another_import_error_is_not_disguised(full: Environment, tmp_path: Path) -> None:
    """A dependency that is installed but broken shows its own error instead of the hint."""
    (tmp_path / "hiredis.py").write_text("import a_part_of_hiredis_that_is_gone")
    assert full.execute(_BROKEN.format(path=str(tmp_path))).strip() == "a_part_of_hiredis_that_is_gone"


def test_the_machines_of_the_kit_need_no_pytest(full: Environment) -> None:
    """Stores and layers can be tested where pytest is not installed; only the suites need it."""
    full.execute(_WITHOUT_PYTEST)


@pytest.mark.parametrize(
    "package",
    [
        "channel_layer",
        "channel_layer_bench",
        "channel_layer_cli",
        "channel_layer_crypto",
        "channel_layer_django",
        "channel_layer_ipc",
        "channel_layer_memory",
        "channel_layer_redis",
    ],
)
def test_importing_a_package_does_not_import_django(full: Environment, package: str) -> None:
    """No package imports Channels or Django; they are used only if the application has imported them."""
    found = full.execute(f"import sys, {package}; print([n for n in ('channels', 'django') if n in sys.modules])")
    assert found.strip() == "[]"


def test_version_is_that_of_the_metadata(bare: Environment) -> None:
    """The installed package has the version of pyproject.toml."""
    code = """
import importlib.metadata, channel_layer
print(channel_layer.__version__, importlib.metadata.version("channel-layer"))
"""
    version = pyproject(str, "project", "version")
    assert bare.execute(code).strip() == f"{version} {version}"
