"""Whatever clients and endpoints say, the controller answers or closes, and nothing of it stays."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pktsim.clock import NS_PER_S
from tests.cluster.ingress.test_proxy import CONTROLLER, Server, connect, said, shop
from tests.recorded.make_nginx import CASES

_PIECES = (
    b"\r\n", b"\r\n\r\n", b": ", b"HTTP/1.1", b"HTTP/1.0", b"GET ", b"POST ", b"HEAD ", b"//", b"..", b"%2f",
    b"%", b"?",
    b"Host: shop.example.com\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n",
    b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Content-Length: 5, 5\r\n", b"Expect: 100-continue\r\n",
    b"Upgrade: x\r\n", b"Connection: close\r\n", b"\x00", b"\xff", b"5\r\nhello\r\n", b"0\r\n\r\n", b"\n", b" ",
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 101 x\r\n", b"HTTP/1.1 204 x\r\n",
    b"HTTP/1.1 999 \r\n", b"HTTP/1.1 2 OK\r\n",
)  # fmt: skip

_CHANGES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8), st.sampled_from(_PIECES)), max_size=4)


def changed(data: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """Data with pieces put into it, in the place of some bytes."""
    for where, length, piece in changes:
        at = int(where * len(data))
        data = data[:at] + piece + data[at + length :]
    return data


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    case=st.sampled_from([case for case in CASES if len(case[1]) < 2000]),
    other=st.sampled_from(CASES),
    requested=_CHANGES,
    answered=_CHANGES,
    split=st.floats(0, 1),
    end=st.sampled_from(["close", "reset", "echo"]),
)
def test_nonsense_is_answered_or_ends(
    case: tuple[str, bytes, bytes],
    other: tuple[str, bytes, bytes],
    requested: list[tuple[float, int, bytes]],
    answered: list[tuple[float, int, bytes]],
    split: float,
    end: str,
) -> None:
    brief = {"client-header-timeout": "2", "client-body-timeout": "2", "keep-alive": "2"}
    cluster = shop(config=brief, annotations={"proxy-read-timeout": "2"})
    controller = cluster.pod(CONTROLLER).ingress
    assert controller is not None
    request = changed(case[1], requested)
    with cluster.unrecorded():
        Server(cluster, "web-1", changed(other[2], answered), end)
        connection = connect(cluster)
        at = int(split * len(request))
        try:
            for part in filter(None, (request[:at], request[at:])):
                connection.send(part)
                cluster.run(0.01)
            said(connection, 0.1)
        except OSError:
            pass
        connection.close()
        cluster.clock.run_for(100 * NS_PER_S)
        cluster.pod("web-1").stop()
        cluster.clock.run_for(100 * NS_PER_S)
    assert controller.idle
