"""``CHECKSUM_PARTIAL``: the transport checksum of a local packet that no device has finished yet.

A socket sums the pseudo header only and leaves the rest to the device that the packet leaves by
(include/linux/skbuff.h). Until then that sum is what lies in the packet: an ICMP error made on the way out quotes it,
and ``lo``, which never finishes it, shows it. It follows the addresses when NAT changes them, but neither ports nor
data. Here packets carry finished checksums all along; this module says what would be seen instead.
"""

from __future__ import annotations

from typing import Final

from pktsim.kernel.transport import IPV6_HEADER
from pktsim.wire.checksum import pseudo_header_sum
from pktsim.wire.frame import IPPROTO_TCP, IPPROTO_UDP

_TCP_CHECKSUM: Final = 16
_UDP_CHECKSUM: Final = 6


def with_partial_checksum(packet: bytes) -> bytes:
    """Return a packet as its sender left it, addresses translated since.

    Who leaves the sum to the device says so when sending (``checksum_partial``): TCP always (``tcp_v4_send_check``),
    but for IPv4's answers of no socket, which are summed when they are made (``ip_send_unicast_reply``); UDP if the
    device can sum, which here only ``lo`` can (``__ip_append_data``); REJECT's resets over IPv4
    (``nf_reject_ip_tcphdr_put``).

    Args:
        packet: From its IP header on, its transport checksum finished.
    """
    if packet[0] >> 4 == 4:
        at = (packet[0] & 15) * 4
        protocol, saddr, daddr = packet[9], packet[12:16], packet[16:20]
        end = int.from_bytes(packet[2:4], "big")
        if int.from_bytes(packet[6:8], "big") & 0x3FFF:
            return packet  # cut, so finished before (__ip_append_data, ip_do_fragment)
    else:
        at = IPV6_HEADER
        protocol, saddr, daddr = packet[6], packet[8:24], packet[24:40]
        end = IPV6_HEADER + int.from_bytes(packet[4:6], "big")
    if protocol == IPPROTO_TCP and end >= at + 20:
        field = at + _TCP_CHECKSUM
    elif protocol == IPPROTO_UDP and end >= at + 8 and packet[at + 6 : at + 8] != b"\0\0":
        field = at + _UDP_CHECKSUM
    else:
        return packet
    partial = pseudo_header_sum(saddr, daddr, protocol, end - at)
    return packet[:field] + partial.to_bytes(2, "big") + packet[field + 2 :]
