"""Options in IPv4 headers (RFC 791): looked at when a packet comes in, written into on its way, sent back in answers.

Source: net/ipv4/ip_options.c, and ip_rcv_options of net/ipv4/ip_input.c.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pktsim._fastpath import Packet
from pktsim.clock import NS_PER_MS
from pktsim.errors import UnsupportedFeature
from pktsim.kernel.icmp import About, IcmpType
from pktsim.netfilter.opcodes import DropReason, Hook, RouteType
from pktsim.wire.checksum import checksum

if TYPE_CHECKING:
    from pktsim.kernel.netns import Netns

_HEADER: Final = 20
_END, _NOOP, _RR, _TIMESTAMP, _LSRR, _CIPSO, _SSRR = 0, 1, 7, 68, 131, 134, 137
_ROUTER_ALERT: Final = 148
#: Kinds of timestamps: without addresses, with them, and for given addresses.
_TS_ONLY, _TS_AND_ADDRESS, _TS_PRESPECIFIED = 0, 1, 3
_MS_PER_DAY: Final = 86_400_000


class Todo(enum.IntFlag):
    """What ``ip_forward_options`` is left to do."""

    ROUTE_ADDRESS = 1  # rr_needaddr
    TIMESTAMP_ADDRESS = 2  # ts_needaddr
    CHANGED = 4  # is_changed: the header's checksum is wrong


class ParameterProblem(Exception):
    """An option makes no sense; ``pointer`` is the byte of the header that says so."""

    def __init__(self, pointer: int) -> None:
        super().__init__(pointer)
        self.pointer = pointer


@dataclass(slots=True)
class Compiled:
    """``struct ip_options``: where in the header the options are that somebody does something about, 0 without."""

    rr: int = 0
    ts: int = 0
    srr: int = 0
    cipso: int = 0
    todo: Todo = field(default_factory=lambda: Todo(0))


def _locate(kind: int, at: int, found: Compiled) -> None:
    if kind == _RR:
        found.rr = at
    elif kind == _TIMESTAMP:
        found.ts = at
    elif kind in (_LSRR, _SSRR):
        found.srr = at
    elif kind == _CIPSO:
        found.cipso = at


def located(packet: bytes, end: int = 0) -> Compiled:
    """Where the options of a packet are that has been looked at, of one with a problem those before ``end``."""
    length = (packet[0] & 15) * 4
    end = end or length
    found = Compiled()
    at = _HEADER
    while at < length and packet[at] != _END:
        if packet[at] == _NOOP:
            at += 1
            continue
        size = packet[at + 1] if at + 1 < length else 0
        # CIPSO's is noted before it is found to be wrong
        if size < 2 or at + size > (end if packet[at] != _CIPSO else length) or at > end:
            break
        _locate(packet[at], at, found)
        at += size
    return found


def _way_back(packet: bytes, at: int) -> tuple[bytes, bytes]:
    """A source route as far as it was gone, the other way round, and its first router; nothing if it was not begun."""
    size, pointer = packet[at + 1], packet[at + 2]
    gone = [packet[at + n : at + n + 4] for n in range(3, min(pointer, size + 1) - 4, 4)]
    if not gone:
        return b"", b""
    first, *rest = reversed(gone)
    # RFC 1812 section 4.3.2.6: the sender itself may have noted its address
    if gone[0] == packet[12:16] and rest:
        rest = rest[:-1]
    elif gone[0] == packet[12:16]:
        return b"", b""
    hops = b"".join((*rest, packet[12:16]))
    return bytes((packet[at], len(hops) + 3, 4)) + hops, first


@dataclass(frozen=True, slots=True)
class Echoed:
    """The options of an answer.

    Attributes:
        options: All of them, padded.
        addresses_at: Where in them the answer's source address belongs.
        via: The router that it goes to first, if any.
    """

    options: bytes = b""
    addresses_at: tuple[int, ...] = ()
    via: bytes = b""

    def build(self, source: bytes) -> bytes:
        """``ip_options_build``: the options of an answer from ``source``."""
        options = bytearray(self.options)
        for at in self.addresses_at:
            options[at : at + 4] = source
        return bytes(options)


class IpOptions:
    """The options of what one namespace receives."""

    def __init__(self, netns: Netns) -> None:
        self._netns = netns

    def upcall(self, packet: Packet, hook: int, _b: int, _c: int) -> None:
        """A packet with options has got its route, or has passed FORWARD."""
        netns = self._netns
        if hook == Hook.FORWARD:
            self._forward(packet)
        elif not self._receive(packet):
            return
        netns.process(netns.datapath.resume(packet, netns.clock.now_ns))

    def _now(self) -> bytes:
        """``inet_current_timestamp``: milliseconds since midnight."""
        return (self._netns.clock.now_ns // NS_PER_MS % _MS_PER_DAY).to_bytes(4, "big")

    def _receive(self, packet: Packet) -> bool:
        """``ip_rcv_options``; whether the packet goes on."""
        netns = self._netns
        data = bytearray(packet.data)
        device = netns.devices.find(packet.in_ifindex)

        def address() -> bytes:
            source, destination = bytes(data[12:16]), bytes(data[16:20])
            if packet.route_type == RouteType.LOCAL:
                return destination
            return netns.specific_destination(b"\0" * 4, source, packet.in_ifindex)

        try:
            found = self._compile(data, address)
        except ParameterProblem as problem:
            packet.set_data(bytes(data))
            netns.remark(
                packet.pkt_id, f"has an IPv4 option that makes no sense, by byte {problem.pointer} of its header"
            )
            info = problem.pointer << 24
            netns.icmp.error(About.of(packet), IcmpType.PARAMETERPROB, 0, info, options_end=problem.pointer)
            netns.discard(packet, DropReason.IP_HEADER)
            return False
        if found.srr:
            if device is None or not netns.sysctls.conf_and(device.name, "accept_source_route"):
                netns.remark(packet.pkt_id, "has a source route, which accept_source_route does not allow")
                netns.discard(packet, DropReason.IP_HEADER)
                return False
            raise UnsupportedFeature(
                "IPv4 source route that is followed", place=netns.name, mend="set accept_source_route to 0"
            )
        if bytes(data) != packet.data:
            packet.set_data(bytes(data))
        packet.ip_options = int(found.todo)
        return True

    def _compile(self, header: bytearray, address: Callable[[], bytes]) -> Compiled:
        """``__ip_options_compile`` of a packet with a route.

        Raises:
            ParameterProblem: There is one that makes no sense.
        """
        found = Compiled()
        at, end = _HEADER, (header[0] & 15) * 4
        while at < end:
            kind = header[at]
            if kind == _END:
                if any(header[at + 1 : end]):
                    header[at + 1 : end] = bytes(end - at - 1)
                    found.todo |= Todo.CHANGED
                break
            if kind == _NOOP:
                at += 1
                continue
            if end - at < 2 or not 2 <= header[at + 1] <= end - at:
                raise ParameterProblem(at)
            size = header[at + 1]
            if kind in (_LSRR, _SSRR):
                self._check_pointer(header, at, size, 3, 4)
                if found.srr:
                    raise ParameterProblem(at)
            elif kind == _RR:
                self._record_route(header, at, size, found, address)
            elif kind == _TIMESTAMP:
                self._timestamp(header, at, size, found, address)
            elif kind == _ROUTER_ALERT and size < 4:
                raise ParameterProblem(at + 1)
            elif kind == _CIPSO:
                # cipso_v4_validate: no domain of interpretation is known
                raise ParameterProblem(at + (1 if size < 8 else 2))
            _locate(kind, at, found)
            at += size
        return found

    @staticmethod
    def _check_pointer(header: bytearray, at: int, size: int, least: int, first: int) -> None:
        if size < least:
            raise ParameterProblem(at + 1)
        if header[at + 2] < first:
            raise ParameterProblem(at + 2)

    def _record_route(
        self, header: bytearray, at: int, size: int, found: Compiled, address: Callable[[], bytes]
    ) -> None:
        if found.rr:
            raise ParameterProblem(at)
        self._check_pointer(header, at, size, 3, 4)
        pointer = header[at + 2]
        if pointer > size:
            return
        if pointer + 3 > size:
            raise ParameterProblem(at + 2)
        header[at + pointer - 1 : at + pointer + 3] = address()
        header[at + 2] += 4
        found.todo |= Todo.CHANGED | Todo.ROUTE_ADDRESS

    def _timestamp(self, header: bytearray, at: int, size: int, found: Compiled, address: Callable[[], bytes]) -> None:
        if found.ts:
            raise ParameterProblem(at)
        self._check_pointer(header, at, size, 4, 5)
        pointer, kind = header[at + 2], header[at + 3] & 15
        if pointer > size:
            if kind != _TS_PRESPECIFIED:
                overflow = header[at + 3] >> 4
                if overflow == 15:
                    raise ParameterProblem(at + 3)
                header[at + 3] = kind | overflow + 1 << 4
                found.todo |= Todo.CHANGED
            return
        if pointer + 3 > size:
            raise ParameterProblem(at + 2)
        if kind in (_TS_AND_ADDRESS, _TS_PRESPECIFIED) and pointer + 7 > size:
            raise ParameterProblem(at + 2)
        where = at + pointer - 1
        if kind == _TS_ONLY:
            header[at + 2] += 4
        elif kind == _TS_AND_ADDRESS:
            header[where : where + 4] = address()
            header[at + 2] += 8
            where += 4
            found.todo |= Todo.TIMESTAMP_ADDRESS
        elif kind == _TS_PRESPECIFIED:
            if self._netns.datapath.address_type(bytes(header[where : where + 4])) == RouteType.UNICAST:
                return  # another host's turn
            header[at + 2] += 8
            where += 4
        else:
            return
        header[where : where + 4] = self._now()
        found.todo |= Todo.CHANGED

    def _forward(self, packet: Packet) -> None:
        """``ip_forward_options``: the address is the one of the way out."""
        netns = self._netns
        data = bytearray(packet.data)
        found, todo = located(bytes(data)), Todo(packet.ip_options)
        packet.ip_options = 0
        if todo & (Todo.ROUTE_ADDRESS | Todo.TIMESTAMP_ADDRESS):
            _, _, _, address, _ = netns.datapath.route(bytes(data[16:20]), mark=packet.mark)
            if todo & Todo.ROUTE_ADDRESS:
                where = found.rr + data[found.rr + 2] - 5
                data[where : where + 4] = address
            if todo & Todo.TIMESTAMP_ADDRESS:
                where = found.ts + data[found.ts + 2] - 9
                data[where : where + 4] = address
        length = (data[0] & 15) * 4
        data[10:12] = bytes(2)
        data[10:12] = checksum(data[:length]).to_bytes(2, "big")
        packet.set_data(bytes(data))

    # ---------------------------------------------------------------------------------------------------------- answers

    def echo(self, packet: bytes, end: int = 0) -> Echoed | None:
        """``ip_options_echo``: the options of an answer.

        Args:
            packet: What is answered, as it has been looked at.
            end: Of one with a problem the byte that shows it.

        Returns:
            The options; ``None`` if there can be no answer.
        """
        if packet[0] & 15 <= 5:
            return Echoed()
        found = located(packet, end)
        out = via = b""
        addresses_at = []
        if found.rr:
            option = bytearray(packet[found.rr : found.rr + packet[found.rr + 1]])
            pointer = option[2]
            if pointer <= len(option):
                if pointer + 3 > len(option):
                    return None
                option[2] += 4
                addresses_at.append(pointer - 1)
            out += bytes(option)
        if found.ts:
            option = bytearray(packet[found.ts : found.ts + packet[found.ts + 1]])
            pointer = option[2]
            if not self._echo_timestamp(option):
                return None
            if option[3] & 15 == _TS_AND_ADDRESS and option[2] != pointer:
                addresses_at.append(len(out) + pointer - 1)
            out += bytes(option)
        if found.srr:
            route, via = _way_back(packet, found.srr)
            out += route
        if found.cipso:
            out += packet[found.cipso : found.cipso + packet[found.cipso + 1]]
        return Echoed(out + bytes(-len(out) % 4), tuple(addresses_at), via)

    def _echo_timestamp(self, option: bytearray) -> bool:
        """Put in the time of the answer. Returns whether there is room for what is wanted."""
        pointer, kind, size = option[2], option[3] & 15, len(option)
        if pointer > size or kind not in (_TS_ONLY, _TS_AND_ADDRESS, _TS_PRESPECIFIED):
            return True
        if kind == _TS_AND_ADDRESS:
            pointer += 4
        if pointer + 3 > size:
            return False
        if kind != _TS_PRESPECIFIED:
            option[pointer - 1 : pointer + 3] = self._now()
            pointer += 4
        elif pointer + 7 <= size:
            asked = bytes(option[pointer - 1 : pointer + 3])
            if self._netns.datapath.address_type(asked) != RouteType.UNICAST:
                option[pointer + 3 : pointer + 7] = self._now()
                pointer += 8
        option[2] = pointer
        return True
