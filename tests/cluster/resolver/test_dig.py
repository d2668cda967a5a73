"""dig: its query, its columns, and what it says when nobody answers."""

from __future__ import annotations

from pktsim.cluster.kubedns import wire
from pktsim.cluster.resolver.dig import EXIT_NO_SERVER, DigAnswer, DigOptions, dig, dig_query, format_record
from pktsim.kernel.task import run
from tests.cluster.dns_world import DNS, RESOLV_CONF, dns_world


def test_its_query_is_that_of_the_real_one() -> None:
    # cluster recordings, host-gw/dns-nxdomain
    expected = "aa6f01200001000000000001076e6f7468696e6707636c7573746572056c6f63616c000001000100002904d0000000000000"
    assert dig_query("nothing.cluster.local", wire.Type.A, 0xAA6F).hex() == expected


def answer(options: DigOptions) -> tuple[DigAnswer, list[bytes]]:
    world = dns_world()
    found = run(world.world.clock, dig(world.client.sockets, options, RESOLV_CONF))
    return found, world.datagrams("client")


def test_an_answer_is_printed_in_its_columns() -> None:
    found, sent = answer(DigOptions("web.default.svc.cluster.local", cookie=False, arguments="+nocookie web"))
    assert found.exit == 0
    assert len(sent) == 1
    assert found.text.startswith("\n; <<>> DiG 9.18")
    assert "\n;; flags: qr aa rd; QUERY: 1, ANSWER: 1, AUTHORITY: 0, ADDITIONAL: 1\n" in found.text
    assert "\n;web.default.svc.cluster.local.\tIN\tA\n" in found.text
    assert "\nweb.default.svc.cluster.local. 30 IN\tA\t10.96.10.1\n" in found.text
    assert f"\n;; SERVER: {DNS}#53({DNS}) (UDP)\n" in found.text


def test_with_the_search_list_suffixes_come_first() -> None:
    found, sent = answer(DigOptions("web", search=True))
    assert [wire.unpack(octets).question[0].name for octets in sent] == ["web.default.svc.cluster.local."]
    assert "; COOKIE: " in found.text
    assert "(echoed)" in found.text


def test_over_tcp() -> None:
    found, sent = answer(DigOptions("db.default.svc.cluster.local", tcp=True))
    assert sent == []
    assert "(TCP)" in found.text


def test_nobody_answers() -> None:
    found, sent = answer(DigOptions("web", server="192.0.2.99", tries=2, timeout_s=1))
    assert found.exit == EXIT_NO_SERVER
    assert len(sent) == 2
    assert sent[0] == sent[1]
    assert found.text.startswith(";; communications error to 192.0.2.99#53: timed out\n" * 2)
    assert found.text.endswith(";; no servers could be reached\n\n")


def test_columns_of_long_and_short_names() -> None:
    assert format_record(wire.a_record("a.", 5, b"\1\2\3\4")) == "a.\t\t\t5\tIN\tA\t1.2.3.4"
    long = wire.RR("x" * 40 + ".", 65280, 300, (b"\1\2",))
    assert format_record(long) == "x" * 40 + ". 300 IN TYPE65280 \\# 2 0102"
