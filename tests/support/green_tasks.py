"""Celery tasks for pools of greenlets: ``celery -A tests.support.green_tasks worker --pool gevent``."""

from __future__ import annotations

import os

from asgiref.sync import async_to_sync
from celery import Celery

from channel_layer import from_url

__all__ = ("app",)

app = Celery("green_tasks")
app.config_from_object("celeryconfig")

layer = from_url(os.environ["CHANNEL_LAYER_URL"])


@app.task
def answer(number: int) -> None:
    """Say that this task waits, wait for a question, and answer it."""
    layer.blocking.group_send("waiting", {"n": number})
    _, question = layer.blocking.receive([f"question.{number}"], block=True, block_timeout=60)
    layer.blocking.group_send("answers", {"n": number, "question": question["n"] if question else None})


@app.task
def use_event_loop(number: int) -> None:
    """Try the asynchronous interface, and tell what came of it."""
    try:
        async_to_sync(layer.group_send)("answers", {"n": number, "error": ""})
    except Exception as exc:  # noqa: BLE001 - it is what the test asks for
        layer.blocking.group_send("answers", {"n": number, "error": f"{type(exc).__name__}: {exc}"})
