"""Sends something from a machine and tells what happened to it on its way, and to what came back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pktsim.cluster.machines import Machine
from pktsim.cluster.recorder import Recorder
from pktsim.cluster.walk import Walk
from pktsim.errors import TopologyError

_HTTP_PORT = 80


class Tracer:
    """One machine that is watched.

    Args:
        source: What the caller calls the machine.
        machine: The machine.
        recorder: Gathers what nodes do meanwhile.
    """

    def __init__(self, source: str, machine: Machine, recorder: Recorder) -> None:
        self._source = source
        self._machine = machine
        self._recorder = recorder

    def packet(self, packet: Any) -> Walk:
        """Send a Scapy packet."""
        with self._recorder:
            replies = self._machine.send(packet)
        outcome = (
            f"{len(replies)} packet{'s' if len(replies) != 1 else ''} came back" if replies else "nothing came back"
        )
        return self._recorder.walk(f"{self._source} sends a packet", outcome, delivered=bool(replies))

    def packets(self, packets: Iterable[bytes]) -> Walk:
        """Send IP packets, one after the other."""
        replies = number = 0
        with self._recorder:
            for packet in packets:
                number += 1
                replies += len(self._machine.send_ip(packet))
        title = f"{self._source} sends {number} packet{'s' if number != 1 else ''}"
        return self._recorder.walk(title, f"{replies} came back", delivered=replies > 0)

    def connection(self, target: str, protocol: str) -> Walk:
        """Try ``HOST`` or ``HOST:PORT`` by ``tcp``, ``udp`` or ``icmp``.

        Raises:
            TopologyError: The port is no number.
        """
        host, port = split_target(target)
        with self._recorder:
            delivered, outcome = self._machine.probe(host, port, protocol)
        return self._recorder.walk(f"{self._source} -> {target} ({protocol})", outcome, delivered=delivered)

    def url(self, url: str, connect_to: str) -> Walk:
        """Get a URL, at the place that it names, or another if ``connect_to`` is not empty."""
        title = f"{self._source} -> {url}" + (f" at {connect_to}" if connect_to else "")
        with self._recorder:
            delivered, outcome = self._machine.ask(url, connect_to)
        return self._recorder.walk(title, outcome, delivered=delivered)


def split_target(target: str) -> tuple[str, int]:
    """``HOST`` or ``HOST:PORT``; port 80 if none is said.

    Raises:
        TopologyError: The port is no number.
    """
    host, colon, port = target.rpartition(":")
    if not colon:
        return target, _HTTP_PORT
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise TopologyError(f"{target!r}: {port!r} is not a port", mend="write HOST:PORT")
    return host, int(port)
