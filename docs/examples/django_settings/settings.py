"""Django settings whose channel layers are checked three times: in the editor, before a release, and when they start.

- A type checker reads the annotation: `mypy --strict settings.py`, or pyright.
- `python -m django check --deploy --settings settings` reports what it finds, because `channel_layer_django` is among
  the applications; `channel-layer check settings` says the same without Django's set-up.
- Each layer reads its options when it is made, and refuses all that are wrong at once.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from channel_layer_django import ChannelLayersSetting

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "only for this example")
INSTALLED_APPS = ["channel_layer_django"]

CHANNEL_LAYERS: ChannelLayersSetting = {
    "default": {
        "BACKEND": "channel_layer_redis.RedisChannelLayer",
        "CONFIG": {
            "hosts": [
                os.environ.get("REDIS_URL", "redis://localhost:6379/0"),
                ("redis2.example", 6379),
                {"host": "redis3.example", "port": 6380, "password": os.environ.get("REDIS_PASSWORD"), "ssl": True},
                {"address": "rediss://redis4.example", "ssl_cert_reqs": "required"},
            ],
            "prefix": "shop:",
            "expiry": 30,
            "group_expiry": None,
            "capacity": 200,
            "channel_capacity": {"http.request": 500, re.compile(r"chat\."): 50},
        },
        "TEST_CONFIG": {"hosts": ["redis://localhost:6379/15"]},
    },
    "notices": {
        "BACKEND": "channel_layer_redis.RedisChannelLayer",
        "CONFIG": {
            "host": "localhost",
            "symmetric_encryption_keys": os.environ.get("CHANNEL_KEYS", "").split(),
        },
    },
    "here": {
        "BACKEND": "channel_layer_memory.MemoryChannelLayer",
        "CONFIG": {"capacity": 1000},
    },
}
