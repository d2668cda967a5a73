"""A node with a bridge and br_netfilter, as scripts for here and the running kernel."""

from __future__ import annotations

from collections.abc import Callable

from pktsim.wire import frame as build
from pktsim.wire.addr import ip_from_text
from tests.kernel.node_cases import NEAR, NO_LIMIT6, piece6, pieces4
from tests.netfilter.case_script import (
    CLIENT,
    CLIENT6,
    PEER_MAC,
    SERVER,
    SERVER6,
    Script,
    datagram,
    put_on_bridge,
    segment,
)
from tests.netfilter.selftest_cases import table
from tests.netfilter.selftest_more_cases import BRIDGE, BRIDGE_MAC, EVERYONE, NEIGHBOUR, OTHER, bridge_script

SCRIPTS: dict[str, Callable[[], Script]] = {}
VIRTUAL = "10.96.0.10"
_NO_HOOKS = {"net.bridge.bridge-nf-call-iptables": "0"}


def case(make: Callable[[], Script]) -> Callable[[], Script]:
    SCRIPTS[make.__name__] = make
    return make


def behind_a_bridge(script: Script) -> None:
    """The client's interface becomes a port of a bridge, which has its addresses; the port gets a MAC of its own."""
    near = script.case["interfaces"][0]
    put_on_bridge(script.case, "bridge0", near["mac"], ("in",))
    near["mac"] = "02:00:00:00:00:03"


def _bridge_reset(name: str, proves: str, chain: str, destination: str) -> Script:
    script = Script(
        name,
        proves,
        table("filter", f"-A {chain} -p tcp -j REJECT --reject-with tcp-reset", "-A OUTPUT -p tcp"),
        sysctls={"net.bridge.bridge-nf-call-iptables": "1"},
    )
    behind_a_bridge(script)
    script.receive(
        "in",
        segment(CLIENT, destination, 1000, 80, "S", 1),
        out=[f"in {destination}:80 > {CLIENT}:1000 tcp R."],
        rules={f"filter/{chain}/1": 1, "filter/OUTPUT/1": 0},
    )
    return script


@case
def reset_for_what_a_bridge_handed_up() -> Script:
    return _bridge_reset(
        "reset-for-what-a-bridge-handed-up",
        "REJECT's answer to a segment that came by a bridge port leaves by that port, and not by way of OUTPUT.",
        "INPUT",
        NEAR,
    )


@case
def reset_for_what_a_bridge_handed_on() -> Script:
    return _bridge_reset(
        "reset-for-what-a-bridge-handed-on",
        "So it does if the segment is being routed.",
        "FORWARD",
        SERVER,
    )


@case
def refusal_of_a_flooded_copy() -> Script:
    script = bridge_script(
        "refusal-of-a-flooded-copy",
        "What REJECT says of one copy of a bridged packet leaves before the next copy is made; all are one flow.",
        "-A FORWARD -m limit --limit 1/hour --limit-burst 1 -j REJECT",
        "-A FORWARD -m connmark --mark 0x1",
        "-A OUTPUT -p icmp -m conntrack --ctstate RELATED -j CONNMARK --set-mark 0x1",
    )
    script.case["interfaces"][1]["hairpin"] = True
    script.receive(
        "in",
        datagram(NEIGHBOUR, OTHER, 1000, 53),
        to="02:00:00:00:99:99",
        out=[f"in * > {NEIGHBOUR} icmp 3/3", f"in {NEIGHBOUR}:1000 > {OTHER}:53 udp"],
        rules={"filter/FORWARD/1": 1, "filter/FORWARD/2": 1, "filter/OUTPUT/1": 1},
        entries=1,
    )
    return script


@case
def refused_copies_of_a_broadcast() -> Script:
    script = bridge_script(
        "refused-copies-of-a-broadcast",
        "Copies of a broadcast that REJECT has taken hold its flow no longer when the bridge's own host has it.",
        "-A FORWARD -p udp -j REJECT",
    )
    script.receive(
        "in",
        datagram(NEIGHBOUR, EVERYONE, 1000, 53),
        to="ff:ff:ff:ff:ff:ff",
        out=[],
        rules={"filter/INPUT/1": 1, "filter/FORWARD/1": 1},
        has="CONFIRMED",
    )
    return script


@case
def frames_to_reserved_addresses() -> Script:
    script = bridge_script(
        "frames-to-reserved-addresses",
        "Of the addresses that are reserved for a link's ends, spanning tree's is flooded as others while that is off, "
        "pause frames go no further, and what is sent to the rest is the port's own, which is a device of the host.",
        "-A INPUT -i in -p udp -j DROP",
        "-A FORWARD -p udp",
    )
    flooded = [f"out {NEIGHBOUR}:1000 > {BRIDGE}:53 udp"]
    for last, out, counted in (
        ("00", flooded, {"filter/INPUT/1": 1, "filter/FORWARD/1": 1}),
        ("01", [], {}),
        ("02", [], {"filter/INPUT/2": 1}),
        ("0e", [], {"filter/INPUT/2": 1}),
    ):
        script.receive("in", datagram(NEIGHBOUR, BRIDGE, 1000, 53), to=f"01:80:c2:00:00:{last}", out=out, rules=counted)
    return script


@case
def bridged_next_hop() -> Script:
    script = bridge_script(
        "bridged-next-hop",
        "To nft's rt, what is bridged is on its way to its own destination, whatever the host's routes are.",
    )
    script.case["nft"] = f"""\
table inet t {{
    chain c {{ type filter hook postrouting priority 0; rt ip nexthop {OTHER} drop; }}
}}
"""
    script.receive("in", datagram(NEIGHBOUR, OTHER, 1000, 53), to=PEER_MAC["out"], out=[])
    answer = datagram(OTHER, NEIGHBOUR, 53, 1000)
    script.receive("out", answer, to=PEER_MAC["in"], out=[f"in {OTHER}:53 > {NEIGHBOUR}:1000 udp"])
    return script


def _short_port(name: str, proves: str, *rules: str, mtu: int = 0) -> Script:
    """A bridge one of whose ports takes 1400 bytes; so does the bridge then, unless it was made with ``mtu``."""
    script = bridge_script(name, proves, *rules)
    bridge, _, port = script.case["interfaces"]
    port["mtu"] = 1400
    if mtu:
        # the short port comes first, so that the bridge's MTU never changes
        bridge["mtu"] = mtu
        script.case["interfaces"][1:] = reversed(script.case["interfaces"][1:])
    return script


def _bridged(script: Script, size: int, pieces: int, *, destination: str = OTHER, dont_fragment: bool = False) -> None:
    """A datagram of ``size`` bytes for the other port, which leaves in so many pieces."""
    packet = _long_datagram(size, destination, dont_fragment)
    script.receive("in", packet, to=PEER_MAC["out"], out=_lines(pieces) if pieces else [])


def _long_datagram(size: int, destination: str = OTHER, dont_fragment: bool = False) -> bytes:
    ends = ip_from_text(NEIGHBOUR), ip_from_text(destination)
    body = build.udp(*ends, 1000, 53, bytes(size - 28))
    return build.ipv4(*ends, build.IPPROTO_UDP, body, dont_fragment=dont_fragment)


def _lines(pieces: int) -> list[str]:
    """What its pieces are at the other port."""
    return [f"out {NEIGHBOUR}:1000 > {OTHER}:53 udp", *[f"out {NEIGHBOUR} > {OTHER} udp"] * (pieces - 1)]


@case
def copy_of_a_bridged_packet() -> Script:
    script = bridge_script(
        "copy-of-a-bridged-packet",
        "TEE's copy of a packet that is being bridged, sent to a host on the same bridge, has br_netfilter's notes: "
        "its way out of the bridge shows it to POSTROUTING once more.",
        f"-A FORWARD -p udp -j TEE --gateway {NEIGHBOUR}",
    )
    script.case["iptables"] += table(
        "mangle", "-A POSTROUTING -m physdev --physdev-out out --physdev-is-bridged", "-A POSTROUTING"
    )
    line = f"{NEIGHBOUR}:1000 > {OTHER}:53 udp"
    script.receive(
        "in",
        datagram(NEIGHBOUR, OTHER, 1000, 53),
        to=PEER_MAC["out"],
        out=[f"in {line}", f"out {line}"],
        # the copy on its way to the bridge, the copy on its way out of it, and the packet
        rules={"filter/FORWARD/1": 1, "mangle/POSTROUTING/1": 3, "mangle/POSTROUTING/2": 3},
    )
    return script


@case
def longer_than_a_bridge_port_takes() -> Script:
    script = _short_port(
        "longer-than-a-bridge-port-takes",
        "A bridge gives a port no frame that is longer than its MTU and a VLAN tag, whether it has DF or not.",
    )
    script.case["sysctls"] |= _NO_HOOKS
    for dont_fragment in (False, True):
        for size, pieces in ((1400, 1), (1404, 1), (1405, 0), (1500, 0)):
            _bridged(script, size, pieces, dont_fragment=dont_fragment)
    return script


@case
def cut_for_a_bridge_port() -> Script:
    script = _short_port(
        "cut-for-a-bridge-port",
        "br_netfilter cuts what is longer than the port's MTU, to the one that the bridge has from its ports; what has "
        "DF is dropped, and nobody is told.",
    )
    for size, pieces in ((1400, 1), (1401, 2), (1500, 2)):
        _bridged(script, size, pieces)
        _bridged(script, size, 1 if pieces == 1 else 0, dont_fragment=True)
    return script


@case
def cut_to_the_mtu_of_a_bridges_route() -> Script:
    script = _short_port(
        "cut-to-the-mtu-of-a-bridges-route",
        "A bridge that was made with the MTU of its ports has a route of 1500 for br_netfilter all the same, which "
        "no packet here is longer than: it stays whole, and too long.",
        mtu=1400,
    )
    for size, pieces in ((1400, 1), (1404, 1), (1405, 0), (1500, 0)):
        _bridged(script, size, pieces)
    _bridged(script, 1404, 0, dont_fragment=True)
    return script


@case
def gathered_for_a_bridge_port() -> Script:
    script = _short_port(
        "gathered-for-a-bridge-port",
        "What was gathered from fragments is cut as it was, if the bridge's route takes the longest: then those that "
        "are too long for the port are lost.",
        mtu=1400,
    )
    _gathered(script, (1480, 208), (False, True))
    _gathered(script, (1360, 1360, 208), (True, True, True))
    return script


@case
def gathered_for_a_bridge_of_short_ports() -> Script:
    script = _short_port(
        "gathered-for-a-bridge-of-short-ports",
        "What was gathered from longer fragments than the bridge's route takes is dropped.",
    )
    _gathered(script, (1480, 208), (False, False))
    _gathered(script, (1376, 208), (True, True))
    return script


def _gathered(script: Script, sizes: tuple[int, ...], leave: tuple[bool, ...]) -> None:
    """A datagram that comes in pieces of these sizes (without IP headers), and which of them leave."""
    pieces = pieces4(_long_datagram(20 + sum(sizes)), sizes)
    out = [line for line, leaves in zip(_lines(len(sizes)), leave, strict=True) if leaves]
    for number, piece in enumerate(pieces, 1):
        script.receive("in", piece, to=PEER_MAC["out"], out=out if number == len(pieces) else [])


@case
def translated_and_cut_for_a_bridge_port() -> Script:
    script = _short_port(
        "translated-and-cut-for-a-bridge-port",
        "What is translated on a bridge has a real route by then, whose MTU is the bridge's own.",
        mtu=1400,
    )
    script.case["iptables"] += table("nat", f"-A PREROUTING -p udp -d {VIRTUAL} -j DNAT --to-destination {OTHER}")
    for size, pieces in ((1400, 1), (1401, 2), (1500, 2)):
        _bridged(script, size, pieces, destination=VIRTUAL)
    return script


@case
def options_on_a_bridge() -> Script:
    script = bridge_script(
        "options-on-a-bridge",
        "br_netfilter reads no IPv4 options: none is found wrong, written into, sent back or left out of later "
        "fragments (it is the bytes that tell); no source route is followed by an error.",
        "-A FORWARD -p udp -j REJECT",
    )
    script.case["sysctls"] |= {"net.ipv4.icmp_ratelimit": "0", "net.ipv4.icmp_msgs_burst": "1000"}
    script.case["interfaces"][2]["mtu"] = 1000
    route = bytes((0x83, 7, 8)) + ip_from_text(OTHER) + b"\1"
    for options in (route, b"\x88\1\0\0", bytes((7, 7, 4)) + bytes(4) + b"\1", b"\x44\x08\5\0" + bytes(4)):
        ends = ip_from_text(NEIGHBOUR), ip_from_text(OTHER)
        for size, pieces in ((8, 1), (1200, 2)):
            packet = build.ipv4(*ends, 99, bytes(size), options=options)
            script.receive("in", packet, to=PEER_MAC["out"], out=[f"out {NEIGHBOUR} > {OTHER} 99"] * pieces)
        packet = build.ipv4(*ends, build.IPPROTO_UDP, build.udp(*ends, 1000, 53, b"data"), options=options)
        script.receive("in", packet, to=PEER_MAC["out"], out=[f"in {BRIDGE} > {NEIGHBOUR} icmp 3/3"])
    return script


@case
def gathered_as_the_first_was_sent() -> Script:
    script = bridge_script(
        "gathered-as-the-first-was-sent",
        "What br_netfilter gathers goes to the MAC address that the fragment with the offset 0 was sent to, be it "
        "another port's or the host's, whichever comes last.",
        "-A FORWARD",
    )
    ends = ip_from_text(NEIGHBOUR), ip_from_text(OTHER)
    packet = build.ipv4(*ends, build.IPPROTO_UDP, build.udp(*ends, 1000, 53, bytes(24)))
    pieces = pieces4(packet, (16, 16))
    bridged = [f"out {NEIGHBOUR}:1000 > {OTHER}:53 udp", f"out {NEIGHBOUR} > {OTHER} udp"]
    routed = [f"{port} {NEIGHBOUR}:1000 > {OTHER}:53 udp" for port in ("out", "in")]
    for order, to, out in (
        ((0, 1), (PEER_MAC["out"], BRIDGE_MAC), bridged),
        ((1, 0), (PEER_MAC["out"], BRIDGE_MAC), bridged),
        ((0, 1), (BRIDGE_MAC, PEER_MAC["out"]), routed),
        ((1, 0), (BRIDGE_MAC, PEER_MAC["out"]), routed),
    ):
        for last, number in enumerate(order):
            script.receive(
                "in", pieces[number], to=to[number], out=out if last else [],
                rules={"filter/FORWARD/1": last},
            )  # fmt: skip
    return script


@case
def refused_without_an_address() -> Script:
    script = bridge_script(
        "refused-without-an-address",
        "Who has no address yet is told by the bridge port with a reset; an ICMP error to nobody stays here.",
        "-A FORWARD -p tcp -j REJECT --reject-with tcp-reset",
        "-A FORWARD -j REJECT",
        "-A INPUT -i lo",
    )
    nobody = "0.0.0.0"
    script.receive(
        "in", segment(nobody, OTHER, 1000, 80, "S", 1), to=PEER_MAC["out"],
        out=[f"in {OTHER}:80 > {nobody}:1000 tcp R."], rules={"filter/INPUT/2": 0},
    )  # fmt: skip
    script.receive("in", datagram(nobody, OTHER, 1000, 53), to=PEER_MAC["out"], out=[], rules={"filter/INPUT/2": 1})
    return script


def _bridge6(name: str, proves: str, rules: str) -> Script:
    """A host with both ports on a bridge of its own, br_netfilter, and these rules."""
    script = Script(
        name,
        proves,
        rules6=rules,
        addresses={"in": ("fd01::1/64",), "out": ()},
        neighbours=(("in", "fd01::9"), ("out", "fd01::a")),
        sysctls={"net.bridge.bridge-nf-call-ip6tables": "1"} | NO_LIMIT6,
    )
    put_on_bridge(script.case, "br0", BRIDGE_MAC, ("in", "out"))
    return script


@case
def longer_than_a_bridge_port_takes6() -> Script:
    script = _bridge6(
        "longer-than-a-bridge-port-takes6",
        "br_netfilter cuts no IPv6 packet that came whole: the sender of one that is too long for the bridge is told.",
        table("filter", "-A FORWARD -p udp"),
    )
    script.case["interfaces"][2]["mtu"] = 1400
    ends = ip_from_text("fd01::9"), ip_from_text("fd01::a")
    for size in (1400, 1401, 1404, 1500):
        packet = build.ipv6(*ends, build.IPPROTO_UDP, build.udp(*ends, 1000, 53, bytes(size - 48)))
        out = ["out fd01::9:1000 > fd01::a:53 udp"] if size == 1400 else ["in fd01::1 > fd01::9 icmp6 2/0"]
        script.receive("in", packet, to=PEER_MAC["out"], out=out, rules={"6:filter/FORWARD/1": 1})
    return script


@case
def headers_that_a_bridge_looks_at6() -> Script:
    script = _bridge6(
        "headers-that-a-bridge-looks-at6",
        "br_netfilter drops a packet whose hop-by-hop options are longer than their header, or that claims a jumbo, "
        "and lets others pass that the host itself would not take: from a group, or with unknown options.",
        table("filter", "-A FORWARD"),
    )
    for source, options, passes in (
        ("ff02::5", "", True),
        ("fd01::9", "050200000100", True),
        ("fd01::9", "c50200000100", True),
        ("fd01::9", "050200000155", False),
        ("fd01::9", "000000000001", False),
        ("fd01::9", "c20400010000", False),
    ):
        ends = ip_from_text(source), ip_from_text("fd01::a")
        body = build.udp(*ends, 1000, 53, bytes(8))
        if options:
            packet = build.ipv6(*ends, 0, bytes((build.IPPROTO_UDP, 0)) + bytes.fromhex(options) + body)
        else:
            packet = build.ipv6(*ends, build.IPPROTO_UDP, body)
        out = [f"out {source}:1000 > fd01::a:53 udp"] if passes else []
        script.receive("in", packet, to=PEER_MAC["out"], out=out, rules={"6:filter/FORWARD/1": int(passes)})
    return script


@case
def translated_on_a_bridge_twice() -> Script:
    script = _bridge6(
        "translated-on-a-bridge-twice",
        "The first packet that is translated on a bridge goes by way of the bridge's own device, which wants it in one "
        "piece; later ones take the MAC address that has been written once, and leave in the fragments they came in.",
        table("nat", "-A PREROUTING -d fd96::a -p udp -j DNAT --to-destination fd01::a"),
    )
    ends = ip_from_text("fd01::9"), ip_from_text("fd96::a")
    packet = build.ipv6(*ends, build.IPPROTO_UDP, build.udp(*ends, 1000, 53, bytes(32)))
    first, later = "out fd01::9:1000 > fd01::a:53 udp", "out fd01::9 > fd01::a udp"
    for out in ([first], [first, later]):
        script.receive("in", piece6(packet, 0, 16, more=True), to=PEER_MAC["out"], out=[])
        script.receive("in", piece6(packet, 16, 40, more=False), to=PEER_MAC["out"], out=out)
    return script


@case
def fragments_lose_df_on_a_bridge() -> Script:
    script = bridge_script(
        "fragments-lose-df-on-a-bridge",
        "Fragments that had DF have it no more when a bridge cuts them again (it is the bytes that tell).",
    )
    script.case["iptables"] += table("nat", f"-A PREROUTING -p udp -d {VIRTUAL} -j DNAT --to-destination {OTHER}")
    ends = ip_from_text(NEIGHBOUR), ip_from_text(VIRTUAL)
    whole = build.ipv4(*ends, build.IPPROTO_UDP, build.udp(*ends, 1000, 53, bytes(32)))
    out = [f"out {NEIGHBOUR}:1000 > {OTHER}:53 udp", f"out {NEIGHBOUR} > {OTHER} udp"]
    for _ in range(2):
        for piece, expected in zip(pieces4(whole, (16, 24), dont_fragment=True), ([], out), strict=True):
            script.receive("in", piece, to=PEER_MAC["out"], out=expected)
    return script


@case
def hops_of_what_a_bridge_has_routed6() -> Script:
    script = Script(
        "hops-of-what-a-bridge-has-routed6",
        "Who sends too short a way by a bridge, to an address that is translated, is told so by the address of the "
        "device that it would have left by; to another, by the bridge's.",
        rules6=table("nat", "-A POSTROUTING -p udp -j SNAT --to-source [fd02::1]:5000")
        + table("mangle", "-A OUTPUT -s fd02::1", "-A OUTPUT -s fd01::1"),
        sysctls={"net.bridge.bridge-nf-call-ip6tables": "1"} | NO_LIMIT6,
    )
    behind_a_bridge(script)
    server, client, near = (ip_from_text(text) for text in (SERVER6, CLIENT6, "fd02::1"))
    asked = build.ipv6(server, client, build.IPPROTO_UDP, build.udp(server, client, 53, 8080, b"data"))
    script.receive("out", asked, out=[f"in fd02::1:5000 > {CLIENT6}:8080 udp"])
    for ends, ports, told in (((client, near), (8080, 5000), "fd02::1"), ((client, server), (9, 9), "fd01::1")):
        packet = build.ipv6(*ends, build.IPPROTO_UDP, build.udp(*ends, *ports, b"data"), hop_limit=1)
        counted = {"6:mangle/OUTPUT/1": int(told == "fd02::1"), "6:mangle/OUTPUT/2": int(told == "fd01::1")}
        script.receive("in", packet, out=[f"in {told} > {CLIENT6} icmp6 3/0"], rules=counted)
    return script


@case
def address_of_what_refuses_on_a_bridge() -> Script:
    script = bridge_script(
        "address-of-what-refuses-on-a-bridge",
        "What a bridge passes on has come in by no device of the host's: a refusal is from the address that the way "
        "to the sender begins with, whatever icmp_errors_use_inbound_ifaddr says.",
        "-A FORWARD -p udp -j REJECT",
        "-A INPUT -p udp -j REJECT",
    )
    bridge = next(one for one in script.case["interfaces"] if one["name"] == "br0")
    bridge["addresses"].append("10.9.0.1/24")
    script.case["neighbours"].append({"interface": "br0", "address": "10.9.0.12", "mac": PEER_MAC["out"]})
    script.case["routes"] = [{"dst": "default", "via": "10.9.0.12", "dev": "br0"}]
    script.case["sysctls"]["net.ipv4.icmp_errors_use_inbound_ifaddr"] = "1"
    far = "203.0.113.5"
    for destination, mac, told in ((OTHER, PEER_MAC["out"], "10.9.0.1"), (BRIDGE, BRIDGE_MAC, BRIDGE)):
        out = [f"{port} {told} > {far} icmp 3/3" for port in ("out", "in")]
        script.receive("in", datagram(far, destination, 1000, 53), to=mac, out=out)
    return script
