"""The ledger of ``pktsim fidelity`` is whole: whatever the package has tables of, refuses or approximates is in it."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pktsim
from pktsim import cli, fidelity
from pktsim.cluster import objects
from pktsim.cluster.kubedns import plugins
from pktsim.fidelity_report import REFUSED_AREA, Entry, Status, as_data, ledger, message_template, print_ledger
from pktsim.kernel import sysctl
from pktsim.netfilter import catalogue
from pktsim.netfilter.option import Extension
from pktsim.netfilter.ruleset import Family

PACKAGE = Path(pktsim.__file__).parent


@pytest.fixture(scope="module")
def entries() -> tuple[Entry, ...]:
    return ledger()


def names(entries: tuple[Entry, ...], area: str) -> list[str]:
    return [entry.name.removesuffix(" (IPv4)").removesuffix(" (IPv6)") for entry in entries if entry.area == area]


@pytest.mark.parametrize(
    ("area", "known", "unmodelled"),
    [
        ("match", catalogue.MATCHES, catalogue.UNMODELLED_MATCHES),
        ("target", catalogue.TARGETS, catalogue.UNMODELLED_TARGETS),
    ],
)
def test_every_extension_once(
    entries: tuple[Entry, ...], area: str, known: dict[Family, dict[str, Extension[Any]]], unmodelled: frozenset[str]
) -> None:
    expected = {name for by_name in known.values() for name in by_name} | unmodelled
    assert Counter(names(entries, area)) == Counter(expected)


@pytest.mark.parametrize(
    ("area", "expected"),
    [
        ("kube-dns plugin", set(plugins.ORDER)),
        ("setting", set(sysctl.setting_names())),
        ("kube-proxy mode", {"iptables", "ipvs", "nftables"}),
    ],
)
def test_every_name_once(entries: tuple[Entry, ...], area: str, expected: set[str]) -> None:
    assert Counter(names(entries, area)) == Counter(expected)


def test_every_kind_once(entries: tuple[Entry, ...]) -> None:
    kinds = [name.partition(" ")[0] for name in names(entries, "kind")]
    assert Counter(kinds) == Counter([*objects.KINDS, *objects.HARMLESS_KINDS, *objects.REFUSED_KINDS])


def test_no_entry_twice(entries: tuple[Entry, ...]) -> None:
    assert [found for found, count in Counter(entries).items() if count > 1] == []


def refusals() -> Iterator[tuple[str, ast.expr]]:
    """Every feature that is refused by name: the file, and the expression that names it."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "UnsupportedFeature":
                first = [keyword.value for keyword in node.keywords if keyword.arg == "feature"]
                yield path.stem, (node.args or first)[0]


def test_every_refusal_is_in_it(entries: tuple[Entry, ...]) -> None:
    listed = {entry.name for entry in entries if entry.area == REFUSED_AREA}
    found = [(module, feature) for module, feature in refusals() if isinstance(feature, ast.Constant | ast.JoinedStr)]
    missing = [
        f"{module}: {ast.unparse(feature)}" for module, feature in found if message_template(feature) not in listed
    ]
    assert len(found) > 30
    assert [text for text in missing if text.strip("…")] == []


def test_what_a_refusal_passes_on_is_named_where_it_begins() -> None:
    """A refusal whose name is a variable is a short form; the ledger knows all of them."""
    assert {module for module, feature in refusals() if isinstance(feature, ast.Name)} <= {
        "commands",  # the word of a command line
        "corefile",  # Directive.unsupported
        "lower",  # Builder.refuse
        "nft_lexer",  # TokenStream.refuse
        "nft_lower_expressions",  # ExpressionBuilder.refuse
    }


@pytest.mark.parametrize(
    ("area", "name", "status"),
    [
        ("match", "conntrack", Status.MODELLED),
        ("match", "osf", Status.REFUSED),
        ("target", "DNAT", Status.MODELLED),
        ("nft", "statement queue", Status.REFUSED),
        ("target", "ULOG", Status.REFUSED),
        ("kind", "NetworkPolicy", Status.REFUSED),
        ("kind", "ServiceAccount", Status.HARMLESS),
        ("ingress-nginx annotation", "rewrite-target", Status.MODELLED),
        ("ingress-nginx setting", "proxy-buffering", Status.HARMLESS),
        ("ingress-nginx option", "--tcp-services-configmap", Status.REFUSED),
        ("kube-dns plugin", "cache", Status.MODELLED),
        ("kube-dns plugin", "prometheus", Status.HARMLESS),
        ("kube-dns plugin", "etcd", Status.REFUSED),
        ("kube-proxy mode", "iptables", Status.MODELLED),
        ("setting", "net.ipv4.conf.IF.rp_filter", Status.MODELLED),
        ("setting", "net.ipv4.conf.IF.forwarding", Status.MODELLED),
        ("setting", "net.netfilter.nf_conntrack_tcp_timeout_established", Status.MODELLED),
        ("setting", "net.ipv4.icmp_ratelimit", Status.MODELLED),
        ("setting", "net.ipv4.conf.IF.src_valid_mark", Status.MODELLED),
        ("setting", "net.ipv4.conf.IF.log_martians", Status.APPROXIMATED),
        ("approximation", "kernel.tcp.congestion_control", Status.APPROXIMATED),
    ],
)
def test_status(entries: tuple[Entry, ...], area: str, name: str, status: Status) -> None:
    assert [entry.status for entry in entries if (entry.area, entry.name) == (area, name)] == [status]


def test_every_approximation_says_how_and_where_to_read(entries: tuple[Entry, ...]) -> None:
    found = {entry.name: entry for entry in entries if entry.area == "approximation"}
    declared = {
        node.args[0].value
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "approximated"
        and isinstance(node.args[0], ast.Constant)
    }
    assert found.keys() == declared
    assert all(entry.how and entry.where for entry in found.values())


def test_a_name_is_declared_once(entries: tuple[Entry, ...]) -> None:
    known = fidelity.approximations()[0]
    assert fidelity.approximated(known.name, known.how, source=known.source) == known
    with pytest.raises(ValueError, match="declared twice"):
        fidelity.approximated(known.name, "something else", source=known.source)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"plain"', "plain"),
        ('f"match {name}"', "match …"),
        ('f"jumps nested {depth} deep (at most {MOST})"', "jumps nested … deep (at most …)"),
        ("word", "…"),
    ],
)
def test_message_template(source: str, expected: str) -> None:
    assert message_template(ast.parse(source, mode="eval").body) == expected


def test_printed_ledger_leaves_nothing_out(entries: tuple[Entry, ...], capsys: pytest.CaptureFixture[str]) -> None:
    print_ledger(entries, everything=True)
    printed = " ".join(capsys.readouterr().out.split())
    assert [entry for entry in entries if " ".join(entry.name.split()) not in printed] == []
    assert printed.endswith(f"{sum(entry.status is Status.REFUSED for entry in entries)} refused")


def test_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, entries: tuple[Entry, ...]
) -> None:
    monkeypatch.setattr("sys.argv", ["pktsim", "fidelity", "--json"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 0
    assert json.loads(capsys.readouterr().out) == as_data(entries)
