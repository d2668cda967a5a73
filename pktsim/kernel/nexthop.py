"""Next hops of a route that has several: ``ip route add … nexthop via A dev eth0 weight 1 nexthop via B …``.

Which of them a flow takes is the engine's business (net/ipv4/fib_semantics.c, ``fib_select_multipath``): its hash is
the kernel's, keyed by net.ipv4.fib_multipath_hash_seed. Where that is 0 the kernel draws a key, and so does the world's
chance here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pktsim.errors import TopologyError, UnsupportedFeature
from pktsim.fidelity import approximated
from pktsim.wire.addr import ip_from_text, ip_to_text

approximated(
    "kernel.route.multipath.source",
    "a socket without an address takes the one of a route's first next hop that is up; Linux asks a hash for that too",
    source="include/net/route.h ip_route_connect, net/ipv4/fib_semantics.c fib_select_path",
)

#: ``rtnh_hops`` is a byte: weight minus one.
HEAVIEST = 256


@dataclass(frozen=True, slots=True)
class NextHop:
    """One of several (``struct fib_nh``). ``device`` is found by the way to the gateway if it is empty."""

    gateway: bytes = b""
    device: str = ""
    weight: int = 1
    onlink: bool = False

    def __str__(self) -> str:
        """As ``ip route`` prints it, but for the line break before it."""
        words = ["nexthop"]
        if self.gateway:
            words += ["via", ip_to_text(self.gateway)]
        if self.device:
            words += ["dev", self.device]
        words += ["weight", str(self.weight)]
        if self.onlink:
            words.append("onlink")
        return " ".join(words)


def parse_next_hops(words: Sequence[str], route: str) -> tuple[NextHop, ...]:
    """Read everything from the first ``nexthop`` on.

    Args:
        words: What follows it, further ``nexthop`` included.
        route: For errors.

    Raises:
        TopologyError: Not next hops.
        UnsupportedFeature: One through another family, or with encapsulation.
    """
    result: list[NextHop] = []
    fields: dict[str, str] = {}
    onlink = False

    def finish() -> None:
        weight = fields.get("weight", "1")
        if not weight.isdigit() or not 1 <= int(weight) <= HEAVIEST:
            raise TopologyError(f"route {route!r}: a weight of {weight} is not in 1..{HEAVIEST}")
        if not {"via", "dev"} & fields.keys():
            raise TopologyError(f"route {route!r}: a next hop has neither via nor dev")
        gateway = ip_from_text(fields["via"]) if "via" in fields else b""
        result.append(NextHop(gateway, fields.get("dev", ""), int(weight), onlink))

    position = 0
    while position < len(words):
        word = words[position]
        if word == "nexthop":
            finish()
            fields, onlink = {}, False
        elif word == "onlink":
            onlink = True
        elif word in ("linkdown", "dead"):
            pass  # printed, never given
        elif word in ("via", "dev", "weight"):
            position += 1
            if position >= len(words):
                raise TopologyError(f"route {route!r}: {word!r} needs a value")
            if words[position] in ("inet6", "inet"):
                raise UnsupportedFeature("next hop of the other family", mend=f"in {route!r}")
            fields[word] = words[position]
        else:
            raise UnsupportedFeature(f"next hop with {word!r}", mend=f"in {route!r}")
        position += 1
    finish()
    return tuple(result)
