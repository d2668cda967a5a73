"""``-m hashlimit``'s tables: a bucket of credits for each source, destination or port.

A table belongs to a namespace and is shared by all rules that name it; it lives in ``datapath.context`` (see
``netfilter.state``). Source: net/netfilter/xt_hashlimit.c.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pktsim.clock import HZ, NS_PER_JIFFY
from pktsim.netfilter.hot_drop import HotDrop
from pktsim.netfilter.matches.hashlimit import CREDITS_PER_JIFFY, HashlimitMatch, credits
from pktsim.netfilter.option import U64_MAX
from pktsim.wire.frame import ip_addresses

#: Buckets of the hash where no rule says, on a machine with more than a gigabyte.
DEFAULT_SIZE = 8192
#: Protocols that begin with two ports (ESP: with the SPI), AH four bytes further on (``proto_ports_offset``).
_PORTS_AT = {6: 0, 17: 0, 33: 0, 50: 0, 51: 4, 132: 0, 136: 0}


@dataclass(slots=True)
class Bucket:
    """``struct dsthash_ent``: credit as of a jiffy, and when it is forgotten if nothing comes."""

    credit: int
    jiffy: int
    expires: int = 0


@dataclass(slots=True)
class HashlimitTable:
    """One ``--hashlimit-name``, with the settings of the rule that made it."""

    settings: HashlimitMatch
    buckets: dict[tuple[bytes, bytes, bytes, bytes], Bucket] = field(default_factory=dict)

    @property
    def capacity(self) -> int:
        """How many buckets there may be."""
        size = self.settings.size or DEFAULT_SIZE
        return max(self.settings.max_entries, size) if self.settings.max_entries else 8 * size

    def bucket(self, key: tuple[bytes, bytes, bytes, bytes], jiffy: int) -> Bucket:
        """The bucket of a key with the credit that it has now.

        Raises:
            HotDrop: There is none, and no room for one.
        """
        found = self.buckets.get(key)
        if found is not None and jiffy > found.expires:
            # what the collector finds expired is gone; it comes by every second
            del self.buckets[key]
            found = None
        cap = credits(self.settings.average * self.settings.burst)
        if found is None:
            if len(self.buckets) >= self.capacity:
                self.buckets = {key: one for key, one in self.buckets.items() if jiffy <= one.expires}
                if len(self.buckets) >= self.capacity:
                    raise HotDrop
            found = self.buckets[key] = Bucket(cap, jiffy)
        else:
            grown = found.credit + (jiffy - found.jiffy) * CREDITS_PER_JIFFY & U64_MAX
            found.credit = min(grown, cap)
            found.jiffy = jiffy
        found.expires = jiffy + self.settings.expire_ms * HZ // 1000
        return found


class Hashlimit:
    """A rule's ``-m hashlimit``, callable by the engine; its answer has ``!`` in it."""

    __slots__ = ("_match", "table_key")

    def __init__(self, match: HashlimitMatch) -> None:
        self._match = match
        #: The table that the rule uses.
        self.table_key = (match.longest, match.name)

    def prepare(self, context: Any) -> None:
        """``hashlimit_mt_check``: the table exists as soon as a rule names it."""
        context.hashlimits.setdefault(self.table_key, HashlimitTable(self._match))

    def __call__(self, datapath: Any, packet: Any, _hook: int) -> bool:
        """Whether the packet is below the rate, or for ``above``: not."""
        table: HashlimitTable = datapath.context.hashlimits[self.table_key]
        bucket = table.bucket(_key(table.settings, packet), datapath.now_ns // NS_PER_JIFFY)
        cost = credits(table.settings.average)
        enough = bucket.credit >= cost
        if enough:
            bucket.credit -= cost
        return enough != self._match.above


def _masked(address: bytes, length: int) -> bytes:
    bits = 8 * len(address)
    return (int.from_bytes(address, "big") >> bits - length << bits - length).to_bytes(len(address), "big")


def _key(settings: HashlimitMatch, packet: Any) -> tuple[bytes, bytes, bytes, bytes]:
    """``hashlimit_init_dst``: what has no ports has port 0."""
    data: bytes = packet.data
    mode = settings.mode
    v4 = data[0] >> 4 == 4
    src, dst = ip_addresses(data)
    source = _masked(src, settings.src_length) if "srcip" in mode else b""
    destination = _masked(dst, settings.dst_length) if "dstip" in mode else b""
    sport = dport = b"\0\0"
    if mode & {"srcport", "dstport"}:
        at = _PORTS_AT.get(packet.protocol)
        if at is not None:
            offset: int = packet.transport_offset
            if not offset and v4:
                offset = (data[0] & 15) * 4
            ports = data[offset + at : offset + at + 4]
            if not offset or len(ports) < 4:
                raise HotDrop
            sport = ports[:2] if "srcport" in mode else sport
            dport = ports[2:] if "dstport" in mode else dport
    return source, destination, sport, dport
