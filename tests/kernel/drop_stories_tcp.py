"""What leads to each reason to drop a TCP segment: a server's connection, and segments that do not fit it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pktsim.kernel.tcp_connection import TcpConnection
from pktsim.kernel.tcp_segment import ACK, FIN, RST, SYN, Segment, build_segment, parse_segment
from pktsim.netfilter.opcodes import DropReason
from pktsim.wire import frame as build
from pktsim.wire.frame import FrameView
from tests.kernel.drop_stories import PEER, story
from tests.kernel.worlds import Host, ip

SERVER = "10.0.0.1"
#: The client's first sequence number, and the time stamp of its SYN.
ISN, STAMP = 1000, 5000


@dataclass
class Client:
    """The peer of a listening socket, in words of its own; time stamps are used.

    Attributes:
        seq: Of what it sends next.
        ack: What it has got.
    """

    host: Host
    seq: int = ISN
    ack: int = 0
    port: int = 4000

    def give(
        self, flags: int, data: bytes = b"", *, ahead: int = 0, ack: int = 0, stamp: int = STAMP, echo: int = 0
    ) -> None:
        """A segment ``ahead`` of its turn, or behind it; ``ack`` is relative, too."""
        segment = Segment(
            self.port, 80, self.seq + ahead, self.ack + ack if flags & ACK else 0, flags, 65535, data,
            ts_val=stamp, ts_ecr=echo, mss=1460 if flags & SYN else 0,
        )  # fmt: skip
        self.host.give_ip("eth0", build.ipv4(ip(PEER), ip(SERVER), 6, build_segment(segment, ip(PEER), ip(SERVER))))

    def answer(self) -> Segment:
        """What the server sent to it last."""
        views = (FrameView(frame) for _, frame in reversed(self.host.sent))
        view = next(view for view in views if view.protocol == 6 and view.has_ports and view.dport == self.port)
        segment = parse_segment(view.frame[view.transport : view.end])
        assert segment is not None
        return segment

    def half_open(self) -> None:
        self.give(SYN)
        self.seq, self.ack = ISN + 1, self.answer().seq + 1

    def open(self) -> TcpConnection:
        """The handshake; returns the server's side of it, which nobody has accepted."""
        self.half_open()
        self.give(ACK)
        (connection,) = (
            one for one in self.host.netns.sockets.tcp_table.connections.values() if isinstance(one, TcpConnection)
        )
        return connection


def listening(made: Host, *, backlog: int = 5) -> Client:
    server = made.netns.sockets.tcp()
    server.bind("", 80)
    server.listen(backlog)
    return Client(made)


def connected(made: Host) -> tuple[Client, TcpConnection]:
    client = listening(made)
    return client, client.open()


Act = Callable[[Client, TcpConnection], object]
#: What the client does once it is connected.
SEGMENTS: dict[DropReason, Act] = {}


def segment(reason: DropReason) -> Callable[[Act], Act]:
    """A segment of an established connection."""

    def keep(act: Act) -> Act:
        SEGMENTS[reason] = act
        story(reason)(lambda made: act(*connected(made)))
        return act

    return keep


story(DropReason.TCP_FLAGS)(lambda made: listening(made).give(ACK))
segment(DropReason.TCP_RESET)(lambda client, _: client.give(RST | ACK, ahead=5))
segment(DropReason.TCP_INVALID_SYN)(lambda client, _: client.give(SYN, ahead=1))
segment(DropReason.TCP_OLD_SEQUENCE)(lambda client, _: client.give(ACK, b"x", ahead=-9))
segment(DropReason.TCP_INVALID_SEQUENCE)(lambda client, _: client.give(ACK, b"x", ahead=1 << 24))
segment(DropReason.TCP_RFC7323_PAWS)(lambda client, _: client.give(ACK, b"x", stamp=STAMP - 2))
segment(DropReason.TCP_TOO_OLD_ACK)(lambda client, _: client.give(ACK, ack=-100_000))
segment(DropReason.TCP_ACK_UNSENT_DATA)(lambda client, _: client.give(ACK, ack=9))


@segment(DropReason.TCP_OLD_DATA)
def _again(client: Client, _: TcpConnection) -> None:
    client.give(ACK, b"once")
    client.give(ACK, b"once")


@segment(DropReason.TCP_OFOMERGE)
def _again_too_early(client: Client, _: TcpConnection) -> None:
    client.give(ACK, b"once", ahead=4)
    client.give(ACK, b"once", ahead=4)


@segment(DropReason.TCP_OVERWINDOW)
def _at_the_edge(client: Client, connection: TcpConnection) -> None:
    client.give(ACK, b"x", ahead=connection.window.receive_window(connection.rcv_nxt))


@segment(DropReason.TCP_ZEROWINDOW)
def _into_a_closed_window(client: Client, connection: TcpConnection) -> None:
    connection.window.wnd = 0
    connection.window.wup = connection.rcv_nxt
    client.give(ACK, b"x")


@segment(DropReason.TCP_INVALID_END_SEQUENCE)
def _beyond_the_window(client: Client, connection: TcpConnection) -> None:
    client.give(ACK, b"unread")
    client.seq += 6
    connection.window.wnd = 10
    connection.window.wup = connection.rcv_nxt
    client.give(ACK, b"x" * 20)


@segment(DropReason.PROTO_MEM)
def _more_than_the_buffer(client: Client, connection: TcpConnection) -> None:
    client.give(ACK, b"unread")
    client.seq += 6
    connection.window.rcvbuf = 1
    client.give(ACK, b"x")


@segment(DropReason.TCP_CLOSE)
def _after_the_fin(client: Client, _: TcpConnection) -> None:
    client.give(ACK | FIN)
    client.give(ACK, b"x", ahead=1)


@segment(DropReason.TCP_ABORT_ON_DATA)
def _for_nobody(client: Client, connection: TcpConnection) -> None:
    connection.rcv_shutdown = True
    connection.close()
    client.give(ACK, b"x")


@story(DropReason.TCP_LISTEN_OVERFLOW)
def _crowded(made: Host) -> None:
    client = listening(made, backlog=0)
    for client.port in range(4000, 4011):
        client.give(SYN)


@story(DropReason.TCP_INVALID_ACK_SEQUENCE)
def _half_open(made: Host) -> None:
    client = listening(made)
    client.half_open()
    client.give(ACK, ack=7)


def connecting(made: Host) -> Client:
    """The host connects to the peer, whose side is played by the client; its SYN has left."""
    socket = made.netns.sockets.tcp()
    socket.bind(SERVER, 80)
    socket.start_connect(PEER, 4000)
    client = Client(made)
    client.ack = client.answer().seq + 1
    return client


@story(DropReason.TCP_RFC7323_TSECR)
def _echo_of_nothing(made: Host) -> None:
    connecting(made).give(SYN | ACK, echo=1)


@story(DropReason.TCP_RFC7323_TW_PAWS)
def _late(made: Host) -> None:
    client, connection = connected(made)
    connection.close()
    client.give(ACK, ack=1)
    client.give(ACK | FIN, ack=1)
    client.give(ACK, b"x", ahead=1, ack=1, stamp=STAMP - 2)
