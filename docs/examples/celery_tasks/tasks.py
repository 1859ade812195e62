"""Celery tasks that report their progress to web sockets: run with ``celery -A tasks worker``.

The layer is made when this module is imported, before Celery's pool forks. That is safe: making one does no I/O, and
each worker process starts anew.
"""

from __future__ import annotations

import os

from celery import Celery

from channel_layer import from_url

app = Celery("tasks")
app.config_from_object("celeryconfig")

layer = from_url(os.environ.get("CHANNEL_LAYER_URL", "ipc://"))  # redis://localhost:6379/0 between machines


@app.task
def make_thumbnails(group: str, files: list[str]) -> int:
    """Make thumbnails, and send a message to a group for each.

    Args:
        group: the group that is notified.
        files: the pictures.
    """
    for file in files:
        layer.blocking.group_send(group, {"type": "thumbnail.made", "file": file, "by": os.getpid()})
    return len(files)
