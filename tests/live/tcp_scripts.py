"""The scripts of tests/live/test_tcp_scripts.py, by the behaviour that each is about.

Each begins with what it proves. Steps that a timer's segment could meet keep well away from it, and from any other
moment at which one millisecond decides: an answer to a repetition as late as the first answers were, say, is taken for
one to the repetition or to the original (tcp_rack_advance).
"""

from __future__ import annotations

from pktsim.kernel.tcp_segment import ACK, FIN, PSH, RST, SYN
from tests.live.tcp_conversation import Options, Say
from tests.live.tcp_script import Action, Script

Steps = list[tuple[float, Action]]

#: The peer connects, and answers what it is sent after 20 ms.
OPENING: Steps = [(0, "listen"), (0, Say(SYN)), (20, Say(ACK, 1, 1)), (5, "accept")]


def script(
    *steps: tuple[float, Action], end_ms: float = 100, options: Options | None = None, windows: bool = True
) -> Script:
    return Script([*OPENING, *steps], end_ms, options or Options(), windows)


def bare(*steps: tuple[float, Action], end_ms: float = 100, options: Options | None = None) -> Script:
    return Script(list(steps), end_ms, options or Options())


def data(seq: int, length: int = 100, ack: int = 1, **more: object) -> Say:
    return Say(ACK | PSH, seq, ack, length, **more)  # type: ignore[arg-type]


NO_STAMPS = Options(timestamps=False)
NO_SACK = Options(sack=False)

RETRANSMISSION: dict[str, Script] = {
    # Nothing answers: a loss probe, then ever later.
    "silence after a write": script(
        (10, "write 100"),
        end_ms=3000,
    ),
    "silence after a long write": script(
        (10, "write 5000"),
        end_ms=1800,
    ),
    "silence without time stamps": script(
        (10, "write 100"),
        end_ms=1700,
        options=NO_STAMPS,
    ),
    "silence without sack": script(
        (10, "write 5000"),
        end_ms=1800,
        options=NO_SACK,
    ),
    # The ACK of a repetition, with and without an echo that says which one it was.
    "a repetition is acknowledged": script(
        (10, "write 100"),
        (350, Say(ACK, 1, 101, echo=-1)),
        (100, "write 100"),
        end_ms=900,
    ),
    "the original is acknowledged after all": script(
        (10, "write 100"),
        (350, Say(ACK, 1, 101, echo=1)),
        (100, "write 3000"),
        (20, Say(ACK, 1, 3101)),
        end_ms=900,
    ),
    "the estimate follows": script(
        (10, "write 100"),
        (50, Say(ACK, 1, 101)),
        (10, "write 100"),
        (80, Say(ACK, 1, 201)),
        (10, "write 100"),
        (20, Say(ACK, 1, 301)),
        (10, "write 100"),
        end_ms=1500,
    ),
    # Ten segments, the third of which is lost.
    "sack says what is missing": script(
        (10, "write 14480"),
        (20, Say(ACK, 1, 2897)),
        (1, Say(ACK, 1, 2897, sack=((4345, 5793),))),
        (1, Say(ACK, 1, 2897, sack=((4345, 7241),))),
        (1, Say(ACK, 1, 2897, sack=((4345, 8689),))),
        (1, Say(ACK, 1, 2897, sack=((4345, 14481),))),
        (20, Say(ACK, 1, 14481)),
        (10, "write 20000"),
        end_ms=30,
    ),
    "two holes": script(
        (10, "write 14480"),
        (20, Say(ACK, 1, 1449, sack=((2897, 4345),))),
        (1, Say(ACK, 1, 1449, sack=((5793, 7241), (2897, 4345)))),
        (1, Say(ACK, 1, 1449, sack=((5793, 10137), (2897, 4345)))),
        (25, Say(ACK, 1, 4345, sack=((5793, 10137),))),
        (20, Say(ACK, 1, 14481)),
        end_ms=60,
    ),
    # Sooner than any answer has come: that is for the original, and does not say that what was sent before is lost.
    "two holes, answered too soon for a repetition": script(
        (10, "write 14480"),
        (20, Say(ACK, 1, 1449, sack=((2897, 4345),))),
        (1, Say(ACK, 1, 1449, sack=((5793, 7241), (2897, 4345)))),
        (1, Say(ACK, 1, 1449, sack=((5793, 10137), (2897, 4345)))),
        (14, Say(ACK, 1, 4345, sack=((5793, 10137),))),
        (20, Say(ACK, 1, 14481)),
        end_ms=60,
    ),
    "the repetition is lost too": script(
        (10, "write 14480"),
        (20, Say(ACK, 1, 1, sack=((1449, 14481),))),
        end_ms=1300,
    ),
    "a repetition that later segments overtake": script(
        (10, "write 14480"),
        (20, Say(ACK, 1, 1, sack=((1449, 8689),))),
        (30, Say(ACK, 1, 1, sack=((1449, 14481),))),
        (10, "write 2896"),
        (30, Say(ACK, 1, 1, sack=((1449, 17377),))),
        end_ms=200,
    ),
    "three duplicates without sack": script(
        (10, "write 14480"),
        (20, Say(ACK, 1, 1449)),
        *[(1, Say(ACK, 1, 1449)) for _ in range(7)],
        (20, Say(ACK, 1, 4345)),
        (20, Say(ACK, 1, 14481)),
        (10, "write 20000"),
        end_ms=60,
        options=NO_SACK,
    ),
    # One segment is late by less than a quarter of the round trip.
    "mild reordering is waited for": script(
        (10, "write 14480"),
        (25, Say(ACK, 1, 1, sack=((1449, 2897),))),
        (3, Say(ACK, 1, 2897)),
        (3, Say(ACK, 1, 14481)),
        (20, "write 14480"),
        (25, Say(ACK, 1, 14481, sack=((15929, 20273),))),
        (3, Say(ACK, 1, 20273)),
        (3, Say(ACK, 1, 28961)),
        end_ms=60,
    ),
    "the tail is lost": script(
        (10, "write 14480"),
        (20, Say(ACK, 1, 13033)),
        end_ms=700,
    ),
    "a probe brings sack": script(
        (10, "write 14480"),
        (20, Say(ACK, 1, 10137)),
        (150, Say(ACK, 1, 10137, sack=((13033, 14481),))),
        (20, Say(ACK, 1, 14481)),
        (20, "write 14480"),
        end_ms=30,
    ),
    "a probe was needless": script(
        (10, "write 1448"),
        (20, Say(ACK, 1, 1449)),
        (10, "write 1448"),
        (300, Say(ACK, 1, 2897, sack=((1449, 2897),))),
        (20, "write 20000"),
        end_ms=30,
    ),
    # A time-out that was needless: the ACKs of the originals come after it.
    "a needless time-out": script(
        (10, "write 14480"),
        (350, Say(ACK, 1, 1449, echo=1)),
        (5, Say(ACK, 1, 2897, echo=1)),
        (5, Say(ACK, 1, 14481, echo=1)),
        (20, "write 30000"),
        end_ms=80,
    ),
    "a needless time-out without stamps": script(
        (10, "write 14480"),
        (350, Say(ACK, 1, 1449)),
        (5, Say(ACK, 1, 2897)),
        (5, Say(ACK, 1, 14481)),
        (20, "write 30000"),
        end_ms=80,
        options=NO_STAMPS,
    ),
    "a time-out with loss": script(
        (10, "write 14480"),
        (350, Say(ACK, 1, 1449, echo=-1)),
        (20, Say(ACK, 1, 4345, echo=-1)),
        (20, Say(ACK, 1, 8689, echo=-1)),
        (20, Say(ACK, 1, 14481, echo=-1)),
        (20, "write 30000"),
        end_ms=80,
    ),
    # Fast retransmit, and then the original arrives: D-SACK or an old echo undo the reduction.
    "a needless fast retransmit, by d-sack": script(
        (10, "write 14480"),
        (20, Say(ACK, 1, 1, sack=((1449, 14481),))),
        (25, Say(ACK, 1, 14481, echo=-1)),
        (2, Say(ACK, 1, 14481, sack=((1, 1449),))),
        (20, "write 30000"),
        end_ms=80,
    ),
    "a needless fast retransmit, by stamps": script(
        (10, "write 14480"),
        (20, Say(ACK, 1, 1, sack=((1449, 14481),))),
        (5, Say(ACK, 1, 14481, echo=1)),
        (20, "write 30000"),
        end_ms=80,
    ),
    "a needless fast retransmit without sack": script(
        (10, "write 14480"),
        *[(20 if n == 0 else 1, Say(ACK, 1, 1)) for n in range(5)],
        (5, Say(ACK, 1, 14481, echo=1)),
        (20, "write 30000"),
        end_ms=80,
        options=NO_SACK,
    ),
    "small segments are repeated as one": script(
        (5, "set nodelay 1"),
        (5, "write 100"),
        (1, "write 100"),
        (1, "write 100"),
        (1, "write 2000"),
        (1, "write 100"),
        end_ms=900,
    ),
    "small segments without sack": script(
        (5, "set nodelay 1"),
        (5, "write 100"),
        (1, "write 100"),
        (1, "write 100"),
        (1, "write 100"),
        (20, Say(ACK, 1, 1)),
        (1, Say(ACK, 1, 1)),
        (1, Say(ACK, 1, 1)),
        end_ms=900,
        options=NO_SACK,
    ),
    "reneging": script(
        (10, "write 14480"),
        (20, Say(ACK, 1, 1, sack=((1449, 5793),))),
        (20, Say(ACK, 1, 1449, sack=())),
        end_ms=900,
    ),
    "a fin that nobody acknowledges": script(
        (10, "shutdown"),
        end_ms=1700,
    ),
    "data and fin, the fin is lost": script(
        (10, "write 100"),
        (5, "shutdown"),
        (20, Say(ACK, 1, 101)),
        end_ms=1000,
    ),
}

TIMERS: dict[str, Script] = {
    "keep-alive": script(
        (5, "set keepidle 1"),
        (1, "set keepintvl 1"),
        (1, "set keepcnt 2"),
        (1, "set keepalive 1"),
        end_ms=4500,
    ),
    "keep-alive is answered": script(
        (5, "set keepidle 1"),
        (1, "set keepintvl 1"),
        (1, "set keepcnt 3"),
        (1, "set keepalive 1"),
        (1500, Say(ACK, 1, 1)),
        end_ms=3500,
    ),
    "keep-alive with a user time-out": script(
        (5, "set keepidle 1"),
        (1, "set keepintvl 1"),
        (1, "set keepalive 1"),
        (1, "set user_timeout 2500"),
        (5000, "error"),
        end_ms=100,
    ),
    "keep-alive after data": script(
        (5, "set keepidle 1"),
        (1, "set keepalive 1"),
        (600, data(1)),
        (5, "read"),
        end_ms=1600,
    ),
    "user time-out with data in flight": script(
        (5, "set user_timeout 900"),
        (5, "write 100"),
        (1900, "write 100"),
        end_ms=100,
    ),
    "user time-out with a closed window": script(
        (5, "set user_timeout 1500"),
        (5, "write 100"),
        (20, Say(ACK, 1, 101, window=0)),
        (5, "write 100"),
        (2500, "error"),
        end_ms=100,
    ),
    "a closed window is probed": script(
        (5, "write 100"),
        (20, Say(ACK, 1, 101, window=0)),
        (5, "write 100"),
        (800, Say(ACK, 1, 101, window=0)),
        (1500, Say(ACK, 1, 101, window=1000)),
        (20, Say(ACK, 1, 201)),
        end_ms=300,
    ),
    "a window too small for what is queued": script(
        (5, "write 100"),
        (20, Say(ACK, 1, 101, window=1)),
        (5, "write 1000"),
        (400, Say(ACK, 1, 229, window=1)),
        end_ms=800,
    ),
    "a window that is taken back": script(
        (5, "write 1000"),
        (20, Say(ACK, 1, 1, window=0)),
        end_ms=1500,
    ),
    "a window that opens by one ack": script(
        (5, "write 100"),
        (20, Say(ACK, 1, 101, window=0)),
        (5, "write 5000"),
        (50, Say(ACK, 1, 101, window=10)),
        (20, Say(ACK, 1, 1381, window=100)),
        (20, Say(ACK, 1, 5101)),
        end_ms=300,
    ),
    "cork": script(
        (5, "set cork 1"),
        (5, "write 100"),
        (300, "write 100"),
        (20, "write 3000"),
        (20, "set cork 0"),
        end_ms=150,
    ),
    "cork is taken off": script(
        (5, "set cork 1"),
        (5, "write 100"),
        (20, "set cork 0"),
        end_ms=100,
    ),
    "no delay": script(
        (5, "set nodelay 1"),
        (5, "write 10"),
        (2, "write 20"),
        (20, Say(ACK, 1, 31)),
        (10, "write 3000"),
        (20, Say(ACK, 1, 3031)),
        end_ms=100,
    ),
    "nagle": script(
        (10, "write 10"),
        (5, "write 20"),
        (5, "write 30"),
        (30, Say(ACK, 1, 11)),
        (30, Say(ACK, 1, 61)),
        end_ms=200,
    ),
    "half a window at most": script(
        (10, "write 20000"),
        (30, Say(ACK, 1, 14481, window=2000)),
        (30, Say(ACK, 1, 20001, window=2000)),
        (30, "write 40000"),
        end_ms=30,
    ),
    "a small window": script(
        (10, Say(ACK, 1, 1, window=2)),
        (20, "write 1000"),
        (30, Say(ACK, 1, 257, window=2)),
        (30, Say(ACK, 1, 513, window=100)),
        end_ms=30,
    ),
}

ACKNOWLEDGING: dict[str, Script] = {
    "delayed": script(
        (5, data(1)),
        (5, "read"),
        (5, "write 50"),
        (20, Say(ACK, 101, 51)),
        *[(100, data(101 + 100 * n, ack=51)) for n in range(4)],
        end_ms=300,
    ),
    "turns": script(
        (5, data(1)),
        (5, "read"),
        (5, "write 50"),
        (20, data(101, ack=51)),
        (5, "read"),
        (5, "write 50"),
        (20, data(201, ack=101)),
        (5, "read"),
        end_ms=300,
    ),
    "quickack off": script(
        (5, "set quickack 0"),
        (5, data(1)),
        (90, data(101)),
        (10, data(201)),
        end_ms=300,
    ),
    "quickack on": script(
        (5, data(1)),
        (5, "read"),
        (5, "write 50"),
        (20, data(101, ack=51)),
        (5, "set quickack 1"),
        (80, data(201, ack=51)),
        end_ms=300,
    ),
    # After three duplicates the others are gathered.
    "compressed": script(
        (5, data(1, 1448)),
        *[(0.1, data(2897 + 1448 * n, 1448)) for n in range(8)],
        (20, data(1449, 1448)),
        end_ms=100,
        windows=False,
    ),
    "compressed, after turns": Script(
        [
            *OPENING,
            (5, data(1)),
            (5, "read"),
            (5, "write 50"),
            (400, data(101, 1448, ack=51, echo=-1)),
            (5, "read"),
            *[(0.1, data(2997 + 1448 * n, 1448, ack=51)) for n in range(8)],
            (20, data(1549, 1448, ack=51)),
        ],
        windows=False,
        sysctls={"net.ipv4.tcp_comp_sack_delay_ns": 100_000_000},
    ),
    "without sack all duplicates are answered": script(
        (5, data(1, 1448)),
        *[(0.1, data(2897 + 1448 * n, 1448)) for n in range(8)],
        end_ms=100,
        options=NO_SACK,
        windows=False,
    ),
    "d-sack": script(
        (5, data(1)),
        (5, data(1)),
        (5, data(51, 100)),
        (5, data(301)),
        (5, data(301)),
        (5, data(201)),
        end_ms=100,
    ),
    "a duplicate within a hole": script(
        (5, data(101)),
        (5, data(301)),
        (5, data(101)),
        (5, data(301)),
        (5, data(1)),
        (5, data(201)),
        end_ms=100,
    ),
    "ecn is ignored unless asked for": script(
        (5, data(1, tos=3)),
        (5, "read"),
        (5, "write 10"),
        end_ms=60,
    ),
}

OPENING_SCRIPTS: dict[str, Script] = {
    "a syn that nobody answers": bare(
        (0, "connect"),
        end_ms=6500,
    ),
    "a syn is answered late": bare(
        (0, "connect"),
        (1500, Say(SYN | ACK, 0, 1, echo=-1)),
        (20, "write 20000"),
        end_ms=60,
    ),
    "a syn is answered very late": bare(
        (0, "connect"),
        (2500, Say(SYN | ACK, 0, 1, echo=-1)),
        (20, "write 20000"),
        end_ms=60,
    ),
    "the first syn is answered very late": bare(
        (0, "connect"),
        (2500, Say(SYN | ACK, 0, 1, echo=0)),
        (20, "write 20000"),
        end_ms=60,
    ),
    "a syn is answered late, without stamps": bare(
        (0, "connect"),
        (2500, Say(SYN | ACK, 0, 1)),
        (20, "write 20000"),
        end_ms=1500,
        options=NO_STAMPS,
    ),
    "a syn is refused": bare(
        (0, "connect"),
        (20, Say(RST | ACK, 0, 1)),
        (5, "error"),
        end_ms=50,
    ),
    "a syn is given up": bare(
        (0, "set syncnt 1"),
        (0, "connect"),
        (7000, "error"),
        end_ms=50,
    ),
    "a syn with a user time-out": bare(
        (0, "set user_timeout 1500"),
        (0, "connect"),
        (4000, "error"),
        end_ms=50,
    ),
    "simultaneous open": bare(
        (0, "connect"),
        (20, Say(SYN)),
        (20, Say(SYN | ACK, 0, 1)),
        (20, Say(ACK, 1, 1)),
        (20, "write 10"),
        end_ms=60,
    ),
    "simultaneous open, the syn-ack is lost": bare(
        (0, "connect"),
        (20, Say(SYN)),
        end_ms=2500,
    ),
    "a syn-ack that nobody answers": bare(
        (0, "listen"),
        (0, Say(SYN)),
        end_ms=3500,
    ),
    "the syn again": bare(
        (0, "listen"),
        (0, Say(SYN)),
        (500, Say(SYN)),
        (600, Say(ACK, 1, 1, echo=-1)),
        (20, "accept"),
        (10, "write 20000"),
        end_ms=60,
    ),
    "a syn-ack is acknowledged by data": bare(
        (0, "listen"),
        (0, Say(SYN)),
        (20, data(1)),
        (20, "accept"),
        (5, "read"),
        end_ms=100,
    ),
    "nobody accepts": bare(
        (0, "listen 0"),
        (0, Say(SYN)),
        (20, Say(ACK, 1, 1)),
        (20, Say(SYN, peer=1)),
        (20, Say(ACK, 1, 1, peer=1)),
        (20, data(1, peer=1)),
        (1500, "accept"),
        (20, Say(SYN, peer=2)),
        (20, Say(ACK, 1, 1, peer=2)),
        (100, data(1, peer=1)),
        end_ms=2500,
    ),
    "data is waited for": bare(
        (0, "set defer_accept 3"),
        (0, "listen"),
        (0, Say(SYN)),
        (20, Say(ACK, 1, 1)),
        (100, "accept"),
        (100, data(1)),
        (20, "accept"),
        (5, "read"),
        end_ms=100,
    ),
    "data is waited for in vain": bare(
        (0, "set defer_accept 3"),
        (0, "listen"),
        (0, Say(SYN)),
        (20, Say(ACK, 1, 1)),
        (100, "accept"),
        (3300, Say(ACK, 1, 1)),
        (20, "accept"),
        end_ms=100,
    ),
    "maxseg": bare(
        (0, "set maxseg 500"),
        (0, "listen"),
        (0, Say(SYN)),
        (20, Say(ACK, 1, 1)),
        (5, "accept"),
        (5, "write 2000"),
        end_ms=25,
    ),
}

CLOSING: dict[str, Script] = {
    "fin wait 2 for a moment": script(
        (5, "set linger2 1"),
        (5, "close"),
        (20, Say(ACK, 1, 2)),
        (500, Say(ACK, 1, 2)),
        (1200, Say(FIN | ACK, 1, 2)),
        end_ms=100,
    ),
    "no fin wait 2": script(
        (5, "set linger2 -1"),
        (5, "close"),
        (20, Say(ACK, 1, 2)),
        (20, Say(FIN | ACK, 1, 2)),
        end_ms=100,
    ),
    "half closed": script(
        (5, Say(FIN | ACK, 1, 1)),
        (20, "read"),
        (5, "write 3000"),
        (20, Say(ACK, 2, 3001)),
        (20, "close"),
        (20, Say(ACK, 2, 3002)),
        end_ms=300,
    ),
    "half closed the other way": script(
        (5, "shutdown"),
        (20, Say(ACK, 1, 2)),
        (20, data(1, ack=2)),
        (5, "read"),
        (500, data(101, ack=2)),
        (5, "read"),
        (20, Say(FIN | ACK, 201, 2)),
        (5, "close"),
        end_ms=200,
    ),
    "an orphan with data": script(
        (5, "write 3000"),
        (5, "close"),
        end_ms=1200,
    ),
    "an orphan and a closed window": script(
        (5, "write 100"),
        (20, Say(ACK, 1, 101, window=0)),
        (5, "write 100"),
        (5, "close"),
        end_ms=2500,
    ),
    "the fin of the peer again": script(
        (5, Say(FIN | ACK, 1, 1)),
        (20, "close"),
        (20, Say(FIN | ACK, 1, 1)),
        (300, Say(ACK, 2, 2)),
        (20, Say(FIN | ACK, 1, 1)),
        end_ms=100,
    ),
    "both close, the acks are lost": script(
        (5, "close"),
        (5, Say(FIN | ACK, 1, 1)),
        end_ms=830,
    ),
    "a time-wait is lengthened by fins": script(
        (5, "close"),
        (20, Say(FIN | ACK, 1, 2)),
        (20, Say(FIN | ACK, 1, 2)),
        (20, Say(RST, 2)),
        (20, Say(FIN | ACK, 1, 2)),
        end_ms=100,
    ),
    "a reset in between": script(
        (5, "write 5000"),
        (10, Say(RST, 1)),
        (5, "write 10"),
        (5, "error"),
        end_ms=100,
    ),
    "a reset while data waits": script(
        (5, data(1)),
        (5, Say(RST, 101)),
        (5, "read"),
        (5, "read"),
        (5, "write 10"),
        end_ms=100,
    ),
    "a reset after fin": script(
        (5, Say(FIN | ACK, 1, 1)),
        (30, Say(RST, 2)),
        (5, "read"),
        (5, "write 10"),
        end_ms=100,
    ),
    "the listener closes": bare(
        (0, "listen"),
        (0, Say(SYN)),
        (20, Say(ACK, 1, 1)),
        (5, Say(SYN, peer=1)),
        (20, "close-listener"),
        (20, Say(ACK, 1, 1, peer=1)),
        end_ms=100,
    ),
    "a fin in the backlog of a close": script(
        (5, "write 100"),
        (5, "shutdown"),
        (5, "close"),
        (20, Say(FIN | ACK, 1, 102)),
        end_ms=100,
    ),
}
