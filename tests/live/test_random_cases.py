"""Random rules and packets on pktsim and on the running kernel: frames, connections and counters agree after each step.

For long runs: ``python -m tests.live.long_run --examples 20000 --seed 1``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings

from pktsim.kernel.case import read_field
from pktsim.wire.addr import ip_from_text
from pktsim.wire.frame import ETH_P_IP, ETH_P_IPV6, FrameView, TcpFlag, ethernet, icmp, icmpv6, ipv4, ipv6, tcp, udp
from tests.live.case_strategies import decisions, nft_decisions, port_fields, tell
from tests.live.differential import NondeterministicError, difference
from tests.live.kernel_case import Workbench

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("PKTSIM_LIVE_EXAMPLES", "400"))
NFT_EXAMPLES = int(os.environ.get("PKTSIM_LIVE_NFT_EXAMPLES", "100"))


@pytest.fixture(scope="module")
def bench(_live_machine: None) -> Iterator[Workbench]:
    with Workbench() as made:
        yield made


@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
@given(decided=decisions)
def test_the_running_kernel_does_the_same(
    bench: Workbench, decided: tuple[bytes, tuple[bytes, ...], tuple[bytes, ...]]
) -> None:
    story = tell(*decided)
    try:
        found = difference(story.case, story.run, bench)
    except NondeterministicError as error:
        event(f"decided by the kernel's chance: {error}")
        return
    assert not found, f"{found}\n{story.case['sysctls']}\n{story.case['iptables']}"


@settings(
    max_examples=NFT_EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
@given(decided=nft_decisions)
def test_the_running_kernel_does_the_same_by_nft_rules(
    bench: Workbench, decided: tuple[bytes, tuple[bytes, ...], tuple[bytes, ...], tuple[bytes, ...]]
) -> None:
    story = tell(*decided)
    try:
        found = difference(story.case, story.run, bench)
    except NondeterministicError as error:
        event(f"decided by the kernel's chance: {error}")
        return
    assert not found, f"{found}\n{story.case['sysctls']}\n{story.case['iptables']}\n{story.case['nft']}"


def test_what_decides_a_case_shrinks_to_the_plainest() -> None:
    story = tell(b"", (b"",), (b"",))
    (step,) = story.case["steps"]
    assert story.case["sysctls"] == {}
    assert step["send_local"]["text"].startswith("IP 10.0.0.1.4000 > 10.0.0.1.80: Flags [S]")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["echo", "datagram", "segment"])
def test_what_nat_may_have_drawn_is_taken_by_names_that_frames_have(version: int, kind: str) -> None:
    texts = ("10.0.0.1", "10.0.0.2") if version == 4 else ("fd00::1", "fd00::2")
    ends = ip_from_text(texts[0]), ip_from_text(texts[1])
    protocol, transport = {
        "echo": (1, icmp(8, 0, 0x70001, b"x")) if version == 4 else (58, icmpv6(*ends, 128, 0, 0x70001, b"x")),
        "datagram": (17, udp(*ends, 7, 8, b"x")),
        "segment": (6, tcp(*ends, 7, 8, seq=1, flags=TcpFlag.SYN)),
    }[kind]
    packet = ipv4(*ends, protocol, transport) if version == 4 else ipv6(*ends, protocol, transport)
    frame = ethernet(bytes(6), bytes(6), ETH_P_IP if version == 4 else ETH_P_IPV6, packet)
    names = port_fields(packet, FrameView(frame))
    assert [read_field(frame, name) for name in names] == ([7] if kind == "echo" else [7, 8])


@given(decided=decisions)
@settings(max_examples=20)
def test_the_same_decisions_tell_the_same_story(decided: tuple[bytes, tuple[bytes, ...], tuple[bytes, ...]]) -> None:
    first, second = tell(*decided), tell(*decided)
    assert first.case == second.case
    assert [step.emitted for step in first.run.steps] == [step.emitted for step in second.run.steps]
