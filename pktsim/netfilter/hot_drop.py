"""How an uncommon match says that a packet is too broken to look at; the engine knows the class by its name."""

from __future__ import annotations


class HotDrop(Exception):
    """The packet is too broken to look at; the engine drops it."""
