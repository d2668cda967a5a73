"""Whose packets and questions a node takes, and how it answers itself, as scripts for here and the running kernel."""

from __future__ import annotations

from collections.abc import Callable

from pktsim.wire import frame as build
from pktsim.wire.addr import ip_from_text, mac_from_text
from tests.kernel.node_cases import NEAR
from tests.netfilter.case_script import CLIENT, PEER_MAC, SERVER, Script, datagram, segment
from tests.netfilter.selftest_cases import table

SCRIPTS: dict[str, Callable[[], Script]] = {}
_COUNTED = table("mangle", "-A PREROUTING", "-A INPUT", "-A FORWARD")
_NO_DELAY = {"net.ipv4.neigh.in.proxy_delay": "0"}
_FAR, _NOBODY, _EVERYONE = "10.2.0.1", "0.0.0.0", "255.255.255.255"


def case(make: Callable[[], Script]) -> Callable[[], Script]:
    SCRIPTS[make.__name__] = make
    return make


def _packet(source: str, destination: str, ttl: int = 64) -> bytes:
    return build.ipv4(ip_from_text(source), ip_from_text(destination), 99, bytes(8), ttl=ttl)


def _question(sender: str, target: str) -> bytes:
    return build.arp(1, mac_from_text(PEER_MAC["in"]), ip_from_text(sender), bytes(6), ip_from_text(target))


@case
def senders_of_what_goes_back() -> Script:
    script = Script(
        "senders-of-what-goes-back",
        "With redirects on, the sender of what goes back by the way it came is looked up in full: broadcast addresses "
        "and loopback ones are martians, which else only the node's own are.",
        _COUNTED,
        sysctls={"net.ipv4.conf.in.send_redirects": "1", "net.ipv4.conf.in.route_localnet": "1"},
        neighbours=[("in", "10.1.0.10")],
    )
    for source, destination, passes in (
        (CLIENT, "10.1.0.10", 1),
        ("10.1.0.255", "10.1.0.10", 0),
        ("127.0.0.5", "10.1.0.10", 0),
        (NEAR, "10.1.0.10", 0),
        ("10.1.0.255", SERVER, 1),
        ("127.0.0.5", SERVER, 1),
        (NEAR, SERVER, 0),
        (_FAR, "10.1.0.10", 0),
    ):
        script.receive("in", _packet(source, destination), rules={"mangle/FORWARD/1": passes})
    return script


@case
def redirected_to_oneself() -> Script:
    script = Script(
        "redirected-to-oneself",
        "A node that takes packets from its own addresses tells itself of a shorter way, if that address is the "
        "device's.",
        table("mangle", "-A INPUT -i lo"),
        sysctls={"net.ipv4.conf.in.send_redirects": "1", "net.ipv4.conf.in.accept_local": "1"},
        neighbours=[("in", "10.1.0.10")],
    )
    for source, told in ((NEAR, 1), (_FAR, 0)):
        out = [f"in {source} > 10.1.0.10 99"]
        script.receive("in", _packet(source, "10.1.0.10"), out=out, rules={"mangle/INPUT/1": told})
    return script


@case
def questions_of_martians() -> Script:
    script = Script(
        "questions-of-martians",
        "An ARP request is answered if a packet of its sender would be taken: with rp_filter not from an address of "
        "another device, be it the node's own.",
        _COUNTED,
        sysctls={"net.ipv4.conf.in.accept_local": "1", "net.ipv4.conf.in.rp_filter": "1"},
    )
    for sender, answered in ((CLIENT, True), (NEAR, True), (_FAR, False), (SERVER, False), ("10.1.0.255", False)):
        script.receive("in", _question(sender, NEAR), out=[f"in arp 2 {NEAR} > {sender}"] if answered else [])
    return script


@case
def questions_for_no_host() -> Script:
    script = Script(
        "questions-for-no-host",
        "A proxy answers for hosts that it has a route to, not for everyone, nor for nobody.",
        _COUNTED,
        sysctls={"net.ipv4.conf.in.proxy_arp": "1", "net.ipv4.conf.in.proxy_arp_pvlan": "1"} | _NO_DELAY,
        routes=[{"dst": "default", "via": SERVER, "dev": "out"}],
    )
    for target, answered in ((SERVER, True), ("10.9.9.9", True), (_EVERYONE, False), (_NOBODY, False)):
        script.receive("in", _question(CLIENT, target), out=[f"in arp 2 {target} > {CLIENT}"] if answered else [])
    return script


@case
def question_without_a_sender() -> Script:
    script = Script(
        "question-without-a-sender",
        "Who looks for its own address and has none yet is in every network (arp_ignore 2).",
        _COUNTED,
        sysctls={"net.ipv4.conf.in.arp_ignore": "2"},
    )
    for sender, answered in ((_NOBODY, True), (CLIENT, True), ("10.3.0.9", False)):
        script.receive("in", _question(sender, NEAR), out=[f"in arp 2 {NEAR} > {sender}"] if answered else [])
    return script


@case
def forwarding_of_one_interface() -> Script:
    script = Script(
        "forwarding-of-one-interface",
        "To set forwarding for all to what it is leaves an interface that is not to forward as it is.",
        _COUNTED,
        sysctls={"net.ipv4.conf.in.forwarding": "0", "net.ipv4.ip_forward": "1"},
    )
    script.dropped("in", _packet(CLIENT, SERVER), rules={"mangle/FORWARD/1": 0})
    script.receive("out", _packet(SERVER, CLIENT), out=[f"in {SERVER} > {CLIENT} 99"])
    return script


@case
def checksum_of_zeros() -> Script:
    script = Script("checksum-of-zeros", "An echo reply of nothing but zeros has a checksum of zero.", _COUNTED)
    for identifier in (0, 1):
        message = build.icmp(8, 0, identifier, bytes(8))
        packet = build.ipv4(ip_from_text(CLIENT), ip_from_text(NEAR), build.IPPROTO_ICMP, message)
        bad = "" if identifier else "icmp"
        script.receive("in", packet, out=[f"in {NEAR} > {CLIENT} icmp 0/0"], bad_checksums=bad)
    return script


@case
def sent_to_no_address() -> Script:
    script = Script(
        "sent-to-no-address",
        "What a host sends to 0.0.0.0 comes to itself, and it answers from an address that it has, with the checksum "
        "of a segment from 0.0.0.0.",
        table("mangle", "-A INPUT -d 0.0.0.0", f"-A INPUT -s {NEAR}"),
    )
    ends = ip_from_text(NEAR), ip_from_text(_NOBODY)
    script.send_local(
        build.ipv4(*ends, build.IPPROTO_ICMP, build.icmp(8, 0, 1, bytes(8))),
        rules={"mangle/INPUT/1": 1, "mangle/INPUT/2": 2},
    )
    script.send_local(
        segment(CLIENT, _NOBODY, 1000, 80, "S", 1),
        out=[f"in {NEAR}:80 > {CLIENT}:1000 tcp R."],
        bad_checksums="tcp",
    )
    return script


@case
def loopback_address_on_a_link() -> Script:
    script = Script(
        "loopback-address-on-a-link",
        "What is from a loopback address and by DNAT for another host cannot be sent (EINVAL).",
        table("nat", f"-A OUTPUT -p udp -j DNAT --to-destination {SERVER}"),
    )
    ends = ip_from_text("127.0.0.1"), ip_from_text("127.0.0.2")
    script.send_local(build.ipv4(*ends, build.IPPROTO_UDP, build.udp(*ends, 1000, 53, b"data")), out=[])
    return script


@case
def refused_before_routing() -> Script:
    script = Script(
        "refused-before-routing",
        "A refusal before routing is from the address that the way to the sender begins with, whomever the packet was "
        "for, and whatever icmp_errors_use_inbound_ifaddr says; only a reset is from whom it was for.",
        nft="table ip t {\n chain c {\n  type filter hook prerouting priority 0;\n"
        "  meta l4proto tcp reject with tcp reset;\n  reject;\n }\n}\n",
        sysctls={"net.ipv4.icmp_errors_use_inbound_ifaddr": "1", "net.ipv4.icmp_ratelimit": "0"},
    )
    for source, near, interface in ((CLIENT, NEAR, "in"), (SERVER, _FAR, "out")):
        for destination in (NEAR, _FAR, "10.9.9.9", "10.1.0.255"):
            told = f"{interface} {near} > {source} icmp 3/3"
            script.receive("in", datagram(source, destination, 1000, 53), out=[told])
    script.receive("in", datagram(NEAR, _FAR, 1000, 53), out=[])
    script.receive("in", datagram("224.0.0.1", NEAR, 1000, 53), out=[])
    for destination in (NEAR, "10.9.9.9", "10.1.0.255"):
        out = [f"in {destination}:80 > {CLIENT}:1000 tcp R."]
        script.receive("in", segment(CLIENT, destination, 1000, 80, "S", 1), out=out)
    return script


@case
def reverse_path_of_odd_senders() -> Script:
    script = Script(
        "reverse-path-of-odd-senders",
        "-m rpfilter looks 0.0.0.0 up like any other address, but for what is for everybody; what comes back from "
        "oneself is not looked up.",
        table("raw", "-A PREROUTING -m rpfilter", "-A PREROUTING -m rpfilter --loose"),
        nft="table ip t {\n chain c {\n  type filter hook prerouting priority 5;\n  fib saddr . iif oif missing drop;\n"
        " }\n}\n",
        routes=[{"dst": "default", "via": SERVER, "dev": "out"}],
        sysctls={"net.ipv4.conf.all.accept_local": "1"},
    )
    for interface, source, destination, strict, loose in (
        ("out", _NOBODY, SERVER, 1, 1),
        ("in", _NOBODY, SERVER, 0, 1),
        ("in", _NOBODY, "224.0.0.1", 1, 1),
        ("in", _NOBODY, "224.0.1.1", 0, 1),
        ("in", _NOBODY, _EVERYONE, 1, 1),
        ("in", CLIENT, _EVERYONE, 1, 1),
        ("out", CLIENT, _EVERYONE, 0, 1),
        ("in", NEAR, SERVER, 0, 0),
    ):
        counted = {"raw/PREROUTING/1": strict, "raw/PREROUTING/2": loose}
        script.receive(interface, _packet(source, destination), rules=counted)
    return script
