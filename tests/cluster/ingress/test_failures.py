"""Pods that go while they are needed, links that lose packets: everybody gets an answer or an error, nothing stays."""

from __future__ import annotations

from collections import Counter

import pytest

from pktsim.cluster import programs
from pktsim.cluster.programs import HttpOptions
from pktsim.kernel.task import spawn
from pktsim.scenario.script import views
from tests.cluster.ingress.test_proxy import OK, SHOP, Server, connect, said, shop
from tests.cluster.ingress.world import get, ingress, log, rule, service, told, world

ASK = b"GET / HTTP/1.1\r\nHost: shop.example.com\r\n\r\n"


def test_a_pod_that_ends_while_it_works_is_replaced_by_another() -> None:
    cluster = shop(replicas=2)
    Server(cluster, "web-1", 5.0, OK)
    Server(cluster, "web-2", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nweb2")
    connections = [connect(cluster) for _ in range(2)]
    for connection in connections:
        connection.send(ASK)
    cluster.run(1)
    cluster.delete("pod/web-1", grace=1)
    for connection in connections:
        assert said(connection).endswith(b"\r\n\r\nweb2")
    assert any(" 502, 200 " in line for line in log(cluster))


def test_a_pod_that_vanishes_is_replaced_after_the_read_timeout() -> None:
    cluster = shop(replicas=2, annotations={"proxy-read-timeout": "2"})
    Server(cluster, "web-1", 60.0, OK)
    connections = [connect(cluster) for _ in range(2)]
    for connection in connections:
        connection.send(ASK)
    cluster.run(1)
    cluster.delete("pod/web-1")
    for connection in connections:
        assert b'"pod": "web-2"' in said(connection, 5)
    assert any(" 504, 200 " in line for line in log(cluster))


def test_the_only_pod_ends_while_it_works() -> None:
    cluster = shop()
    Server(cluster, "web-1", 60.0, OK)
    connection = connect(cluster)
    connection.send(ASK)
    cluster.run(1)
    cluster.scale("deployment/web", 0, grace=1)
    # Nobody else is there to be tried: its own address is, where nobody listens any more.
    assert said(connection).startswith(b"HTTP/1.1 502 ")
    assert " 502, 502, 502 " in log(cluster)[0]
    assert get(cluster, SHOP).status == 503
    cluster.scale("deployment/web", 1)
    assert get(cluster, SHOP).status == 200


def test_a_controller_that_ends_closes_its_connections_and_others_take_over() -> None:
    cluster = shop()
    Server(cluster, "web-1", 60.0, OK)
    working = connect(cluster)
    working.send(ASK)
    cluster.run(1)
    cluster.delete("pod/ingress-nginx/ingress-nginx-controller-1", grace=1)
    # While it terminates another one gets the new connections.
    assert get(cluster, "http://other.example.com/").status == 404
    cluster.run(2)
    assert working.receive(1) == b""
    assert views(cluster, on="default/web-1/eth0", direction="in", dport=3000, flags="F.")
    assert [pod.name for pod in cluster.pods if pod.ingress is not None] == ["ingress-nginx/ingress-nginx-controller-2"]
    assert get(cluster, "http://other.example.com/").status == 404
    assert not log(cluster, "ingress-nginx-controller-2")


def test_a_controller_that_vanishes_leaves_its_clients_waiting() -> None:
    cluster = shop(replicas=1)
    session = cluster.outside.http_session(connect_to=cluster.ingress_address, timeout=5)
    assert session.get(SHOP).status == 200
    cluster.delete("pod/ingress-nginx/ingress-nginx-controller-1")
    with pytest.raises(OSError, match=r"timed out|Recv failure"):
        session.get(SHOP)
    assert get(cluster, SHOP).status == 200


def test_only_what_is_ready_is_asked() -> None:
    cluster = shop(replicas=2)
    cluster.set_ready("pod/web-1", False)
    assert {told(get(cluster, SHOP))["pod"] for _ in range(3)} == {"web-2"}
    cluster.set_ready("pod/web-2", False)
    assert get(cluster, SHOP).status == 503
    cluster.set_ready("pod/web-1")
    assert told(get(cluster, SHOP))["pod"] == "web-1"


def test_only_a_controller_that_is_ready_gets_connections() -> None:
    cluster = shop()
    cluster.scale("deployment/ingress-nginx/ingress-nginx-controller", 2)
    cluster.set_ready("pod/ingress-nginx/ingress-nginx-controller-1", False)
    assert [get(cluster, SHOP).status for _ in range(6)] == [200] * 6
    assert not log(cluster, "ingress-nginx-controller-1")
    assert len(log(cluster, "ingress-nginx-controller-2")) == 6


@pytest.mark.slow
def test_hundreds_of_requests_over_bad_links_are_answered_and_leave_nothing() -> None:
    """2% of the frames are lost on each of three links, 5% overtake others."""
    cluster = world(
        *service("web", replicas=3, app="whoami"), ingress("shop", rule("shop.example.com", ("/", "Prefix", "web")))
    )
    place, outside = cluster.ingress_address, cluster.outside
    controller = cluster.pod("ingress-nginx/ingress-nginx-controller-1")
    for machine in ("outside", controller.name, "default/web-1", "default/web-2", "default/web-3"):
        cluster.impair(machine, loss=0.02, reorder=0.05, delay_ms=1.0)
    outcomes: Counter[tuple[int, int, bool]] = Counter()

    async def ask(number: int) -> None:
        options = HttpOptions(timeout_s=120, connect_to=place)
        client = programs.http_client(outside.netns, outside.files, options)
        client.keep = number % 2 == 0
        for turn in range(15):
            size = turn * 1000
            url = f"http://shop.example.com/bytes/{size}"
            if turn % 5 == 4:
                result = await client.post(url, b"x" * (turn * 700))
            else:
                result = await client.get(url)
            outcomes[result.exit_code, result.status, len(result.body) == size] += 1
        client.close()

    with cluster.unrecorded():
        tasks = [spawn(cluster.clock, ask(number), f"client {number}") for number in range(20)]
        cluster.clock.run_while(lambda: not all(task.done for task in tasks), cluster.clock.now_ns + 10**12)
        assert all(task.done for task in tasks)
        # A kept connection that a lost packet made fail under a POST is an honest 502; nothing else may go wrong.
        assert sum(outcomes.values()) == 300
        assert outcomes[0, 200, True] >= 297
        assert not {key for key in outcomes if key[0] or key[1] not in (200, 502)}
        cluster.run(400)  # keep-alive and TIME-WAIT are over
    assert len(log(cluster)) == 300
    assert controller.ingress is not None
    assert controller.ingress.idle
    for machine_ in (outside, *cluster.pods):
        assert not machine_.netns.sockets.tcp_table.connections
