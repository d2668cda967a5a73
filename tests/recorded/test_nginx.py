"""What the controller says to clients and endpoints is what nginx was recorded saying (see :mod:`.make_nginx`)."""

from __future__ import annotations

import json
import re

import pytest

from tests.cluster.ingress.test_proxy import Server, connect, shop
from tests.recorded.make_nginx import FILE

CASES: dict[str, dict[str, str]] = json.loads(FILE.read_text())


def normal(text: str) -> str:
    """Without what differs by nature: dates, the module that takes ``Server`` away, the client's address."""
    text = re.sub(r"(?m)^Date: .*\r$", "Date: …\r", text.replace("\r\nServer: nginx\r\n", "\r\n"))
    return re.sub(r"(?m)^(X-Real-IP|X-Forwarded-For): [0-9.]+\r$", r"\1: …\r", text)


@pytest.mark.parametrize("name", CASES)
def test_a_recorded_exchange(name: str) -> None:
    case = CASES[name]
    cluster = shop(annotations={"proxy-next-upstream-tries": "1"})  # there was one endpoint
    server = Server(cluster, "web-1", *([case["answer"].encode("latin-1")] if case["answer"] else []), "close")
    connection = connect(cluster)
    connection.send(case["request"].encode("latin-1"))
    data, end = b"", "open"
    try:
        while True:
            more = connection.receive(0.5)
            if not more:
                end = "FIN"
                break
            data += more
    except TimeoutError:
        pass
    except ConnectionResetError:
        end = "RST"
    assert normal(data.decode("latin-1")) == normal(case["client"])
    assert end == case["end"]
    assert normal(b"".join(server.requests).decode("latin-1")) == normal(case["endpoint"])
