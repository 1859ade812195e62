"""Runs every code block of the pages: code that a reader copies must work, and print what the page says.

The language of a block says what happens to it:

- ``python`` runs in this process, in one namespace for each page. ``await`` may stand outside of a function, as in
  ``python -m asyncio``. If it defines ``CHANNEL_LAYERS``, the layers of that setting are made.
- ``python`` whose first line is a comment with a file name is saved under that name, for the commands that follow.
- ``console`` holds commands, each after a ``$`` and followed by its output; ``...`` stands for any text.
- ``bash`` holds commands whose output is not compared.
- ``text`` directly after code that prints something is the output of the code.
- ``toml`` is saved like ``python`` if its first line is a comment with a file name; else it is a file of bars for the
  benchmark.

A comment before a block, which readers do not see, adds what a page cannot show. ``<!-- stays -->``: the command keeps
running in a terminal of its own, until Ctrl-C at the end of the page. ``<!-- worker.py -->``: the text is the output of
this command since the last such block. ``<!-- fails -->``: the commands end with another exit code than 0.

The tests provide a server at ``REDIS_URL``, and put free ports for 8001 and 8002 and a fresh prefix for
``quickstart:``.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import inspect
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from pydantic import TypeAdapter
from sybil import Document, Example, Region, Sybil
from sybil.integration.pytest import SybilFile, SybilItem

from channel_layer_bench import bars
from channel_layer_bench.command import parse as parse_benchmark
from tests.support import reaper
from tests.support.servers import Server, free_ports, fresh_prefix

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ("PAGE", "Page", "Pages", "blocks")

PAGE = "__page__"
"""The name of a page's `Page` in its namespace; one that the code of a page does not use."""

_ROOT = Path(__file__).parents[2]

_FENCE = re.compile(
    r"^(?:<!-- (?P<note>[^\n]+?) -->\n\s*)?^```(?P<language>\w*)\n(?P<source>.*?)^```$", re.MULTILINE | re.DOTALL
)
_FILE = re.compile(r"# (?P<name>[\w./]+\.(?:py|toml))\n")
_SHARED = re.compile(r"\b800[12]\b|\bquickstart(?=:)")
"""Ports and the prefix, which two runs on one machine would share."""

_READ_ONLY = frozenset({"mermaid"})
"""Languages of blocks that are not run."""

_TRUSTED = frozenset({"cd", "docker", "git", "python -m venv", "redis-cli", "source"})
"""Commands that are not run: they change more than the directory of the page.."""

_PATIENCE = 30.0
"""Seconds to wait for output; a loaded machine may take a hundred times as long as an idle one."""


@dataclass(frozen=True, slots=True)
class _Block:
    language: str
    source: str
    note: str | None
    line: int
    """The line of the page at which the source begins."""
    shown: bool
    """Whether the next block shows what this one prints."""


@dataclass(slots=True)
class _Background:
    """A command that keeps running while other blocks run."""

    process: subprocess.Popen[bytes]
    log: Path
    read: int = 0

    def output(self) -> str:
        """Return what the command has printed since the output that the page has shown."""
        return self.log.read_text(errors="replace")[self.read :]

    def until(self, wanted: str) -> str | None:
        """Wait until the command has printed the wanted text; return the difference if it does not."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            ended = self.process.poll() is not None
            lines = self.output().splitlines(keepends=True)
            for count in range(len(lines) + 1):
                if _same(wanted, printed := "".join(lines[:count])):
                    self.read += len(printed)
                    return None
            if ended or time.monotonic() > deadline:
                return _difference(wanted, "".join(lines))
            time.sleep(0.01)


@dataclass
class Page:
    """The state of one page while its blocks run."""

    server: Server
    directory: Path = field(default_factory=reaper.scratch_directory)
    runner: asyncio.Runner = field(default_factory=asyncio.Runner)
    printed: str = ""
    background: dict[str, _Background] = field(default_factory=dict[str, _Background])
    own: Mapping[str, str] = field(
        default_factory=lambda: dict(
            zip(("8001", "8002", "quickstart"), [*map(str, free_ports()), fresh_prefix()], strict=True)
        )
    )

    def __post_init__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setenv("REDIS_URL", self.server.url)
        self.patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        self.patch.setenv("PYTHONUNBUFFERED", "1")  # as in a terminal

    def here(self, text: str) -> str:
        """Replace the ports by free ones, and the prefix by a fresh one."""
        return _SHARED.sub(lambda match: self.own[match[0]], text)

    def close(self) -> None:
        """End the commands that still run, by Ctrl-C as a reader would."""
        try:
            self.runner.close()
            for name, command in self.background.items():
                command.process.send_signal(signal.SIGINT)
                code = command.process.wait(_PATIENCE)
                if code not in (0, -signal.SIGINT):
                    pytest.fail(f"{name} ended with code {code} after Ctrl-C:\n{command.output()}", pytrace=False)
        finally:
            for command in self.background.values():
                reaper.end(command.process)
            reaper.discard(self.directory)
            self.patch.undo()


# -- one evaluator for each language -----------------------------------------------------------------------------


def _python(page: Page, block: _Block, namespace: dict[str, object]) -> str | None:
    if (path := _saved(page, block)) is not None:
        compile(block.source, path, "exec")
        return None
    settings = namespace.get("CHANNEL_LAYERS")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        _execute(page, _compile(block), namespace)
    page.printed = printed.getvalue()
    if page.printed and not block.shown:
        return f"the page does not show what this prints:\n{page.printed}"
    if namespace.get("CHANNEL_LAYERS") is not settings:
        _make_layers(namespace["CHANNEL_LAYERS"])
    return None


def _saved(page: Page, block: _Block) -> Path | None:
    """Save a block that names its file; return the path, or None if it names none."""
    if (named := _FILE.match(block.source)) is None:
        return None
    path = page.directory / named["name"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page.here(block.source), encoding="utf-8")
    return path


def _compile(block: _Block) -> CodeType:
    source = "\n" * (block.line - 1) + block.source  # so that a traceback shows the page's own lines
    code: object = compile(
        source, "<page>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True, optimize=0
    )
    if not isinstance(code, CodeType):
        raise TypeError("compile() gave no code")
    return code


def _execute(page: Page, code: CodeType, namespace: dict[str, object]) -> None:
    if not code.co_flags & inspect.CO_COROUTINE:
        exec(code, namespace)  # noqa: S102 - running the code of the pages is what this module does
        return

    async def body() -> None:
        await eval(code, namespace)  # noqa: S307 - as above

    page.runner.run(body())


@dataclass(frozen=True)
class _LayerSettings:
    BACKEND: str
    CONFIG: dict[str, object] = field(default_factory=dict[str, object])
    TEST_CONFIG: dict[str, object] = field(default_factory=dict[str, object])


_SETTINGS = TypeAdapter(dict[str, _LayerSettings])


def _make_layers(settings: object) -> None:
    """Make every layer of a Django project's settings, as Channels does; this connects to no server."""
    for layer in _SETTINGS.validate_python(settings).values():
        module, _, name = layer.BACKEND.rpartition(".")
        make = getattr(import_module(module), name)
        make(**layer.CONFIG)
        make(**layer.TEST_CONFIG)


def _console(page: Page, block: _Block, _: dict[str, object]) -> str | None:
    for command, wanted in _commands(page.here(block.source)):
        if block.note == "stays":
            problem = _start(page, command).until(wanted)
        elif (problem := _refuse(command)) is None and _runs(command):
            problem = _run(page, command, wanted, fails=block.note == "fails")
        if problem is not None:
            return f"$ {command}\n{problem}"
    return None


def _commands(source: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"^\$ ", source, flags=re.MULTILINE)[1:]:
        command, _, wanted = part.partition("\n")
        yield command, wanted


def _bash(_: Page, block: _Block, __: dict[str, object]) -> str | None:
    lines = block.source.replace("\\\n", "").splitlines()
    problems = [_refuse(line) for line in lines if line and not line.startswith("#")]
    return next((problem for problem in problems if problem is not None), None)


def _runs(command: str) -> bool:
    return bool(
        re.match(r"python (\S+\.py\b|-m (pytest|django) )|uvicorn |channel-layer (check|genkey|schema)\b", command)
    )


def _refuse(command: str) -> str | None:
    """Return what is wrong with a command that is not run; None if it is run, or nothing is wrong."""
    words = shlex.split(command)
    if _runs(command) or words[0] in _TRUSTED or " ".join(words[:3]) in _TRUSTED:
        return None
    if words[0] == "." and words[1].endswith("/activate"):
        return None
    if words[:2] == ["channel-layer", "bench"]:
        return _not_measurable(words[2:])
    if words[:2] == ["pip", "install"]:
        return next(filter(None, map(_not_installable, words[2:])), None)
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (_ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        wanted = [word for word in words[1:] if "=" not in word]  # the others are variables
        return next((f"the Makefile has no {target}" for target in wanted if target not in targets), None)
    return f"no test of the pages knows what to do with {command!r}"


def _not_measurable(words: list[str]) -> str | None:
    """Check that the benchmark has the options, layers and workloads of a command; running it takes minutes."""
    complaint = io.StringIO()
    with contextlib.redirect_stderr(complaint):
        try:
            parse_benchmark(words)
        except SystemExit:
            return complaint.getvalue()
    return None


def _not_installable(text: str) -> str | None:
    """Check that a package of a command is installed for the tests, and has the extras of the command."""
    wanted = Requirement(text)
    distribution = metadata.distribution(wanted.name)
    extras = distribution.metadata.get_all("Provides-Extra") or []
    missing = wanted.extras - set(extras)
    return f"{wanted.name} has no extra {', '.join(missing)}" if missing else None


def _run(page: Page, command: str, wanted: str, *, fails: bool) -> str | None:
    words = shlex.split(command)
    if "pytest" in words:  # such a suite takes minutes, so only check that its tests are collected
        words, wanted = [*words, "--collect-only"], "...\n"
    done = subprocess.run(words, cwd=page.directory, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    if bool(done.returncode) != fails:
        return f"ended with code {done.returncode}:\n{done.stdout}{done.stderr}"
    output = done.stdout + done.stderr
    return None if _same(wanted, output) else _difference(wanted, output)


def _start(page: Page, command: str) -> _Background:
    words = shlex.split(command)
    name = next((word for word in words if word.endswith(".py")), command)
    log = page.directory / f"output-{len(page.background)}"
    with log.open("wb") as output:
        process = reaper.launch(words, output=output, directory=page.directory)
    page.background[name] = _Background(process, log)
    return page.background[name]


def _toml(page: Page, block: _Block, _: dict[str, object]) -> str | None:
    if _saved(page, block) is not None:
        return None
    try:
        bars.read(block.source)
    except bars.Unreadable as exc:
        return str(exc)
    return None


def _text(page: Page, block: _Block, _: dict[str, object]) -> str | None:
    if block.note is not None:
        return page.background[block.note].until(block.source)
    printed, page.printed = page.printed, ""
    return None if not printed or _same(block.source, printed) else _difference(block.source, printed)


def _same(wanted: str, output: str) -> bool:
    return doctest.OutputChecker().check_output(wanted, output, doctest.ELLIPSIS)


def _difference(wanted: str, output: str) -> str:
    return f"the page shows:\n{wanted}\nbut the output is:\n{output}"


_EVALUATORS = {"python": _python, "console": _console, "bash": _bash, "text": _text, "toml": _toml}


def _evaluate(example: Example) -> str | None:
    block: _Block = example.parsed
    page: Page = example.namespace[PAGE]
    return _EVALUATORS[block.language](page, block, example.namespace)


# -- the plugin of pytest ----------------------------------------------------------------------------------------


def blocks(document: Document) -> Iterable[Region]:
    """Find the blocks of a page that are run.

    Raises:
        ValueError: a block is not closed, or its language is unknown.
    """
    found = list(_FENCE.finditer(document.text))
    if 2 * len(found) != len(re.findall(r"^\s*```", document.text, re.MULTILINE)):
        raise ValueError(f"{document.path}: a block is indented, never closed, or has more than a language")
    for place, match in enumerate(found):
        language, line = match["language"], document.text.count("\n", 0, match.start("source")) + 1
        if language in _EVALUATORS:
            shown = any(following["language"] == "text" for following in found[place + 1 : place + 2])
            block = _Block(language, match["source"], match["note"], line, shown)
            yield Region(match.start(), match.end(), parsed=block, evaluator=_evaluate)
        elif language not in _READ_ONLY:
            raise ValueError(f"{document.path}:{line}: no test of the pages knows blocks of {language!r}")


class Pages:
    """The plugin that collects pages and runs their blocks."""

    def __init__(self) -> None:
        self._server: Server | None = None
        self._sybil = Sybil([blocks], pattern="*.md", path=str(_ROOT), setup=self._begin, teardown=self._end)
        self._collect = self._sybil.pytest()

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> SybilFile | None:
        """Collect the pages."""
        page: SybilFile | None = self._collect(file_path, parent)
        return page

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Put the blocks in the order of their pages: the plugin that shuffles tests has shuffled them too."""
        items.sort(key=lambda item: (str(item.path), item.example.line) if isinstance(item, SybilItem) else ("", 0))

    def pytest_sessionfinish(self) -> None:
        """Stop the server."""
        if self._server is not None:
            self._server.stop()

    def _begin(self, namespace: dict[str, object]) -> None:
        if self._server is None:
            reaper.start()
            self._server = Server()
        namespace[PAGE] = Page(self._server)

    def _end(self, namespace: dict[str, object]) -> None:
        page = namespace[PAGE]
        if isinstance(page, Page):
            page.close()
