"""An IPv6 router, and what it is no more: anycast addresses, groups, forwarding; for here and the running kernel."""

from __future__ import annotations

from collections.abc import Callable

from pktsim.wire import frame as build
from pktsim.wire.addr import ip_from_text, mac_from_text
from tests.kernel.node_cases import NEAR6, NO_LIMIT6
from tests.netfilter.case_script import CLIENT6, PEER_MAC, SERVER6, Script, echo, segment
from tests.netfilter.selftest_cases import table

SCRIPTS: dict[str, Callable[[], Script]] = {}
_COUNTED = table("mangle", "-A PREROUTING", "-A INPUT", "-A FORWARD")
_ROUTERS, _FAR_ROUTERS = "fd01::", "fd02::"
_NO_DELAY = {"net.ipv6.neigh.in.proxy_delay": "0"}


def case(make: Callable[[], Script]) -> Callable[[], Script]:
    SCRIPTS[make.__name__] = make
    return make


def _packet(source: str, destination: str) -> bytes:
    return build.ipv6(ip_from_text(source), ip_from_text(destination), 99, bytes(8))


def _script(name: str, proves: str, rules: str = _COUNTED, **sysctls: str) -> Script:
    settings = {f"net.ipv6.{key.replace('__', '.')}": value for key, value in sysctls.items()}
    return Script(name, proves, rules6=rules, sysctls=settings | NO_LIMIT6 | _NO_DELAY)


@case
def all_routers_of_a_network6() -> Script:
    script = _script(
        "all-routers-of-a-network6",
        "The address of all routers of a network is one of a router's: it is pinged from another of its addresses, is "
        "the source of errors, and opens and resets no connection.",
    )
    for routers in (_ROUTERS, _FAR_ROUTERS):
        script.receive("in", echo(CLIENT6, routers), out=[f"in {NEAR6} > {CLIENT6} icmp6 129/0"])
        script.receive("in", _packet(CLIENT6, routers), out=[f"in {routers} > {CLIENT6} icmp6 4/1"])
        script.dropped("in", segment(CLIENT6, routers, 1000, 80, "S", 1), rules={"6:mangle/INPUT/1": 1})
    script.dropped("in", _packet(_ROUTERS, NEAR6), rules={"6:mangle/INPUT/1": 1})
    return script


@case
def answers_from_an_anycast_address6() -> Script:
    script = _script(
        "answers-from-an-anycast-address6",
        "A router can be told to answer from such an address, and to tell who sends from one what is wrong.",
        anycast_src_echo_reply="1",
        icmp__error_anycast_as_unicast="1",
    )
    script.receive("in", echo(CLIENT6, _ROUTERS), out=[f"in {_ROUTERS} > {CLIENT6} icmp6 129/0"])
    script.receive("out", _packet(SERVER6, _ROUTERS), out=[f"out {_ROUTERS} > {SERVER6} icmp6 4/1"])
    return script


@case
def pings_of_all_routers_that_are_ignored6() -> Script:
    script = _script(
        "pings-of-all-routers-that-are-ignored6",
        "A router can be told not to answer pings to such an address.",
        icmp__echo_ignore_anycast="1",
    )
    script.receive("in", echo(CLIENT6, _ROUTERS), out=[])
    script.receive("in", echo(CLIENT6, NEAR6), out=[f"in {NEAR6} > {CLIENT6} icmp6 129/0"])
    return script


@case
def host_has_no_anycast_address6() -> Script:
    script = _script(
        "host-has-no-anycast-address6",
        "What does not forward has none of them; it knows those of its networks by their form.",
        table(
            "mangle",
            "-A PREROUTING -m addrtype --dst-type ANYCAST",
            "-A PREROUTING -m addrtype --dst-type LOCAL",
            "-A INPUT",
        ),
        conf__all__forwarding="0",
    )
    for address, kinds in ((_ROUTERS, (1, 0, 0)), (NEAR6, (0, 1, 1)), (SERVER6, (0, 0, 0)), ("ff02::1", (0, 0, 1))):
        counted = dict(zip(("6:mangle/PREROUTING/1", "6:mangle/PREROUTING/2", "6:mangle/INPUT/1"), kinds, strict=True))
        to = "33:33:00:00:00:01" if address == "ff02::1" else ""
        script.receive("in", _packet("fd01::9", address), to=to, rules=counted)
    return script


@case
def types_of_a_routers_addresses6() -> Script:
    script = _script(
        "types-of-a-routers-addresses6",
        "To -m addrtype an anycast address is not a local one.",
        table("mangle", "-A PREROUTING -m addrtype --dst-type ANYCAST", "-A PREROUTING -m addrtype --dst-type LOCAL"),
    )
    for address, anycast, local in ((_ROUTERS, 1, 0), (NEAR6, 0, 1), (SERVER6, 0, 0)):
        counted = {"6:mangle/PREROUTING/1": anycast, "6:mangle/PREROUTING/2": local}
        script.receive("in", _packet("fd01::9", address), rules=counted)
    return script


@case
def who_has_an_anycast_address6() -> Script:
    script = _script(
        "who-has-an-anycast-address6",
        "A router says that it has such an address, as one of those that may; of another network it says nothing.",
    )
    for target, answered in ((_ROUTERS, True), (NEAR6, True), (_FAR_ROUTERS, False)):
        last = ip_from_text(target)[13:]
        group = ip_from_text("ff02::1:ff00:0")[:13] + last
        body = ip_from_text(target) + b"\1\1" + mac_from_text(PEER_MAC["in"])
        source = ip_from_text(CLIENT6)
        question = build.ipv6(source, group, 58, build.icmpv6(source, group, 135, 0, 0, body), hop_limit=255)
        out = [f"in {NEAR6} > {CLIENT6} icmp6 136/0"] if answered else []
        script.receive("in", question, to="33:33:" + group[12:].hex(":"), out=out)
    return script


@case
def groups_of_no_use6() -> Script:
    script = _script(
        "groups-of-no-use6",
        "What is for a group of scope 0 or of the interface alone is dropped before the hooks if it comes by a link.",
    )
    for group, hooks, taken in (("ff00::1", 0, 0), ("ff01::1", 0, 0), ("ff02::1", 1, 1), ("ff02::2", 1, 1)):
        counted = {"6:mangle/PREROUTING/1": hooks, "6:mangle/INPUT/1": taken}
        script.receive("in", _packet(CLIENT6, group), to="33:33:00:00:00:01", rules=counted)
    return script


@case
def device_without_ipv6() -> Script:
    script = _script(
        "device-without-ipv6",
        "A device whose IPv6 is switched off takes none, and has lost its addresses and routes.",
        conf__in__disable_ipv6="1",
    )
    script.dropped("in", _packet(CLIENT6, SERVER6), rules={"6:mangle/PREROUTING/1": 0})
    script.receive("out", _packet(SERVER6, NEAR6), out=[f"out fd02::1 > {SERVER6} icmp6 1/0"])
    return script


@case
def forwarding_of_one_interface6() -> Script:
    script = _script(
        "forwarding-of-one-interface6",
        "What comes in by an interface that is forced to forward is, though the host does not.",
        conf__all__forwarding="0",
        conf__in__force_forwarding="1",
    )
    script.receive("in", _packet(CLIENT6, SERVER6), out=[f"out {CLIENT6} > {SERVER6} 99"])
    script.dropped("out", _packet(SERVER6, CLIENT6), rules={"6:mangle/FORWARD/1": 0})
    return script


@case
def link_local_address_of_nobody6() -> Script:
    script = _script(
        "link-local-address-of-nobody6",
        "For a link-local address only routes of the device that it came in by count, be there a default route.",
    )
    script.case["routes"] = [{"dst": "::/0", "via": SERVER6, "dev": "out"}]
    script.receive("in", _packet(CLIENT6, "fe80::77"), out=[f"in {NEAR6} > {CLIENT6} icmp6 1/0"])
    return script


@case
def group_from_no_device6() -> Script:
    script = _script(
        "group-from-no-device6", "What a process sends to a group without saying by what leaves by the first device."
    )
    script.send_local(segment("::1", "ff02::9", 1000, 80, "S", 1), out=["in ::1:1000 > ff02::9:80 tcp S"])
    return script


@case
def hop_limit_of_a_device6() -> Script:
    script = _script(
        "hop-limit-of-a-device6",
        "What a host sends begins with the hop limit of the device that it leaves by, not with that of all.",
        table("mangle", "-A OUTPUT -m hl --hl-eq 33", "-A OUTPUT -m hl --hl-eq 64"),
        conf__all__hop_limit="22",
        conf__in__hop_limit="33",
    )
    listening = {"proto": "udp", "address": "::", "port": 53, "name": "dns"}
    script.case["listeners"] = [listening]
    for interface, peer, rule in (("in", CLIENT6, 1), ("out", SERVER6, 2)):
        near = NEAR6 if interface == "in" else "fd02::1"
        counted = {f"6:mangle/OUTPUT/{number}": int(number == rule) for number in (1, 2)}
        script.receive(interface, segment(peer, near, 1000, 80, "S", 1), rules=counted)
        script.receive(interface, echo(peer, near), rules=counted)
        script.answer("dns", peer, 1000, b"data", rules=counted)
    return script


@case
def sent_to_everybody_and_oneself6() -> Script:
    script = _script(
        "sent-to-everybody-and-oneself6",
        "What a host sends to a group that it is in comes back to it, by way of POSTROUTING once more; what it sends "
        "to :: stays, and so does what is for a group of the interface alone.",
        table("mangle", "-A INPUT -i in", "-A INPUT -i lo", "-A POSTROUTING"),
    )
    for destination, out, counted in (
        ("ff02::1", True, (1, 0, 2)),
        ("ff02::9", True, (0, 0, 1)),
        ("ff01::1", False, (1, 0, 2)),
        ("::", False, (0, 2, 2)),
    ):
        rules = ("6:mangle/INPUT/1", "6:mangle/INPUT/2", "6:mangle/POSTROUTING/1")
        lines = [f"in {NEAR6} > {destination} 99"] if out else []
        script.send_local(_packet(NEAR6, destination), out=lines, rules=dict(zip(rules, counted, strict=True)))
    return script


@case
def forced_to_forward_no_more6() -> Script:
    script = _script(
        "forced-to-forward-no-more6",
        "To switch forwarding off for all ends what interfaces were forced to.",
        conf__in__force_forwarding="1",
        conf__all__forwarding="0",
    )
    script.dropped("in", _packet(CLIENT6, SERVER6), rules={"6:mangle/FORWARD/1": 0})
    return script


@case
def flows_without_labels6() -> Script:
    script = _script(
        "flows-without-labels6",
        "Without auto_flowlabels nothing that a host sends has a flow label.",
        table("mangle", "-A OUTPUT -m u32 --u32 0&0xFFFFF=0", "-A OUTPUT"),
        auto_flowlabels="0",
    )
    for packet in (segment(CLIENT6, NEAR6, 1000, 80, "S", 1), echo(CLIENT6, NEAR6), _packet(CLIENT6, NEAR6)):
        script.receive("in", packet, rules={"6:mangle/OUTPUT/1": 1, "6:mangle/OUTPUT/2": 1})
    return script


@case
def reset_to_a_link6() -> Script:
    script = _script(
        "reset-to-a-link6",
        "A reset to a link-local address leaves by the device that the segment came in by, whatever routes there are.",
    )
    script.case["routes"] = [{"dst": "::/0", "via": SERVER6, "dev": "out"}, {"dst": "fe80::/64", "dev": "in"}]
    script.case["neighbours"].append({"interface": "in", "address": "fe80::9", "mac": PEER_MAC["in"]})
    lines = [f"in {NEAR6}:80 > fe80::9:1000 tcp R."]
    script.receive("in", segment("fe80::9", NEAR6, 1000, 80, "S", 1), out=lines)
    script.receive("out", segment("fe80::9", NEAR6, 1000, 80, "S", 1), out=[lines[0].replace("in", "out", 1)])
    return script


@case
def answers_to_no_address6() -> Script:
    script = _script(
        "answers-to-no-address6",
        "An answer to :: goes where the routes say, with the hop limit of that device; only what a process sends to :: "
        "is for its own host.",
        table("mangle", "-A OUTPUT -m hl --hl-eq 33", "-A OUTPUT -m hl --hl-eq 64"),
        conf__out__hop_limit="33",
    )
    script.case["routes"] = [{"dst": "default", "via": SERVER6, "dev": "out"}]
    for packet, reply in ((segment("::", NEAR6, 1000, 80, "S", 1), "tcp R."), (echo("::", NEAR6), "icmp6 129/0")):
        ports = (":80", ":1000") if "tcp" in reply else ("", "")
        out = [f"out {NEAR6}{ports[0]} > ::{ports[1]} {reply}"]
        script.receive("in", packet, out=out, rules={"6:mangle/OUTPUT/1": 1, "6:mangle/OUTPUT/2": 0})
    return script


@case
def reverse_path_of_what_is_for_a_group6() -> Script:
    script = _script(
        "reverse-path-of-what-is-for-a-group6",
        "-m rpfilter looks the sender up among all routes, whomever the packet is for, and asks then which device it "
        "is; of the host's own addresses it does not.",
        table("raw", "-A PREROUTING -m rpfilter --accept-local", "-A PREROUTING -m rpfilter --loose"),
    )
    script.case["routes"] = [{"dst": "default", "via": SERVER6, "dev": "out"}]
    for interface, source, strict, loose in (
        ("in", CLIENT6, 1, 1),
        ("out", CLIENT6, 0, 1),
        ("out", NEAR6, 1, 0),
        ("in", NEAR6, 1, 0),
        ("in", "2001:db8::9", 0, 1),
        ("out", "2001:db8::9", 1, 1),
    ):
        for destination in ("ff02::1", SERVER6):
            to = "33:33:00:00:00:01" if destination == "ff02::1" else ""
            counted = {"6:raw/PREROUTING/1": strict, "6:raw/PREROUTING/2": loose}
            script.receive(interface, _packet(source, destination), to=to, rules=counted)
    return script


@case
def way_to_a_group6() -> Script:
    script = _script("way-to-a-group6", "nft's fib finds a way to a group of the link by the device that is asked.")
    script.case["routes"] = [{"dst": "default", "via": SERVER6, "dev": "out"}]
    script.case["nft"] = (
        "table ip6 t {\n chain c {\n  type filter hook prerouting priority 5;\n  fib daddr . iif oif missing drop;\n"
        "  iifname out fib daddr oifname != out drop;\n }\n}\n"
    )
    for interface, source in (("in", CLIENT6), ("out", SERVER6)):
        script.receive(interface, _packet(source, "ff02::1"), to="33:33:00:00:00:01", rules={"6:mangle/INPUT/1": 1})
    return script
