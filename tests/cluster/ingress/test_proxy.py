"""What the controller makes of requests, answers and failures. What it says itself was seen of nginx 1.22.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from pktsim.clock import NS_PER_S
from pktsim.cluster.cluster import Cluster
from pktsim.cluster.connection import Connection
from pktsim.kernel.task import sleep, spawn
from pktsim.kernel.tcp import TcpSocket
from pktsim.scenario.script import views
from tests.cluster.ingress.world import backend, get, ingress, log, rule, service, text, told, world

SHOP = "http://shop.example.com/"
CONTROLLER = "ingress-nginx/ingress-nginx-controller-1"


def shop(*more: dict[str, Any], replicas: int = 1, annotations: Mapping[str, str] = {}, **options: Any) -> Cluster:
    """A host whose paths lead to one service."""
    only = ingress("shop", rule("shop.example.com", ("/", "Prefix", "web")), annotations=annotations)
    return world(*service("web", replicas=replicas), only, *more, **options)


def connect(cluster: Cluster) -> Connection:
    host, _, port = cluster.ingress_address.partition(":")
    return cluster.outside.connect(host, int(port))


def said(connection: Connection, timeout: float = 2.0) -> bytes:
    """All that comes until the other side closes, or nothing more comes."""
    data = b""
    try:
        while more := connection.receive(timeout):
            data += more
    except TimeoutError:
        return data
    return data + b"<FIN>"


class Server:
    """A server in a pod that does as told with each connection: bytes to answer, a pause, or what to end with."""

    def __init__(self, cluster: Cluster, pod: str, *script: bytes | float | str, port: int = 3000) -> None:
        self.machine = cluster.pod(pod)
        self.machine.stop()
        self.script = script
        self.requests: list[bytes] = []
        netns = self.machine.netns
        listener = netns.sockets.tcp()
        listener.reuse_address = True
        listener.bind("", port)
        listener.listen()
        self._clock = netns.clock
        self._listener = listener
        self._tasks = [spawn(self._clock, self._accept(listener), "scripted server")]
        self.machine.run_server(self)

    def stop(self) -> None:
        """Kill it, as the cluster does when its pod goes."""
        self._listener.close()
        for task in self._tasks:
            task.cancel()

    async def _accept(self, listener: TcpSocket) -> None:
        while True:
            serving = self._serve(await listener.accept())
            self._tasks.append(spawn(self._clock, serving, "scripted connection"))

    async def _serve(self, socket: TcpSocket) -> None:
        try:
            while True:
                request = await socket.recv()
                if not request:
                    return
                self.requests.append(request)
                for part in self.script:
                    if isinstance(part, bytes):
                        await socket.sendall(part)
                    elif isinstance(part, float):
                        await sleep(self._clock, round(part * NS_PER_S))
                    elif part == "reset":
                        socket.abort()
                        return
                    elif part == "close":
                        return
                    elif part == "echo":
                        while more := await socket.recv():
                            await socket.sendall(more.upper())
                        return
        except OSError:
            return
        finally:
            socket.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_an_endpoint_sees_who_asked_and_whom() -> None:
    cluster = shop()
    answer = get(cluster, SHOP + "a?b=c", headers=["X-Forwarded-For: 1.2.3.4", "X_Lost: 1", "Accept-Language: en"])
    said_ = told(answer)
    headers = said_["headers"]
    node = "10.1.1.254"  # the source is lost on the way to the controller's pod: externalTrafficPolicy Cluster
    assert headers.pop("x-request-id") in log(cluster)[0]
    assert headers == {
        "host": "shop.example.com",
        "x-real-ip": node,
        "x-forwarded-for": node,
        "x-forwarded-host": "shop.example.com",
        "x-forwarded-port": "80",
        "x-forwarded-proto": "http",
        "x-forwarded-scheme": "http",
        "x-scheme": "http",
        "x-original-forwarded-for": "1.2.3.4",
        "user-agent": "curl/7.88.1",
        "accept": "*/*",
        "accept-language": "en",
    }
    assert said_["path"] == "/a?b=c"
    # It talks to the pod itself: nobody in the cluster sees the service's address.
    assert said_["peer"].startswith(cluster.pod(CONTROLLER).address + ":")
    virtual = cluster.store.get("Service", "web", "default").spec.cluster_ip  # type: ignore[union-attr]
    assert not views(cluster, dst=virtual)


def test_the_client_is_seen_where_the_source_is_kept() -> None:
    cluster = shop(traffic_policy="Local", kind="DaemonSet")
    headers = told(get(cluster, SHOP))["headers"]
    assert (headers["x-real-ip"], headers["x-forwarded-for"]) == ("203.0.113.9", "203.0.113.9")


def test_forwarded_headers_are_believed_when_told_so() -> None:
    cluster = shop(config={"use-forwarded-headers": "true", "compute-full-forwarded-for": "true"})
    given = ["X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https", "X-Forwarded-Port: 8443", "X-Forwarded-Host: a.b"]
    headers = told(get(cluster, SHOP, headers=given))["headers"]
    assert headers["x-forwarded-for"] == "1.2.3.4, 10.1.1.254"
    assert headers["x-real-ip"] == "1.2.3.4"
    assert (headers["x-forwarded-proto"], headers["x-forwarded-port"]) == ("https", "8443")
    assert headers["x-forwarded-host"] == headers["host"] == "a.b"


@pytest.mark.parametrize(
    ("request_", "status", "length"),
    [
        (b"GET /x HTTP/1.1\r\n\r\n", "400 Bad Request", 150),
        (b"hello\r\n\r\n", "400 Bad Request", 150),
        (b"get /x HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request", 150),
        (b"GET /x HTTP/2.0\r\nHost: a\r\n\r\n", "505 HTTP Version Not Supported", 180),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", "405 Not Allowed", 150),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request", 150),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400 Bad Request", 150),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "400 Bad Request", 150),
        (b"GET /../x HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request", 150),
        (b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request", 150),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "400 Bad Request",
            150,
        ),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", "414 Request-URI Too Large", 170),
        (b"GET /x HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 9000 + b"\r\n\r\n", "400 Bad Request", 226),
    ],
)
def test_a_wrong_request_is_refused_as_nginx_does(request_: bytes, status: str, length: int) -> None:
    cluster = shop()
    connection = connect(cluster)
    connection.send(request_)
    answer = said(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.decode() == (
        f"HTTP/1.1 {status}\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Type: text/html\r\n"
        f"Content-Length: {length}\r\nConnection: close"
    )
    assert body.endswith(b"</html>\r\n<FIN>")
    assert len(body) - len("<FIN>") == length
    assert f'" {status.partition(" ")[0]} {length} "-" "-"' in log(cluster)[0]


def test_several_requests_over_one_connection_also_all_at_once() -> None:
    cluster = shop()
    connection = connect(cluster)
    one = b"GET /%d HTTP/1.1\r\nHost: shop.example.com\r\n\r\n"
    connection.send(b"".join(one % number for number in range(5)))
    answer = said(connection)
    assert [answer.count(b'"path": "/%d"' % number) for number in range(5)] == [1] * 5
    assert answer.index(b'"path": "/1"') < answer.index(b'"path": "/4"')
    connection.send(b"GET /last HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n\r\n")
    assert said(connection).endswith(b"<FIN>")
    assert len(log(cluster)) == 6
    # One connection to the endpoint, too: it is kept.
    assert len(views(cluster, on="ingress-nginx/ingress-nginx-controller-1/eth0", dport=3000, flags="S")) == 1


def test_a_connection_ends_after_its_last_request_and_when_it_is_idle() -> None:
    cluster = shop(config={"keep-alive-requests": "2", "keep-alive": "3"})
    with cluster.outside.http_session(connect_to=cluster.ingress_address) as session:
        assert session.get(SHOP).header("connection") == "keep-alive"
        assert session.get(SHOP).header("connection") == "close"
    connection = connect(cluster)
    connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    began = cluster.clock.now_ns
    assert said(connection, 10).endswith(b"<FIN>")
    assert 3 * NS_PER_S <= cluster.clock.now_ns - began < 3.1 * NS_PER_S


def test_head_has_the_length_and_no_body() -> None:
    cluster = shop()
    answer = get(cluster, SHOP, "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.header("content-length")) > 100


def test_an_answer_without_a_length_is_chunked_or_ends_with_the_connection() -> None:
    cluster = shop()
    Server(cluster, "web-1", b"HTTP/1.0 200 Fine\r\nX-A: 1\r\nServer: x\r\n\r\nhel", 0.1, b"lo", "close")
    connection = connect(cluster)
    connection.send(b"GET / HTTP/1.1\r\nHost: shop.example.com\r\n\r\n")
    answer = said(connection)
    assert answer.startswith(b"HTTP/1.1 200 Fine\r\nDate: ")
    assert answer.endswith(
        b"\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\nX-A: 1\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
    )
    old = connect(cluster)
    old.send(b"GET / HTTP/1.0\r\nHost: shop.example.com\r\n\r\n")
    assert said(old).endswith(b"\r\nConnection: close\r\nX-A: 1\r\n\r\nhello<FIN>")


def test_bodies_are_gathered_and_counted() -> None:
    cluster = shop()
    connection = connect(cluster)
    connection.send(
        b"POST / HTTP/1.1\r\nHost: shop.example.com\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    )
    assert said(connection, 0.5) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.send(b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n")
    answer = said(connection, 0.5)
    assert b'"bytes": 7' in answer
    assert b'["content-length", "7"]' in answer
    assert b"expect" not in answer
    assert b"transfer-encoding" not in answer


@pytest.mark.slow
def test_a_large_body_goes_both_ways() -> None:
    cluster = shop(annotations={"proxy-body-size": "8m"})
    with cluster.unrecorded():
        answer = get(cluster, SHOP, "PUT", body=b"x" * 3_000_000, timeout=60)
        assert told(answer)["bytes"] == 3_000_000
    only = ingress("large", rule("large.example.com", ("/", "Prefix", "plain")))
    with cluster.unrecorded():
        cluster.apply(text([*service("plain", app="whoami"), only]))
        answer = get(cluster, "http://large.example.com/bytes/3000000", timeout=60)
    assert len(answer.body) == 3_000_000


def test_a_body_that_is_too_large_is_refused_before_it_is_sent() -> None:
    cluster = shop(annotations={"proxy-body-size": "1k"})
    answer = get(cluster, SHOP, "POST", body=b"x" * 1025)
    assert answer.status == 413
    assert answer.header("connection") == "close"
    assert get(cluster, SHOP, "POST", body=b"x" * 1024).status == 200
    connection = connect(cluster)
    connection.send(b"POST / HTTP/1.1\r\nHost: shop.example.com\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.send(b"401\r\n" + b"x" * 1025 + b"\r\n")
    assert said(connection).startswith(b"HTTP/1.1 413 ")
    # The default is a megabyte.
    assert get(shop(), SHOP, "POST", body=b"x" * ((1 << 20) + 1)).status == 413


def test_a_client_that_is_too_slow_is_reset() -> None:
    cluster = shop(config={"client-header-timeout": "2", "client-body-timeout": "3"})
    silent = connect(cluster)
    assert said(silent, 5) == b"<FIN>"
    for part, wait in ((b"GET / HTTP/1.1\r\nHo", 2), (b"POST / HTTP/1.1\r\nHost: shop.example.com\r\n", 2)):
        connection = connect(cluster)
        connection.send(part)
        began = cluster.clock.now_ns
        with pytest.raises(ConnectionResetError):
            connection.receive(10)
        assert wait * NS_PER_S <= cluster.clock.now_ns - began < (wait + 0.1) * NS_PER_S
    connection = connect(cluster)
    connection.send(b"POST / HTTP/1.1\r\nHost: shop.example.com\r\nContent-Length: 9\r\n\r\nabc")
    with pytest.raises(ConnectionResetError):
        connection.receive(10)
    assert [line.partition('" ')[2][:3] for line in log(cluster)] == ["408"] * 3


def test_a_client_that_leaves_is_499_and_the_endpoint_is_left_alone() -> None:
    cluster = shop()
    server = Server(cluster, "web-1", 5.0, OK)
    connection = connect(cluster)
    connection.send(b"GET / HTTP/1.1\r\nHost: shop.example.com\r\n\r\n")
    cluster.run(1)
    connection.close()
    cluster.run(1)
    (line,) = log(cluster)
    assert '" 499 0 ' in line
    assert line.split("] [] ")[1].startswith(cluster.pod("web-1").address + ":3000 0 1.0")
    assert len(server.requests) == 1
    assert views(cluster, on="default/web-1/eth0", direction="in", dport=3000, flags="F.")


def test_a_dead_endpoint_is_passed_over_and_all_dead_ones_are_502() -> None:
    cluster = shop(replicas=2)
    cluster.pod("web-1").stop()  # its process has ended; the slice does not know
    for _ in range(4):
        assert told(get(cluster, SHOP))["pod"] == "web-2"
    assert sum(" 502, 200 " in line for line in log(cluster)) >= 3  # a retry is a turn, too
    cluster.pod("web-2").stop()
    answer = get(cluster, SHOP)
    assert (answer.status, len(answer.body)) == (502, 150)
    assert log(cluster)[-1].split("] [] ")[1].split(" 0.")[0].count(":3000") == 3
    assert " 502, 502, 502 " in log(cluster)[-1]


@pytest.mark.parametrize("end", ["reset", "close"])
def test_an_endpoint_that_dies_is_tried_again_unless_the_method_forbids_it(end: str) -> None:
    cluster = shop(replicas=2)
    server = Server(cluster, "web-1", end)
    statuses = [get(cluster, SHOP).status for _ in range(2)]
    assert statuses == [200, 200]
    assert len(server.requests) == 1
    # A POST may have been acted upon.
    statuses = [get(cluster, SHOP, "POST", body=b"x").status for _ in range(2)]
    assert sorted(statuses) == [200, 502]
    assert sorted(get(cluster, SHOP, "PUT", body=b"x").status for _ in range(2)) == [200, 200]
    retrying = shop(replicas=2, config={"retry-non-idempotent": "true"})
    Server(retrying, "web-1", end)
    assert [get(retrying, SHOP, "POST", body=b"x").status for _ in range(2)] == [200, 200]


def test_a_slow_endpoint_is_504_after_as_many_tries_as_are_allowed() -> None:
    cluster = shop(annotations={"proxy-read-timeout": "2", "proxy-next-upstream-tries": "2"})
    Server(cluster, "web-1", 60.0)
    began = cluster.clock.now_ns
    assert get(cluster, SHOP, timeout=30).status == 504
    assert 4 * NS_PER_S <= cluster.clock.now_ns - began < 4.2 * NS_PER_S
    assert " 2.000, 2.000 504, 504 " in log(cluster)[-1].replace("2.001", "2.000")


def test_an_endpoint_that_swallows_syns_is_504_after_the_connect_timeout() -> None:
    cluster = shop(annotations={"proxy-connect-timeout": "2", "proxy-next-upstream": "off"})
    cluster.node(cluster.pod("web-1").pod.spec.node_name).iptables("-I FORWARD -p tcp --dport 3000 -j DROP")
    assert get(cluster, SHOP, timeout=30).status == 504


def test_an_answer_that_is_no_http_or_too_long_is_502() -> None:
    cluster = shop(replicas=1)
    Server(cluster, "web-1", b"HTTP/1.1 200 OK\r\nno header\r\n\r\n", "close")
    assert get(cluster, SHOP).status == 502
    cluster = shop()
    long = b"HTTP/1.1 200 OK\r\nX: " + b"a" * 5000 + b"\r\nContent-Length: 0\r\n\r\n"
    Server(cluster, "web-1", long)
    assert get(cluster, SHOP).status == 502
    assert " 502 " in log(cluster)[-1]
    larger = shop(annotations={"proxy-buffer-size": "8k"})
    Server(larger, "web-1", long)
    assert get(larger, SHOP).status == 200


def test_statuses_can_be_retried() -> None:
    cluster = shop(replicas=2, annotations={"proxy-next-upstream": "error http_503"})
    Server(cluster, "web-1", b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
    assert [get(cluster, SHOP).status for _ in range(2)] == [200, 200]


def test_an_answer_that_breaks_off_breaks_off() -> None:
    cluster = shop()
    Server(cluster, "web-1", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", 0.5, "close")
    with pytest.raises(OSError, match="transfer closed"):
        get(cluster, SHOP)
    assert '" 200 3 ' in log(cluster)[-1]


def test_without_endpoints_503_and_without_a_service_too() -> None:
    absent = ingress("absent", rule("absent.example.com", ("/", "Prefix", "nothing")))
    cluster = shop(absent, replicas=0)
    for host in ("shop", "absent"):
        answer = get(cluster, f"http://{host}.example.com/")
        assert answer.status == 503
        assert b"503 Service Temporarily Unavailable" in answer.body
    assert "[default-web-8080] [] - - - - " in log(cluster)[0]


def test_the_default_backend_is_a_server_in_the_same_pod_and_not_logged() -> None:
    cluster = shop()
    assert get(cluster, "http://other.example.com/").status == 404
    assert not log(cluster)
    loopback = views(cluster, on=f"{CONTROLLER}/lo", dport=8181)
    assert loopback
    only = ingress("some", rule("some.example.com", ("/a", "Exact", "web")))
    cluster.apply(text([only]))
    answer = get(cluster, "http://some.example.com/b", "POST", body=b"x" * 100)
    assert answer.status == 404
    assert "[upstream-default-backend] [] 127.0.0.1:8181 146 0.000 404 " in log(cluster)[0]


def test_an_ingress_with_a_default_backend_and_rules() -> None:
    cluster = world(
        *service("web"),
        *service("rest"),
        ingress("both", rule("a.example.com", ("/a", "Prefix", "web")), defaultBackend=backend("rest")),
    )
    assert told(get(cluster, "http://a.example.com/a/b"))["service"] == "web"
    assert told(get(cluster, "http://a.example.com/x"))["service"] == "rest"
    assert get(cluster, "http://b.example.com/").status == 404


def test_upgrades_pass_through() -> None:
    cluster = shop()
    server = Server(
        cluster,
        "web-1",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Key: 1\r\n\r\nhi ",
        "echo",
    )
    connection = connect(cluster)
    connection.send(
        b"GET /chat HTTP/1.1\r\nHost: shop.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    )
    answer = said(connection, 0.5)
    assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\nDate: ")
    assert b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\nX-Key: 1\r\n\r\nhi " in answer
    assert b"\r\nUpgrade: websocket\r\nConnection: upgrade\r\n" in server.requests[0]
    connection.send(b"abc")
    assert said(connection, 0.5) == b"ABC"
    connection.close()
    cluster.run(1)
    assert '"GET /chat HTTP/1.1" 101 ' in log(cluster)[0]
    assert views(cluster, on="default/web-1/eth0", direction="in", dport=3000, flags="F.")


def test_an_external_name_is_looked_up_and_a_service_upstream_is_the_cluster_ip() -> None:
    external = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "away"},
        "spec": {"type": "ExternalName", "externalName": "www.example.org", "ports": [{"port": 8080}]},
    }
    cluster = Cluster(2, seed=7, upstream=["www.example.org. 60 A 203.0.113.9"])
    cluster.install_ingress()
    away = ingress("away", rule("away.example.com", ("/", "Prefix", "away")))
    direct = ingress("direct", rule("d.example.com", ("/", "Prefix", "web")), annotations={"service-upstream": "true"})
    cluster.apply(text([external, away, *service("web"), direct]))
    assert get(cluster, "http://away.example.com/").text.startswith("outside saw ")
    assert told(get(cluster, "http://d.example.com/"))["service"] == "web"
    virtual = cluster.store.get("Service", "web", "default").spec.cluster_ip  # type: ignore[union-attr]
    assert views(cluster, on=f"{CONTROLLER}/eth0", direction="out", dst=virtual, dport=8080)


def test_changes_are_followed_after_the_watch_delay() -> None:
    cluster = shop(watch_delay=2.0)
    cluster.run(3)
    assert told(get(cluster, SHOP))["service"] == "web"
    cluster.delete("ingress/shop")
    assert get(cluster, SHOP).status == 200
    cluster.run(2)
    assert get(cluster, SHOP).status == 404


def test_two_ingresses_of_one_host_are_one_server_and_the_older_wins() -> None:
    cluster = world(*service("web"), *service("api"), ingress("z", rule("a.example.com", ("/x", "Prefix", "web"))))
    cluster.apply(text([ingress("a", rule("a.example.com", ("/x", "Prefix", "api"), ("/y", "Prefix", "api")))]))
    assert told(get(cluster, "http://a.example.com/x"))["service"] == "web"
    assert told(get(cluster, "http://a.example.com/y"))["service"] == "api"


def test_the_same_seed_gives_the_same_bytes() -> None:
    captures = []
    for _ in range(2):
        cluster = shop(replicas=3, seed=5)
        for _ in range(3):
            get(cluster, SHOP)
        captures.append([frame.frame for frame in cluster.capture])
    assert captures[0] == captures[1]
