"""Hypothesis profiles for the state machines and strategies: how many examples, and which, on which machine.

None has a deadline: how long an example takes depends on who else uses the machine.
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import HealthCheck, settings

__all__ = ("PROFILES", "VARIABLE", "load_profile", "machine_settings", "register_profiles")

VARIABLE: Final = "CHANNEL_LAYER_HYPOTHESIS_PROFILE"
"""Names the profile, in the environment."""

PROFILES: Final = ("dev", "ci", "nightly")
"""``dev``: 50 examples. ``ci``: always the same ones, and how to repeat a failure. ``nightly``: 2 000, others each
time."""


def register_profiles() -> None:
    """Make the `PROFILES` known to Hypothesis. Doing it twice is harmless."""
    slow = [HealthCheck.too_slow]
    # Hypothesis itself takes the same examples each time where CI is set: what is to be random has to say so.
    settings.register_profile("dev", deadline=None, max_examples=50, derandomize=False)
    settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True, suppress_health_check=slow)
    settings.register_profile(
        "nightly", deadline=None, max_examples=2_000, derandomize=False, print_blob=True, suppress_health_check=slow
    )


def load_profile() -> str:
    """Register the profiles and use the one that the environment asks for.

    That is the one named by ``CHANNEL_LAYER_HYPOTHESIS_PROFILE``, else ``ci`` where ``CI`` is set, else ``dev``.

    Returns:
        Its name.

    Raises:
        ValueError: there is no profile of that name; the text names all.
    """
    name = os.environ.get(VARIABLE) or ("ci" if os.environ.get("CI") else "dev")
    if name not in PROFILES:
        raise ValueError(f"{VARIABLE}={name}: there is no such profile; name one of {', '.join(PROFILES)}")
    register_profiles()
    settings.load_profile(name)
    return name


def machine_settings(steps: int) -> settings:
    """Return the settings of the current profile for a state machine: slow examples are none too slow.

    Args:
        steps: of an example.
    """
    current = settings()
    checks = {*current.suppress_health_check, HealthCheck.too_slow}
    return settings(current, stateful_step_count=steps, deadline=None, suppress_health_check=tuple(checks))
