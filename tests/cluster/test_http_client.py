"""The HTTP client of machines: what it asks for, where it connects to, and how long it keeps connections."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pktsim.cluster.cluster import Cluster
from pktsim.cluster.programs import HttpAnswer
from pktsim.errors import UnsupportedFeature
from pktsim.kernel.task import spawn
from pktsim.kernel.tcp import TcpSocket
from pktsim.scenario.script import views
from pktsim.wire.frame import FrameView

ECHO = """\
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}, annotations: {pktsim.io/app: http-echo, pktsim.io/http: "1.1"}}
spec: {containers: [{name: web, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 172.30.0.1, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {containers: [{name: shell}]}
"""
URL = "http://172.30.0.1/"


@pytest.fixture
def cluster() -> Cluster:
    return Cluster.load(ECHO, seed=1)


def told(answer: HttpAnswer) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(answer.body)
    return said


def scripted(cluster: Cluster, *answers: bytes, port: int = 9000) -> list[bytes]:
    """A server in pod ``web`` which gives these answers, one for each request, and closes. What it was asked."""
    asked: list[bytes] = []
    netns = cluster.pod("web").netns
    listener = netns.sockets.tcp()
    listener.bind("", port)
    listener.listen()

    async def serve(socket: TcpSocket, answers: list[bytes]) -> None:
        while answers:
            request = await socket.recv()
            if not request:
                break
            asked.append(request)
            await socket.sendall(answers.pop(0))
        socket.close()

    async def accept() -> None:
        left = list(answers)
        while True:
            spawn(netns.clock, serve(await listener.accept(), left), "scripted")

    spawn(netns.clock, accept(), "scripted server")
    return asked


def answer(status: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_headers_are_added_and_replaced_as_curl_does(cluster: Cluster) -> None:
    client = cluster.pod("client")
    assert told(client.http_get(URL))["headers"] == [
        ["host", "172.30.0.1"],
        ["user-agent", "curl/7.88.1"],
        ["accept", "*/*"],
    ]
    given = ["Host: a.example.com", "Accept: text/html", "X-More: 1", "User-Agent: me"]
    assert told(client.http_get(URL, headers=given))["headers"] == [
        ["host", "a.example.com"],
        ["accept", "text/html"],
        ["x-more", "1"],
        ["user-agent", "me"],
    ]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_methods_and_bodies(cluster: Cluster, method: str) -> None:
    body = b"x" * 10 if method in ("POST", "PUT", "PATCH") else None
    said = told(cluster.pod("client").http_request(method, URL + "a", body=body))
    assert (said["method"], said["path"], said["bytes"]) == (method, "/a", len(body or b""))
    typed = ["content-type", "application/x-www-form-urlencoded"] in said["headers"]
    assert typed == (body is not None)


@pytest.mark.parametrize(("size", "together"), [(1, True), (1300, True), (1 << 16, False)])
def test_a_short_body_goes_out_with_the_head(cluster: Cluster, size: int, together: bool) -> None:
    """Seen of curl 7.88.1 on the running kernel."""
    cluster.pod("client").http_request("POST", URL, body=b"x" * size)
    segments = [
        FrameView(seen.frame).payload
        for seen in cluster.capture
        if seen.space == "default/client" and seen.direction == "out" and seen.frame[23] == 6
    ]
    first = next(segment for segment in segments if segment)
    assert first.startswith(b"POST ")
    assert first.endswith(b"x") == together


def test_head_has_no_body(cluster: Cluster) -> None:
    found = cluster.pod("client").http_request("HEAD", URL)
    assert (found.status, found.body) == (200, b"")
    assert int(found.header("Content-Length")) > 0


@pytest.mark.parametrize("place", ["172.30.0.1", "172.30.0.1:80", "web", "web.default.svc:80"])
def test_connecting_to_another_place(cluster: Cluster, place: str) -> None:
    found = cluster.pod("client").http_get("http://shop.example.com/x", connect_to=place)
    assert told(found)["host"] == "shop.example.com"
    assert found.peer == ("172.30.0.1", 80)


def test_connecting_to_another_port(cluster: Cluster) -> None:
    pod = cluster.pod("web").address
    assert told(cluster.pod("client").http_get(f"http://{pod}/", connect_to=":8080"))["host"] == pod
    with pytest.raises(UnsupportedFeature, match="connect_to web:http"):
        cluster.pod("client").http_get(URL, connect_to="web:http")


def test_a_session_uses_its_connection_again(cluster: Cluster) -> None:
    with cluster.pod("client").http_session(headers=["X-Session: 1"]) as session:
        ports = {session.get(URL).local for _ in range(3)}
        assert len(ports) == 1
        found = session.request("POST", URL, body=b"abc", headers=["X-Own: 2"])
        assert found.local in ports
        assert {"x-session", "x-own"} <= {name for name, _ in told(found)["headers"]}
        other = session.get(f"http://{cluster.pod('web').address}:8080/")
        assert other.local not in ports
    cluster.run(1)
    assert len(views(cluster, on="default/client/eth0", direction="out", flags="F.")) == 2


def test_a_session_connects_anew_where_the_server_has_closed(cluster: Cluster) -> None:
    ok = answer("200 OK", body=b"ok")
    asked = scripted(cluster, ok)
    url = f"http://{cluster.pod('web').address}:9000/"
    with cluster.pod("client").http_session() as session:
        first = session.get(url)
        cluster.run(1)  # the server's FIN has come
        with pytest.raises(OSError, match="Empty reply from server"):
            session.get(url)  # its script is over: it closes at once
    assert first.text == "ok"
    assert len(asked) == 1
    assert len(views(cluster, on="default/client/eth0", direction="out", dport=9000, flags="S")) == 2


def test_a_kept_connection_that_dies_under_a_request_is_replaced(cluster: Cluster) -> None:
    """The FIN crosses the request: nothing was said, so the request goes out once more over a new connection."""
    asked: list[int] = []
    netns = cluster.pod("web").netns
    listener = netns.sockets.tcp()
    listener.bind("", 9000)
    listener.listen()

    async def accept() -> None:
        while True:
            socket = await listener.accept()
            number = len(asked)
            await socket.recv()
            asked.append(number)
            await socket.sendall(answer("200 OK", body=b"ok"))
            if not number:
                await socket.recv()
                socket.close()

    spawn(netns.clock, accept(), "server")
    with cluster.pod("client").http_session() as session:
        url = f"http://{cluster.pod('web').address}:9000/"
        assert [session.get(url).text for _ in range(2)] == ["ok", "ok"]
    assert asked == [0, 1]


def test_redirects_are_followed_only_when_asked(cluster: Cluster) -> None:
    pod = cluster.pod("web").address
    scripted(cluster, *[answer("302 Found", "Location: /there")] * 6, answer("200 OK", body=b"there"))
    client, url = cluster.pod("client"), f"http://{pod}:9000/"
    assert client.http_get(url).status == 302
    with pytest.raises(OSError, match=r"Maximum \(3\) redirects followed"):
        client.http_get(url, redirects=3)
    found = client.http_get(url, redirects=3)
    assert (found.text, found.url) == ("there", f"http://{pod}:9000/there")


@pytest.mark.parametrize(
    ("status", "method", "bodies"),
    [
        ("301 Moved", "GET", 0),
        ("302 Found", "GET", 0),
        ("303 See Other", "GET", 0),
        ("307 T", "POST", 3),
        ("308 P", "POST", 3),
    ],
)
def test_what_a_redirect_makes_of_a_post(cluster: Cluster, status: str, method: str, bodies: int) -> None:
    scripted(cluster, answer(status, "Location: http://172.30.0.1/new"))
    url = f"http://{cluster.pod('web').address}:9000/"
    said = told(cluster.pod("client").http_request("POST", url, body=b"abc", redirects=1))
    assert (said["method"], said["path"], said["bytes"]) == (method, "/new", bodies)


def test_a_large_body_waits_for_the_servers_word(cluster: Cluster) -> None:
    refusing = scripted(cluster, answer("413 Too Large", "Connection: close"))
    client, pod = cluster.pod("client"), cluster.pod("web").address
    body = b"x" * ((1 << 20) + 1)
    assert client.http_request("PUT", f"http://{pod}:9000/", body=body).status == 413
    assert len(refusing) == 1
    assert b"Expect: 100-continue\r\n" in refusing[0]
    netns = cluster.pod("web").netns
    listener = netns.sockets.tcp()
    listener.bind("", 9001)
    listener.listen()

    async def silent() -> None:
        """Says nothing before it has everything."""
        socket = await listener.accept()
        received = 0
        while received < len(body):
            received += len(await socket.recv())
        await socket.sendall(answer("200 OK"))

    spawn(netns.clock, silent(), "silent server")
    before = cluster.clock.now_ns
    with cluster.unrecorded():
        assert client.http_request("PUT", f"http://{pod}:9001/", body=body, timeout=20).status == 200
    assert cluster.clock.now_ns - before >= 10**9
    with cluster.unrecorded():
        assert told(client.http_request("PUT", URL, body=body, timeout=20))["bytes"] == len(body)


def test_other_schemes_are_refused(cluster: Cluster) -> None:
    with pytest.raises(UnsupportedFeature, match="URL ftp://x/"):
        cluster.pod("client").http_get("ftp://x/")
