"""The application as servers run it: HTTP goes to Django's pages, WebSockets go to the chat."""

from __future__ import annotations

import os

from channels.routing import ProtocolTypeRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application

from .consumers import ChatConsumer  # noqa: TID252 - within a Django project, as its documentation does

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chat.settings")

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        # Browsers let any web site open a WebSocket to any server: only our own page may.
        "websocket": AllowedHostsOriginValidator(ChatConsumer.as_asgi()),
    }
)
