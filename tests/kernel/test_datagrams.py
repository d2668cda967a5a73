"""UDP, raw and ping sockets."""

from __future__ import annotations

import errno

import pytest

from pktsim.clock import NS_PER_S
from pktsim.kernel.datagram import PmtuDiscovery
from pktsim.kernel.icmp_error import parse_icmp_error
from pktsim.kernel.task import run, spawn
from pktsim.kernel.transport import AF_INET, AF_INET6, build_ip, parse_ip
from pktsim.kernel.udp import UdpSocket
from pktsim.rng import ScriptedChoices
from pktsim.wire.addr import ip_from_text
from pktsim.wire.checksum import transport_checksum
from pktsim.wire.frame import IPPROTO_UDP
from tests.kernel.transport_world import Host, World

A, B = "10.0.0.1", "10.0.0.2"


def hosts(**script: list[int]) -> tuple[World, Host, Host]:
    world = World(choices=ScriptedChoices({f"a/{place.replace('__', '.')}": draws for place, draws in script.items()}))
    return world, world.host("a", A, "fd00::1"), world.host("b", B, "fd00::2")


def receive(world: World, socket: UdpSocket) -> tuple[bytes, str, int]:
    return run(world.clock, socket.recvfrom(NS_PER_S))


def test_a_datagram_and_its_answer() -> None:
    world, a, b = hosts(udp__port=[5])
    server, client = b.sockets.udp(), a.sockets.udp()
    server.bind("", 53)
    client.sendto(b"ask", B, 53)
    assert receive(world, server) == (b"ask", A, 32773)
    server.sendto(b"tell", A, 32773)
    assert receive(world, client) == (b"tell", B, 53)


def test_over_ipv6() -> None:
    world, a, b = hosts()
    server, client = b.sockets.udp(AF_INET6), a.sockets.udp(AF_INET6)
    server.bind("", 53)
    client.bind("fd00::1", 4000)
    client.sendto(b"ask", "fd00::2", 53)
    assert receive(world, server) == (b"ask", "fd00::1", 4000)
    with pytest.raises(OSError) as caught:
        client.sendto(b"ask", B, 53)
    assert caught.value.errno == errno.EAFNOSUPPORT


def test_nothing_comes() -> None:
    world, a, _ = hosts()
    with pytest.raises(TimeoutError):
        receive(world, a.sockets.udp())
    assert world.clock.now_ns == NS_PER_S


def test_only_a_connected_socket_hears_of_a_closed_port() -> None:
    world, a, _ = hosts()
    connected, other = a.sockets.udp(), a.sockets.udp()
    connected.connect(B, 9)
    connected.send(b"x")
    other.sendto(b"x", B, 9)
    with pytest.raises(ConnectionRefusedError):
        receive(world, connected)
    with pytest.raises(TimeoutError):
        receive(world, other)


def test_the_error_comes_once_and_with_any_call() -> None:
    world, a, _ = hosts()
    socket = a.sockets.udp()
    socket.connect(B, 9)
    socket.send(b"x")
    world.clock.run_for(NS_PER_S)
    with pytest.raises(ConnectionRefusedError):
        socket.send(b"y")
    socket.send(b"y")


@pytest.mark.parametrize(
    ("mode", "size", "df", "error"),
    [
        (PmtuDiscovery.WANT, 1472, True, 0),
        (PmtuDiscovery.WANT, 1473, False, 0),  # fragmented below
        (PmtuDiscovery.DONT, 100, False, 0),
        (PmtuDiscovery.DO, 1472, True, 0),
        (PmtuDiscovery.DO, 1473, True, errno.EMSGSIZE),
        (PmtuDiscovery.WANT, 65507, False, 0),
        (PmtuDiscovery.WANT, 65508, False, errno.EMSGSIZE),
    ],
)
def test_df(mode: PmtuDiscovery, size: int, df: bool, error: int) -> None:
    world, a, _ = hosts()
    socket = a.sockets.udp()
    socket.pmtu_discovery = mode
    if error:
        with pytest.raises(OSError) as caught:
            socket.sendto(bytes(size), B, 9)
        assert caught.value.errno == error
        return
    socket.sendto(bytes(size), B, 9)
    assert bool(world.log[0].packet.data[6] & 0x40) == df


def test_a_learnt_path_mtu_is_an_error_of_the_next_call() -> None:
    """vxlan/wide-df-service: EMSGSIZE from the router's message, then from the socket itself."""
    world, a, _ = hosts()
    socket = a.sockets.udp()
    socket.set_df(True)
    socket.connect("10.0.0.9", 80)
    socket.send(bytes(1472))
    a.path_mtu[ip_from_text("10.0.0.9")] = 1450
    world.send_icmp(world.log[0].packet, 3, 4, mtu=1450)
    for call in (lambda: receive(world, socket), lambda: socket.send(bytes(1472))):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EMSGSIZE
    assert len(world.log) == 1


def test_identification_counts_per_connected_socket() -> None:
    """host-gw/udp-service-three-datagrams."""
    world, a, _ = hosts(ip__id=[65535])
    socket = a.sockets.udp()
    socket.connect(B, 9)
    socket.send(b"x")
    socket.send(b"y")
    other = a.sockets.udp()
    other.sendto(b"z", B, 9)
    other.sendto(b"z", B, 9)
    assert [int.from_bytes(seen.packet.data[4:6], "big") for seen in world.log] == [65535, 0, 1, 2]


def test_the_most_specific_socket_gets_it() -> None:
    world, a, b = hosts()
    wild, bound, connected = (b.sockets.udp() for _ in range(3))
    for socket in (wild, bound, connected):
        socket.reuse_address = True
    wild.bind("", 53)
    bound.bind(B, 53)
    connected.bind(B, 53)
    connected.connect(A, 4000)
    client = a.sockets.udp()
    client.bind("", 4000)
    client.sendto(b"x", B, 53)
    assert receive(world, connected)[0] == b"x"
    other = a.sockets.udp()
    other.sendto(b"y", B, 53)
    assert receive(world, bound)[0] == b"y"
    bound.close()
    connected.close()
    other.sendto(b"z", B, 53)
    assert receive(world, wild)[0] == b"z"


def test_ports_are_taken_and_freed() -> None:
    _, a, _ = hosts()
    one = a.sockets.udp()
    one.bind("", 53)
    with pytest.raises(OSError) as caught:
        a.sockets.udp().bind(A, 53)
    assert caught.value.errno == errno.EADDRINUSE
    with pytest.raises(OSError):
        one.bind("", 54)
    one.close()
    one.close()
    a.sockets.udp().bind(A, 53)
    a.sockets.udp(AF_INET6).bind("", 53)


def test_a_wrong_checksum_is_dropped_and_none_is_fine() -> None:
    world, _, b = hosts()
    server = b.sockets.udp()
    server.bind("", 53)
    saddr, daddr = ip_from_text(A), ip_from_text(B)
    good = bytes.fromhex("0fa0 0035 000a 0000") + b"hi"
    value = transport_checksum(saddr, daddr, IPPROTO_UDP, good)
    for check in (value ^ 1, 0, value):
        datagram = good[:6] + check.to_bytes(2, "big") + good[8:]
        b.sockets.deliver(build_ip(saddr, daddr, IPPROTO_UDP, datagram, ttl=64), ifindex=2)
    for _ in range(2):
        assert receive(world, server) == (b"hi", A, 4000)
    with pytest.raises(TimeoutError):
        receive(world, server)


def test_broadcast_needs_leave_and_reaches_everybody() -> None:
    world, a, b = hosts()
    socket = a.sockets.udp()
    with pytest.raises(PermissionError):
        socket.sendto(b"x", "255.255.255.255", 67)
    socket.broadcast = True
    socket.sendto(b"x", "255.255.255.255", 67)
    listeners = [b.sockets.udp() for _ in range(2)]
    for listener in listeners:
        listener.reuse_address = True
        listener.bind("", 67)
    b.sockets.deliver(world.log[0].packet.data, ifindex=2, broadcast=True)
    assert [receive(world, listener)[0] for listener in listeners] == [b"x", b"x"]


def test_a_full_queue_drops() -> None:
    world, a, b = hosts()
    server = b.sockets.udp()
    server.rcvbuf = 2000
    server.bind("", 53)
    client = a.sockets.udp()
    for _ in range(5):
        client.sendto(b"x", B, 53)
    world.clock.run_for(NS_PER_S)
    assert server.drops == 3


def test_close_wakes_who_waits() -> None:
    world, a, _ = hosts()
    socket = a.sockets.udp()
    task = spawn(world.clock, socket.recvfrom())
    world.clock.run_for(1)
    socket.close()
    world.clock.run_for(NS_PER_S)
    with pytest.raises(OSError) as caught:
        task.result()
    assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize(("family", "destination"), [(AF_INET, B), (AF_INET6, "fd00::2")])
def test_ping(family: int, destination: str) -> None:
    world, a, b = hosts()
    socket = a.sockets.ping(family, 0x1234)
    socket.echo(destination, 7, b"data")
    request = world.log[0].packet
    reply_type = 0 if family == AF_INET else 129
    for ident in (0x9999, 0x1234):
        message = bytes((reply_type, 0, 0, 0)) + ident.to_bytes(2, "big") + b"\0\7data"
        data = build_ip(request.daddr, request.saddr, request.protocol, message, ttl=62)
        a.sockets.deliver(data, ifindex=2)
    reply = run(world.clock, socket.reply(NS_PER_S))
    assert (reply.kind, reply.code, reply.address, reply.seq, reply.data) == (reply_type, 0, destination, 7, b"data")
    assert (reply.ttl, reply.length) == ((62, 32) if family == AF_INET else (0, 12))
    with pytest.raises(TimeoutError):
        run(world.clock, socket.reply(NS_PER_S))
    assert b.sockets.deliver(request.data, ifindex=2) is not None  # the kernel itself answers echo requests


def test_ping_hears_errors_about_its_own_packets() -> None:
    world, a, _ = hosts()
    socket, other = a.sockets.ping(AF_INET, 1), a.sockets.ping(AF_INET, 2)
    socket.echo(B, 3, bytes(56))
    world.send_icmp(world.log[0].packet, 11, 0)
    reply = run(world.clock, socket.reply(NS_PER_S))
    assert (reply.kind, reply.code, reply.seq, reply.length) == (11, 0, 3, 20 + 8 + 84)
    with pytest.raises(TimeoutError):
        run(world.clock, other.reply(NS_PER_S))
    socket.close()
    assert parse_icmp_error(world.log[0].packet.data) is None


def test_a_raw_socket_sees_what_others_get() -> None:
    world, a, b = hosts()
    raw, server = b.sockets.raw(IPPROTO_UDP), b.sockets.udp()
    server.bind("", 53)
    a.sockets.udp().sendto(b"x", B, 53)
    assert receive(world, server)[0] == b"x"
    data, address = run(world.clock, raw.recvfrom(NS_PER_S))
    assert address == A
    packet = parse_ip(data)
    assert packet is not None
    assert packet.payload.endswith(b"x")


@pytest.mark.parametrize(
    ("family", "anybody", "bound", "reached"),
    [
        (AF_INET, "0.0.0.0", "", "127.0.0.1"),
        (AF_INET, "0.0.0.0", A, A),
        (AF_INET6, "::", "", "::1"),
        (AF_INET6, "::", "fd00::1", "::1"),
    ],
)
def test_the_wildcard_address_is_the_own_host(family: int, anybody: str, bound: str, reached: str) -> None:
    world, a, _ = hosts()
    server, client, connected = (a.sockets.udp(family) for _ in range(3))
    server.bind(reached, 53)
    client.bind(bound, 4000)
    client.sendto(b"ask", anybody, 53)
    connected.bind(bound, 4001)
    connected.connect(anybody, 53)
    connected.send(b"ask")
    assert connected.remote_address == (reached, 53)
    for port in (4000, 4001):
        assert receive(world, server) == (b"ask", bound or reached, port)
