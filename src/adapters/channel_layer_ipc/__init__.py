"""A channel layer between the processes of one user on one machine, with no server to install or run."""

from __future__ import annotations

try:
    import lmdb as _lmdb
except ImportError as _exc:
    if _exc.name != "lmdb":
        raise
    raise ImportError('channel_layer_ipc needs lmdb: pip install "channel-layer[ipc]"', name=_exc.name) from _exc

from channel_layer_ipc._backend import IPCBackend
from channel_layer_ipc._process_lock import reset
from channel_layer_ipc.layer import IPCChannelLayer
from channel_layer_ipc.options import IPCConfigDict

del _lmdb

__all__ = ("IPCBackend", "IPCChannelLayer", "IPCConfigDict", "reset")
