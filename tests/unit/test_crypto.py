"""Ciphers in use: nonces that are never reused, keys that are never shown, and ciphers of third parties."""

# pyright: reportPrivateUsage=false
# Forcing a race needs private attributes.

from __future__ import annotations

import base64
import gc
import logging
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
from pydantic import SecretBytes

from channel_layer import ConfigError
from channel_layer.domain.frames import Unauthentic
from channel_layer.domain.rules import Secret
from channel_layer.ports import Place
from channel_layer.runtime.sealing import Seal
from channel_layer.testing.suites.tools import at_once, in_fork
from channel_layer_crypto import AesSealer, FernetSealer, aes
from channel_layer_memory import MemoryChannelLayer

KEY = "a key that is long enough, and secret"


def sealer(expiry: float = 60.0, now: float = 1_800_000_000.0) -> AesSealer:
    """Make a sealer at one moment."""
    return AesSealer([SecretBytes(b"k" * 32)], prefix="asgi:", expiry=expiry, now=lambda: now)


def nonce(sealed: bytes) -> tuple[bytes, bytes]:
    """Return what the key of a sealed message was made from, and its nonce under that key."""
    return sealed[1:18], sealed[22:34]


# -- nonces --------------------------------------------------------------------------------------------------------


class _Slow(int):
    """A counter that lets other threads run between reading and changing it."""

    def __add__(self, other: int, /) -> int:
        time.sleep(1e-5)
        return _Slow(int(self) + other)


def test_threads_never_share_a_nonce() -> None:
    """Messages that many threads seal at once have different nonces."""
    crowd, each = 4, 50
    one = sealer()
    one._sender.count = _Slow()
    used = at_once(crowd, lambda _: [nonce(one.seal(b"", "channel", "x")) for _ in range(each)])
    assert len({each for some in used for each in some}) == crowd * each


def test_a_fork_seals_with_a_key_of_its_own() -> None:
    """Parent and child go on from the same count with different keys, even if a thread was sealing when it forked."""
    one = sealer()
    before = nonce(one.seal(b"", "channel", "x"))
    read, write = os.pipe()

    def child() -> None:
        for _ in range(3):
            os.write(write, b"".join(nonce(one.seal(b"", "channel", "x"))))

    with one._sender.lock:  # as a thread would hold it that does not exist in the child
        in_fork(child, 10.0, "a child can seal")
    after = [nonce(one.seal(b"", "channel", "x")) for _ in range(3)]
    got = os.read(read, 1000)
    os.close(read)
    os.close(write)
    theirs = [(got[at : at + 17], got[at + 17 : at + 29]) for at in range(0, len(got), 29)]
    assert len(theirs) == 3
    assert len({before, *after, *theirs}) == 7
    assert {salt for salt, _ in theirs}.isdisjoint({salt for salt, _ in (before, *after)})
    assert all(salt == before[0] for salt, _ in after)


def test_a_key_is_given_up_before_its_count_runs_out() -> None:
    """After 2**32 messages a process takes a new key; what it sealed before and after opens."""
    one, other = sealer(), sealer()
    one._sender.count = 2**32 - 2
    some = [one.seal(b"%d" % n, "channel", "x") for n in range(4)]
    salts = [nonce(sealed)[0] for sealed in some]
    assert salts[0] == salts[1] != salts[2] == salts[3]
    assert [other.open(sealed, "channel", "x") for sealed in some] == [b"0", b"1", b"2", b"3"]


def test_only_senders_with_a_key_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forged senders cost no memory, and more genuine ones than are remembered cost no message."""
    monkeypatch.setattr(aes, "_REMEMBERED", 2)
    one = sealer()
    forged = bytearray(sealer().seal(b"", "channel", "x"))
    for _ in range(50):
        forged[2:18] = os.urandom(16)
        with pytest.raises(Unauthentic):
            one.open(bytes(forged), "channel", "x")
    assert not one._senders
    senders = [sealer() for _ in range(5)]
    for _ in range(2):
        for each in senders:
            assert one.open(each.seal(b"yes", "channel", "x"), "channel", "x") == b"yes"
        assert len(one._senders) <= 2


def test_keys_with_one_id_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two keys whose ids happen to be equal both open what they have sealed."""

    def same(_: Secret) -> bytes:
        return b"i"

    monkeypatch.setattr(aes, "_key_id", same)
    keys = [SecretBytes(b"a" * 32), SecretBytes(b"b" * 32)]
    both = AesSealer(keys, prefix="", expiry=60, now=lambda: 0.0)
    for key in keys:
        alone = AesSealer([key], prefix="", expiry=60, now=lambda: 0.0)
        assert both.open(alone.seal(b"yes", "group", "x"), "group", "x") == b"yes"


# -- what is told --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cipher", ["aes-256-gcm", "fernet"])
def test_no_error_log_or_repr_shows_a_key(cipher: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the key nor its hash is in a repr, a log or a traceback, even one with the locals of every frame."""
    caplog.set_level(logging.DEBUG)
    kinds: dict[str, type[AesSealer | FernetSealer]] = {"aes-256-gcm": AesSealer, "fernet": FernetSealer}
    rules = MemoryChannelLayer(symmetric_encryption_keys=[KEY], encryption=cipher, blind_names=True)._rules
    assert rules.encryption is not None
    digest = rules.encryption.keys[0].get_secret_value()
    one = kinds[cipher](rules.encryption.keys, prefix="asgi:", expiry=60, now=lambda: 0.0)
    texts = [repr(rules), repr(one), repr(vars(one)), caplog.text]
    for wrong in (b"", b"\x01plain", one.seal(b"\x01x", "channel", "other")):
        with pytest.raises(Unauthentic) as caught:
            one.open(wrong, "channel", "x")
        told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        frames = [frame for frame in told.stack if frame.filename != __file__]
        texts.append("".join(map(str, frames)) + str(caught.value))
        texts.extend(str(frame.locals) for frame in frames)
    shown = "".join(texts)
    for secret in (KEY, digest.hex(), repr(digest)[2:-1], base64.urlsafe_b64encode(digest).decode()):
        assert secret not in shown


def test_a_missing_package_is_named_when_the_layer_is_made() -> None:
    """Without cryptography a layer with keys cannot be made, and says what to install; one without keys can."""
    script = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from channel_layer_memory import MemoryChannelLayer\n"
        "MemoryChannelLayer()\n"
        f"MemoryChannelLayer(symmetric_encryption_keys=[{KEY!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == 'ImportError: symmetric_encryption_keys need cryptography: pip install "channel-layer[cryptography]"'


# -- ciphers of others ---------------------------------------------------------------------------------------------

_ROT = """
class Rot13:
    def __init__(self, keys, *, prefix, expiry, now):
        self.table = bytes((n + keys[0].get_secret_value()[0]) % 256 for n in range(256))

    def seal(self, payload, place, name):
        return b"\\x09" + payload.translate(self.table)

    def open(self, sealed, place, name):
        return bytes(self.table.index(byte) for byte in sealed[1:])
"""


async def test_a_third_party_s_cipher_plugs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cipher that another distribution announces is used by its name."""
    (tmp_path / "rot13_for_channels.py").write_text(_ROT)
    info = tmp_path / "rot13-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rot13\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[channel_layer.ciphers]\nrot13 = rot13_for_channels:Rot13\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    async with MemoryChannelLayer(symmetric_encryption_keys=[KEY], encryption="rot13") as layer:
        await layer.send("jobs", {"n": 1})
        assert await layer.receive("jobs") == {"n": 1}


def test_a_cipher_that_has_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules that name a cipher which is not installed make no layer: the error names the field."""
    monkeypatch.setattr("channel_layer.validators.CIPHERS", ("aes-256-gcm", "gone"))
    with pytest.raises(ConfigError, match="encryption: 'gone' is not installed"):
        MemoryChannelLayer(symmetric_encryption_keys=[KEY], encryption="gone")


# -- once for all --------------------------------------------------------------------------------------------------


class _Counting:
    """A cipher that counts."""

    def __init__(self) -> None:
        self.opened = 0

    def seal(self, payload: bytes, _place: Place, _name: str, /) -> bytes:
        return payload

    def open(self, sealed: bytes, _place: Place, _name: str, /) -> bytes:
        self.opened += 1
        return sealed[1:]


def test_what_a_group_got_is_opened_once() -> None:
    """The same bytes for many members are opened once; equal bytes of another message are opened again."""
    counting = _Counting()
    seal = Seal(counting)
    frames = [bytes([n]) + b"payload" for n in range(3)]
    for _ in range(100):
        assert {seal.open_shared(frame, "group") for frame in frames} == {b"payload"}
    assert counting.opened == 3
    for n in range(200):  # far more than are remembered
        seal.open_shared(bytes([n]) * 2, "group")
    assert counting.opened == 203
    gc.collect()
    assert seal.open_shared(b"xother", "group") == b"other"
