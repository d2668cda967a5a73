"""What is read from a recording to have chance come out as it did."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from pktsim.cluster.commands import parse_command
from pktsim.cluster.comparison_types import Seen
from pktsim.cluster.kubedns.loadbalance import LoadBalance
from pktsim.cluster.kubedns.wire import RR, Message, Question, Rcode, Type, a_record
from pktsim.cluster.recording import Action, Run
from pktsim.cluster.script import (
    address_orders,
    draws_of,
    first_fin_script,
    shuffle_script,
    unshuffled_script,
    with_unused_neighbours,
)
from pktsim.cluster.wiring import Interface, Space, WarmNeighbour, Wiring
from pktsim.kernel.transport import build_ip
from pktsim.rng import ScriptedChoices
from pktsim.wire.addr import ip_from_text, mac_from_text
from pktsim.wire.frame import ETH_P_IP, IPPROTO_UDP, TcpFlag, ethernet, ipv4, tcp

BRIDGE, ONE, TWO = "02:00:00:00:00:08", "02:00:00:00:00:11", "02:00:00:00:00:12"


def shuffled(records: list[RR], script: dict[str, list[int]]) -> list[RR]:
    plugin = LoadBalance(ScriptedChoices(script), "dns/loadbalance", (), None)
    return plugin._shuffled(records)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_order_of_addresses_can_be_had(count: int) -> None:
    given = tuple(bytes([10, 0, 0, number]) for number in range(count))
    for order in permutations(given):
        script = shuffle_script({"dns": [given]}, {"dns": [order]})
        records = [a_record("web.", 5, address) for address in given]
        assert tuple(record.data[0] for record in shuffled(records, script)) == order


def test_unshuffled_leaves_addresses_where_they_are() -> None:
    orders = [tuple(bytes([10, 0, 0, number]) for number in range(count)) for count in (3, 2)]
    script = unshuffled_script({"dns": orders})
    assert script == {"dns/loadbalance/shuffle": [0, 0], "dns/loadbalance/swap": [1]}


def test_orders_of_other_addresses_end_the_script() -> None:
    one, other = (b"aaaa", b"bbbb"), (b"aaaa", b"cccc")
    assert shuffle_script({"dns": [one, one]}, {"dns": [other, one]}) == {}


def frame(source: str, target: str, source_mac: str, target_mac: str, payload: bytes, sport: int = 53) -> bytes:
    segment = sport.to_bytes(2, "big") + b"\x9c\x42" + (8 + len(payload)).to_bytes(2, "big") + b"\0\0" + payload
    packet = build_ip(ip_from_text(source), ip_from_text(target), IPPROTO_UDP, segment, ttl=64)
    return mac_from_text(target_mac) + mac_from_text(source_mac) + b"\x08\0" + packet


def test_orders_are_read_from_answers_with_several_addresses() -> None:
    addresses = [ip_from_text(f"10.244.{node}.2") for node in (2, 1)]
    messages = []
    for rcode, count in ((Rcode.NOERROR, 2), (Rcode.NOERROR, 1), (Rcode.NXDOMAIN, 2)):
        query = Message(id=7)
        query.question = [Question("web.", Type.A)]
        reply = query.reply(rcode)
        reply.answer = [a_record("web.", 5, address) for address in addresses[:count]]
        messages.append(reply.pack())
    frames = [
        Seen(0.0, space, "eth0", direction, frame("10.244.2.3", "10.244.1.2", ONE, TWO, message))
        for message in messages
        for space, direction in (("dns", "out"), ("client", "in"))
    ]
    assert address_orders(frames, ["dns"]) == {"dns": [tuple(addresses)]}


CLIENT, SERVER = ip_from_text("10.244.1.2"), ip_from_text("10.244.2.2")


def exchange(isn: int, first: str, interface: str = "eth0") -> list[Seen]:
    """A connection as its server's interface sees it: SYN, a request's answer, and who says FIN first."""

    def seen(client: bool, flags: TcpFlag, seq: int, data: bytes = b"") -> Seen:
        source, target, sport, dport = (CLIENT, SERVER, 40001, 8080) if client else (SERVER, CLIENT, 8080, 40001)
        packet = ipv4(source, target, 6, tcp(source, target, sport, dport, data, seq=seq, ack=1, flags=flags))
        direction = "in" if client or interface == "lo" else "out"
        return Seen(0.0, "web", interface, direction, ethernet(bytes(6), bytes(6), ETH_P_IP, packet))

    syn = seen(True, TcpFlag.SYN, isn)
    fins = [seen(client, TcpFlag.FIN | TcpFlag.ACK, isn + 1) for client in (first == "client", first != "client")]
    return [syn, syn, seen(False, TcpFlag.ACK, 1, b"HTTP/1.0 200 OK"), *fins]


@pytest.mark.parametrize("interface", ["eth0", "lo"])
def test_who_closes_first_is_told_of_each_connection_though_they_use_one_port(interface: str) -> None:
    frames = exchange(1000, "client", interface) + exchange(70000, "server", interface)
    assert first_fin_script(frames, {"web": 8080}) == {"web/http.first_fin": [1, 0]}
    assert first_fin_script(frames, {"web": 8081}) == {}


def test_a_connection_without_an_answer_has_nobody_to_close_first() -> None:
    assert first_fin_script(exchange(1000, "client")[:2], {"web": 8080}) == {}


@pytest.mark.parametrize(
    ("source", "direction", "used"),
    [
        pytest.param("10.244.1.2", "out", False, id="from a pod on the bridge"),
        pytest.param("10.244.2.2", "out", True, id="from elsewhere, so routed"),
        pytest.param("10.244.1.2", "in", True, id="up to the node"),
    ],
)
def test_translated_packet_on_the_bridge_means_an_unused_entry(source: str, direction: str, used: bool) -> None:
    node = Space("node", "node", interfaces=(Interface("cni0", "bridge", mac=BRIDGE),))
    entries = (WarmNeighbour("node", "10.244.1.2", ONE, "cni0"), WarmNeighbour("node", "10.244.1.3", TWO, "cni0"))
    seen = Seen(0.0, "node", "cni0", direction, frame(source, "10.244.1.3", BRIDGE, TWO, b"x", sport=4000))
    marked = with_unused_neighbours(Wiring((node,), warm_neighbours=entries), [seen])
    assert [entry.used for entry in marked.warm_neighbours] == [True, used]


NODE = ip_from_text("192.168.0.11")


def syn(direction: str, source: bytes, sport: int, target: bytes, dport: int, isn: int) -> Seen:
    packet = ipv4(source, target, 6, tcp(source, target, sport, dport, seq=isn, flags=TcpFlag.SYN))
    return Seen(isn / 1e6, "node-a", "eth0", direction, ethernet(bytes(6), bytes(6), ETH_P_IP, packet))


def action(frames: list[Seen], conntrack: list[str], *runs: Run) -> Action:
    made = Action(Path("nowhere"), "made", warm=True, runs=runs)
    made.__dict__.update(frames=tuple(frames), conntrack={"node-a": tuple(conntrack)})
    return made


def curl(space: str, sport: int, url: str) -> Run:
    line = f"curl --local-port {sport} {url}"
    return Run(space, line, parse_command(line), 0, 0.0, "")


SERVICE = ip_from_text("10.96.1.1")
ENTRY = (
    "ipv4     2 tcp      6 119 TIME_WAIT src=10.244.1.2 dst=10.96.1.1 sport=40001 dport=80 "
    "src=10.244.2.2 dst=192.168.0.11 sport=8080 dport={port} [ASSURED] mark=0 use=1"
)


def test_a_port_that_was_used_again_was_masqueraded_twice() -> None:
    frames = [
        frame
        for isn, port in ((1000, 5275), (2000, 6001))
        for frame in (
            syn("in", CLIENT, 40001, SERVICE, 80, isn),
            syn("out", NODE, port, SERVER, 8080, isn),
        )
    ]
    made = action(frames, [ENTRY.format(port=6001)], *2 * [curl("client", 40001, "http://10.96.1.1/")])
    (drawn,) = draws_of(made)
    assert drawn.masquerade_ports == (5275, 6001)
    assert [(flow.dst, flow.reply_src) for flow in drawn.flows] == [("10.96.1.1", "10.244.2.2")] * 2
    assert made.fixed.masqueraded == {5275, 6001}


def test_a_packet_that_did_not_get_through_tells_its_endpoint_on_the_bridge() -> None:
    frames = [syn("in", CLIENT, 40001, SERVICE, 80, 1000), syn("in", CLIENT, 40001, SERVER, 8080, 1000)]
    (drawn,) = draws_of(action(frames, [], curl("client", 40001, "http://10.96.1.1/")))
    assert [(flow.dst, flow.reply_src) for flow in drawn.flows] == [("10.96.1.1", "10.244.2.2")]


def test_what_a_node_itself_asked_for_is_known_from_its_command() -> None:
    frames = [syn("out", NODE, 5275, SERVER, 8080, 1000)]
    (drawn,) = draws_of(action(frames, [], curl("node-a", 40001, "http://10.96.1.1/")))
    assert [(flow.sport, flow.dst, flow.dport) for flow in drawn.flows] == [(40001, "10.96.1.1", 80)]
    assert drawn.masquerade_ports == (5275,)
