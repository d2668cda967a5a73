"""What leads to each reason to drop a packet in a host: fragments, neighbours, ICMP, tunnels, sockets."""

from __future__ import annotations

from collections.abc import Callable

from pktsim.kernel.arp import ArpPacket
from pktsim.kernel.sockets import SocketLayer
from pktsim.netfilter.opcodes import DropReason
from pktsim.wire import frame as build
from tests.kernel.drop_stories import (
    DATAGRAM,
    FAR,
    FILTER,
    MORE,
    PEER,
    TRACKED,
    given,
    several,
    story,
    through,
    to_host,
)
from tests.kernel.worlds import HOST_MAC, PEER_MAC, Host, ip, mac, reply, request, udp_packet

# ------------------------------------------------------------------------------------------------------------ fragments


def fragment(offset: int, *, number: int = 7, data: bytes = bytes(24)) -> bytes:
    return build.ipv4(
        ip(PEER), ip(FAR), 17, data, identification=number, more_fragments=True, fragment_offset=offset
    )  # fmt: skip


def fragments(*packets: bytes) -> Callable[[Host], object]:
    return lambda made: several(made, packets)


story(DropReason.DUP_FRAG, FILTER.format("ACCEPT", TRACKED))(fragments(fragment(0), fragment(0)))
story(DropReason.FRAG_MEMORY, FILTER.format("ACCEPT", TRACKED), net__ipv4__ipfrag_high_thresh=0)(
    fragments(fragment(0), fragment(0, number=8))
)


@story(DropReason.FRAG_TOO_FAR, FILTER.format("ACCEPT", TRACKED), net__ipv4__ipfrag_max_dist=1)
def _many_between(made: Host) -> None:
    """All that come are counted where they are looked at, and the first queue's count is old then."""
    for number in (7, 8, 8, 8, 7):
        given(made, fragment(24 * number if number == 8 else 0, number=number, data=bytes(24)))


@story(DropReason.FRAG_REASM_TIMEOUT, FILTER.format("ACCEPT", TRACKED))
def _alone(made: Host) -> None:
    """Each of the fragments is told of, not only the first."""
    fragments(fragment(0), fragment(48))(made)
    made.run(40)


# ----------------------------------------------------------------------------------------------------------- neighbours

NOBODY = "10.0.1.77"


@story(DropReason.NEIGH_CREATEFAIL, net__ipv4__neigh__default__gc_thresh3=0)
def _no_room(made: Host) -> None:
    given(made, udp_packet(PEER, NOBODY))


@story(DropReason.NEIGH_QUEUEFULL, net__ipv4__neigh__eth1__unres_qlen_bytes=2000)
def _many_wait(made: Host) -> None:
    for _ in range(4):
        given(made, udp_packet(PEER, NOBODY))


@story(DropReason.QUEUE_PURGE)
def _flushed(made: Host) -> None:
    given(made, udp_packet(PEER, NOBODY))
    made.netns.arp_table.flush()


story(DropReason.ARP_INVALID)(lambda made: made.give_arp("eth0", ArpPacket(9, bytes(6), ip(PEER), bytes(6), ip(PEER))))
story(DropReason.ARP_GRATUITOUS, net__ipv4__conf__eth0__drop_gratuitous_arp=1)(
    lambda made: made.give_arp("eth0", reply(PEER, PEER))
)
MORE.append((DropReason.ARP_INVALID, lambda made: made.give_arp("eth0", request(PEER, "127.0.0.1"))))

OWN6, PEER6 = "fd00::1", "fd00::9"


def discovery(
    kind: int, target: str = OWN6, *, code: int = 0, rest: int = 0, options: bytes = b"", hop_limit: int = 255,
    fragmented: bool = False,
) -> Callable[[Host], object]:  # fmt: skip
    """A message of neighbour discovery, to the host's own address."""

    def act(made: Host) -> None:
        made.netns.address_add("eth0", f"{OWN6}/64")
        ends = ip(PEER6), ip(OWN6)
        message, protocol = build.icmpv6(*ends, kind, code, rest, ip(target) + options), 58
        if fragmented:
            message, protocol = build.ipv6_fragment(58, message, identification=1, offset=0, more=False), 44
        packet = build.ipv6(*ends, protocol, message, hop_limit=hop_limit)
        made.give("eth0", build.ethernet(mac(HOST_MAC), mac(PEER_MAC), 0x86DD, packet))

    return act


SOLICITATION, ADVERTISEMENT, ROUTER_SOLICITATION = 135, 136, 133
story(DropReason.IPV6_NDISC_FRAG)(discovery(SOLICITATION, fragmented=True))
story(DropReason.IPV6_NDISC_HOP_LIMIT)(discovery(SOLICITATION, hop_limit=64))
story(DropReason.IPV6_NDISC_BAD_CODE)(discovery(SOLICITATION, code=1))
story(DropReason.IPV6_NDISC_BAD_OPTIONS)(discovery(SOLICITATION, options=bytes(8)))
story(DropReason.IPV6_NDISC_NS_OTHERHOST)(discovery(SOLICITATION, target="fd00::2"))
story(DropReason.NDISC_INVALID)(discovery(SOLICITATION, target="ff02::1"))
story(DropReason.NDISC_UNSOLICITED)(discovery(ADVERTISEMENT, target="fd00::2", rest=0x40000000))
story(DropReason.NDISC_IGNORED)(discovery(ROUTER_SOLICITATION))
MORE += [
    (DropReason.IPV6_NDISC_BAD_OPTIONS, discovery(ADVERTISEMENT, target="fd00::2", options=bytes(8))),
    (DropReason.NDISC_UNSOLICITED, discovery(ADVERTISEMENT)),
    (DropReason.NDISC_INVALID, discovery(ADVERTISEMENT, target="ff02::1")),
]

# ----------------------------------------------------------------------------------------------------------------- ICMP

story(DropReason.UNHANDLED_PROTO)(to_host(1, build.icmp(99, 0)))
story(DropReason.INVALID_PROTO)(
    lambda made: given(made, build.ipv4(ip(PEER), ip("10.0.0.255"), 1, build.icmp(8, 0, 1, b"all?")))
)
MORE += [
    (DropReason.NO_SOCKET, to_host(1, build.icmp(0, 0, 0x12340001, b"unasked"))),
    (
        DropReason.INVALID_PROTO,
        lambda made: given(made, build.ipv4(ip(PEER), ip("10.0.0.255"), 1, build.icmp(3, 1, 0, through()))),
    ),
]

# -------------------------------------------------------------------------------------------------------------- tunnels

TUNNEL_MAC, INSIDE = "02:00:00:00:0a:01", "02:00:00:00:0a:02"


def tunnel(made: Host, *, known: bool = True) -> None:
    made.netns.vxlan.add("vxlan1", vni=1, local="10.0.0.1", link="eth0", mac=TUNNEL_MAC)
    made.netns.address_add("vxlan1", "10.9.0.1/24")
    if known:
        made.netns.vxlan.fdb_add("vxlan1", INSIDE, PEER)


def wrapped(
    *, vni: int = 1, flags: int = 0x08, source: str = INSIDE, tos: int = 0, cut: int = 0
) -> Callable[[Host], object]:
    """A frame from the tunnel's other end."""

    def act(made: Host) -> None:
        tunnel(made)
        inner = build.ethernet(mac(TUNNEL_MAC), mac(source), 0x0800, udp_packet("10.9.0.2", "10.9.0.1"))
        payload = bytes((flags, 0, 0, 0)) + (vni << 8).to_bytes(4, "big") + inner
        payload = payload[: len(payload) - cut]
        outer = build.udp(ip(PEER), ip("10.0.0.1"), 5, 8472, payload)
        given(made, build.ipv4(ip(PEER), ip("10.0.0.1"), 17, outer, tos=tos))

    return act


story(DropReason.VXLAN_INVALID_HDR)(wrapped(flags=0x88))
story(DropReason.VXLAN_VNI_NOT_FOUND)(wrapped(vni=2))
story(DropReason.LOCAL_MAC)(wrapped(source=TUNNEL_MAC))
story(DropReason.IP_TUNNEL_ECN)(wrapped(tos=3))
MORE.append((DropReason.VXLAN_INVALID_HDR, wrapped(cut=40)))


@story(DropReason.NO_TX_TARGET)
def _to_nobody_knows_where(made: Host) -> None:
    tunnel(made, known=False)
    made.netns.neighbour_add("vxlan1", "10.9.0.2", INSIDE)
    made.netns.local_out(udp_packet("10.9.0.1", "10.9.0.2"))


# -------------------------------------------------------------------------------------------------------------- sockets


@story(DropReason.SOCKET_RCVBUFF)
def _slow_reader(made: Host) -> None:
    socket = made.netns.sockets.udp()
    socket.bind("", 53)
    socket.rcvbuf = 1000
    for _ in range(2):
        to_host(17, DATAGRAM)(made)


def _slow_listener(made: Host) -> None:
    """A raw socket, whose protocol nobody else takes."""
    layer = made.netns.sockets
    assert isinstance(layer, SocketLayer)
    layer.raw(253).rcvbuf = 1
    for _ in range(2):
        to_host(253, b"what")(made)


MORE.append((DropReason.SOCKET_RCVBUFF, _slow_listener))
