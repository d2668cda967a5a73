"""Asking the running kernel for what the tools print as text: rule counters and connection tracking entries.

Both go through sockets that belong to a network namespace, so that no program has to be started for each question: the
tables' own socket option (``IPT_SO_GET_ENTRIES``, include/uapi/linux/netfilter_ipv4/ip_tables.h) and netlink
(include/uapi/linux/netfilter/nfnetlink_conntrack.h). :func:`entered` makes sockets and programs belong to a namespace.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pktsim.kernel.case import SCTP_STATES, TCP_STATES, describe_tuple
from pktsim.netfilter.opcodes import CtStatus

CLONE_NEWNET: Final = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _current_namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def entered(namespace: int) -> Iterator[None]:
    """This thread, and programs that it starts, belong to a network namespace for a while.

    Python has ``os.setns`` only from 3.12 on.
    """
    back = _current_namespace()
    try:
        _checked(_libc.setns(namespace, CLONE_NEWNET), "setns")
        try:
            yield
        finally:
            _checked(_libc.setns(back, CLONE_NEWNET), "setns")
    finally:
        os.close(back)


def new_namespace() -> int:
    """A handle of a new network namespace, which lives as long as something refers to it."""
    back = _current_namespace()
    try:
        _checked(_libc.unshare(CLONE_NEWNET), "unshare")
        try:
            return _current_namespace()
        finally:
            _checked(_libc.setns(back, CLONE_NEWNET), "setns")
    finally:
        os.close(back)


@contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """Sockets made meanwhile belong to a user and a group (``-m owner`` looks at the file's fsuid and fsgid)."""
    old_gid, old_uid = _libc.setfsgid(gid), _libc.setfsuid(uid)
    try:
        yield
    finally:
        _libc.setfsuid(old_uid)
        _libc.setfsgid(old_gid)


# ------------------------------------------------------------------------------------------------------- rule counters

_HOOKS: Final = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_GET_INFO, _GET_ENTRIES = 64, 65
_TABLE_NAME: Final = 32
_INFO: Final = struct.Struct("=32sI5I5III")


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the fields of ``struct ipt_entry`` or ``struct ip6t_entry`` lie."""

    level: int
    option_family: int
    target_offset: int
    counters: int


_LAYOUTS: Final = {4: _Layout(socket.IPPROTO_IP, socket.AF_INET, 88, 96), 6: _Layout(41, socket.AF_INET6, 140, 152)}


class TableReader:
    """Rule counters of a namespace, by family and table."""

    def __init__(self, version: int, namespace: int) -> None:
        self._layout = _LAYOUTS[version]
        self._prefix = "6:" if version == 6 else ""
        with entered(namespace):
            self._socket = socket.socket(self._layout.option_family, socket.SOCK_RAW, socket.IPPROTO_RAW)

    def close(self) -> None:
        self._socket.close()

    def _ask(self, option: int, request: bytes, size: int) -> bytes:
        buffer = ctypes.create_string_buffer(request, size)
        length = ctypes.c_uint32(size)
        result = _libc.getsockopt(self._socket.fileno(), self._layout.level, option, buffer, ctypes.byref(length))
        _checked(result, "getsockopt")
        return buffer.raw[: length.value]

    def counters(self, table: str) -> dict[str, tuple[int, int]]:
        """Counters of a table that is loaded, by ``table/CHAIN/n``, ``table/CHAIN/policy`` or ``table/CHAIN/end``."""
        name = table.encode().ljust(_TABLE_NAME, b"\0")
        info = _INFO.unpack(self._ask(_GET_INFO, name, _INFO.size))
        valid_hooks, entry_points, size = info[1], info[2:7], info[13]
        header = name + struct.pack("=I4x", size)
        blob = self._ask(_GET_ENTRIES, header, len(header) + size)[len(header) :]
        heads = {entry_points[hook]: _HOOKS[hook] for hook in range(5) if valid_hooks >> hook & 1}
        return self._walk(blob, heads, f"{self._prefix}{table}")

    def _walk(self, blob: bytes, heads: dict[int, str], where: str) -> dict[str, tuple[int, int]]:
        counted: dict[str, tuple[int, int]] = {}
        last: tuple[str, tuple[int, int]] | None = None
        chain, number, builtin, offset = "", 0, True, 0

        def finish() -> None:
            """The chain before has ended: its last entry is its policy, or the end that returns to its caller."""
            if last is not None:
                counted.pop(last[0], None)
                counted[f"{where}/{chain}/{'policy' if builtin else 'end'}"] = last[1]

        while offset < len(blob):
            target_offset, next_offset = struct.unpack_from("=HH", blob, offset + self._layout.target_offset)
            pair = struct.unpack_from("=QQ", blob, offset + self._layout.counters)
            target = offset + target_offset
            if blob[target + 2 : target + 8] == b"ERROR\0":
                # a user chain's head: the error target says its name; the table's own end says ERROR
                finish()
                chain, number, builtin, last = blob[target + 32 : target + 62].split(b"\0")[0].decode(), 0, False, None
                if chain == "ERROR":
                    return counted
            else:
                if offset in heads:
                    finish()
                    chain, number, builtin = heads[offset], 0, True
                number += 1
                key = f"{where}/{chain}/{number}"
                counted[key] = pair
                last = (key, pair)
            offset += next_offset
        return counted


# ------------------------------------------------------------------------------------------------- connection tracking

_NETLINK_NETFILTER: Final = 12
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 1, 4, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SUBSYS_CTNETLINK = 1
_CT_GET, _CT_DELETE = 1, 2
_CTA_TUPLE_ORIG, _CTA_ZONE = 1, 18
_GROUP_NEW, _GROUP_DESTROY = 1, 4
_NESTED: Final = 0x7FFF
_Attributes = dict[int, bytes]


def _attributes(data: bytes) -> _Attributes:
    found: _Attributes = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        found[kind & _NESTED] = data[offset + 4 : offset + length]
        offset += length + 3 & ~3
    return found


def _number(data: bytes | None) -> int:
    return int.from_bytes(data or b"", "big")


class ConntrackReader:
    """The connection tracking table of a namespace.

    All namespaces share one hash table, and a dump walks all of it, which takes milliseconds. So events say which
    entries there are, and each is then asked for by its tuple. Only where there are more of them than that (what a
    bridge hands up is confirmed without an event, br_nf_local_in) is the table dumped.
    """

    def __init__(self, namespace: int) -> None:
        with entered(namespace):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
            self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
            self._count = os.open("/proc/sys/net/netfilter/nf_conntrack_count", os.O_RDONLY | os.O_CLOEXEC)
        self._events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._events.bind((0, _GROUP_NEW | _GROUP_DESTROY))
        self._events.setblocking(False)
        self._sequence = 0
        #: The attributes that name each live entry, by these.
        self._live: dict[bytes, int] = {}

    def close(self) -> None:
        self._socket.close()
        self._events.close()
        os.close(self._count)

    def _ask(self, kind: int, flags: int, family: int, attributes: bytes) -> bytes | None:
        """One question, one answer; nothing if there is no such entry."""
        self._sequence += 1
        body = struct.pack("=BBH", family, 0, 0) + attributes
        head = struct.pack("=IHHII", 16 + len(body), _SUBSYS_CTNETLINK << 8 | kind, flags, self._sequence, 0)
        self._socket.send(head + body)
        while True:
            data = self._socket.recv(1 << 16)
            length, message, _, sequence, _ = struct.unpack_from("=IHHII", data)
            if sequence != self._sequence:
                continue
            if message != _NLMSG_ERROR:
                return data[16:length]
            number = -struct.unpack_from("=i", data, 16)[0]
            if number not in (0, errno.ENOENT):
                raise OSError(number, f"conntrack: {os.strerror(number)}")
            return None

    def _drain(self) -> None:
        while True:
            try:
                data = self._events.recv(1 << 16)
            except BlockingIOError:
                return
            self._take(data)

    def _take(self, data: bytes) -> None:
        """One message about an entry."""
        length, message = struct.unpack_from("=IH", data)
        family, attributes = data[16], data[20:length]
        name = b"".join(_raw(attributes, kind) for kind in (_CTA_TUPLE_ORIG, _CTA_ZONE))
        if message & 0xFF == _CT_DELETE:
            self._live.pop(name, None)
        else:
            self._live[name] = family

    def _find(self) -> None:
        """Know of all entries."""
        self._drain()
        if int(os.pread(self._count, 32, 0)) <= len(self._live):
            return
        self._sequence += 1
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        self._socket.send(
            struct.pack("=IHHIIBBH", 20, _SUBSYS_CTNETLINK << 8 | _CT_GET, flags, self._sequence, 0, 0, 0, 0)
        )
        while True:
            data = self._socket.recv(1 << 16)
            while data:
                length, message, _, sequence, _ = struct.unpack_from("=IHHII", data)
                if sequence == self._sequence:
                    if message == _NLMSG_DONE:
                        return
                    self._take(data[:length])
                data = data[length + 3 & ~3 :]

    def flush(self) -> None:
        """Remove all entries."""
        self._find()
        for name, family in self._live.items():
            self._ask(_CT_DELETE, _NLM_F_REQUEST | _NLM_F_ACK, family, name)
        self._live.clear()
        self._drain()

    def entries(self) -> list[dict[str, Any]]:
        """All entries in the case format's words; ``timeout`` is what remains, in seconds."""
        self._find()
        answers = (self._ask(_CT_GET, _NLM_F_REQUEST, family, name) for name, family in self._live.items())
        return [_describe(_attributes(answer[4:])) for answer in answers if answer is not None]


def _raw(data: bytes, wanted: int) -> bytes:
    """An attribute with its header and padding."""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if kind & _NESTED == wanted:
            return data[offset : offset + length].ljust(length + 3 & ~3, b"\0")
        offset += length + 3 & ~3
    return b""


def _tuple(data: bytes) -> dict[str, Any]:
    parts = _attributes(data)
    ip, proto = _attributes(parts[1]), _attributes(parts[2])
    src, dst = (ip[1], ip[2]) if 1 in ip else (ip[3], ip[4])
    number = proto[1][0]
    sport, dport = _number(proto.get(2)), _number(proto.get(3))
    for first in (4, 7):  # CTA_PROTO_ICMP_ID, CTA_PROTO_ICMPV6_ID, and type and code behind each
        if first in proto:
            sport, dport = _number(proto[first]), proto[first + 1][0] << 8 | proto[first + 2][0]
    described = describe_tuple((src, dst, sport, dport), number)
    if 3 in parts:
        described["zone"] = _number(parts[3])
    return described


def _describe(entry: _Attributes) -> dict[str, Any]:
    orig = _tuple(entry[1])
    status = CtStatus(_number(entry.get(3)))
    described: dict[str, Any] = {
        "orig": orig,
        "reply": _tuple(entry[2]),
        "status": [flag.name for flag in CtStatus if status & flag],
        "timeout": _number(entry.get(7)),
    }
    numbers = {"mark": _number(entry.get(8)), "zone": _number(entry.get(18))}
    info = _attributes(entry.get(4, b""))
    if 1 in info:
        tcp = _attributes(info[1])
        described["state"] = TCP_STATES[tcp[1][0]]
        numbers |= {
            "wscale_orig": _number(tcp.get(2)),
            "wscale_reply": _number(tcp.get(3)),
            "tcpflags_orig": tcp[4][0],
            "tcpflags_reply": tcp[5][0],
        }
    elif 3 in info:
        sctp = _attributes(info[3])
        described["state"] = SCTP_STATES[sctp[1][0]]
        numbers |= {"vtag_orig": _number(sctp.get(2)), "vtag_reply": _number(sctp.get(3))}
    described |= {key: value for key, value in numbers.items() if value}
    for key, attribute in (("acct_orig", 9), ("acct_reply", 10)):
        if attribute in entry:
            counters = _attributes(entry[attribute])
            described[key] = [_number(counters.get(1)), _number(counters.get(2))]
    return described
