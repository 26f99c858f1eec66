"""The settings of the study in progress, which its checkpoints carry."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

_settings: ContextVar[Mapping[str, Any]] = ContextVar("settings", default=MappingProxyType({}))


@contextmanager
def study_settings(settings: Mapping[str, Any]) -> Iterator[None]:
    """Let ``settings`` (plain values by option) be those of the study in progress."""
    token = _settings.set(settings)
    try:
        yield
    finally:
        _settings.reset(token)


def current_settings() -> dict[str, Any]:
    """Return the settings of the study in progress; none outside of a study."""
    return dict(_settings.get())


def different_settings(now: Mapping[str, Any], saved: Mapping[str, Any]) -> str:
    """Return which settings differ, for a message; empty if none does."""
    names = sorted(str(k) for k in now.keys() | saved.keys() if now.get(k) != saved.get(k))
    return ", ".join(f"{name}={now.get(name)} (was {saved.get(name)})" for name in names)
