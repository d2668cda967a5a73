"""Names of differentiated services code points (RFC 2474, RFC 2597, RFC 3246), for ``-m dscp`` and ``-j DSCP``."""

from __future__ import annotations

from pktsim.netfilter.option import BadValue, Context

#: Class selectors, assured and expedited forwarding, best effort.
DSCP_CLASSES: dict[str, int] = {
    **{f"CS{selector}": selector << 3 for selector in range(8)},
    "BE": 0,
    **{f"AF{group}{drop}": (group << 3) | (drop << 1) for group in range(1, 5) for drop in range(1, 4)},
    "EF": 0x2E,
}


def read_dscp_class(text: str, _context: Context) -> int:
    """A code point by the name of its class."""
    value = DSCP_CLASSES.get(text.upper())
    if value is None:
        raise BadValue(f"unknown DSCP class {text!r}", f"use one of {', '.join(DSCP_CLASSES)}")
    return value
