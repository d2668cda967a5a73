"""Every shipped scenario meets its expectations, and puts the very bytes on its wires that its golden capture holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from pktsim.scenario.library import names
from pktsim.wire.scapy_io import read_capture
from tests.golden.regenerate import GOLDEN, run
from tests.tshark import check_capture

#: What Wireshark remarks on where a scenario is about just that, and why.
EXPLAINED: dict[str, tuple[str, ...]] = {
    # musl repeats its queries, with their ids, at each SERVFAIL.
    "dns-musl": ("DNS query retransmission",),
    # A policy rejects TCP; a blocking connect() learns of it from the answer to the second SYN.
    "dns-truncated": (r"\(suspected\) retransmission",),
    # A segment from beyond the window, in three runs, one of which ends in resets.
    "connection-reset-by-peer": (
        r"Connection reset \(RST\)",
        "Previous segment",
        "Duplicate ACK",
        r"\(suspected\) retransmission",
        "ACKed segment that wasn't captured",
    ),
    # The same for a host, whose resets are what it is about.
    "invalid-to-the-host": (
        r"Connection reset \(RST\)",
        "Previous segment",
        "Duplicate ACK",
        r"\(suspected\) retransmission",
        "ACKed segment that wasn't captured",
    ),
    # What a node drops is sent again, and nodes see one direction only.
    "asymmetric-routes": (
        r"\(suspected\) (spurious )?retransmission",
        "Previous segment",
        "Duplicate ACK",
        "ACKed segment that wasn't captured",
        r"Connection reset \(RST\)",
    ),
    # Nobody answers on the node without a pod, on 127.0.0.1 without route_localnet, without hairpin mode.
    "etp-local-no-endpoint": (r"\(suspected\) retransmission",),
    # ... and a balancer's address moves to the node that has an endpoint.
    "etp-local-rollout": (r"\(suspected\) retransmission", r"Duplicate IP address configured \(198\.51\.100\.20\)"),
    "lb-from-pod-etp-local": (r"Duplicate IP address configured \(198\.51\.100\.20\)",),
    # The switch floods what is for a node that it has not heard yet, so the sender's router sees it again.
    "no-endpoints-reject": (r"\(suspected\) retransmission",),
    # What claims to come from 127.0.0.1 is not believed, so the SYN-ACK goes out again.
    "nodeport-localhost": (r"\(suspected\) retransmission",),
    "hairpin": (r"\(suspected\) retransmission",),
    # A SYN-ACK is lost, a SYN is late; the node resets what it does not know.
    "late-syn": (
        r"Connection reset \(RST\)",
        r"\(suspected\) retransmission",
        r"\(suspected\) out-of-order",
        "Duplicate ACK",
        "ACKed segment that wasn't captured",
    ),
    # Power fails under connections: SYNs into the void, another owner of the address, a reset.
    "lb-node-failure": (
        r"\(suspected\) retransmission",
        r"Duplicate IP address configured \(198\.51\.100\.20\)",
        r"Connection reset \(RST\)",
    ),
    # The SYN that was lost goes out again.
    "snat-port-race": (r"\(suspected\) retransmission",),
}


@pytest.mark.parametrize("name", names())
def test_shipped_scenario(name: str, tmp_path: Path) -> None:
    result = run(name)
    unmet = [f"{step.title}: {text}" for step in result.steps for text in step.unmet]
    assert not unmet
    path = tmp_path / f"{name}.pcapng"
    result.cluster.capture.write(path, comment=result.about)
    golden = GOLDEN / path.name
    assert golden.exists(), "write it with python -m tests.golden.regenerate"
    ours, theirs = read_capture(path).frames, read_capture(golden).frames
    for number, (one, other) in enumerate(zip(ours, theirs, strict=False), 1):
        assert one == other, f"frame {number} differs"
    assert path.read_bytes() == golden.read_bytes()


def test_there_is_no_golden_without_a_scenario() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.pcapng")) == names()


@pytest.mark.parametrize("name", names())
def test_wireshark_finds_nothing_wrong(name: str) -> None:
    check_capture(GOLDEN / f"{name}.pcapng", allow=EXPLAINED.get(name, ()))
