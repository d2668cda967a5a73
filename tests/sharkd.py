"""Wireshark's dissectors, asked for one file after the other.

``tshark`` takes a fifth of a second before it reads its first frame, and a capture is looked at interface by interface.
``sharkd``, which Debian ships beside it, starts once and then answers requests on its standard input (JSON-RPC:
https://wiki.wireshark.org/sharkd-JSON-RPC-Request-Syntax).
"""

from __future__ import annotations

import atexit
import functools
import json
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests import tools

#: ``ip.check_checksum`` and its like are on, which Wireshark's defaults are not.
_PREFERENCES: Final = {
    "ip.check_checksum": "TRUE",
    "tcp.check_checksum": "TRUE",
    "udp.check_checksum": "TRUE",
    "udp.ignore_ipv6_zero_checksum": "FALSE",
    "tcp.analyze_sequence_numbers": "TRUE",
    "tcp.relative_sequence_numbers": "TRUE",
    "nameres.network_name": "TRUE",
    "nameres.use_external_name_resolver": "FALSE",
    "nameres.dns_pkt_addr_resolution": "FALSE",  # only by what the file says itself
    "vxlan.udp.port": "8472",
    # EtherCAT's port, 34980, is one that clients draw
    "ecatf.tcp.port": "0",
    "ecatf.udp.port": "0",
}
_CHECKSUMS: Final = ("ip", "tcp", "udp", "icmp", "icmpv6")
_HOSTS: Final = ("ip.src_host", "ip.dst_host", "ipv6.src_host", "ipv6.dst_host")
_COLUMNS: Final = (
    "frame.interface_name",
    "frame.protocols",
    "_ws.malformed",
    *(f"{protocol}.checksum.status" for protocol in _CHECKSUMS),
    *_HOSTS,
)
#: After so many files it is started anew: it keeps a part of what each has taken, megabytes.
_FILES: Final = 20
_BAD: Final = "Bad"
_COMMENT: Final = "Comment"


@dataclass(frozen=True, slots=True)
class Frame:
    """What Wireshark makes of a frame.

    Attributes:
        number: From 1.
        interface: Where it was seen; empty in a pcap file.
        protocols: Of all its layers, from the outside.
        malformed: Whether a dissector gave up.
        bad_checksums: Protocols with a wrong one.
        names: What it shows for addresses.
        experts: (severity, message): ``Chat``, or a note, a warning, an error.
        comments: Of the packet, in order.
    """

    number: int
    interface: str
    protocols: tuple[str, ...]
    malformed: bool
    bad_checksums: tuple[str, ...]
    names: frozenset[str]
    experts: tuple[tuple[str, str], ...]
    comments: tuple[str, ...]


class Sharkd:
    """A running ``sharkd``."""

    def __init__(self) -> None:
        tools.need("sharkd")
        self._requests = 0
        self._start()

    def _start(self) -> None:
        self._files = 0
        self._process = subprocess.Popen(
            ["sharkd", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            errors="replace",  # long messages are cut anywhere
        )
        for name, value in _PREFERENCES.items():
            self.request("setconf", name=name, value=value)

    def request(self, method: str, **parameters: str) -> Any:
        """One request's result.

        Raises:
            AssertionError: It has refused, or died.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        self._requests += 1
        asked = {"jsonrpc": "2.0", "id": self._requests, "method": method, "params": parameters}
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        while line := process.stdout.readline():
            if line.startswith("{"):  # it greets, too
                answer = json.loads(line)
                assert answer["id"] == self._requests, answer
                assert "error" not in answer, f"{method} {parameters}: {answer['error']}"
                return answer["result"]
        raise AssertionError(f"sharkd has died of {method} {parameters}")

    def dissect(self, path: Path) -> list[Frame]:
        """All frames of a capture file."""
        if self._files == _FILES:
            self.close()
            self._start()
        self._files += 1
        self.request("load", file=str(path))
        experts: defaultdict[int, list[tuple[str, str]]] = defaultdict(list)
        (tap,) = self.request("tap", tap0="expert")["taps"]
        for one in reversed(tap["details"]):  # the last comes first
            experts[one["f"]].append((one["s"], one["m"]))
        # Each comment is an expert message too, but a cut one.
        comments = max((sum(severity == _COMMENT for severity, _ in found) for found in experts.values()), default=0)
        names = [*(f"{name}:0" for name in _COLUMNS), *(f"frame.comment:{nth + 1}" for nth in range(comments))]
        found = self.request("frames", **{f"column{number}": name for number, name in enumerate(names)})
        return [_frame(one["num"], one["c"], experts[one["num"]]) for one in found]

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()


def _frame(number: int, columns: list[str], experts: list[tuple[str, str]]) -> Frame:
    values = dict(zip(_COLUMNS, columns, strict=False))
    return Frame(
        number,
        values["frame.interface_name"],
        tuple(values["frame.protocols"].split(":")),
        bool(values["_ws.malformed"]),
        tuple(one for one in _CHECKSUMS if _BAD in values[f"{one}.checksum.status"].split(",")),
        frozenset(name for host in _HOSTS for name in values[host].split(",") if name),
        tuple(one for one in experts if one[0] != _COMMENT),
        tuple(comment for comment in columns[len(_COLUMNS) :] if comment),
    )


@functools.cache
def sharkd() -> Sharkd:
    """The one of this process, until it ends."""
    started = Sharkd()
    atexit.register(started.close)
    return started
