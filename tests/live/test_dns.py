"""The real dig and the real resolver of this machine, served by our DNS server: are they what ours are?"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pktsim.cluster.kubedns import wire
from pktsim.cluster.resolver import ResolutionError, pod_resolver
from pktsim.cluster.resolver.dig import dig_query, format_message, type_number
from pktsim.kernel.task import run
from tests import tools
from tests.cluster.dns_world import COREFILE, OBJECTS, RESOLV_CONF, dns_world
from tests.live import netns
from tests.live.dns_process import make_server

ROOT = Path(__file__).parents[2]
PLAIN_COREFILE = (
    COREFILE.replace("    forward . 192.0.2.53\n", "").replace("    loadbalance\n", "").replace("    cache 30\n", "")
)
MANY = "".join(f"- {{addresses: [10.244.3.{number}]}}\n" for number in range(1, 61))


@dataclass
class Served:
    """A namespace with our server on 127.0.0.1."""

    namespace: netns.Namespace
    process: subprocess.Popen[str]
    directory: Path

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        prefix = ("ip", "netns", "exec", self.namespace.name)
        return subprocess.run((*prefix, *words), capture_output=True, text=True, timeout=30, check=False)

    def queries(self) -> list[tuple[str, bytes]]:
        """Stop the server and tell what came in."""
        self.process.terminate()
        out, _ = self.process.communicate(timeout=10)
        rows = [line.split() for line in out.splitlines() if line != "ready"]
        return [(row[0], bytes.fromhex(row[1])) for row in rows]


@pytest.fixture
def served(namespace: Callable[..., netns.Namespace], tmp_path: Path) -> Iterator[Served]:
    node = namespace([])
    (tmp_path / "Corefile").write_text(PLAIN_COREFILE)
    (tmp_path / "objects.yaml").write_text(OBJECTS + MANY)
    own = Path("/etc/netns") / node.name
    own.mkdir(parents=True)
    (own / "resolv.conf").write_text(RESOLV_CONF.replace("10.244.0.5", "127.0.0.1"))
    command = ["ip", "netns", "exec", node.name, sys.executable, "-m", "tests.live.dns_process"]
    files = [str(tmp_path / "Corefile"), str(tmp_path / "objects.yaml")]
    process = subprocess.Popen([*command, *files], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Served(node, process, tmp_path)
    finally:
        process.kill()
        process.communicate()
        (own / "resolv.conf").unlink()
        own.rmdir()


DIGS = {
    "an address": ("web.default.svc.cluster.local", "A", ()),
    "a denial": ("nope.default.svc.cluster.local", "AAAA", ()),
    "services": ("_sql._tcp.db.default.svc.cluster.local", "SRV", ()),
    "a text": ("dns-version.cluster.local", "TXT", ()),
    "an address's name": ("1.10.96.10.in-addr.arpa", "PTR", ()),
    "over TCP": ("db.default.svc.cluster.local", "A", ("+tcp",)),
}


@pytest.mark.parametrize("what", DIGS)
def test_dig_sends_and_prints_what_ours_does(served: Served, what: str) -> None:
    tools.need("dig")
    name, rrtype, options = DIGS[what]
    done = served.command("dig", "+nocookie", "+tries=1", *options, name, rrtype)
    assert done.returncode == 0, done.stderr
    match = re.search(r"id: (\d+)", done.stdout)
    assert match is not None
    query = dig_query(name, type_number(rrtype), int(match[1]))
    asked = served.queries()
    assert {octets[2:] for _, octets in asked} == {query[2:]}
    protocol, last = asked[-1]
    assert last == query
    # Truncated answers make it come back over TCP, with a new id.
    assert len({octets for _, octets in asked}) == (2 if what == "services" else 1)
    server = make_server(served.directory / "Corefile", served.directory / "objects.yaml")
    answer = server.answer(query, tcp=protocol == "tcp", source="127.0.0.1")
    assert answer is not None
    printed = done.stdout[done.stdout.index(";; Got answer") : done.stdout.index(";; Query time")]
    assert printed == format_message(answer)


#: A program that looks a name up once.
LOOK_UP = """
import socket, sys
try:
    rows = socket.getaddrinfo(sys.argv[1], None, socket.AF_UNSPEC, socket.SOCK_STREAM)
    print(*[row[4][0] for row in rows])
except socket.gaierror as error:
    print("error", error.errno)
"""


@pytest.mark.parametrize(
    "name", ["web", "web.default", "nope", "db.default.svc.cluster.local.", "db-0.db", "a.b.c.d.e.f"]
)
def test_the_resolver_asks_what_ours_does(served: Served, name: str) -> None:
    if platform.libc_ver()[0] != "glibc":
        tools.missing("this machine's C library is not glibc")
    done = served.command(sys.executable, "-c", LOOK_UP, name)
    asked = [_question(octets, protocol) for protocol, octets in served.queries()]

    world = dns_world(PLAIN_COREFILE, OBJECTS + MANY)
    try:
        found = " ".join(run(world.world.clock, pod_resolver(world.client.sockets, RESOLV_CONF)(name)))
    except ResolutionError as error:
        found = f"error {int(error.error)}"
    ours = [_question(octets, "udp") for octets in world.datagrams("client")]
    assert [one for one in asked if one[2] == "udp"] == ours
    assert sorted(done.stdout.split()) == sorted(found.split())


def _question(octets: bytes, protocol: str) -> tuple[str, int, str, int]:
    message = wire.unpack(octets)
    return message.question[0].name, message.question[0].type, protocol, message.flags
