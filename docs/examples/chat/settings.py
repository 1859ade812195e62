"""Django's settings: one page, WebSockets, and a channel layer that all processes share.

The store is the one thing that differs from place to place, so it comes from the environment:

- `REDIS_URL`: the Redis or Valkey server, `redis://localhost:6379/0` by default. Several URLs, separated by spaces,
  share the work.
- `REDIS_PREFIX`: what all keys begin with, `chat:` by default.
"""

from __future__ import annotations

import os
from pathlib import Path

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channel_layer_redis.RedisChannelLayer",
        "CONFIG": {
            "hosts": os.environ.get("REDIS_URL", "redis://localhost:6379/0").split(),
            "prefix": os.environ.get("REDIS_PREFIX", "chat:"),
        },
    },
}

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
