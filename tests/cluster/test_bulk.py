"""Bulk transfers: pace may differ, bytes and headers may not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pktsim.cluster.bulk import condense, slack_of
from pktsim.cluster.comparison import RandomValues, compare_counters, compare_frames
from pktsim.cluster.comparison_types import Seen
from pktsim.kernel.tcp_segment import ACK, FIN, PSH, SYN, Segment, build_segment
from pktsim.kernel.transport import build_ip
from pktsim.wire.addr import ip_from_text, mac_from_text
from pktsim.wire.frame import IPPROTO_TCP

CLIENT, SERVER = ip_from_text("10.244.1.2"), ip_from_text("10.244.2.2")
MACS = mac_from_text("02:00:00:00:00:02") + mac_from_text("02:00:00:00:00:01")
DATA = bytes(range(256)) * 400
MSS = 1448


def seen(direction: str, flags: int, seq: int, ack: int, payload: bytes = b"", window: int = 63, ttl: int = 64) -> Seen:
    """Out is the client's, who uploads."""
    ends, ports = ((CLIENT, SERVER), (40001, 8080)) if direction == "out" else ((SERVER, CLIENT), (8080, 40001))
    segment = Segment(*ports, seq, ack, flags, window, payload, ts_val=None if flags & SYN else 7, ts_ecr=5)
    packet = build_ip(*ends, IPPROTO_TCP, build_segment(segment, *ends), ttl=ttl, ip_id=seq & 0xFFFF)
    return Seen(0.0, "node", "eth0", direction, MACS + b"\x08\0" + packet)


def upload(*, step: int = MSS, ack_every: int = 1, fin_rides: bool = False, data: bytes = DATA) -> list[Seen]:
    frames = [seen("out", SYN, 1000, 0), seen("in", SYN | ACK, 9000, 1001), seen("out", ACK, 1001, 9001)]
    for number, at in enumerate(range(0, len(data), step)):
        piece = data[at : at + step]
        last = at + step >= len(data)
        flags = ACK | (PSH if last else 0) | (FIN if last and fin_rides else 0)
        frames.append(seen("out", flags, 1001 + at, 9001, piece))
        if number % ack_every == 0:
            frames.append(seen("in", ACK, 9001, 1001 + at + len(piece), window=60 + number))
    end = 1001 + len(data)
    if not fin_rides:
        frames.append(seen("out", ACK | FIN, end, 9001))
    return [*frames, seen("in", ACK | PSH, 9001, end + 1, b"done"), seen("in", ACK | FIN, 9005, end + 1, window=40)]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(upload(ack_every=3), id="fewer ACKs"),
        pytest.param(upload(fin_rides=True), id="the FIN on the last data"),
        pytest.param([*upload()[:8], upload()[5], *upload()[8:]], id="a segment twice"),
        pytest.param([*upload()[:-1], replace(upload()[-1], frame=upload()[-1].frame)], id="equal"),
    ],
)
def test_pace_does_not_count(other: list[Seen]) -> None:
    assert compare_frames(upload(), other)[0] is None
    assert compare_frames(other, upload())[0] is None


def _without_last(frames: list[Seen]) -> list[Seen]:
    return frames[:-1]


def _other_ttl(frames: list[Seen]) -> list[Seen]:
    return [*frames[:9], seen("out", ACK, 1001 + 3 * MSS, 9001, DATA[3 * MSS : 4 * MSS], ttl=63), *frames[10:]]


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        pytest.param(lambda frames: upload(data=DATA[:-1] + b"?"), "byte 102399", id="a byte"),
        pytest.param(lambda frames: upload(data=DATA[:-1]), "bytes", id="a byte less"),
        pytest.param(lambda frames: upload(step=1000), "", id="smaller segments"),
        pytest.param(_without_last, "missing", id="no end"),
        pytest.param(_other_ttl, "different headers", id="a segment with another TTL"),
    ],
)
def test_everything_else_counts(spoil: Callable[[list[Seen]], list[Seen]], what: str) -> None:
    difference, _ = compare_frames(upload(), spoil(upload()))
    assert difference is not None
    assert what in difference.what


def test_small_transfers_are_compared_exactly() -> None:
    small = DATA[:20_000]
    assert compare_frames(upload(data=small), upload(data=small))[0] is None
    assert compare_frames(upload(data=small), upload(data=small, ack_every=2))[0] is not None


def test_counters_may_differ_by_as_many_packets_as_there_were_more() -> None:
    one, other = condense(upload()), condense(upload(ack_every=2))
    slack = slack_of(one, other)
    assert slack == {"node": one["node/eth0"].left_out - other["node/eth0"].left_out}
    random = replace(compare_frames([], [])[1], slack=slack)
    assert isinstance(random, RandomValues)
    more = slack["node"]
    counters = {"node": {"filter/FORWARD/policy": (1000 + more, 52 * (1000 + more))}}
    fewer = {"node": {"filter/FORWARD/policy": (1000, 52 * 1000)}}
    far = {"node": {"filter/FORWARD/policy": (999, 52 * 999)}}
    assert compare_counters(counters, fewer, random) is None
    assert compare_counters(counters, far, random) is not None
    assert compare_counters(counters, fewer) is not None
