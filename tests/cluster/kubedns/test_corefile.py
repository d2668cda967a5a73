"""Corefiles that are read, and what is said of those that are not."""

from __future__ import annotations

import pytest

from pktsim.clock import Clock
from pktsim.cluster.kubedns.corefile import parse_corefile, parse_duration, reverse_zones, split_host_port
from pktsim.cluster.kubedns.plugins import HARMLESS, MODELLED, ORDER
from pktsim.cluster.kubedns.server import DnsServer
from pktsim.errors import ObjectError, UnsupportedFeature
from pktsim.rng import SeededChoices


def serve(text: str) -> DnsServer:
    return DnsServer(parse_corefile(text, "Corefile"), Clock(), SeededChoices())


def test_blocks_zones_ports_and_lines() -> None:
    corefile = parse_corefile(
        "# a comment\n.:53 Example.org:5353, dns://10.0.0.0/16 {\n"
        '  hosts {\n    10.0.0.1 "a b"\n  }\n  log # here too\n}\n'
    )
    (block,) = corefile.blocks
    assert block.zones == (".", "example.org.", "0.10.in-addr.arpa.")
    assert block.ports == (53, 5353, 53)
    assert corefile.ports == (53, 5353)
    hosts, log = block.directives
    assert (hosts.name, hosts.line, log.name, log.args, log.line) == ("hosts", 3, "log", (), 6)
    assert (hosts.body[0].name, hosts.body[0].args, hosts.body[0].line) == ("10.0.0.1", ("a b",), 4)


@pytest.mark.parametrize(
    ("prefix", "zones"),
    [
        ("10.0.0.0/8", ["10.in-addr.arpa."]),
        ("10.4.0.0/15", ["4.10.in-addr.arpa.", "5.10.in-addr.arpa."]),
        ("0.0.0.0/0", ["in-addr.arpa."]),
        ("2001:db8::/32", ["8.b.d.0.1.0.0.2.ip6.arpa."]),
        ("2001:db8::/31", ["8.b.d.0.1.0.0.2.ip6.arpa.", "9.b.d.0.1.0.0.2.ip6.arpa."]),
        ("cluster.local", None),
    ],
)
def test_reverse_zones(prefix: str, zones: list[str] | None) -> None:
    assert reverse_zones(prefix) == zones


@pytest.mark.parametrize(
    ("text", "zones", "port"),
    [
        (".", ["."], None),
        (":53", ["."], 53),
        ("A.b:99", ["a.b."], 99),
        ("2001:db8::/32", ["8.b.d.0.1.0.0.2.ip6.arpa."], None),
    ],
)
def test_zone_and_port(text: str, zones: list[str], port: int | None) -> None:
    assert split_host_port(text) == (zones, port)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("5s", 5 * 10**9),
        ("1h15m30.5s", 4530_500_000_000),
        ("100ms", 10**8),
        ("0", 0),
        ("-2us", -2000),
        ("5", None),
        ("s", None),
    ],
)
def test_durations(text: str, nanoseconds: int | None) -> None:
    assert parse_duration(text) == nanoseconds


REFUSED = {
    "an unknown plugin": (
        ".:53 {\n  cash 30\n}",
        ObjectError,
        "Corefile:2: unknown plugin 'cash' (did you mean 'cache'?)",
    ),
    "a plugin that is not modelled": (
        ".:53 {\n  dnssec\n}",
        UnsupportedFeature,
        "Corefile:2: plugin dnssec is not modelled",
    ),
    "an option of kubernetes": (
        ".:53 {\n  kubernetes cluster.local {\n    pods mostly\n  }\n}",
        ObjectError,
        "Corefile:3: pods: wrong value for pods: mostly",
    ),
    "multicluster": (
        ".:53 {\n  kubernetes cluster.local {\n    multicluster clusterset.local\n  }\n}",
        UnsupportedFeature,
        "Corefile:3: kubernetes option multicluster",
    ),
    "only reverse zones": (
        ".:53 {\n  kubernetes 10.in-addr.arpa\n}",
        ObjectError,
        "Corefile:2: kubernetes: needs a zone",
    ),
    "an import": (".:53 {\n  import more/*\n}", UnsupportedFeature, "Corefile:2: import is not modelled"),
    "a snippet": ("(common) {\n  errors\n}", UnsupportedFeature, "Corefile:1: snippet is not modelled"),
    "an environment variable": (".:{$PORT} {\n}", UnsupportedFeature, "Corefile:1: environment variable"),
    "DNS over TLS": ("tls://.:853 {\n}", UnsupportedFeature, "Corefile:1: transport tls"),
    "forward over TLS": (".:53 {\n  forward . tls://9.9.9.9\n}", UnsupportedFeature, "Corefile:2: forward to tls://"),
    "a zone twice": (".:53 {\n}\n.:53 {\n}", ObjectError, "already defined in line 1"),
    "no end": (".:53 {\n  errors\n", ObjectError, "Corefile:1: the server block is not closed"),
    "nothing": ("# empty\n", ObjectError, "the Corefile has no server block"),
    "a rewrite of EDNS": (
        ".:53 {\n  rewrite edns0 local set 0xffee x\n}",
        UnsupportedFeature,
        "Corefile:2: rewrite edns0",
    ),
    "a template's function": (
        '.:53 {\n  template IN A {\n    answer "{{ printf .Name }} 60 IN A 1.2.3.4"\n  }\n}',
        UnsupportedFeature,
        "Corefile:3: template action",
    ),
    "a TTL": (
        ".:53 {\n  kubernetes cluster.local {\n    ttl 4000\n  }\n}",
        ObjectError,
        "4000 must be between 0 and 3600",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    text, kind, told = REFUSED[what]
    with pytest.raises(kind) as caught:
        serve(text)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_plugin_has_its_place_in_the_order() -> None:
    assert set(MODELLED) | HARMLESS <= set(ORDER)
    assert not set(MODELLED) & HARMLESS
    assert len(set(ORDER)) == len(ORDER)
