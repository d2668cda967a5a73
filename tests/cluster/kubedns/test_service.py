"""The DNS pod on sockets: questions over UDP and TCP, other servers, and objects that change."""

from __future__ import annotations

import pytest

from pktsim.clock import NS_PER_MS, NS_PER_S
from pktsim.cluster.kubedns import wire
from pktsim.cluster.kubedns.upstream import Upstream
from pktsim.cluster.loader import load_objects
from pktsim.kernel.task import run, sleep, spawn
from pktsim.kernel.transport import AF_INET, AF_INET6
from tests.cluster.dns_world import DNS, OBJECTS, DnsWorld, dns_world


def query(name: str, type: int = wire.Type.A, id: int = 1, size: int = 0) -> bytes:
    message = wire.Message(id, wire.RD)
    message.question = [wire.Question(name, type)]
    if size:
        message.additional = [wire.Opt(size)]
    return message.pack()


def ask(world: DnsWorld, octets: bytes, *, timeout_s: float = 20.0, family: int = AF_INET) -> wire.Message:
    async def exchange() -> bytes:
        socket = world.client.sockets.udp(family)
        socket.connect(DNS if family == AF_INET else "fd00::5", 53)
        socket.send(octets)
        try:
            return (await socket.recvfrom(round(timeout_s * NS_PER_S)))[0]
        finally:
            socket.close()

    return wire.unpack(run(world.world.clock, exchange()))


def addresses(reply: wire.Message) -> list[str]:
    return sorted(".".join(map(str, record.data[0])) for record in reply.answer if isinstance(record.data[0], bytes))


def serve_other(world: DnsWorld, *records: str, silent: tuple[str, ...] = ()) -> None:
    upstream = Upstream.of(records, silent=silent)
    socket = world.other.sockets.udp()
    socket.bind("", 53)

    async def serve() -> None:
        while True:
            octets, address, port = await socket.recvfrom()
            answer = upstream.answer(octets, tcp=False)
            if answer is not None:
                socket.sendto(answer, address, port)

    spawn(world.world.clock, serve())


@pytest.mark.parametrize("family", [AF_INET, AF_INET6])
def test_a_service_is_found(family: int) -> None:
    world = dns_world()
    reply = ask(world, query("Web.default.svc.cluster.local."), family=family)
    assert addresses(reply) == ["10.96.10.1"]
    assert reply.answer[0].name == "Web.default.svc.cluster.local."
    assert reply.flags & wire.AA


def test_questions_on_one_connection_are_answered_until_it_is_idle() -> None:
    world = dns_world()
    clock = world.world.clock

    async def session() -> tuple[list[bytes], int]:
        socket = world.client.sockets.tcp()
        await socket.connect(DNS, 53)
        replies = []
        for id in (1, 2):
            octets = query("db.default.svc.cluster.local.", id=id)
            await socket.sendall(len(octets).to_bytes(2, "big") + octets)
            replies.append(await socket.recv())
        began_ns = clock.now_ns
        assert await socket.recv() == b""
        socket.close()
        return replies, clock.now_ns - began_ns

    replies, idle_ns = run(clock, session())
    assert [reply[2:4] for reply in replies] == [b"\0\1", b"\0\2"]
    assert addresses(wire.unpack(replies[0][2:])) == ["10.244.1.51", "10.244.2.52"]
    assert abs(idle_ns - 10 * NS_PER_S) < NS_PER_S // 10


def test_answers_follow_the_objects_after_the_watch_has_told() -> None:
    world = dns_world(watch_delay_ns=50 * NS_PER_MS)
    name = query("web.default.svc.cluster.local.", wire.Type.SRV)
    ask(world, name)
    changed = OBJECTS.replace("10.96.10.1", "10.96.10.2")
    world.store.replace(load_objects(changed))
    other = query("web.default.svc.cluster.local.")
    assert addresses(ask(world, other)) == ["10.96.10.1"]
    world.world.clock.run_for(31 * NS_PER_S)  # the cache lets go of it
    assert addresses(ask(world, other)) == ["10.96.10.2"]


def test_other_names_are_forwarded_and_kept() -> None:
    world = dns_world()
    serve_other(world, "example.com. 300 A 192.0.2.1")
    first, second = ask(world, query("example.com.", id=5)), ask(world, query("example.com.", id=6))
    assert (first.flags & wire.AA, second.flags & wire.AA) == (0, wire.AA)
    assert (first.answer[0].ttl, second.answer[0].ttl) == (30, 30)
    assert len(world.datagrams("other")) == 1


def test_a_socket_to_another_server_is_used_again() -> None:
    world = dns_world()
    serve_other(world, "a.test. 300 A 192.0.2.1", "b.test. 300 A 192.0.2.2")
    for name in ("a.test.", "b.test."):
        ask(world, query(name))
    ports = {seen.packet.payload[:2] for seen in world.world.log if seen.host == "dns" and seen.packet.daddr[0] == 192}
    assert len(ports) == 1
    world.world.clock.run_for(11 * NS_PER_S)
    ask(world, query("c.test."))
    ports = {seen.packet.payload[:2] for seen in world.world.log if seen.host == "dns" and seen.packet.daddr[0] == 192}
    assert len(ports) == 2


def test_a_silent_server_is_tried_for_six_seconds_while_others_are_answered() -> None:
    world = dns_world()
    serve_other(world, silent=("silent.test.",))
    clock = world.world.clock
    done_s: list[float] = []

    async def slow() -> None:
        socket = world.client.sockets.udp()
        socket.connect(DNS, 53)
        socket.send(query("silent.test."))
        reply = wire.unpack((await socket.recvfrom())[0])
        assert reply.rcode == wire.Rcode.SERVFAIL
        done_s.append(clock.now_ns / NS_PER_S)

    spawn(clock, slow())
    began_ns = clock.now_ns
    run(clock, sleep(clock, NS_PER_MS))
    assert addresses(ask(world, query("web.default.svc.cluster.local."))) == ["10.96.10.1"]
    assert clock.now_ns - began_ns < NS_PER_S
    clock.run_for(10 * NS_PER_S)
    assert done_s == [pytest.approx(6.0, abs=0.1)]


@pytest.mark.slow
def test_a_closed_port_fails_at_once_when_health_checks_have_failed() -> None:
    world = dns_world()
    clock = world.world.clock
    assert ask(world, query("example.com.")).rcode == wire.Rcode.SERVFAIL
    clock.run_for(6 * NS_PER_S)  # SERVFAIL is kept for 5 s
    began_ns = clock.now_ns
    assert ask(world, query("example.com.")).rcode == wire.Rcode.SERVFAIL
    assert clock.now_ns - began_ns < 10 * NS_PER_MS


def test_stopped_it_answers_no_more() -> None:
    world = dns_world()
    world.service.stop()
    with pytest.raises(ConnectionRefusedError):
        ask(world, query("web.default.svc.cluster.local."))
