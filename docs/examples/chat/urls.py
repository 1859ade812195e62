"""The one page, which says who serves it: the process and its port."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from django.shortcuts import render
from django.urls import path

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse


async def page(request: HttpRequest) -> HttpResponse:
    """Serve the chat; all else happens over its WebSocket."""
    return render(request, "chat.html", {"process": os.getpid(), "port": request.get_port()})


urlpatterns = [path("", page)]
