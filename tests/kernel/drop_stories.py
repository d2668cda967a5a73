"""What leads to each reason to drop a packet: at the bridge, in the network layer, and by rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from pktsim.errors import UnsupportedFeature
from pktsim.netfilter.ipset_text import restore_sets
from pktsim.netfilter.iptables_text import parse_save
from pktsim.netfilter.opcodes import DropReason, LinkKind
from pktsim.netfilter.ruleset import Family
from pktsim.wire import frame as build
from tests.kernel.worlds import HOST_MAC, PEER_MAC, Host, host, ip, known_peer, mac, udp_packet

PEER, FAR = "10.0.0.9", "10.0.1.9"
NAT = "*nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n{}\nCOMMIT\n"
FILTER = "*filter\n:INPUT ACCEPT\n:FORWARD {} [0:0]\n:OUTPUT ACCEPT\n{}\nCOMMIT\n"
MARKED = "*mangle\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j MARK --set-mark 1\nCOMMIT\n"
TRACKED = "-A FORWARD -m conntrack --ctstate NEW"

Story = tuple[str, dict[str, int], Callable[[Host], object]]


def world(rules: str = "") -> Host:
    made = host(forward=True)
    made.link("eth0", "10.0.0.1/24")
    made.link("eth1", "10.0.1.1/24", mac="02:00:00:00:00:02")
    made.link("bare0", mac="02:00:00:00:00:03")
    known_peer(made, "eth0", PEER)
    known_peer(made, "eth1", FAR)
    if rules:
        made.netns.load_ruleset(parse_save(rules, Family.IPV4))
    return made


def through(**fields: Any) -> bytes:
    return udp_packet(PEER, FAR, **fields)


#: For each reason rules, settings, and what leads to it.
STORIES: dict[DropReason, Story] = {}
#: What the trace says in other words, and where that is tested.
ELSEWHERE = {
    DropReason.REJECTED: "test_a_rejected_packet_is_counted_and_the_rule_is_named",
    DropReason.QDISC_DROP: "kernel/test_netem.py test_a_frame_that_its_link_loses_is_a_drop_of_who_sent_it",
    DropReason.XDP: "cluster/loadbalancer/test_balancers.py test_passthrough_without_targets_says_that_it_drops",
}
#: Other ways to the same reasons.
MORE: list[tuple[DropReason, Callable[[Host], object]]] = []


def story(
    reason: DropReason, rules: str = "", **sysctls: int
) -> Callable[[Callable[[Host], object]], Callable[[Host], object]]:
    def keep(act: Callable[[Host], object]) -> Callable[[Host], object]:
        STORIES[reason] = rules, {name.replace("__", "."): value for name, value in sysctls.items()}, act
        return act

    return keep


def to_host(protocol: int, segment: bytes) -> Callable[[Host], object]:
    """A packet for the host itself."""
    return lambda made: given(made, build.ipv4(ip(PEER), ip("10.0.0.1"), protocol, segment))


def to_host6(protocol: int, segment: bytes) -> Callable[[Host], object]:
    """An IPv6 packet for the host itself."""

    def act(made: Host) -> None:
        made.netns.address_add("eth0", "fd00::1/64")
        made.netns.neighbour_add("eth0", "fd00::9", PEER_MAC)
        packet = build.ipv6(ip("fd00::9"), ip("fd00::1"), protocol, segment)
        made.give("eth0", build.ethernet(mac(HOST_MAC), mac(PEER_MAC), 0x86DD, packet))

    return act


def syn(saddr: str, daddr: str) -> bytes:
    return build.tcp(ip(saddr), ip(daddr), 4000, 80, seq=1, flags=build.TcpFlag.SYN)


def given(made: Host, packet: bytes) -> None:
    made.give_ip("eth0", packet)


def several(made: Host, packets: Iterable[bytes]) -> None:
    for packet in packets:
        given(made, packet)


story(DropReason.OTHER_HOST)(lambda made: made.give_ip("eth0", through(), dst="02:00:00:00:99:99"))
story(DropReason.NO_PROTOCOL)(
    lambda made: made.give("eth0", build.ethernet(mac(HOST_MAC), mac(PEER_MAC), 0x1234, b"hi"))
)
story(DropReason.IP_HEADER)(lambda made: given(made, b"\x4f" + through()[1:]))
story(DropReason.IP_CHECKSUM)(lambda made: given(made, through()[:10] + b"\0\0" + through()[12:]))
story(DropReason.RULE, FILTER.format("ACCEPT", "-A FORWARD -p udp -j DROP"))(lambda made: given(made, through()))
story(DropReason.POLICY, FILTER.format("DROP", TRACKED))(lambda made: given(made, through()))
story(DropReason.HOTDROP, FILTER.format("ACCEPT", "-A FORWARD -p udp -m udp --dport 7"))(
    lambda made: given(made, build.ipv4(ip(PEER), ip(FAR), 17, b"\0"))
)
story(DropReason.MARTIAN_SOURCE)(lambda made: given(made, udp_packet("224.0.0.9", FAR)))
story(DropReason.MARTIAN_DESTINATION)(lambda made: given(made, udp_packet(PEER, "0.0.0.0")))
story(DropReason.IP_LOCALNET)(lambda made: given(made, udp_packet(PEER, "127.0.0.1")))
story(DropReason.IP_LOCAL_SOURCE)(lambda made: given(made, udp_packet("10.0.1.1", FAR)))
story(DropReason.RP_FILTER, net__ipv4__conf__eth0__rp_filter=1)(lambda made: given(made, udp_packet("10.0.1.7", FAR)))
story(DropReason.NO_ROUTE)(lambda made: given(made, udp_packet(PEER, "192.0.2.1")))
story(DropReason.NOT_FORWARDING, net__ipv4__ip_forward=0)(lambda made: given(made, through()))
story(DropReason.TTL_EXPIRED)(lambda made: given(made, through(ttl=1)))
story(DropReason.NO_SOCKET)(lambda made: given(made, udp_packet(PEER, "10.0.0.1")))
story(DropReason.MTU)(lambda made: given(made, through(data=b"x" * 1600)))
story(DropReason.NO_QUEUE, FILTER.format("ACCEPT", "-A FORWARD -j NFQUEUE --queue-num 1"))(
    lambda made: given(made, through())
)
story(DropReason.CONNTRACK_TABLE_FULL, FILTER.format("ACCEPT", TRACKED), net__netfilter__nf_conntrack_max=1)(
    lambda made: several(made, (through(sport=sport) for sport in (1, 2, 3)))
)
story(DropReason.NAT, NAT.format("-A PREROUTING -i bare0 -p udp -j REDIRECT --to-ports 5"))(
    lambda made: made.give_ip("bare0", through(), dst="02:00:00:00:00:03")
)
story(DropReason.CONNTRACK_CLASH, NAT.format("-A POSTROUTING -p udp -j SNAT --to-source 10.0.1.1:5000-5000"))(
    lambda made: several(made, (udp_packet(source, FAR) for source in (PEER, "10.0.0.10", "10.0.0.11")))
)


def with_options(options: bytes) -> Callable[[Host], object]:
    packet = build.ipv4(ip(PEER), ip("10.0.0.1"), 17, DATAGRAM, options=options)
    return lambda made: made.give_ip("eth0", packet)


SYN, SYN6 = syn(PEER, "10.0.0.1"), syn("fd00::9", "fd00::1")
DATAGRAM = build.udp(ip(PEER), ip("10.0.0.1"), 4000, 53)
ECHO, ECHO6 = build.icmp(8, 0, 1), build.icmpv6(ip("fd00::9"), ip("fd00::1"), 128, 0, 1)
story(DropReason.TRANSPORT_HEADER)(to_host(6, SYN[:19]))
story(DropReason.IPV6DISABLED, net__ipv6__conf__eth0__disable_ipv6=1)(
    lambda made: made.give(
        "eth0",
        build.ethernet(mac(HOST_MAC), mac(PEER_MAC), 0x86DD, build.ipv6(ip("fd00::9"), ip("fd00::1"), 6, SYN6)),
    )
)
story(DropReason.TRANSPORT_CHECKSUM)(to_host(6, SYN[:-1] + b"\1"))
MORE += [
    (DropReason.NO_SOCKET, to_host(6, SYN)),
    (DropReason.NO_SOCKET, to_host6(6, SYN6)),
    (DropReason.NO_SOCKET, to_host(253, b"what")),
    (DropReason.NO_SOCKET, lambda made: made.give_ip("eth0", syn_to_all())),
    (DropReason.TRANSPORT_HEADER, to_host(6, SYN[:12] + b"\xf0" + SYN[13:])),
    (DropReason.TRANSPORT_HEADER, to_host(17, DATAGRAM[:4] + b"\0\7" + DATAGRAM[6:])),
    (DropReason.TRANSPORT_HEADER, to_host(1, ECHO[:7])),
    (DropReason.TRANSPORT_HEADER, to_host6(58, ECHO6[:7])),
    (DropReason.TRANSPORT_CHECKSUM, to_host(17, DATAGRAM[:6] + b"\1\1" + DATAGRAM[8:])),
    (DropReason.TRANSPORT_CHECKSUM, to_host(1, ECHO[:-1] + b"\2")),
    (DropReason.TRANSPORT_CHECKSUM, to_host6(6, SYN6[:-1] + b"\1")),
    (DropReason.TRANSPORT_CHECKSUM, to_host6(58, ECHO6[:-1] + b"\2")),
    (DropReason.IP_HEADER, to_host6(60, bytes((6, 9)) + bytes(6))),
    (DropReason.IP_HEADER, with_options(b"\x44\x02\x05\x00")),
    (DropReason.IP_HEADER, with_options(b"\x83\x07\x04" + ip("10.0.0.9") + b"\0")),
]


def syn_to_all() -> bytes:
    return build.ipv4(ip(PEER), ip("10.0.0.255"), 6, syn(PEER, "10.0.0.255"))


@story(DropReason.NO_CARRIER)
def _unplugged(made: Host) -> None:
    made.netns.devices.named("eth1").carrier = False
    given(made, through())


@story(DropReason.UNSUPPORTED)
def _not_modelled(made: Host) -> None:
    """Which element makes room for a new one is not known: the caller is told too."""
    restore_sets(made.netns.datapath.context.sets, f"create full hash:ip maxelem 1 forceadd\nadd full {FAR}\n")
    rules = FILTER.format("ACCEPT", "-A FORWARD -j SET --add-set full src")
    made.netns.load_ruleset(parse_save(rules, Family.IPV4))
    with pytest.raises(UnsupportedFeature):
        given(made, through())


@story(DropReason.FRAME_TOO_SHORT)
def _short(made: Host) -> None:
    made.give("eth0", bytes(9))


@story(DropReason.ROUTE_BLACKHOLE)
def _blackhole(made: Host) -> None:
    made.netns.route_add("blackhole 192.0.2.0/24")
    given(made, udp_packet(PEER, "192.0.2.1"))


def _to_a_route_that_refuses(made: Host, kind: str) -> None:
    """The host's own packet is marked when it has its route already, and then routed anew."""
    made.netns.route_add(f"{kind} 10.0.1.0/24 table 100")
    made.netns.rule_add("from all fwmark 1 lookup 100 priority 100")
    made.netns.local_out(udp_packet("10.0.1.1", FAR))


story(DropReason.ROUTE_UNREACHABLE, MARKED)(lambda made: _to_a_route_that_refuses(made, "unreachable"))
story(DropReason.ROUTE_PROHIBIT, MARKED)(lambda made: _to_a_route_that_refuses(made, "prohibit"))


@story(DropReason.LOOP, "*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j TEE --gateway 10.0.1.1\nCOMMIT\n")
def _round_and_round(made: Host) -> None:
    """The copy for the host itself is copied when it has come in, and so on: TEE takes 1 from a TTL of 0, too."""
    given(made, through())


@story(DropReason.FRAGMENT_NEEDED)
def _narrow(made: Host) -> None:
    made.netns.route_add("192.0.2.0/24 via 10.0.1.9 mtu 600")
    given(made, udp_packet(PEER, "192.0.2.1", data=b"x" * 900, dont_fragment=True))


@story(DropReason.FRAGMENT_BAD, FILTER.format("ACCEPT", TRACKED))
def _overlap(made: Host) -> None:
    ends = ip(PEER), ip(FAR)
    for offset, data in ((0, bytes(24)), (16, bytes(24))):
        given(made, build.ipv4(*ends, 17, data, identification=7, more_fragments=True, fragment_offset=offset))


@story(DropReason.NEIGHBOUR_FAILED)
def _nobody(made: Host) -> None:
    given(made, udp_packet(PEER, "10.0.1.77"))
    made.run(10)


@story(DropReason.LINK_DOWN)
def _down(made: Host) -> None:
    made.netns.link_set("eth0", up=False)
    given(made, through())


def bridged(made: Host) -> None:
    made.netns.link_add("br0", LinkKind.BRIDGE, mac="02:00:00:00:00:b0")
    made.netns.link_add("port0", mac="02:00:00:00:00:b1", master="br0")


@story(DropReason.BRIDGE_NO_FORWARD)
def _back(made: Host) -> None:
    bridged(made)
    made.netns.fdb_add("port0", "02:00:00:00:77:77")
    made.give_ip("port0", through(), dst="02:00:00:00:77:77")


@story(DropReason.MAC_INVALID_SOURCE)
def _from_a_group(made: Host) -> None:
    bridged(made)
    made.give_ip("port0", through(), src="01:00:5e:00:00:01")


@story(DropReason.MAC_IEEE_MAC_CONTROL)
def _to_bridges(made: Host) -> None:
    bridged(made)
    made.give_ip("port0", through(), dst="01:80:c2:00:00:01")


story(DropReason.UNICAST_IN_L2_MULTICAST)(lambda made: made.give_ip("eth0", through(), dst="ff:ff:ff:ff:ff:ff"))
story(DropReason.GROUP_NOT_JOINED)(lambda made: given(made, udp_packet(PEER, "239.1.2.3")))
