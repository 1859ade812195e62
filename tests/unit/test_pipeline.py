"""What a message is when it is taken: a copy that is its receiver's own."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from channel_layer.config import CommonConfig
from channel_layer.domain.mailbox import Item
from channel_layer.runtime.event_loops import SystemClock
from channel_layer.runtime.pipeline import MessagePipeline
from channel_layer_memory._store import MemoryBackend
from tests.support.messages import spoil

if TYPE_CHECKING:
    from channel_layer.domain.codec import Message

FLAT: Message = {"type": "t", "n": 1, "bytes": b"x", "none": None}
NESTED: Message = {"type": "t", "list": [1, {"a": 2}]}


def _make_pipeline(keys: list[str]) -> MessagePipeline:
    rules = CommonConfig.model_validate({"symmetric_encryption_keys": keys}).rules()
    return MessagePipeline(rules, MemoryBackend(rules, SystemClock()), SystemClock())


def _item(pipeline: MessagePipeline, message: Message) -> Item:
    seal, payload = pipeline.seal, pipeline.codec.encode(message)
    return Item(1.0, payload if seal is None else seal.for_group(payload, "group"), "group", None)


@pytest.mark.parametrize("keys", [[], ["a key" * 10]])
@pytest.mark.parametrize("message", [FLAT, NESTED, {"text": "x" * 10_000}, {"list": ["x" * 10_000]}])
def test_members_of_a_group_get_a_copy_each(message: Message, keys: list[str]) -> None:
    """Whatever the first of them does with his."""
    pipeline = _make_pipeline(keys)
    item = _item(pipeline, message)
    for _ in range(4):
        copy = pipeline.open(item, "specific.me!a")
        assert copy is not None
        assert copy == message
        spoil(copy)


def test_what_is_kept_of_messages_to_groups_is_not_taken_for_another_ones() -> None:
    """Far more of them than are kept, each dropped when it has been read, so that the next may have its address."""
    pipeline = _make_pipeline([])
    for number in range(500):
        message: Message = {"n": number}
        item = _item(pipeline, message)
        assert pipeline.open(item, "specific.me!a") == pipeline.open(item, "specific.me!b") == message
        del item
        gc.collect(0)
