"""The explanation beside a capture: the right frame says what was done to it, and by which rule."""

from __future__ import annotations

from pktsim.kernel.explain import walk_lines
from pktsim.kernel.network import Network
from pktsim.kernel.sockets import SocketLayer
from pktsim.netfilter.iptables_text import parse_save
from pktsim.netfilter.ruleset import Family
from pktsim.netfilter.trace import TraceReader

RULES = """\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -d 172.30.0.1/32 -p udp -m udp --dport 53 -j DNAT --to-destination 10.1.2.2:5353
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -p udp -m udp --dport 5353 -j ACCEPT
-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT
COMMIT
"""


def world() -> Network:
    network = Network()
    for name in ("client", "node", "server"):
        space = network.add_space(name, sysctls={"net.ipv4.ip_forward": 1} if name == "node" else None)
        assert isinstance(space.sockets, SocketLayer)
    network.add_veth("client", "eth0", "node", "v0")
    network.add_veth("server", "eth0", "node", "v1")
    for space_name, device, address in (
        ("client", "eth0", "10.1.1.2/24"),
        ("node", "v0", "10.1.1.1/24"),
        ("node", "v1", "10.1.2.1/24"),
        ("server", "eth0", "10.1.2.2/24"),
    ):
        network[space_name].address_add(device, address)
    network["client"].route_add("default via 10.1.1.1 dev eth0")
    network["server"].route_add("default via 10.1.2.1 dev eth0")
    network["node"].load_ruleset(parse_save(RULES, Family.IPV4))
    return network


def test_last_frame_of_a_packet_says_what_the_node_did_and_by_which_rule() -> None:
    network = world()
    explainer = network.explain()
    server = network["server"].sockets.udp()
    server.bind("", 5353)
    client = network["client"].sockets.udp()
    client.bind("", 4000)
    client.sendto(b"question", "172.30.0.1", 53)
    network.run(seconds=1)
    server.sendto(b"answer", "10.1.1.2", 4000)
    network.run(seconds=1)
    assert client.pending() == [(b"answer", "172.30.0.1", 53)]
    said = {(frame.where, frame.direction): network.capture.comments(frame) for frame in network.capture}
    assert said["node/v1", "out"] == (
        "node: destination 172.30.0.1:53 -> 10.1.2.2:5353 (connection #1, by nat PREROUTING rule 1); TTL 64 -> 63",
    )
    assert said["node/v0", "out"] == (
        "node: TTL 64 -> 63; source 10.1.2.2:5353 -> 172.30.0.1:53 (connection #1, by nat PREROUTING rule 1)",
    )
    assert said["client/eth0", "out"] == ()
    lines = walk_lines(explainer.visits)
    assert any("-j DNAT --to-destination 10.1.2.2:5353" in line for line in lines)
    assert any("end of chain" in line and "POSTROUTING" in line for line in lines)


def test_dropped_packet_says_so_on_the_frame_that_came_in() -> None:
    network = world()
    network.explain()
    network["client"].sockets.udp().sendto(b"x", "10.1.2.2", 9)
    network.run(seconds=1)
    comments = [network.capture.comments(frame) for frame in network.capture if frame.where == "node/v0"]
    assert ("node: TTL 64 -> 63; dropped: the chain's policy is DROP (filter FORWARD policy)",) in comments


def test_rules_replaced_meanwhile_do_not_change_what_was_said_before() -> None:
    network = world()
    explainer = network.explain()
    network["client"].sockets.udp().sendto(b"x", "10.1.2.2", 9)
    network.run(seconds=0.1)
    node = network["node"]
    node.load_ruleset(parse_save(RULES.replace("FORWARD DROP", "FORWARD ACCEPT").replace("5353", "9"), Family.IPV4))
    network["client"].sockets.udp().sendto(b"x", "10.1.2.2", 9)
    network.run(seconds=0.1)
    text = "\n".join(walk_lines(explainer.visits))
    assert text.index("policy DROP") < text.index("-A FORWARD -p udp -m udp --dport 9 -j ACCEPT")


def test_a_record_of_a_table_that_is_gone_is_still_read() -> None:
    reader = TraceReader(lambda ifindex: f"if{ifindex}", {})
    steps = reader.read(b"".join(value.to_bytes(4, "little") for value in (1, 3, 2, 7, 1, 0)), b"")
    assert steps[0].text == "rule 7 of a table that is gone"
