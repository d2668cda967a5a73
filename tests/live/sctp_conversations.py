"""Random SCTP conversations through a node: associations that begin, beat, end, and what does not belong."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from pktsim.wire.frame import IPPROTO_SCTP
from tests.live.case_rules import Dice
from tests.live.flow_cases import PLACES, Story, begin
from tests.netfilter.case_script import crc32c

(
    _DATA, _INIT, _INIT_ACK, _SACK, _HEARTBEAT, _HEARTBEAT_ACK, _ABORT, _SHUTDOWN, _SHUTDOWN_ACK, _ERROR, _COOKIE_ECHO,
    _COOKIE_ACK,
) = range(12)  # fmt: skip
_SHUTDOWN_COMPLETE: Final = 14
_KINDS: Final = (
    _DATA, _INIT, _INIT_ACK, _SACK, _HEARTBEAT, _HEARTBEAT_ACK, _ABORT, _SHUTDOWN, _SHUTDOWN_ACK, _ERROR, _COOKIE_ECHO,
    _COOKIE_ACK, _SHUTDOWN_COMPLETE, 12, 13, 192, 193, 130, 63, 64, 255,
)  # fmt: skip
#: Who says what, if all goes well: (side, chunk).
_STORYLINES: Final = (
    (
        (0, _INIT), (1, _INIT_ACK), (0, _COOKIE_ECHO), (1, _COOKIE_ACK), (0, _DATA), (1, _SACK), (1, _HEARTBEAT),
        (0, _HEARTBEAT_ACK), (0, _SHUTDOWN), (1, _SHUTDOWN_ACK), (0, _SHUTDOWN_COMPLETE),
    ),
    (
        (0, _INIT), (1, _INIT_ACK), (0, _COOKIE_ECHO), (1, _COOKIE_ACK), (1, _SHUTDOWN), (0, _SHUTDOWN_ACK),
        (1, _SHUTDOWN_COMPLETE), (0, _INIT), (1, _INIT_ACK),
    ),
    ((0, _HEARTBEAT), (1, _HEARTBEAT_ACK), (0, _DATA), (1, _SACK), (0, _SHUTDOWN), (1, _SHUTDOWN_ACK)),
    ((0, _INIT), (1, _INIT), (0, _INIT_ACK), (1, _COOKIE_ECHO), (0, _COOKIE_ACK), (0, _ABORT)),
    ((0, _INIT), (1, _ABORT), (0, _INIT), (1, _INIT_ACK), (0, _COOKIE_ECHO), (1, _ERROR)),
    ((0, _SHUTDOWN_ACK), (1, _SHUTDOWN_COMPLETE), (0, _INIT)),
)  # fmt: skip
_TAGS: Final = (0x11111111, 0x22222222)
_PREFIX: Final = "net.netfilter.nf_conntrack_sctp_timeout_"
_TIMEOUTS: Final = {
    "closed": 13, "cookie_wait": 17, "cookie_echoed": 21, "established": 3600, "shutdown_sent": 25, "shutdown_recd": 29,
    "shutdown_ack_sent": 33, "heartbeat_sent": 37,
}  # fmt: skip
_SYSCTLS: Final[tuple[dict[str, str], ...]] = (
    {f"{_PREFIX}{name}": str(seconds) for name, seconds in _TIMEOUTS.items()},
    {},
    {"net.netfilter.nf_conntrack_checksum": "0"},
    {"net.netfilter.nf_conntrack_acct": "1"},
)


def _chunk(dice: Dice, kind: int, side: int) -> bytes:
    if kind in (_INIT, _INIT_ACK):
        tag = dice.pick((_TAGS[side], _TAGS[side], _TAGS[side], _TAGS[side] + 1, _TAGS[1 - side], 0))
        body = struct.pack("!IIHHI", tag, 0xFFFF, 1, 1, 1)
        if dice.one_in(12):
            body = body[: dice.below(16)]
    elif kind == _DATA:
        body = struct.pack("!IHHI", 1, 0, 0, 0) + b"data"
    else:
        body = bytes(dice.pick((0, 4, 8, 5)))
    flags = dice.pick((0, 0, 0, 1)) if kind in (_ABORT, _SHUTDOWN_COMPLETE) else dice.pick((0, 0, 0, 3))
    length = 4 + len(body)
    if dice.one_in(20):
        length = dice.pick((0, 1, 3, 4, length + 4, 200))
    return struct.pack("!BBH", kind, flags, length) + body + bytes(-len(body) % 4)


def _tag(dice: Dice, kind: int, side: int) -> int:
    """The verification tag: that which the receiver chose, but for an INIT's."""
    right = 0 if kind == _INIT else _TAGS[1 - side]
    return dice.pick((right, right, right, right, right, _TAGS[side], 0, 0x33333333, right + 1))


def sctp_conversation(settings: bytes, steps: Sequence[bytes]) -> Story:
    """The case that these bytes decide."""
    dice = Dice(settings)
    place = dice.pick(PLACES)
    if place in ("local", "redirect"):
        place = "forward"
    story = begin(dice, dice.pick((4, 6)), place, ("sctp",), dict(dice.pick(_SYSCTLS)))
    who = story.who
    virtual = place in ("dnat", "both")
    target = (who.virtual, 80) if virtual else (who.server, 8080)
    seen_as = {"both": who.far, "masquerade": who.far, "snat": who.pool}.get(place, who.client)
    line, at = dice.pick(_STORYLINES), 0
    for data in steps:
        dice = Dice(data)
        if dice.below(8) < 5:
            side, kind = line[at % len(line)]
            at += 1
        else:
            side, kind = dice.below(2), dice.pick(_KINDS)
        chunks = _chunk(dice, kind, side)
        while dice.one_in(6):
            chunks += _chunk(dice, dice.pick(_KINDS), side)
        ends = (who.client, *target) if side == 0 else (who.server, seen_as, 4000)
        sport = 4000 if side == 0 else 8080
        head = struct.pack("!HHI", sport, ends[2], _tag(dice, kind, side))
        check = crc32c(head + bytes(4) + chunks) ^ (1 if dice.one_in(24) else 0)
        payload = head + check.to_bytes(4, "little") + chunks
        if dice.one_in(24):
            payload = payload[: dice.below(len(payload))]
        story.arrives("in" if side == 0 else "out", story.packet(ends[0], ends[1], IPPROTO_SCTP, payload))
    return story
