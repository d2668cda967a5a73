"""Names in the cluster's zone, as a table: what is asked, by whom, and what comes of it."""

from __future__ import annotations

import pytest

from pktsim.clock import Clock
from pktsim.cluster.kubedns import wire
from pktsim.cluster.kubedns.corefile import parse_corefile
from pktsim.cluster.kubedns.names import InvalidName, RecordRequest, parse_request
from pktsim.cluster.kubedns.plugin import map_order
from pktsim.cluster.kubedns.selector import parse_selector
from pktsim.cluster.kubedns.server import DnsServer, ServerConfig
from pktsim.cluster.loader import load_objects
from pktsim.rng import ScriptedChoices, SeededChoices
from tests.cluster.dns_world import COREFILE, OBJECTS

ZONE = "cluster.local."

PARSED = {
    "cluster.local.": RecordRequest(),
    "svc.cluster.local.": RecordRequest(),
    "default.svc.cluster.local.": RecordRequest("svc", "default"),
    "web.default.svc.cluster.local.": RecordRequest("svc", "default", "web"),
    "a.web.default.svc.cluster.local.": RecordRequest("svc", "default", "web", endpoint="a"),
    "_http._tcp.web.default.svc.cluster.local.": RecordRequest("svc", "default", "web", port="http", protocol="tcp"),
    "http.tcp.web.default.svc.cluster.local.": RecordRequest("svc", "default", "web", port="http", protocol="tcp"),
    "10-1-2-3.default.pod.cluster.local.": RecordRequest("pod", "default", "10-1-2-3"),
    "a.b.c.web.default.svc.cluster.local.": None,
    "web.default.cluster.local.": None,
}


@pytest.mark.parametrize("name", PARSED)
def test_parse_request(name: str) -> None:
    expected = PARSED[name]
    if expected is None:
        with pytest.raises(InvalidName):
            parse_request(name, ZONE)
    else:
        assert parse_request(name, ZONE) == expected


ANSWERED = {
    ("web.default.svc.cluster.local.", "A"): ("NOERROR", 1),
    ("web.default.svc.cluster.local.", "AAAA"): ("NOERROR", 0),
    ("db.default.svc.cluster.local.", "A"): ("NOERROR", 2),
    ("db-0.db.default.svc.cluster.local.", "A"): ("NOERROR", 1),
    ("10-244-1-51.db.default.svc.cluster.local.", "A"): ("NXDOMAIN", 0),
    ("_sql._tcp.db.default.svc.cluster.local.", "SRV"): ("NOERROR", 2),
    ("_sql._udp.db.default.svc.cluster.local.", "SRV"): ("NXDOMAIN", 0),
    ("nope.default.svc.cluster.local.", "A"): ("NXDOMAIN", 0),
    ("web.other.svc.cluster.local.", "A"): ("NXDOMAIN", 0),
    ("default.svc.cluster.local.", "A"): ("NOERROR", 0),
    ("10-1-2-3.default.pod.cluster.local.", "A"): ("NOERROR", 1),
    ("10-1-2-300.default.pod.cluster.local.", "A"): ("NXDOMAIN", 0),
    ("dns-version.cluster.local.", "TXT"): ("NOERROR", 1),
    ("1.10.96.10.in-addr.arpa.", "PTR"): ("NOERROR", 1),
    ("51.1.244.10.in-addr.arpa.", "PTR"): ("NOERROR", 1),
    ("cluster.local.", "SOA"): ("NOERROR", 1),
    ("nope.cluster.local.", "SOA"): ("NOERROR", 0),
}


def server(corefile: str = COREFILE, objects: str = OBJECTS) -> DnsServer:
    made = DnsServer(
        parse_corefile(corefile),
        Clock(),
        SeededChoices(),
        ServerConfig(addresses=("10.244.0.5",), epoch_s=1_700_000_000),
    )
    made.load(load_objects(objects))
    return made


def ask(made: DnsServer, name: str, rrtype: str) -> wire.Message:
    query = wire.Message(1, wire.RD)
    query.question = [wire.Question(name, wire.Type[rrtype])]
    answer = made.answer(query.pack(), source="10.244.1.10")
    assert answer is not None
    return wire.unpack(answer)


@pytest.mark.parametrize(("name", "rrtype"), ANSWERED)
def test_answers(name: str, rrtype: str) -> None:
    rcode, count = ANSWERED[name, rrtype]
    reply = ask(server(), name, rrtype)
    assert (wire.Rcode(reply.rcode).name, len(reply.answer)) == (rcode, count)
    assert len(reply.authority) == (0 if count else 1)
    assert all(record.type == wire.Type.SOA for record in reply.authority)


def test_the_serial_is_when_the_objects_changed() -> None:
    (soa,) = ask(server(), "cluster.local.", "SOA").answer
    numbers = soa.data[2]
    assert isinstance(numbers, bytes)
    assert int.from_bytes(numbers[:4], "big") == 1_700_000_000


@pytest.mark.parametrize(
    ("text", "labels", "chosen"),
    [
        ("expose=yes", {"expose": "yes"}, True),
        ("expose=yes", {}, False),
        ("expose!=yes", {}, True),
        ("tier in (a, b),!old", {"tier": "b"}, True),
        ("tier notin (a,b)", {"tier": "b"}, False),
        ("example.com/tier", {"example.com/tier": ""}, True),
    ],
)
def test_selectors(text: str, labels: dict[str, str], chosen: bool) -> None:
    assert all(one.matches(labels) for one in parse_selector(text)) == chosen


@pytest.mark.parametrize("text", ["", "=x", "a in b", "a=b c"])
def test_what_is_no_selector(text: str) -> None:
    with pytest.raises(ValueError, match="is not a label selector"):
        parse_selector(text)


def test_a_small_map_is_walked_from_any_of_its_eight_slots() -> None:
    walks = [tuple(map_order("ab", ScriptedChoices({"m": [slot]}), "m")) for slot in range(8)]
    assert walks == [("a", "b"), ("b", "a"), *[("a", "b")] * 6]
    many = map_order(range(20), SeededChoices(), "m")
    assert sorted(many) == list(range(20))
    assert list(many) != list(range(20))
