"""One word for one thing: the retired names stay retired, and a task, a caller or a reader is named as such."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Final, NamedTuple

import pytest

_ROOT: Final = Path(__file__).parents[2]

_TOPS: Final = ("src", "docs", "README.md", "CHANGELOG.md", "CONTRIBUTING.md")

_SUFFIXES: Final = frozenset({".html", ".json", ".lua", ".md", ".py", ".toml"})


class Allowed(NamedTuple):
    """A retired word that stays in some files."""

    files: str
    word: str
    reason: str


_ALLOWED: Final = (Allowed("docs/examples/chat/templates/chat.html", "Guest", "a person without a name is greeted so"),)

# Retired words that are also ordinary ones cannot be found by looking for the word, and are not listed: Ask, Asking,
# Claim, Gate, Host, Hold, Receiver, Renew, Release, Run, alone, half, places, ring, settle, several, stage, tell,
# traffic, waking.

_NAMES: Final = {  # as they are written, also as a part of a longer name in CamelCase
    "Alarm": "ThreadEvent",
    "Bell": "ThreadEvent",
    "Desk": "LayerState",
    "Front": "StoreWrapper",
    "GiveBack": "ReturnCredits",
    "Halves": "LocalAndRemote",
    "Home": "LoopSession",
    "LoopStopped": "LoopUnavailable",
    "Prompt": "InlineFuture",
    "Tap": "QueueBuffer",
    "Wire": "BlockingConnection",
    "World": "SharedStore",
    "_Link": "ServerClient",
    "go_on": "resume_all",
}

_WORDS: Final = {  # regular expressions, for upper and lower case, between characters that are no letters
    "anybody|everyone|nobody|no one|somebody|someone": "a reader, no reader, a caller",
    "attend(s|ed|ing)?": "register as reader",
    "bells?": "ThreadEvent",
    "books": "counters",
    "crowd(s|ed)?": "many readers, many callers",
    "courier": "MessagePipeline",
    "desks?": "LayerState",
    "farewell": "on_loop_close",
    "forgive(s|n)?": "ClearUnread",
    "fronts": "stores.wrapper",
    "give_?back": "ReturnCredits, return_credits",
    "guests?": "a call through the I/O thread",
    "(asynchronous|blocking|local|other|remote|this machine's) hal(f|ves)|halves": "local store, remote store",
    "he|him|himself|his|she|her|hers|herself": "the task, the caller, the owner, a reader",
    "incarnations?": "run id",
    "judg(e|es|ed|ing)": "test, check",
    "laps(e|es|ed)": "unread_expired",
    "ledgers?": "Counters",
    "lend(s|ing)?|lent|loan(s|ed)?": "a call through the I/O thread",
    "look(s|ed|ing)? after": "run_maintenance, or what is done",
    "mint(s|ed|ing)?": "owned",
    "owed": "credits",
    "places? back|back places?": "credits",
    "pok(e|es|ed|ing)": "notify",
    "pulses?": "LoopLiveness",
    "pumps?": "QueueConsumer",
    "rescu(e|es|ed|ing)": "move to remote",
    "riders?": "extra_recipients",
    "rosters?": "GroupMembers",
    "sees? to": "run_maintenance, or what is done",
    "stranded": "orphaned",
    "tall(y|ies)": "PendingCounts",
    "taps?": "QueueBuffer",
    "tend(s|ed|ing)?": "run_maintenance",
    "unattended": "orphaned",
    "unclaims?": "ReleaseClaim",
    "who(m|so)?ever": "the task, the caller, the owner, a reader",
    "worlds": "shared stores",
}

_PATTERN: Final = re.compile(
    "|".join(
        [
            *(rf"(?<![A-Z])(?:{name})(?![a-z])" for name in _NAMES),
            *(rf"(?<![A-Za-z])(?i:{word})(?![A-Za-z])" for word in _WORDS),
        ]
    )
)


class Found(NamedTuple):
    """A retired word."""

    file: str
    line: int
    word: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.word!r}: say {_standard(self.word)}"


def _standard(word: str) -> str:
    if word in _NAMES:
        return _NAMES[word]
    return next(standard for pattern, standard in _WORDS.items() if re.fullmatch(pattern, word, re.IGNORECASE))


def _files(top: str) -> Iterator[tuple[str, str]]:
    """The path and the text of each file below *top*, or of *top* itself."""
    path = _ROOT / top
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        name = file.relative_to(_ROOT).as_posix()
        if file.suffix in _SUFFIXES:
            yield name, file.read_text(encoding="utf-8")


def _retired(text: str, file: str = "") -> Iterator[Found]:
    for number, line in enumerate(text.splitlines(), 1):
        for match in _PATTERN.finditer(line):
            yield Found(file, number, match[0])


def _allowed(found: Found) -> Iterator[Allowed]:
    return (entry for entry in _ALLOWED if fnmatch(found.file, entry.files) and entry.word == found.word)


@pytest.mark.parametrize("top", _TOPS)
def test_no_file_has_a_retired_word(top: str) -> None:
    """Code and documents use the words of the glossary."""
    found = [found for file, text in _files(top) for found in _retired(text, file) if not any(_allowed(found))]
    assert not found, "\n" + "\n".join(map(str, found))


def test_each_exception_is_needed() -> None:
    """A word that is allowed somewhere is there, and has a reason."""
    files = [file for top in _TOPS for file in _files(top)]
    assert {entry for file, text in files for found in _retired(text, file) for entry in _allowed(found)} == set(
        _ALLOWED
    )
    assert all(entry.reason for entry in _ALLOWED)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the task waits until it is woken", []),
        ("Whoever waits, he goes on", ["Whoever", "he"]),
        ("class _HostDesk: ...", ["Desk"]),
        ("run_lent(lend, Courier())", ["lent", "lend", "Courier"]),
        ("half of `expiry`; the local half", ["local half"]),
        ("the doorbell, a desktop, a frontend, Homebrew", []),
        ("`go_on` and go on", ["go_on"]),
        ("an unattended queue", ["unattended"]),
    ],
)
def test_words_are_found_whole_and_in_names(text: str, words: list[str]) -> None:
    """A retired word is found in prose and inside a name, and not inside a longer word."""
    assert [found.word for found in _retired(text)] == words


@pytest.mark.parametrize("word", [*_NAMES, "he", "whoever", "stranded", "blocking half", "GIVE_BACK", "lending"])
def test_each_finding_says_the_standard_word(word: str) -> None:
    """The message of a failure names the word to use."""
    [found] = _retired(f"the {word} here")
    assert str(found).endswith(f"say {_standard(found.word)}")


def test_the_glossary_has_each_term_once_in_order() -> None:
    """The terms of the glossary are all different and in alphabetical order."""
    page = (_ROOT / "docs" / "reference" / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert terms == sorted(set(terms))
