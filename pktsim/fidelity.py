"""Where the emulation knows that it differs from the real thing: said once, beside the code that makes it so.

A leaf: imports nothing of ours. :mod:`pktsim.fidelity_report` makes the ledger of it, together with what the package's
own tables say is modelled and what is refused by name. Only what a user could observe belongs here; what is random in
the real system and drawn from :class:`~pktsim.rng.Choices` here is no difference.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Approximation:
    """One known difference.

    Attributes:
        name: Its place, dotted (``kernel.tcp.congestion_control``): the module's room first.
        how: What is done here, and what the real one does.
        source: Where the real behaviour can be read.
    """

    name: str
    how: str
    source: str


_KNOWN: dict[str, Approximation] = {}


def approximated(name: str, how: str, *, source: str) -> Approximation:
    """Declare a difference, at the top of the module that makes it.

    Raises:
        ValueError: Another difference has this name.
    """
    declared = Approximation(name, how, source)
    if _KNOWN.setdefault(name, declared) != declared:
        raise ValueError(f"{name} is declared twice")
    return declared


def approximations() -> tuple[Approximation, ...]:
    """What the modules imported so far have declared, by name."""
    return tuple(_KNOWN[name] for name in sorted(_KNOWN))
