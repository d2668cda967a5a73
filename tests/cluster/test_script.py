"""What is read from a recording to have chance come out as it did."""

from __future__ import annotations

from itertools import permutations

import pytest

from pktsim.cluster.comparison_types import Seen
from pktsim.cluster.kubedns.loadbalance import LoadBalance
from pktsim.cluster.kubedns.wire import RR, Message, Question, Rcode, Type, a_record
from pktsim.cluster.script import address_orders, shuffle_script, unshuffled_script, with_unused_neighbours
from pktsim.cluster.wiring import Interface, Space, WarmNeighbour, Wiring
from pktsim.kernel.transport import IPPROTO_UDP, build_ip
from pktsim.rng import ScriptedChoices
from pktsim.wire.addr import ip_from_text, mac_from_text

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
