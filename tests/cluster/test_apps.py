"""The programs of pods: exchanges as the recorded clusters show them, and what clients print."""

from __future__ import annotations

import pytest

from pktsim.clock import NS_PER_MS, NS_PER_S
from pktsim.cluster.apps.http_client import HttpClient, HttpResult
from pktsim.cluster.apps.http_server import HttpRequest, HttpResponse, HttpServer
from pktsim.cluster.apps.probe import Probe, run_probe
from pktsim.cluster.apps.udp_echo import UdpEchoServer
from pktsim.kernel.task import run, spawn
from pktsim.kernel.transport import AF_INET, AF_INET6
from pktsim.rng import ScriptedChoices
from tests.kernel.transport_world import Host, Wire, World


def two_hosts(*, first_fin: int = 0, mtu: int = 1500) -> tuple[World, Host, Host]:
    world = World(choices=ScriptedChoices({"web-1/http.first_fin": [first_fin] * 9}))
    client = world.host("client", "10.1.1.2", "fd00::2", mtu=mtu)
    server = world.host("web-1", "10.1.1.1", "fd00::1", mtu=mtu)
    return world, client, server


def curl(world: World, host: Host, url: str, *, local_port: int = 0, max_time_ns: int = 0) -> HttpResult:
    client = HttpClient(host.sockets, local_port=local_port, max_time_ns=max_time_ns)
    return run(world.clock, client.get(url), "curl")


HANDSHAKE = [
    "client S 0:0 win 64240",
    "web-1 S. 0:0 ack 1 win 65160",
    "client . ack 1 win 63",
]


def test_get_when_the_server_closes_first() -> None:
    """book/service-by-name-web-1: the FIN is a packet of its own, and is answered by the client's FIN."""
    world, client, server = two_hosts()
    HttpServer(server.sockets, "web-1").start()
    result = curl(world, client, "http://10.1.1.1:8080/", local_port=40007)
    assert result.output == "web-1 saw 10.1.1.2:40007\n"
    assert (result.exit_code, result.status, result.ok) == (0, 200, True)
    assert world.segments() == [
        *HANDSHAKE,
        "client P. 1:78 ack 1 win 63",
        "web-1 . ack 78 win 64",
        "web-1 P. 1:104 ack 78 win 64",
        "client . ack 104 win 63",
        "web-1 F. 104:104 ack 78 win 64",
        "client F. 78:78 ack 105 win 63",
    ]
    world.clock.run_for(NS_PER_S)
    assert world.segments()[-1] == "web-1 . ack 79 win 64"
    assert world.log[3].packet.payload[32:] == (
        b"GET / HTTP/1.1\r\nHost: 10.1.1.1:8080\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n"
    )
    assert world.log[5].packet.payload[32:] == (
        b"HTTP/1.0 200 OK\r\nServer: pod\r\nContent-Type: text/plain\r\nContent-Length: 25\r\n\r\n"
        b"web-1 saw 10.1.1.2:40007\n"
    )


def test_get_when_the_client_closes_first() -> None:
    """book/service-by-name-web-3."""
    world, client, server = two_hosts(first_fin=1)
    HttpServer(server.sockets, "web-1").start()
    curl(world, client, "http://10.1.1.1:8080/", local_port=40007)
    world.clock.run_for(NS_PER_S)
    assert world.segments()[5:] == [
        "web-1 P. 1:104 ack 78 win 64",
        "client . ack 104 win 63",
        "client F. 78:78 ack 104 win 63",
        "web-1 F. 104:104 ack 79 win 64",
        "client . ack 105 win 63",
    ]


def test_get_over_ipv6() -> None:
    """host-gw-ipv6/service-near: other windows, because segments are smaller."""
    world, client, server = two_hosts()
    HttpServer(server.sockets, "web-1", family=AF_INET6).start()
    result = curl(world, client, "http://[fd00::1]:8080/", local_port=40008)
    assert result.output == "web-1 saw [fd00::2]:40008\n"
    assert world.segments()[:5] == [
        "client S 0:0 win 64800",
        "web-1 S. 0:0 ack 1 win 64260",
        "client . ack 1 win 64",
        "client P. 1:79 ack 1 win 64",
        "web-1 . ack 79 win 63",
    ]


def test_download_begins_as_recorded() -> None:
    """vxlan/download-200k: bursts of half the congestion window, PSH at their ends, and a window that grows."""
    world, client, server = two_hosts(mtu=1450)
    HttpServer(server.sockets, "web-1").start()
    result = curl(world, client, "http://10.1.1.1:8080/bytes/200000")
    assert len(result.body) == 200_000
    assert result.body.startswith(b"0123456789abcdef0123")
    assert world.segments()[5:20] == [
        "web-1 . 1:1399 ack 90 win 63",
        "web-1 . 1399:2797 ack 90 win 63",
        "web-1 . 2797:4195 ack 90 win 63",
        "web-1 . 4195:5593 ack 90 win 63",
        "web-1 P. 5593:6991 ack 90 win 63",
        "client . ack 1399 win 67",
        "client . ack 2797 win 70",
        "client . ack 4195 win 73",
        "client . ack 5593 win 75",
        "client . ack 6991 win 76",
        "web-1 . 6991:8389 ack 90 win 63",
        "web-1 . 8389:9787 ack 90 win 63",
        "web-1 . 9787:11185 ack 90 win 63",
        "web-1 . 11185:12583 ack 90 win 63",
        "web-1 P. 12583:13981 ack 90 win 63",
    ]


def test_upload_is_written_in_chunks_as_curl_does() -> None:
    """vxlan/upload-200k: head first, then 64 KiB at a time, each ended by PSH."""
    world, client, server = two_hosts(mtu=1450)
    HttpServer(server.sockets, "web-1").start()
    request = HttpClient(client.sockets, local_port=40080).post(
        "http://10.1.1.1:8080/", b"x" * 200_000, headers=["Content-Type: x"]
    )
    result = run(world.clock, request)
    assert result.output == "web-1 saw 10.1.1.2:40080 send 200000 bytes\n"
    head = world.log[3].segment.payload
    assert head == (
        b"POST / HTTP/1.1\r\nHost: 10.1.1.1:8080\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n"
        b"Content-Type: x\r\nContent-Length: 200000\r\n\r\n"
    )
    ends = {int(line.split()[2].partition(":")[2]) for line in world.segments() if line.startswith("client P.")}
    assert {1 + len(head) + chunk for chunk in (0, 65536, 131072, 196608, 200000)} <= ends


def test_a_handler_and_names_of_ones_own() -> None:
    world, client, server = two_hosts()

    def handle(request: HttpRequest) -> HttpResponse:
        return HttpResponse(request.header("host").encode(), 404, "Not Found", "text/html", (("X-A", "b"),))

    HttpServer(server.sockets, "web-1", handler=handle, server="nginx", version="1.1").start()

    async def resolve(name: str) -> list[str]:
        assert name == "web"
        return ["10.1.1.1"]

    result = run(world.clock, HttpClient(client.sockets, resolve=resolve).get("http://web:8080/x?y=1"))
    assert (result.status, result.body, result.ok) == (404, b"web:8080", False)
    assert ("x-a", "b") in result.headers
    assert ("server", "nginx") in result.headers


@pytest.mark.parametrize("resolver", ["none", "failing"])
def test_an_unknown_name(resolver: str) -> None:
    world, client, _ = two_hosts()

    async def resolve(name: str) -> list[str]:
        raise OSError

    request = HttpClient(client.sockets, resolve=None if resolver == "none" else resolve).get("http://nobody/")
    result = run(world.clock, request)
    assert result.output == "curl: (6) Could not resolve host: nobody\n"


def test_curl_gives_up() -> None:
    world, client, _ = two_hosts()
    world.wire = Wire(lambda number, packet: [])
    result = curl(world, client, "http://10.1.1.1:8080/", max_time_ns=3 * NS_PER_S)
    assert result.output == "curl: (28) Connection timed out after 3001 milliseconds\n"
    assert world.segments() == ["client S 0:0 win 64240"] * 4


def test_curl_is_refused() -> None:
    world, client, _ = two_hosts()
    result = curl(world, client, "http://10.1.1.1:8080/")
    assert result.exit_code == 7
    assert "Failed to connect to 10.1.1.1 port 8080" in result.error


def test_curl_waits_in_vain_for_an_answer() -> None:
    world, client, server = two_hosts()
    listener = server.sockets.tcp()
    listener.bind("", 8080)
    listener.listen()
    result = curl(world, client, "http://10.1.1.1:8080/", max_time_ns=2 * NS_PER_S)
    assert result.output == "curl: (28) Operation timed out after 2001 milliseconds with 0 bytes received\n"


def test_an_empty_reply() -> None:
    world, client, server = two_hosts()
    web = HttpServer(server.sockets, "web-1", think_ns=NS_PER_S)
    web.start()
    world.clock.after(500 * NS_PER_MS, web.stop)
    result = curl(world, client, "http://10.1.1.1:8080/")
    assert result.exit_code == 52
    assert curl(world, client, "http://10.1.1.1:8080/").exit_code == 7


def test_a_server_that_ends_between_accepting_and_serving_closes_the_connection() -> None:
    world, client, server = two_hosts()
    web = HttpServer(server.sockets, "web-1")
    web.start()
    request = spawn(world.clock, HttpClient(client.sockets, max_time_ns=5 * NS_PER_S).get("http://10.1.1.1:8080/"))
    accepting = len(web._tasks)
    while len(web._tasks) == accepting:
        world.clock.step()
    web.stop()
    world.clock.run_for(10 * NS_PER_S)
    assert request.result().exit_code in (52, 56)  # an empty reply or a reset, no time-out
    assert web.served == 0


def test_a_bad_request_is_answered() -> None:
    world, client, server = two_hosts()
    HttpServer(server.sockets, "web-1").start()

    async def nonsense() -> bytes:
        socket = client.sockets.tcp()
        await socket.connect("10.1.1.1", 8080)
        await socket.sendall(b"nonsense\r\n\r\n")
        got = b""
        while data := await socket.recv():
            got += data
        socket.close()
        return got

    assert run(world.clock, nonsense()).startswith(b"HTTP/1.0 400 Bad Request\r\n")


def probe(world: World, host: Host, **what: object) -> list[str]:
    return run(world.clock, run_probe(host.sockets, Probe(**what)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("family", "destination", "expected"),
    [
        (AF_INET, "10.1.1.1", "reply 34 web-1 saw 10.1.1.2:40071 say hello"),
        (AF_INET6, "fd00::1", "reply 35 web-1 saw [fd00::2]:40071 say hello"),
    ],
)
def test_udp_echo(family: int, destination: str, expected: str) -> None:
    world, client, server = two_hosts()
    echo = UdpEchoServer(server.sockets, "web-1", family=family)
    echo.start()
    lines = probe(world, client, kind="udp", destination=destination, port=8081, sport=40071, count=3)
    assert lines == [expected] * 3
    assert echo.served == 3
    echo.stop()
    assert not list(server.sockets.udp_table)


def test_udp_says_no_more_than_it_should() -> None:
    """vxlan/big-udp-service: a question of 2,500 bytes gets 1,200 of them back."""
    world, client, server = two_hosts()
    UdpEchoServer(server.sockets, "web-1").start()
    lines = probe(world, client, kind="udp", destination="10.1.1.1", port=8081, sport=40074, size=2500, df=False)
    assert lines == ["reply 1229 web-1 saw 10.1.1.2:40074 say 0123456789abcdef0123456789abcdef0123456789abcdef012"]


def test_probes_report_errors_by_name() -> None:
    world, client, _ = two_hosts()
    assert probe(world, client, kind="udp", destination="10.1.1.1", port=9) == ["ECONNREFUSED"]
    assert probe(world, client, kind="tcp", destination="10.1.1.1", port=9) == ["ECONNREFUSED"]
    assert probe(world, client, kind="tcp", destination="10.9.9.9", port=9) == ["TimeoutError"]
    assert probe(world, client, kind="ping", destination="10.9.9.9") == ["TimeoutError"]
    assert probe(world, client, kind="udp", destination="10.1.1.1", port=9, size=1473, df=True) == ["EMSGSIZE"]
    with pytest.raises(ValueError, match="none of tcp, udp and ping"):
        probe(world, client, kind="sctp", destination="10.1.1.1")


@pytest.mark.parametrize(
    ("reset", "last"), [(False, "client F. 1:1 ack 1 win 63"), (True, "client R. 1:1 ack 1 win 63")]
)
def test_tcp_probe_connects_and_closes(reset: bool, last: str) -> None:
    world, client, server = two_hosts()
    listener = server.sockets.tcp()
    listener.bind("", 80)
    listener.listen()
    assert probe(world, client, kind="tcp", destination="10.1.1.1", port=80, sport=40072, reset=reset) == ["connected"]
    assert world.segments() == [*HANDSHAKE, last]
