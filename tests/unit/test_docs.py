"""The pages: what they say of the code is so, their links lead somewhere, and their blocks are really checked."""

from __future__ import annotations

import inspect
import re
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest
from sybil import Document, Example

import channel_layer
from channel_layer import ChannelLayer, commands, testing
from channel_layer.testing import plugin, profiles
from channel_layer_redis._keys import KINDS
from tests.support import api, pages
from tests.support.servers import Server

_ROOT: Final = Path(__file__).parents[2]
_PAGES: Final = [
    *(_ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((_ROOT / "docs").rglob("*.md")),
]
_ARCHITECTURE: Final = (_ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
_BLOCK: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def _cells(header: str) -> list[str]:
    """The first cells of the one table of the architecture page whose head begins so."""
    (table,) = re.findall(rf"^\| {re.escape(header)} \|.*\n\|[- |]+\|\n((?:\|.*\n)+)", _ARCHITECTURE, re.MULTILINE)
    return [row.split(" | ")[0].removeprefix("| ") for row in table.splitlines()]


def _named(text: str) -> set[str]:
    return set(re.findall(r"`([\w.]+)`", text))


# -- what the pages say of the code --------------------------------------------------------------------------


def test_the_reference_of_the_layer_is_what_the_docstrings_say() -> None:
    """docs/reference/layer.md is generated: ``python -m tests.support.api`` writes it."""
    assert api.PAGE.read_text(encoding="utf-8") == api.reference()


def test_every_public_method_is_in_the_reference() -> None:
    """The page has every coroutine method of a layer."""
    methods = {name for name, _ in inspect.getmembers(ChannelLayer, inspect.iscoroutinefunction) if name[0] != "_"}
    assert api.documented() == methods


def test_every_public_name_is_in_the_reference() -> None:
    """The page tells of everything that can be imported from ``channel_layer``."""
    page = api.reference()
    missing = [name for name in channel_layer.__all__ if f"`{name}`" not in page and name != "__version__"]
    assert missing == ["ChannelLayer", "Counts", "Statistics"]  # the page itself is about these


def test_every_name_of_the_kit_is_in_its_reference() -> None:
    """The page on the extension kit tells of all that it exports, of its fixtures and of its profiles."""
    page = (_ROOT / "docs" / "reference" / "testing.md").read_text(encoding="utf-8")
    names = {*testing.__all__, *plugin.__all__, *profiles.PROFILES, profiles.VARIABLE, "load_profile"}
    assert {name for name in names if not re.search(rf"`[\w.]*\b{name}\b", page)} == set()


def test_the_architecture_page_names_every_module() -> None:
    """The tables of modules hold those of the core and of the stores, no more and no fewer."""
    core = _ROOT / "src" / "channel_layer"
    modules = {".".join(path.relative_to(core).with_suffix("").parts) for path in core.rglob("*.py")}
    public = {module for module in modules if not module.endswith("__init__") and not module.startswith("testing.")}
    assert _named(" ".join(_cells("module of `channel_layer`"))) == public | {"testing"}
    stores = {
        f"{package}.{path.stem}"
        for package in ("channel_layer_ipc", "channel_layer_memory", "channel_layer_redis")
        for path in (_ROOT / "src" / "adapters" / package).iterdir()
        if path.suffix == ".py" or (path.is_dir() and path.name != "__pycache__")
    }
    named = _named(" ".join(_cells("module of an adapter that keeps messages")))
    assert named == {name for name in stores if not name.endswith("__init__")}


def test_the_architecture_page_names_every_command() -> None:
    """The table of what a store has to do holds every command of the vocabulary."""
    (table,) = re.findall(r"^\| what \| commands \|\n.*\n((?:\|.*\n)+)", _ARCHITECTURE, re.MULTILINE)
    kinds = {
        name for name, kind in inspect.getmembers(commands, inspect.isclass) if commands.Command in kind.__mro__[1:]
    }
    assert _named(table) == kinds | {"Wait", "WaitAny"}


def test_the_architecture_page_names_every_kind_of_key_and_every_script() -> None:
    """The tables of keys and scripts hold those that there are."""
    assert _named(" ".join(_cells("kind"))) == set(KINDS)
    scripts = (_ROOT / "src" / "adapters" / "channel_layer_redis" / "_scripts").glob("*.lua")
    assert _named(" ".join(_cells("script"))) == {script.stem for script in scripts}


# -- links ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link is to a file that exists, and every anchor to a heading that it has."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    dead: list[str] = []
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists() or (anchor and anchor not in _anchors(linked)):
            dead.append(target)
    assert dead == []


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


# -- the checker of the blocks -------------------------------------------------------------------------------


class Check:
    """Checks a page that is given as text."""

    def __init__(self, server: Server) -> None:
        self._page = pages.Page(server)

    def __call__(self, text: str) -> None:
        """Evaluate all blocks in order, as the tests of the pages do."""
        document = Document(text, "page.md")
        document.namespace[pages.PAGE] = self._page
        for region in pages.blocks(document):
            Example(document, 1, 1, region, document.namespace).evaluate()

    def close(self) -> None:
        """End the page."""
        self._page.close()


@pytest.fixture
def check(server: Server) -> Generator[Check]:
    """A function that checks a page."""
    made = Check(server)
    yield made
    made.close()


_GOOD = {
    "output": "```python\nprint(1)\n```\nshows\n```text\n1\n```\n",
    "await": "```python\nimport asyncio\nawait asyncio.sleep(0)\n```\n",
    "file": "```python\n# a.py\nprint(1)\n```\n```console\n$ python a.py\n1\n```\n",
    "install": '```console\n$ pip install "channel-layer[redis,django]" uvicorn\n$ make test\n```\n',
    "benchmark": "```console\n$ channel-layer bench --layer redis --workload fanout-10x2\n```\n",
    "settings": (
        "```python\nCHANNEL_LAYERS = {'default': {'BACKEND': 'channel_layer_memory.MemoryChannelLayer'}}\n```\n"
    ),
}

_BAD = {
    "output": "```python\nprint(1)\n```\n```text\n2\n```\n",
    "unshown": "```python\nprint(1)\n```\n",
    "error": "```python\nundefined\n```\n",
    "file": "```python\n# a.py\nprint(1)\n```\n```console\n$ python a.py\n2\n```\n",
    "crash": "```python\n# a.py\n1 / 0\n```\n```console\n$ python a.py\n```\n",
    "extra": '```console\n$ pip install "channel-layer[nonsense]"\n```\n',
    "target": "```bash\nmake nonsense\n```\n",
    "command": "```bash\nnonsense\n```\n",
    "benchmark": "```console\n$ channel-layer bench --layer nonsense\n```\n",
    "bars": "```toml\n[[bar]]\nlayer = 'redis'\n```\n",
    "benchmark option": "```console\n$ channel-layer bench --nonsense\n```\n",
    "settings": "```python\nCHANNEL_LAYERS = {'default': {'BACKEND': 'channel_layer_memory.Nonsense'}}\n```\n",
    "option": (
        "```python\nCHANNEL_LAYERS = {'default': {'BACKEND': 'channel_layer_memory.MemoryChannelLayer',"
        " 'CONFIG': {'capcity': 1}}}\n```\n"
    ),
    "language": "```perl\nprint 1\n```\n",
    "unclosed": "```python\nprint(1)\n",
    "background": "<!-- stays -->\n```console\n$ python -c 'pass'\nready\n```\n",
}


@pytest.mark.parametrize("text", _GOOD.values(), ids=_GOOD)
def test_a_good_block_passes(check: Check, text: str) -> None:
    """What a page may hold is accepted."""
    check(text)


@pytest.mark.parametrize("text", _BAD.values(), ids=_BAD)
def test_a_bad_block_fails(check: Check, text: str) -> None:
    """A block that does not work, or does not print what the page says, fails the page."""
    with pytest.raises((AssertionError, LookupError, ValueError, NameError, AttributeError)):
        check(text)


def test_a_command_that_stays_is_ended_with_the_page(check: Check) -> None:
    """A background command runs until the page is over, and what it prints later can be shown later."""
    program = (
        "# b.py\nimport time\nprint('up')\nprint('more')\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt: pass"
    )
    check(
        f"```python\n{program}\n```\n<!-- stays -->\n```console\n$ python b.py\nup\n```\n"
        "<!-- b.py -->\n```text\nmore\n```\n"
    )
