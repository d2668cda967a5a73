"""``conntrack -L`` and ``-L -o extended`` of the same flows: the real tool's text is ours, of every protocol."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence

import pytest

from pktsim.kernel.case import CaseRun
from pktsim.netfilter.conntrack import ConntrackTable, list_text
from pktsim.wire import frame as build
from pktsim.wire.addr import ip_from_text
from pktsim.wire.checksum import transport_checksum
from pktsim.wire.frame import TcpFlag
from tests import tools
from tests.live.kernel_case import Workbench
from tests.netfilter.case_script import CLIENT, CLIENT6, SERVER, SERVER6, Script, crc32c, echo
from tests.netfilter.selftest_cases import table

pytestmark = pytest.mark.slow

#: What has no answer, what has one, and what comes late: protocols by name.
PROTOCOLS = ("tcp", "udp", "udplite", "sctp", "gre", "gre-key", "icmp", "ipip", "esp")
_NUMBERS = {"tcp": 6, "udp": 17, "udplite": 136, "sctp": 132, "gre": 47, "gre-key": 47, "ipip": 4, "esp": 50}


@pytest.fixture(scope="module")
def bench(_live_machine: None) -> Iterator[Workbench]:
    tools.need("conntrack")
    with Workbench() as made:
        yield made


def packet(source: str, destination: str, protocol: str, *, answer: bool) -> bytes:
    """The first packet of a flow, or an answer to it."""
    if protocol == "icmp":
        return echo(source, destination, reply=answer)
    ends = ip_from_text(source), ip_from_text(destination)
    sport, dport = (80, 1000) if answer else (1000, 80)
    number = _NUMBERS[protocol]
    if protocol == "tcp":
        flags = TcpFlag.SYN | (TcpFlag.ACK if answer else 0)
        payload = build.tcp(*ends, sport, dport, seq=100 if answer else 1, ack=2 if answer else 0, flags=flags)
    elif protocol == "udp":
        payload = build.udp(*ends, sport, dport, b"data")
    elif protocol == "udplite":
        # covered as a whole, with UDP's pseudo-header, which is what connection tracking looks for
        head = struct.pack("!HHHH", sport, dport, 0, 0) + b"data"
        payload = head[:6] + transport_checksum(*ends, 17, head).to_bytes(2, "big") + head[8:]
    elif protocol == "sctp":
        head = struct.pack("!HHI", sport, dport, 7 if answer else 0)
        chunk = struct.pack("!BBHIIHHI", 2 if answer else 1, 0, 20, 8 if answer else 7, 0xFFFF, 1, 1, 1)
        payload = head + crc32c(head + bytes(4) + chunk).to_bytes(4, "little") + chunk
    elif protocol == "gre":
        payload = struct.pack("!HH", 0, 0x0800) + bytes(20)
    elif protocol == "gre-key":  # RFC 2637's, as PPTP has it
        payload = struct.pack("!HHHHI", 0x3001, 0x880B, 4, 5, 1) + bytes(4)
    else:
        payload = bytes(24)
    if len(ends[0]) == 16:
        return build.ipv6(*ends, number, payload)
    return build.ipv4(*ends, number, payload, identification=0x1234)


def flows(family: int, protocol: str, place: str, *, acct: bool) -> Script:
    """A flow and its answer, through rules that translate, mark or put it into a zone."""
    source, destination, own = (CLIENT6, SERVER6, "fd02::1") if family == 6 else (CLIENT, SERVER, "10.2.0.1")
    rules = {
        "plain": table("filter", "-A FORWARD -m conntrack --ctstate NEW"),
        "masquerade": table("nat", "-A POSTROUTING -o out -j MASQUERADE"),
        "zone": table("raw", "-A PREROUTING -j CT --zone 7"),
        "zone-orig": table("raw", "-A PREROUTING -i in -j CT --zone-orig 7"),
        "zone-reply": table("raw", "-A PREROUTING -i in -j CT --zone-reply 7"),
        "mark": "*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j CONNMARK --set-mark 66\nCOMMIT\n",
    }[place]
    sysctls = {"net.netfilter.nf_conntrack_acct": "1"} if acct else {}
    script = Script(
        f"text-{protocol}-{place}",
        "The tool's text is ours.",
        "" if family == 6 else rules,
        rules6=rules if family == 6 else "",
        sysctls=sysctls,
    )
    script.receive("in", packet(source, destination, protocol, answer=False))
    script.receive("out", packet(destination, own if place == "masquerade" else source, protocol, answer=True))
    return script


def normal(text: str) -> list[str]:
    """Lines in order, without what passes (seconds) and without references of packets under way."""
    lines = [re.sub(r"^((?:ipv[46] +\d+ )?\w+ +\d+) \d+", r"\1 T", line.rstrip()) for line in text.splitlines()]
    return sorted(re.sub(r" use=\d+", "", line) for line in lines)


def seconds(text: str) -> Sequence[int]:
    return [int(found[1]) for found in re.finditer(r"^\w+ +\d+ (\d+) ", text, re.MULTILINE)]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("place", "acct", "protocols"),
    [
        ("plain", False, PROTOCOLS),
        ("plain", True, PROTOCOLS),
        ("masquerade", False, ("tcp", "udp", "udplite", "sctp", "icmp")),
        ("zone", True, ("tcp", "icmp", "ipip")),
        ("zone-orig", False, ("udp",)),
        ("zone-reply", True, ("udp",)),
        ("mark", False, ("udp",)),
    ],
    ids=["plain", "acct", "masquerade", "zone", "zone-orig", "zone-reply", "mark"],
)
def test_the_tool_prints_what_we_print(
    bench: Workbench, family: int, place: str, acct: bool, protocols: Sequence[str]
) -> None:
    for protocol in protocols:
        script = flows(family, protocol, place, acct=acct)
        ours = CaseRun(script.case)
        with bench.run(script.case) as theirs:
            for count, step in enumerate(script.case["steps"]):
                theirs.take(step)
                ours.take(step)
                entries = ConntrackTable(ours.node.datapath).entries(ours.clock.now_ns)
                plain = theirs.node.run("conntrack", "-L", "-f", f"ipv{family}")
                extended = theirs.node.run("conntrack", "-L", "-f", f"ipv{family}", "-o", "extended")
                assert plain, f"{protocol}, step {count}: nothing is tracked"
                assert normal(list_text(entries)) == normal(plain), f"{protocol}, step {count}"
                assert normal(list_text(entries, extended=True)) == normal(extended), f"{protocol}, step {count}"
                for left, right in zip(seconds(list_text(entries)), seconds(plain), strict=True):
                    assert abs(left - right) <= 5
