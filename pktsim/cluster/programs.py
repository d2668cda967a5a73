"""Programs that run in pods, on nodes and outside: servers, and the clients of recorded actions."""

from __future__ import annotations

import errno

from pktsim.clock import NS_PER_S
from pktsim.cluster.commands import Client, Command, Curl, Dig
from pktsim.cluster.store import ObjectStore
from pktsim.errors import UnsupportedFeature
from pktsim.kernel import task
from pktsim.kernel.netns import Netns
from pktsim.kernel.sockets import SocketLayer
from pktsim.netfilter.ruleset import Family

PING_BYTES = 56
PING_IDENT = 0x1234


def serve_http(netns: Netns, name: str, port: int, family: Family) -> None: ...


def serve_echo(netns: Netns, name: str, port: int, family: Family) -> None: ...


def serve_dns(netns: Netns, corefile: str, store: ObjectStore, family: Family) -> None: ...


def sockets_of(netns: Netns) -> SocketLayer:
    assert isinstance(netns.sockets, SocketLayer)
    return netns.sockets


def run_command(netns: Netns, command: Command, line: str, resolv_conf: str, *, limit_s: float) -> tuple[int, str]:
    """Run a recorded command to its end.

    Returns:
        Its exit status and what it prints.
    """
    match command:
        case Client(kind="ping"):
            return task.run(netns.clock, _ping(netns, command), line, limit_ns=round(limit_s * NS_PER_S))
        case Client() | Curl() | Dig():
            raise UnsupportedFeature(f"command {line}")


def _pattern(size: int) -> bytes:
    """What the recordings' client sends if a size is given."""
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


async def _ping(netns: Netns, command: Client) -> tuple[int, str]:
    family = 10 if ":" in command.destination else 2
    lines = []
    socket = sockets_of(netns).ping(family, PING_IDENT)
    if command.ttl:
        socket.ttl = command.ttl
    if command.df is not None:
        socket.set_df(command.df)
    for number in range(1, command.count + 1):
        try:
            socket.echo(command.destination, number, _pattern(command.size_bytes) or bytes(range(PING_BYTES)))
            reply = await socket.reply(round(command.wait_s * NS_PER_S))
        except TimeoutError:
            lines.append("TimeoutError")
        except OSError as error:
            lines.append(errno.errorcode.get(error.errno or 0, str(error)))
        else:
            version = "6" if family == 10 else ""
            ttl = f" ttl {reply.ttl}" if family == 2 else ""
            lines.append(
                f"icmp{version} type {reply.kind} code {reply.code} from {reply.address}{ttl} length {reply.length}"
            )
    return 0, "".join(f"{line}\n" for line in lines)
