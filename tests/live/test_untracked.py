"""What the scenario ``nodelocal-dns-notrack`` says of NOTRACK, on the running kernel."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.live import netns

CACHE = "169.254.20.10"
SERVER = f"""
import socket
served = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
served.bind(("{CACHE}", 53))
print("ready", flush=True)
while True:
    data, source = served.recvfrom(999)
    try:
        served.sendto(data, source)
    except PermissionError:
        pass  # dropped in OUTPUT
"""
CLIENT = f"""
import socket
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.settimeout(0.3)
asking.connect(("{CACHE}", 53))
asking.send(b"question")
try:
    print(asking.recv(999).decode())
except TimeoutError:
    print("timeout")
"""


@pytest.fixture
def node(namespace: Callable[..., netns.Namespace]) -> Iterator[netns.Namespace]:
    made = namespace([])
    made.run("ip", "address", "add", f"{CACHE}/32", "dev", "lo")
    command = ["ip", "netns", "exec", made.name, sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield made
        server.kill()


def ask(node: netns.Namespace) -> str:
    return node.run(sys.executable, "-c", CLIENT).strip()


def entries(node: netns.Namespace) -> list[str]:
    return [line for line in node.conntrack() if "dport=53" in line]


def rule(node: netns.Namespace, text: str) -> None:
    node.run("iptables", *text.split())


def test_untracked_answers_of_a_cache_on_the_node(node: netns.Namespace) -> None:
    rule(node, f"-t raw -A OUTPUT -s {CACHE} -p udp --sport 53 -j NOTRACK")
    rule(node, f"-t raw -A PREROUTING -d {CACHE} -p udp --dport 53 -j NOTRACK")
    # The node's own query is tracked in OUTPUT, before PREROUTING could say no; its answer is not.
    rule(node, "-A OUTPUT -m conntrack --ctstate INVALID -j DROP")
    assert ask(node) == "question"
    assert [("[UNREPLIED]" in line) for line in entries(node)] == [True]
    node.run("conntrack", "-F")
    rule(node, f"-t raw -A OUTPUT -d {CACHE} -p udp --dport 53 -j NOTRACK")
    assert ask(node) == "question"
    assert entries(node) == []
    # UNTRACKED is not ESTABLISHED.
    rule(node, "-A OUTPUT -p udp --sport 53 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
    rule(node, "-A OUTPUT -p udp --sport 53 -j DROP")
    assert ask(node) == "timeout"
    rule(node, "-I OUTPUT -p udp --sport 53 -m conntrack --ctstate UNTRACKED -j ACCEPT")
    assert ask(node) == "question"
