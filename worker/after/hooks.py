"""
Which functions there are: those of one extension for one event are a hook.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ferry.extension import EVENTS, Event, Extension


@dataclass(frozen=True, slots=True)
class Hook:
    """
    The functions of one extension for one event, which are called one after the other.

    Attributes:
        extension: The extension's name.
        event: What has happened.
    """

    extension: str
    event: Event

    @property
    def entry(self) -> str:
        """
        The name of its entry in the ledger. No remote can be called so.
        """
        return f"@{self.extension}.{self.event}"

    def __str__(self) -> str:
        return f"extension {self.extension}, after_{self.event}"


def hooks_of(extensions: Sequence[Extension]) -> tuple[Hook, ...]:
    """
    Return the hooks of *extensions*, in their order.
    """
    return tuple(
        Hook(extension.name, event)
        for extension in extensions
        for event in EVENTS
        if extension.hooks.after.get(event)
    )
