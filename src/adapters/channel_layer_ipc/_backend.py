"""The IPC layer's backend: it opens stores, and keeps the shared store open for as long as it lives itself."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from channel_layer.ports import Capabilities
from channel_layer_ipc._blocking import IPCBlockingStore
from channel_layer_ipc._directory import default_directory
from channel_layer_ipc._environment import EnvironmentReference, open_environment
from channel_layer_ipc._store import IPCStore

if TYPE_CHECKING:
    from pathlib import Path

    from channel_layer.domain.rules import Rules
    from channel_layer.ports import Backend, Clock

__all__ = ("IPCBackend",)

_logger = logging.getLogger("channel_layer")


class IPCBackend:
    """A shared store on this machine, before any event loop.

    It keeps the shared store open, and so what is in it.

    Args:
        rules: the configuration.
        clock: its offset is added to the machine's clock.
        directory: where the files are; None: see `default_directory`.
        memory: bytes of messages and groups at most.
    """

    capabilities: Capabilities = Capabilities(registers_readers=True)
    identities: tuple[str, ...] = ("ipc",)
    connects: bool = True
    """Opening costs little, but leases have to be kept while no loop of this process runs."""

    def __init__(self, rules: Rules, clock: Clock, directory: Path | None, memory: int) -> None:
        self._rules = rules
        self._clock = clock
        self._directory = directory
        self._memory = memory
        self.forked()

    def open(self) -> IPCStore:
        """Make a store for the running event loop; it opens the files with its first command."""
        return IPCStore(self._rules, self._clock, self.acquire_environment)

    def open_blocking(self) -> IPCBlockingStore:
        """Make a store for the threads of this process; it opens the files with its first command."""
        return IPCBlockingStore(self._rules, self._clock, self.acquire_environment)

    def forked(self) -> None:
        """Forget the environment: it is the parent's. See `channel_layer_ipc._environment`."""
        self._lock = threading.Lock()
        self._reference: EnvironmentReference | None = None

    def close(self) -> None:
        """Let go of the shared store; a later command opens it again."""
        with self._lock:
            self._release()

    def acquire_environment(self) -> EnvironmentReference:
        """Return a reference to the environment, for one store, and keep one for as long as this object lives.

        Raises:
            StoreError: it cannot be opened.
        """
        with self._lock:
            if self._reference is None or not self._reference.environment.process_lock.is_current:
                self._release()
                directory = self._directory if self._directory is not None else default_directory()
                self._reference = open_environment(directory, self._rules.prefix, self._memory, self._rules.timeout)
                memory = self._reference.environment.process_lock.shared_store.memory
                if memory != self._memory:
                    _logger.warning(
                        "memory is %d bytes here, but %d in the process that made the shared store: that one counts",
                        self._memory,
                        memory,
                    )
            return EnvironmentReference(self._reference.environment)

    def _release(self) -> None:
        old, self._reference = self._reference, None
        if old is not None:
            old.release()


if TYPE_CHECKING:
    _fits: type[Backend] = IPCBackend
