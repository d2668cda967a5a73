"""Putting IPv6 fragments together: net/ipv6/reassembly.c and net/ipv6/netfilter/nf_conntrack_reasm.c of Linux 6.18.

Connection tracking gathers on its own, before PREROUTING's and OUTPUT's tables, and hands on the whole packet; without
it the host that the packet is for gathers at delivery. The rules of the queues are those of IPv4.
"""

from __future__ import annotations

from typing import Final

from pktsim._fastpath import Packet
from pktsim.kernel.addrconf import is_link_local, is_multicast6
from pktsim.kernel.defragment import Defragmenter, DefragUser, Piece, Queue, Reassembled, ecn_verdict
from pktsim.kernel.exthdr import FRAGMENT_HEADER, skip_headers
from pktsim.kernel.icmp6 import HDR_FIELD, HDR_INCOMP
from pktsim.kernel.transport import IPV6_HEADER
from pktsim.netfilter.opcodes import DropReason
from pktsim.wire.frame import (
    IPPROTO_FRAGMENT,
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV6_EXTENSIONS,
    ipv6_extension_size,
)

_MAX_PAYLOAD: Final = 65535
_MORE: Final = 1
_OFFSET_MASK: Final = 0xFFF8


class ParameterProblem(Exception):
    """The fragment makes no sense, and its sender is to be told: ``code`` says how, ``pointer`` which byte."""

    def __init__(self, code: int, pointer: int) -> None:
        super().__init__(code, pointer)
        self.code = code
        self.pointer = pointer


#: Bytes of what comes first in a packet that must be in its first fragment (RFC 8200 section 4.5).
_HEADERS: Final = {IPPROTO_TCP: 20, IPPROTO_UDP: 8, IPPROTO_ICMPV6: 8}


def headers_incomplete(data: bytes) -> bool:
    """``ipv6frag_thdr_truncated``: a first fragment without the whole transport header."""
    headers = skip_headers(data)
    if headers is None or headers.fragment_offset:
        return False
    return headers.offset + _HEADERS.get(headers.protocol, 1) > len(data)


def find_fragment_header(data: bytes) -> tuple[int, int] | None:
    """``find_prev_fhdr``: where the fragment header is, whole or not, and where its number stands; ``None`` without."""
    kind, at, where = data[6], IPV6_HEADER, 6
    while kind != IPPROTO_FRAGMENT:
        if kind not in IPV6_EXTENSIONS or at + 2 > len(data):
            return None
        size = ipv6_extension_size(kind, data[at + 1])
        kind, where = data[at], at
        at += size
    return (at, where) if at <= len(data) else None


class Defragmenter6(Defragmenter):
    """The IPv6 fragment queues of one namespace; ``setting`` reads ``net.ipv6.NAME`` or ``net.netfilter.NAME``."""

    def add(self, packet: Packet, user: DefragUser, zone: int = 0) -> Reassembled | None:
        """Take one fragment (``nf_ct_frag6_gather``, ``ipv6_frag_rcv``).

        Raises:
            ParameterProblem: At delivery, if the fragment itself makes no sense. Connection tracking leaves it to
                whoever it is for to complain, and hands it on as it is.
        """
        data = packet.data
        self.reason = DropReason.FRAGMENT_BAD
        tracking = user != DefragUser.LOCAL_DELIVER
        as_it_is = Reassembled(packet, data, 0, ())
        found = find_fragment_header(data)
        if tracking and (found is None or not any(data[4:6])):
            return as_it_is
        if found is None:
            return None
        at, _ = found
        whole_header = at + FRAGMENT_HEADER <= len(data)
        if not whole_header and not (tracking and headers_incomplete(data)):
            return None
        offset = int.from_bytes(data[at + 2 : at + 4], "big") & _OFFSET_MASK
        more = bool(data[at + 3] & _MORE)
        end = offset + len(data) - at - FRAGMENT_HEADER
        if headers_incomplete(data):
            if tracking:
                return as_it_is
            raise ParameterProblem(HDR_INCOMP, 0)
        if end > _MAX_PAYLOAD:
            if tracking:
                return None
            raise ParameterProblem(HDR_FIELD, at + 2)
        saddr, daddr = data[8:24], data[24:40]
        narrow = is_multicast6(daddr) or is_link_local(daddr)
        device = packet.in_ifindex.to_bytes(4, "big") if narrow else bytes(4)
        key = (user, zone, data[at + 4 : at + 8] + saddr + daddr + device)
        if more and end & 7:
            if not tracking:
                raise ParameterProblem(HDR_FIELD, 4)
            if key in self._queues:
                self._kill(key)
            return as_it_is
        prefix = "ip6frag" if user == DefragUser.LOCAL_DELIVER else "nf_conntrack_frag6"
        timeout = "ip6frag_time" if user == DefragUser.LOCAL_DELIVER else "nf_conntrack_frag6_timeout"
        queue = self._open(key, user, high=f"{prefix}_high_thresh", timeout=timeout)
        if queue is None:
            return None
        tclass = int.from_bytes(data[:2], "big") >> 4 & 0xFF
        piece = Piece(offset, end, more, data[at + FRAGMENT_HEADER :], data[:at], tclass & 3, len(data))
        return self._finish(key, queue, packet, piece)

    def _survives_contradiction(self, key: tuple[int, int, bytes]) -> bool:
        """``nf_ct_frag6_queue``, unlike ``ip6_frag_queue``."""
        return key[0] != DefragUser.LOCAL_DELIVER

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
        return Reassembled(first, bytes(header) + payload, queue.max_size, sizes, queue.cramped())
