"""The programs of a recorded cluster: its servers, its ``client`` and curl, run in network namespaces on one CPU.

Run as a program by :class:`tests.live.cluster_recorder.Recorder`; it needs nothing but the standard library. It forks a
child for all servers and one for each client, which is cheaper than starting Python anew. On one CPU the receiving side
runs inside the sender's transmit, so frames come in one order. Commands on standard input, one line of JSON each, and
one answer each on standard output:

    {"serve": [[name, namespace], ...], "family": 4 | 6}     end the servers there are, start these  -> {}
    {"run": [argument, ...], "namespace": name}              -> {"start": seconds, "exit": status, "output": text}

``start`` is on the clock of packet sockets.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import socket
import struct
import sys
import threading
import time

CLONE_NEWNET = 0x40000000
HTTP_PORT, ECHO_PORT = 8080, 8081
PING_IDENT = 0x1234
PATTERN = b"0123456789abcdef"
ECHO_LIMIT = 1200
SHOWN = 80
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER = 10, 23  # include/uapi/linux/in.h, in6.h
PMTUDISC_DONT, PMTUDISC_DO = 0, 2
#: An answer to an echo request, and the ICMP errors about one.
ECHO_REQUEST: dict[int, int] = {socket.AF_INET: 8, socket.AF_INET6: 128}
ECHO_REPLY: dict[int, int] = {socket.AF_INET: 0, socket.AF_INET6: 129}
ERRORS: dict[int, tuple[int, ...]] = {socket.AF_INET: (3, 4, 5, 11, 12), socket.AF_INET6: (1, 2, 3, 4)}

libc = ctypes.CDLL(None, use_errno=True)


def enter(namespace: str) -> None:
    """Move this process into a named network namespace (Python has os.setns from 3.12 on)."""
    handle = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(handle, CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), namespace)
    finally:
        os.close(handle)


def filled(size: int) -> bytes:
    """That many bytes."""
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


def peer_text(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


# ----------------------------------------------------------------------------------------------------------- servers


def answer_http(name: str, connection: socket.socket, peer: str) -> None:
    """One request, one answer, and the server closes."""
    with connection, contextlib.suppress(OSError):
        data = b""
        while b"\r\n\r\n" not in data:
            more = connection.recv(65536)
            if not more:
                return
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        named = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
        received, length = len(body), int(named.get("content-length", 0))
        while received < length:
            more = connection.recv(65536)
            if not more:
                return
            received += len(more)
        target = lines[0].split()[1]
        if target.startswith("/bytes/"):
            said = filled(int(target.removeprefix("/bytes/")))
        else:
            said = f"{name} saw {peer}{f' send {received} bytes' if received else ''}\n".encode()
        header = f"HTTP/1.0 200 OK\r\nServer: pod\r\nContent-Type: text/plain\r\nContent-Length: {len(said)}\r\n\r\n"
        connection.sendall(header.encode() + said)
        connection.shutdown(socket.SHUT_WR)


def serve_http(name: str, listener: socket.socket) -> None:
    while True:
        connection, address = listener.accept()
        peer = peer_text(address[0], address[1])
        threading.Thread(target=answer_http, args=(name, connection, peer), daemon=True).start()


def serve_echo(name: str, echo: socket.socket) -> None:
    while True:
        data, address = echo.recvfrom(1 << 16)
        with contextlib.suppress(OSError):
            echo.sendto(f"{name} saw {peer_text(address[0], address[1])} say ".encode() + data[:ECHO_LIMIT], address)


def serve(places: list[tuple[str, str]], version: int, ready: int) -> None:
    """All servers, until killed."""
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    threads = []
    for name, namespace in places:
        enter(namespace)
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", HTTP_PORT))
        listener.listen(128)
        echo = socket.socket(family, socket.SOCK_DGRAM)
        echo.bind(("", ECHO_PORT))
        threads += [
            threading.Thread(target=serve_http, args=(name, listener)),
            threading.Thread(target=serve_echo, args=(name, echo)),
        ]
    for thread in threads:
        thread.start()
    os.write(ready, b"r")
    for thread in threads:
        thread.join()


# ----------------------------------------------------------------------------------------------------------- clients


def error_text(error: OSError) -> str:
    """``ECONNREFUSED`` and the like; ``TimeoutError`` where nobody said anything."""
    if error.errno is None:
        return "TimeoutError"
    return errno.errorcode.get(error.errno, str(error))


def client(arguments: list[str]) -> None:
    """``client tcp|udp|ping DST [PORT]`` with its options."""
    kind, destination = arguments[:2]
    options: dict[str, int] = {}
    wait_s = 1.5
    words = iter(arguments[2:])
    for word in words:
        if word in ("--df", "--no-df", "--reset"):
            options[word] = 1
        elif word == "--wait":
            wait_s = float(next(words))
        elif word.startswith("--"):
            options[word] = int(next(words))
        else:
            options["port"] = int(word)
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    types = {"tcp": (socket.SOCK_STREAM, 0), "udp": (socket.SOCK_DGRAM, 0)}
    raw = (socket.SOCK_RAW, socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6)
    made = socket.socket(family, *types.get(kind, raw))
    level = socket.IPPROTO_IP if family == socket.AF_INET else socket.IPPROTO_IPV6
    if "--ttl" in options:
        made.setsockopt(
            level, socket.IP_TTL if family == socket.AF_INET else socket.IPV6_UNICAST_HOPS, options["--ttl"]
        )
    if "--df" in options or "--no-df" in options:
        discover = IP_MTU_DISCOVER if family == socket.AF_INET else IPV6_MTU_DISCOVER
        made.setsockopt(level, discover, PMTUDISC_DO if "--df" in options else PMTUDISC_DONT)
    made.settimeout(wait_s)
    try:
        {"tcp": tcp, "udp": udp, "ping": ping}[kind](made, destination, options)
    except OSError as error:
        print(error_text(error), flush=True)


def tcp(made: socket.socket, destination: str, options: dict[str, int]) -> None:
    if options.get("--sport"):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("", options["--sport"]))
    made.connect((destination, options["port"]))
    print("connected", flush=True)
    if "--reset" in options:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    made.close()


def udp(made: socket.socket, destination: str, options: dict[str, int]) -> None:
    if options.get("--sport"):
        made.bind(("", options["--sport"]))
    made.connect((destination, options["port"]))
    data = filled(options["--size"]) if options.get("--size") else b"hello"
    for _ in range(options.get("--count", 1)):
        try:
            made.send(data)
            answer = made.recv(1 << 16)
            print(f"reply {len(answer)} {answer[:SHOWN].decode()}", flush=True)
        except OSError as error:
            print(error_text(error), flush=True)


def checksum(data: bytes) -> int:
    padded = data + b"\0" * (len(data) & 1)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ping(made: socket.socket, destination: str, options: dict[str, int]) -> None:
    wait_s = made.gettimeout() or 0.0
    data = filled(options["--size"]) if options.get("--size") else bytes(range(56))
    for number in range(options.get("--count", 1)):
        message = struct.pack("!BBHHH", ECHO_REQUEST[made.family], 0, 0, PING_IDENT, number + 1) + data
        if made.family == socket.AF_INET:  # over IPv6 the kernel does it
            message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
        try:
            made.sendto(message, (destination, 0))
            made.settimeout(wait_s)
            print(answer_of(made, wait_s), flush=True)
        except OSError as error:
            print(error_text(error), flush=True)


def answer_of(made: socket.socket, wait_s: float) -> str:
    """Wait for an answer to an echo request, or an error about one."""
    until = time.monotonic() + wait_s
    while True:
        made.settimeout(max(until - time.monotonic(), 0.001))
        packet, address = made.recvfrom(1 << 17)
        start = (packet[0] & 15) * 4 if made.family == socket.AF_INET else 0
        if about_our_echo(packet[start:], made.family):
            kind, code = packet[start], packet[start + 1]
            if made.family == socket.AF_INET:
                return f"icmp type {kind} code {code} from {address[0]} ttl {packet[8]} length {len(packet)}"
            return f"icmp6 type {kind} code {code} from {address[0]} length {len(packet)}"


def about_our_echo(message: bytes, family: int) -> bool:
    if message[0] == ECHO_REPLY[family]:
        return int.from_bytes(message[4:6], "big") == PING_IDENT
    quoted = message[8:]
    if message[0] not in ERRORS[family] or not quoted:
        return False
    quoted = quoted[(quoted[0] & 15) * 4 if family == socket.AF_INET else 40 :]
    return len(quoted) >= 8 and quoted[0] == ECHO_REQUEST[family] and quoted[4:6] == PING_IDENT.to_bytes(2, "big")


# ----------------------------------------------------------------------------------------------------------- commands


class Programs:
    """The children, and what is asked of them."""

    def __init__(self) -> None:
        self.servers = 0

    def end_servers(self) -> None:
        if self.servers:
            os.kill(self.servers, signal.SIGKILL)
            os.waitpid(self.servers, 0)
            self.servers = 0

    def start_servers(self, places: list[tuple[str, str]], version: int) -> None:
        """Start them, and wait until they listen."""
        self.end_servers()
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            try:
                serve(places, version, writing)
            finally:
                os._exit(1)
        self.servers = child
        os.close(writing)
        with os.fdopen(reading, "rb") as stream:
            if not stream.read(1):
                raise OSError(errno.EIO, "the servers did not start")

    def run(self, arguments: list[str], namespace: str) -> dict[str, object]:
        """Run a program to its end."""
        reading, writing = os.pipe()
        start = time.time()
        child = os.fork()
        if not child:
            try:
                for standard in (1, 2):
                    os.dup2(writing, standard)
                enter(namespace)
                if arguments[0] == "client":
                    client(arguments[1:])
                else:
                    os.execvp(arguments[0], arguments)
            except BaseException as error:
                print(repr(error), flush=True)
                os._exit(127)
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as stream:
            output = stream.read().decode("utf-8", "replace")
        _, status = os.waitpid(child, 0)
        return {"start": start, "exit": os.waitstatus_to_exitcode(status), "output": output}


def main() -> None:
    """Answer commands until standard input ends."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with contextlib.suppress(OSError):  # on a loaded machine nobody should get in between
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    programs = Programs()
    try:
        for line in sys.stdin:
            command = json.loads(line)
            answer: dict[str, object] = {}
            try:
                if "serve" in command:
                    programs.start_servers([(name, where) for name, where in command["serve"]], command["family"])
                else:
                    answer = programs.run(command["run"], command["namespace"])
            except OSError as error:
                answer["error"] = f"{type(error).__name__}: {error}"
            print(json.dumps(answer), flush=True)
    finally:
        programs.end_servers()


if __name__ == "__main__":
    main()
