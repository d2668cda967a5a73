"""Putting IPv6 fragments together: net/ipv6/reassembly.c and net/ipv6/netfilter/nf_conntrack_reasm.c of Linux 6.18.

Connection tracking gathers on its own, before PREROUTING's and OUTPUT's tables, and hands on the whole packet; without
it the host that the packet is for gathers at delivery. The rules of the queues are those of IPv4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pktsim._fastpath import Packet
from pktsim.kernel.addrconf import is_link_local, is_multicast6
from pktsim.kernel.defragment import Defragmenter, DefragUser, Piece, Queue, Reassembled, ecn_verdict
from pktsim.kernel.exthdr import EXTENSIONS, FRAGMENT, FRAGMENT_HEADER, header_size, skip_headers
from pktsim.kernel.timer_wheel import TimerWheel
from pktsim.kernel.transport import IPV6_HEADER

_MAX_PAYLOAD: Final = 65535
_MORE: Final = 1
_OFFSET_MASK: Final = 0xFFF8


#: Why a parameter is a problem: ``ICMPV6_HDR_FIELD``, ``ICMPV6_HDR_INCOMP`` (RFC 7112 section 5).
HDR_FIELD: Final = 0
HDR_INCOMP: Final = 3
#: TCP, UDP and ICMPv6; of other protocols a byte is enough.
_TRANSPORT_HEADERS: Final = {6: 20, 17: 8, 58: 8}


class ParameterProblem(Exception):
    """The fragment makes no sense, and its sender is to be told: ``code`` why, ``pointer`` which byte."""

    def __init__(self, pointer: int, code: int = HDR_FIELD) -> None:
        super().__init__(pointer)
        self.pointer = pointer
        self.code = code


def find_fragment_header(data: bytes) -> tuple[int, int] | None:
    """``find_prev_fhdr``: where the fragment header is, and where its number stands; ``None`` if there is none."""
    kind, at, where = data[6], IPV6_HEADER, 6
    while kind != FRAGMENT:
        if kind not in EXTENSIONS or at + 2 > len(data):
            return None
        size = header_size(kind, data[at + 1])
        kind, where = data[at], at
        at += size
    return (at, where) if at + FRAGMENT_HEADER <= len(data) else None


def transport_truncated(data: bytes) -> bool:
    """``ipv6frag_thdr_truncated``: a first fragment without its whole transport header (RFC 8200 section 4.5)."""
    skipped = skip_headers(data)
    if skipped is None or skipped.fragment_offset:
        return False
    return skipped.offset + _TRANSPORT_HEADERS.get(skipped.protocol, 1) > len(data)


class Defragmenter6(Defragmenter):
    """The IPv6 fragment queues of one namespace.

    Args:
        wheel: For their time-outs.
        setting: Reads ``net.ipv6.NAME`` or ``net.netfilter.NAME``.
        expired: Told of a queue that timed out and whose first fragment is there.
    """

    def __init__(
        self, wheel: TimerWheel, setting: Callable[[str], int], expired: Callable[[Packet, DefragUser], None]
    ) -> None:
        super().__init__(wheel, setting, expired)

    def add(self, packet: Packet, user: DefragUser, zone: int = 0) -> Reassembled | None:
        """Take one fragment (``nf_ct_frag6_gather``, ``ipv6_frag_rcv``).

        Raises:
            ParameterProblem: At delivery, if the fragment itself makes no sense.
        """
        data = packet.data
        found = find_fragment_header(data)
        if found is None:
            return None
        at, _ = found
        if transport_truncated(data):
            raise ParameterProblem(0, HDR_INCOMP)
        offset = int.from_bytes(data[at + 2 : at + 4], "big") & _OFFSET_MASK
        more = bool(data[at + 3] & _MORE)
        end = offset + len(data) - at - FRAGMENT_HEADER
        if end > _MAX_PAYLOAD:
            raise ParameterProblem(at + 2)
        if more and end & 7:
            raise ParameterProblem(4)
        saddr, daddr = data[8:24], data[24:40]
        narrow = is_multicast6(daddr) or is_link_local(daddr)
        device = packet.in_ifindex.to_bytes(4, "big") if narrow else bytes(4)
        key = (user, zone, data[at + 4 : at + 8] + saddr + daddr + device)
        prefix = "ip6frag" if user == DefragUser.LOCAL_DELIVER else "nf_conntrack_frag6"
        timeout = "ip6frag_time" if user == DefragUser.LOCAL_DELIVER else "nf_conntrack_frag6_timeout"
        queue = self._open(key, user, high=f"{prefix}_high_thresh", timeout=timeout)
        if queue is None:
            return None
        tclass = int.from_bytes(data[:2], "big") >> 4 & 0xFF
        piece = Piece(offset, end, more, data[at + FRAGMENT_HEADER :], data[:at], tclass & 3, len(data))
        return self._finish(key, queue, packet, piece)

    @staticmethod
    def _put_together(queue: Queue) -> Reassembled | None:
        """``ip6_frag_reasm``: under the first fragment's headers, without the fragment header."""
        ecn = ecn_verdict(queue.ecn)
        first = queue.first
        assert first is not None
        data = first.data
        found = find_fragment_header(data)
        payload_length = len(queue.header) - IPV6_HEADER + queue.length
        if ecn is None or found is None or payload_length > _MAX_PAYLOAD:
            return None
        at, where = found
        header = bytearray(data[:at])
        header[where] = data[at]
        header[1] |= ecn << 4
        header[4:6] = payload_length.to_bytes(2, "big")
        payload = b"".join(fragment.payload for fragment in queue.fragments)
        sizes = tuple(len(fragment.payload) for fragment in queue.fragments)
        return Reassembled(bytes(header) + payload, queue.max_size, sizes)
