"""The chat itself: one consumer for each open page, one group for each room.

A consumer knows the people of its room only through the group, so it does not matter which of them are served by
the same process.
"""

from __future__ import annotations

import json
import os
import re
from typing import TypedDict
from urllib.parse import parse_qs

from channels.generic.websocket import AsyncWebsocketConsumer

from channel_layer import StoreError

ROOM = re.compile(r"[A-Za-z0-9._-]{1,50}")  # what a group's name may consist of
NAME_LENGTH = 40
TEXT_LENGTH = 1000


class RoomMessage(TypedDict):
    """What travels over the channel layer, from one consumer to all in its room."""

    type: str
    sender: str
    event: dict[str, str | int]


class ChatConsumer(AsyncWebsocketConsumer):
    """One person in one room.

    The query string says who and where: `?room=lobby&name=Ann`. What the browser sends is what the person says, as
    plain text. What it gets is JSON: who did what, and which process served them.
    """

    group = ""
    name = ""

    async def connect(self) -> None:
        """Enter the room, or refuse a request that the page would not make."""
        query = parse_qs(self.scope["query_string"].decode("ascii", "replace"))
        room = query.get("room", [""])[0]
        self.name = query.get("name", [""])[0].strip()[:NAME_LENGTH]
        if not ROOM.fullmatch(room) or not self.name:
            await self.close()
            return
        self.group = f"room.{room}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()
        await self.reply("welcome", room)
        await self.tell("joined")

    async def disconnect(self, code: int) -> None:
        """Leave the room."""
        del code  # the reason makes no difference
        if self.group:
            await self.channel_layer.group_discard(self.group, self.channel_name)
            await self.tell("left")

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Pass on what the person says to everybody in the room, the person included."""
        del bytes_data  # the page sends text only
        text = (text_data or "").strip()[:TEXT_LENGTH]
        if not text:
            return
        try:
            await self.tell("said", text)
        except StoreError as error:  # it is the one thing that can go wrong, and the person should know
            await self.reply("failed", str(error))

    async def tell(self, what: str, text: str = "") -> None:
        """Tell the room, wherever its people are served."""
        event = self.describe(what, text)
        await self.channel_layer.group_send(
            self.group, {"type": "chat.message", "sender": self.channel_name, "event": event}
        )

    async def chat_message(self, message: RoomMessage) -> None:
        """Show this person what happened; the method's name is the message's type."""
        mine = message["sender"] == self.channel_name
        await self.send(text_data=json.dumps({**message["event"], "mine": mine}))

    async def reply(self, what: str, text: str = "") -> None:
        """Tell this person alone."""
        await self.send(text_data=json.dumps({**self.describe(what, text), "mine": True}))

    def describe(self, what: str, text: str) -> dict[str, str | int]:
        """Say who did what, and which process served them."""
        server = self.scope["server"]
        port = (server[1] if server else None) or 0
        return {"what": what, "name": self.name, "text": text, "process": os.getpid(), "port": port}
