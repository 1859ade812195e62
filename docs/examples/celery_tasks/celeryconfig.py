"""A broker of files, so that the example runs with no service. Yours stands here instead: ``redis://localhost:6379/1``."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_folder = Path(os.environ.get("CELERY_FOLDER", Path(tempfile.gettempdir()) / "celery-tasks"))
_queue, _control = _folder / "queue", _folder / "control"
for each in (_queue, _control):
    each.mkdir(parents=True, exist_ok=True)

broker_url = "filesystem://"
broker_transport_options = {
    "data_folder_in": str(_queue),
    "data_folder_out": str(_queue),
    "control_folder": str(_control),
}
