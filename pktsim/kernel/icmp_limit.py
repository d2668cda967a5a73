"""How many ICMP messages a namespace sends: the limits that both families share (``icmp_global_allow``,
``inet_peer_xrlim_allow``; net/ipv4/icmp.c of Linux 6.18)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pktsim.clock import HZ

if TYPE_CHECKING:
    from pktsim.kernel.netns import Netns

#: The setting of the limit that all messages have together.
GLOBAL_LIMIT: Final = "net.ipv4.icmp_msgs_per_sec"
_XRLIM_BURST_FACTOR: Final = 6
_PEER_QUIET: Final = 60 * HZ


@dataclass(slots=True)
class Peer:
    """``struct inet_peer``: tokens, in jiffies, for messages to one address."""

    rate_tokens: int
    rate_last: int
    n_redirects: int = 0


class IcmpLimits:
    """The limits of one namespace, for all of its addresses together and for each one that it writes to."""

    def __init__(self, netns: Netns) -> None:
        self._netns = netns
        self._peers: dict[bytes, Peer] = {}
        self._global_credit = 0
        self._global_stamp = -HZ

    def peer(self, address: bytes) -> Peer:
        """``inet_getpeer``: a new one has been quiet for a minute."""
        peer = self._peers.get(address)
        if peer is None:
            peer = self._peers[address] = Peer(0, self._netns.wheel.jiffies - _PEER_QUIET)
        return peer

    def global_allow(self) -> bool:
        """``icmp_global_allow``: all limited messages of the namespace together, of either family."""
        if self._global_credit > 0:
            return True
        now = self._netns.wheel.jiffies
        delta = min(now - self._global_stamp, HZ)
        if delta < HZ // 50:
            return False
        increment = self._netns.sysctls.number("net.ipv4.icmp_msgs_per_sec") * delta // HZ
        if not increment:
            return False
        self._global_stamp = now
        self._global_credit = min(
            self._global_credit + increment, self._netns.sysctls.number("net.ipv4.icmp_msgs_burst")
        )
        return True

    def global_consume(self) -> None:
        """``icmp_global_consume``: a random number, so that the counter tells an observer nothing."""
        self._global_credit -= self._netns.choices.below(f"{self._netns.name}/icmp.global_credit", 3)

    def peer_allow(self, address: bytes, timeout: int) -> bool:
        """``inet_peer_xrlim_allow``: one message per ``timeout`` jiffies, six at once."""
        peer = self.peer(address)
        now = self._netns.wheel.jiffies
        tokens = peer.rate_tokens
        if now != peer.rate_last:
            tokens = min(tokens + now - peer.rate_last, _XRLIM_BURST_FACTOR * timeout)
            peer.rate_last = now
        allowed = tokens >= timeout
        peer.rate_tokens = tokens - timeout if allowed else tokens
        return allowed
