"""Over any link, TCP through a Service delivers the very bytes or fails with the right error, and leaves nothing.

Whole worlds: pods, bridges, nodes with connection tracking and NAT; the link of the client, of a node, or both are bad.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pktsim.clock import NS_PER_S
from pktsim.cluster.cluster import Cluster
from pktsim.kernel import task
from pktsim.kernel.netem import GilbertElliott, Netem
from pktsim.kernel.tcp import TcpSocket
from pktsim.netfilter.conntrack import Entry
from pktsim.wire.checksum import checksum

WORLD = """
apiVersion: v1
kind: Pod
metadata: {name: server}
spec: {nodeName: node-b, containers: [{name: server}]}
status: {podIP: 10.1.2.1}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {nodeName: node-a, containers: [{name: client}]}
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec: {clusterIP: 172.30.0.1, ports: [{port: 9000}]}
---
# Without a selector, so that no HTTP server is started on that port.
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: server-1, labels: {kubernetes.io/service-name: server}}
addressType: IPv4
endpoints: [{addresses: [10.1.2.1], nodeName: node-b, conditions: {ready: true}}]
ports: [{port: 9000, protocol: TCP}]
"""
#: What an end may be told when the link, or the other end's patience, is at its end.
RIGHT_ERRORS = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ECONNRESET, errno.EPIPE})
#: Longer than 15 retransmissions take, and than conntrack remembers with the settings below.
PATIENCE_S = 1300
CONNTRACK = {"net.netfilter.nf_conntrack_tcp_timeout_established": 400}

small = st.floats(0, 0.15).map(lambda value: round(value, 3))
netems = st.builds(
    Netem,
    loss=small | st.builds(GilbertElliott, p=small, r=st.sampled_from([0.2, 0.5])),
    loss_every=st.sampled_from([0, 0, 0, 7]),
    duplicate=small,
    corrupt=small,
    reorder=st.sampled_from([0.0, 0.25, 0.9]),
    gap=st.sampled_from([0, 3]),
    delay_ms=st.sampled_from([0.05, 2, 40]),
    jitter_ms=st.sampled_from([0, 1, 30]),
    rate=st.sampled_from([0, "10mbit", "500kbit"]),
    limit=st.sampled_from([1000, 5]),
)


@dataclass
class Exchange:
    """Several questions and answers, one after the other, over one connection; then the client closes."""

    sizes: list[tuple[int, int]]
    asked: list[bytes] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    accepted: bool = False


def pattern(length: int, start: int) -> bytes:
    return bytes((start + index * 7 + (index >> 8)) & 0xFF for index in range(length))


async def _read(socket: TcpSocket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = await socket.recv(count - len(data))
        if not piece:
            raise OSError(errno.ECONNRESET, "the other side has closed")
        data += piece
    return data


async def _serve(cluster: Cluster, exchange: Exchange) -> None:
    listener = cluster.pod("server").netns.sockets.tcp()
    listener.bind("", 9000)
    listener.listen()
    try:
        socket = await listener.accept()
        exchange.accepted = True
    finally:
        listener.close()
    socket.set_keepalive(idle_s=60, interval_s=10, count=3)  # so that it ends even if the client's end is never told
    try:
        for number, (up, down) in enumerate(exchange.sizes):
            exchange.asked.append(await _read(socket, up))
            await socket.sendall(pattern(down, number))
        while await socket.recv():
            pass
    except OSError as error:
        exchange.errors["server"] = error.errno or 0
    finally:
        socket.close()


async def _ask(cluster: Cluster, exchange: Exchange) -> None:
    socket = cluster.pod("client").netns.sockets.tcp()
    try:
        await socket.connect("172.30.0.1", 9000)
        socket.set_keepalive(idle_s=60, interval_s=10, count=3)
        for number, (up, down) in enumerate(exchange.sizes):
            await socket.sendall(pattern(up, number + 100))
            exchange.answers.append(await _read(socket, down))
    except OSError as error:
        exchange.errors["client"] = error.errno or 0
    finally:
        socket.close()


def play(netem: Netem, where: tuple[str, ...], exchange: Exchange, seed: int) -> Cluster:
    """Run an exchange to its end, then let all time-outs pass over good links."""
    cluster = Cluster.load(WORLD, seed=seed)
    for node in cluster.nodes:
        for name, value in CONNTRACK.items():
            node.sysctl(name, value)
    with cluster.explainer.paused():
        for name in where:
            cluster.impair(name, **{entry.name: getattr(netem, entry.name) for entry in fields(Netem)})
        server = task.spawn(cluster.clock, _serve(cluster, exchange), "server")
        client = task.spawn(cluster.clock, _ask(cluster, exchange), "client")
        limit_ns = cluster.clock.now_ns + 4 * PATIENCE_S * NS_PER_S
        assert cluster.clock.run_while(lambda: not client.done, limit_ns), "the client hangs"
        client.result()
        for name in where:
            cluster.impair(name)
        cluster.run(PATIENCE_S)
        if not server.done:
            assert "client" in exchange.errors, "the server hangs"
            assert not exchange.accepted
            server.cancel()
        else:
            server.result()
    return cluster


def left(cluster: Cluster) -> tuple[list[str], list[Entry]]:
    sockets = [
        f"{name}: {state.name} {key}"
        for name, space in cluster.network.spaces.items()
        for state, key in space.sockets.tcp_table
        if state.name != "LISTEN" or key[1] == 9000
    ]
    return sockets, [entry for node in cluster.nodes for entry in node.conntrack()]


def _undetected(got: list[bytes], sent: list[bytes]) -> bool:
    """Whether what was got is what TCP cannot tell from what was sent."""
    pairs = zip(got, sent, strict=True)
    return all(len(one) == len(other) and checksum(one) == checksum(other) for one, other in pairs)


def check(exchange: Exchange, *, corrupted_twice: bool = False) -> None:
    """What has come, and what was said if it has not.

    Two links can each turn a bit of a segment, at the same place of two words, the one up and the other down.
    """
    asked = [pattern(up, number + 100) for number, (up, _) in enumerate(exchange.sizes)]
    answers = [pattern(down, number) for number, (_, down) in enumerate(exchange.sizes)]
    for got, sent in ((exchange.asked, asked), (exchange.answers, answers)):
        same = sent[: len(got)]
        assert got == same or (corrupted_twice and _undetected(got, same))
    assert set(exchange.errors.values()) <= RIGHT_ERRORS
    if not exchange.errors:
        assert (len(exchange.asked), len(exchange.answers)) == (len(asked), len(answers))
    if "client" in exchange.errors and exchange.errors["client"] == errno.ECONNRESET:
        # A server that has never got the handshake's last segment forgets the request, and then resets what comes.
        assert "server" in exchange.errors or not exchange.accepted, "nobody had a reason to reset"


sizes = st.lists(
    st.tuples(st.sampled_from([1, 100, 1448, 9000]), st.sampled_from([1, 500, 20_000])), min_size=1, max_size=4
)
places = st.sampled_from([("default/client",), ("node-b",), ("default/client", "default/server"), ("node-a", "node-b")])


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(netem=netems, where=places, sizes=sizes, seed=st.integers(0, 1000))
def test_any_link_delivers_the_bytes_or_the_right_error(
    netem: Netem, where: tuple[str, ...], sizes: list[tuple[int, int]], seed: int
) -> None:
    exchange = Exchange(sizes)
    cluster = play(netem, where, exchange, seed)
    check(exchange, corrupted_twice=len(where) > 1 and netem.corrupt > 0)
    assert left(cluster) == ([], [])


@pytest.mark.slow
@settings(max_examples=3, deadline=None)
@given(netem=netems, seed=st.integers(0, 1000))
def test_same_seed_same_frames(netem: Netem, seed: int) -> None:
    runs = []
    for _ in range(2):
        cluster = play(netem, ("default/client", "node-b"), Exchange([(100, 5000)]), seed)
        runs.append([(frame.at_ns, frame.where, frame.direction, frame.frame) for frame in cluster.capture])
    assert runs[0] == runs[1]


def test_a_dead_link_is_a_time_out_on_both_sides() -> None:
    exchange = Exchange([(100, 100)])
    cluster = play(Netem(loss=1), ("default/client",), exchange, 1)
    assert exchange.errors == {"client": errno.EHOSTUNREACH}
    assert left(cluster) == ([], [])
