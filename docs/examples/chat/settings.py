"""Django's settings: one page, WebSockets, and a channel layer that all processes share.

The layer depends on the deployment, so the environment names it:

- `LAYER`: `ipc`, between the processes of this machine, with no server; `redis`; or `local`, a local store for messages
  that have a reader on this machine, and Redis for all others. The default is `redis` if `REDIS_URL` is set, else
  `ipc`.
- `REDIS_URL`: the Redis or Valkey server. Several URLs, separated by spaces, share the work.
- `LAYER_DIRECTORY`: where `ipc` and `local` have their files; by default in memory, if the system has such a directory.
- `LAYER_PREFIX`: layers with the same prefix share channels and groups; `chat:` by default.
"""

from __future__ import annotations

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

HOSTS = os.environ.get("REDIS_URL", "").split()
DEFAULT_HOSTS = ["redis://localhost:6379/0"]
DIRECTORY = os.environ.get("LAYER_DIRECTORY") or None
PREFIX = os.environ.get("LAYER_PREFIX", "chat:")
LAYERS: dict[str, dict[str, object]] = {
    "ipc": {
        "BACKEND": "channel_layer_ipc.IPCChannelLayer",
        "CONFIG": {"directory": DIRECTORY, "prefix": PREFIX},
    },
    "redis": {
        "BACKEND": "channel_layer_redis.RedisChannelLayer",
        "CONFIG": {"hosts": HOSTS or DEFAULT_HOSTS, "prefix": PREFIX},
    },
    "local": {
        "BACKEND": "channel_layer_redis.RedisLocalChannelLayer",
        "CONFIG": {"hosts": HOSTS or DEFAULT_HOSTS, "prefix": PREFIX, "local": {"directory": DIRECTORY}},
    },
}
LAYER = os.environ.get("LAYER") or ("redis" if HOSTS else "ipc")
if LAYER not in LAYERS:
    raise ImproperlyConfigured(f"LAYER is one of {', '.join(LAYERS)}, not {LAYER!r}")
CHANNEL_LAYERS = {"default": LAYERS[LAYER]}

ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "chat.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [Path(__file__).parent / "templates"],
    },
]
