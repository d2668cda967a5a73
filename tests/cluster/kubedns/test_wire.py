"""Messages and names: what is read is written again, and nothing crashes on nonsense."""

from __future__ import annotations

import dns.message
import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktsim.cluster.kubedns import dnsname, wire

LABELS = st.binary(min_size=1, max_size=20)
NAMES = st.lists(LABELS, max_size=6).map(
    lambda labels: ".".join("".join(dnsname.LABEL_TEXT[octet] for octet in label) for label in labels) + "."
)


@given(NAMES)
def test_a_name_is_what_dnspython_thinks_it_is(name: str) -> None:
    octets = dnsname.to_wire(name)
    assert octets == dns.name.from_text(name).to_wire()
    assert wire.unpack_name(octets, 0) == (name, len(octets))
    assert dnsname.text_length(name) + (name != ".") == len(octets)
    assert len(dnsname.split(name)) == dnsname.count_labels(name) == len(dnsname.wire_labels(name))


@given(NAMES, NAMES)
def test_subdomains_are_what_dnspython_thinks_they_are(parent: str, child: str) -> None:
    for below in (child, child.removesuffix(".") + "." + parent if child != "." and parent != "." else child):
        expected = dns.name.from_text(below).is_subdomain(dns.name.from_text(parent))
        assert dnsname.is_subdomain(parent, below) == expected


@given(st.lists(st.tuples(NAMES, NAMES, st.binary(min_size=4, max_size=4)), max_size=8), st.booleans())
def test_a_message_is_read_as_it_was_written(rows: list[tuple[str, str, bytes]], compress: bool) -> None:
    message = wire.Message(7, wire.QR | wire.AA)
    message.question = [wire.Question("web.default.svc.cluster.local.", wire.Type.A)]
    for owner, target, packed in rows:
        message.answer.append(wire.a_record(owner, 30, packed))
        message.authority.append(wire.RR(owner, wire.Type.NS, 5, (target,)))
        message.additional.append(wire.srv_record(target, 1, 0, 100, 80, owner))
    message.compress = compress
    octets = message.pack()
    assert len(octets) == message.length(compressed=compress)
    again = wire.unpack(octets)
    assert (again.answer, again.authority, again.additional) == (message.answer, message.authority, message.additional)
    assert len(dns.message.from_wire(octets).sections[1]) <= len(message.answer)


@given(st.integers(1, 80), st.sampled_from([512, 600, 1232]))
def test_what_is_cut_fits_and_says_so(count: int, size: int) -> None:
    message = wire.Message(7, wire.QR)
    message.question = [wire.Question("big.example.com.", wire.Type.A)]
    message.answer = [wire.a_record("big.example.com.", 60, bytes((192, 0, 2, number))) for number in range(count)]
    message.additional = [wire.Opt(size)]
    message.truncate(size)
    assert len(message.pack()) <= size
    assert message.truncated == (len(message.answer) < count)
    assert isinstance(message.additional[-1], wire.Opt)


@given(st.binary(max_size=120))
def test_nonsense_is_an_error_or_a_message(octets: bytes) -> None:
    try:
        wire.unpack(octets)
    except wire.WireError:
        return


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("10.96.10.1", "1.10.96.10.in-addr.arpa."),
        ("fd00:10:96::20", dnsname.reverse_name("fd00:10:96::20")),
        ("", "10.96.10.in-addr.arpa."),
        ("", "x.1.10.96.10.in-addr.arpa."),
        ("", "01.10.96.10.in-addr.arpa."),
        ("", "example.com."),
    ],
)
def test_address_of_reverse(address: str, name: str) -> None:
    assert dnsname.address_of_reverse(name) == address
