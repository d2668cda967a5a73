"""A node with a bridge and br_netfilter, as scripts for here and the running kernel."""

from __future__ import annotations

from collections.abc import Callable

from tests.kernel.node_cases import NEAR
from tests.netfilter.case_script import CLIENT, PEER_MAC, SERVER, Script, datagram, segment
from tests.netfilter.selftest_cases import table
from tests.netfilter.selftest_more_cases import BRIDGE, EVERYONE, NEIGHBOUR, OTHER, bridge_script

SCRIPTS: dict[str, Callable[[], Script]] = {}


def case(make: Callable[[], Script]) -> Callable[[], Script]:
    SCRIPTS[make.__name__] = make
    return make


def behind_a_bridge(script: Script) -> None:
    """The client's interface becomes a port of a bridge, which has its address."""
    near, far = script.case["interfaces"]
    bridge = {"name": "bridge0", "kind": "bridge", "mac": near["mac"], "addresses": near["addresses"]}
    script.case["interfaces"] = [bridge, {"name": "in", "mac": "02:00:00:00:00:03", "master": "bridge0"}, far]
    for neighbour in script.case["neighbours"]:
        neighbour["interface"] = neighbour["interface"].replace("in", "bridge0")


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
