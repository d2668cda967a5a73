from __future__ import annotations

import pytest

from pktsim.cluster.commands import Client, Command, Curl, Dig, parse_command
from pktsim.errors import RecordingError, UnsupportedFeature


@pytest.mark.parametrize(
    ("line", "command"),
    [
        (
            "curl -s -S -m 3 --local-port 40002 http://web/",
            Curl("http://web/", local_port=40002, max_time_s=3.0),
        ),
        (
            "curl -s -S -m 3 --local-port 1 -o /dev/null -w %{size_download} bytes\\n http://10.96.1.3/bytes/200000",
            Curl("http://10.96.1.3/bytes/200000", 1, 3.0, output="/dev/null", write_out="%{size_download} bytes\\n"),
        ),
        (
            "curl -s --data-binary @200000-bytes -H Content-Type: x http://[fd00::1]/",
            Curl("http://[fd00::1]/", headers=("Content-Type: x",), data_bytes=200000),
        ),
        (
            "dig +nocookie +search +tries=1 +time=2 nothing",
            Dig("nothing", search=True, tries=1, timeout_s=2.0, cookie=False),
        ),
        ("dig +tcp _dns._udp.kube-dns SRV", Dig("_dns._udp.kube-dns", "SRV", tcp=True)),
        ("client udp 10.0.0.1 80 --sport 5 --size 2500 --no-df", Client("udp", "10.0.0.1", 80, 5, 2500, df=False)),
        ("client ping 10.0.0.1 --ttl 1 --count 2 --wait 5", Client("ping", "10.0.0.1", count=2, ttl=1, wait_s=5.0)),
        ("client tcp fd00::1 80 --sport 5 --reset --df", Client("tcp", "fd00::1", 80, 5, reset=True, df=True)),
    ],
)
def test_command_lines(line: str, command: Command) -> None:
    assert parse_command(line) == command


@pytest.mark.parametrize(
    ("line", "error", "text"),
    [
        ("nc 10.0.0.1 80", UnsupportedFeature, "command 'nc' is not modelled"),
        ("curl --http2 http://web/", UnsupportedFeature, "curl option --http2 is not modelled"),
        ("curl https://web/", UnsupportedFeature, "curl option https://web/ is not modelled"),
        ("dig +dnssec web", UnsupportedFeature, "dig option +dnssec is not modelled"),
        ("client udp 10.0.0.1 80 --tos 4", UnsupportedFeature, "client option --tos is not modelled"),
        ("", UnsupportedFeature, "command ''"),
        ("curl -s", RecordingError, "no http:// URL"),
        ("curl -m", RecordingError, "its last option lacks a value"),
        ("dig +tries=x web", RecordingError, "cannot read the command"),
        ("client icmp 10.0.0.1", RecordingError, "tcp, udp or ping"),
        ("client tcp 10.0.0.1", RecordingError, "no port"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(line: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as raised:
        parse_command(line, file="action.yaml")
    assert text in str(raised.value)
    assert "action.yaml" in str(raised.value)
