"""One line about a frame, in tcpdump's manner (``tcpdump -nS``), for traces, the demo and failing tests.

Sequence numbers are absolute, as with ``-S``: a summary knows one frame and no connection. VXLAN is called VXLAN on
both of its ports, where tcpdump takes the Linux port 8472 for OTV; an inner frame follows behind `` | ``, where tcpdump
begins a new line. Of payloads only DNS and the first line of HTTP are told.

Nothing is refused here: what is cut off or unknown is called that.
"""

from __future__ import annotations

import struct
from typing import Final

from pktsim.wire.addr import ip_to_text, mac_to_text
from pktsim.wire.frame import (
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    IPPROTO_DSTOPTS,
    IPPROTO_FRAGMENT,
    IPPROTO_HOPOPTS,
    IPPROTO_ROUTING,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    VXLAN_PORTS,
    FrameView,
    TcpFlag,
    TcpOption,
    ipv6_extension_size,
    iter_tcp_options,
)

_DNS_PORTS: Final = frozenset((53, 5353))
_HTTP_PORTS: Final = frozenset((80, 3128, 8080))
_FLAG_LETTERS: Final = (
    (TcpFlag.FIN, "F"),
    (TcpFlag.SYN, "S"),
    (TcpFlag.RST, "R"),
    (TcpFlag.PSH, "P"),
    (TcpFlag.ACK, "."),
    (TcpFlag.URG, "U"),
    (TcpFlag.ECE, "E"),
    (TcpFlag.CWR, "W"),
    (TcpFlag.AE, "e"),
)


def summary(frame: bytes, *, link: bool = True) -> str:
    """Say in one line what a frame is.

    Args:
        frame: An Ethernet frame, or an IP packet if ``link`` is false.
        link: Whether there is an Ethernet header.
    """
    return _view_summary(FrameView(frame, link=link))


def flags_text(flags: TcpFlag) -> str:
    """TCP control bits as tcpdump's letters: ``S.``, ``P.``, or ``none``."""
    return "".join(letter for flag, letter in _FLAG_LETTERS if flags & flag) or "none"


def _view_summary(view: FrameView) -> str:
    if view.network < 0:
        return f"truncated frame, length {len(view.frame)}"
    if view.ethertype == ETH_P_ARP:
        return _arp(view)
    if view.ethertype not in (ETH_P_IP, ETH_P_IPV6):
        addresses = f"{mac_to_text(view.src_mac)} > {mac_to_text(view.dst_mac)}, "
        return f"{addresses}ethertype Unknown (0x{view.ethertype:04x}), length {len(view.frame)}"
    name = "IP" if view.ethertype == ETH_P_IP else "IP6"
    if not view.version:
        return f"{name} malformed header, length {len(view.frame) - view.network}"
    src, dst = ip_to_text(view.saddr), ip_to_text(view.daddr)
    extensions, plain_fragment = _extensions(view)
    if plain_fragment or view.transport < 0:
        return f"{name} {src} > {dst}: {extensions}{_opaque(view, later_fragment=plain_fragment)}".rstrip()
    if view.has_ports and view.protocol in (IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP):
        if extensions:  # tcpdump says the ports behind them
            return f"{name} {src} > {dst}: {extensions}{view.sport} > {view.dport}: {_transport(view)}"
        return f"{name} {src}.{view.sport} > {dst}.{view.dport}: {_transport(view)}"
    return f"{name} {src} > {dst}: {extensions}{_transport(view)}"


def _arp(view: FrameView) -> str:
    body = view.frame[view.network :]
    if len(body) < 28 or body[:6] != b"\x00\x01\x08\x00\x06\x04":
        return f"ARP, not IPv4 on Ethernet or cut off, length {len(body)}"
    operation = body[6] << 8 | body[7]
    sender_mac, sender = mac_to_text(body[8:14]), ip_to_text(body[14:18])
    target = ip_to_text(body[24:28])
    length = len(body)
    if operation == 1:
        at = f" ({mac_to_text(body[18:24])})" if any(body[18:24]) else ""
        return f"ARP, Request who-has {target}{at} tell {sender}, length {length}"
    if operation == 2:
        return f"ARP, Reply {sender} is-at {sender_mac}, length {length}"
    return f"ARP, operation {operation}, length {length}"


_EXTENSION_WORDS = {IPPROTO_HOPOPTS: "HBH", IPPROTO_DSTOPTS: "DSTOPT", IPPROTO_ROUTING: "srcrt"}


def _extensions(view: FrameView) -> tuple[str, bool]:
    """tcpdump's words for IPv6's extension headers, and whether it is a fragment without the transport header."""
    if view.version == 4:
        return "", view.fragment_offset > 0
    words: list[str] = []
    frame, at = view.frame, view.network + 40
    protocol = frame[view.network + 6]
    while at + 8 <= view.end:
        if protocol == IPPROTO_FRAGMENT:
            offset = view.fragment_offset
            words.append(f"frag ({offset}|{view.end - at - 8})")
            if offset:
                return " ".join((*words, "")), True
        elif protocol in _EXTENSION_WORDS:
            words.append(_EXTENSION_WORDS[protocol])
        else:
            break
        at, protocol = at + ipv6_extension_size(protocol, frame[at + 1]), frame[at]
    return " ".join((*words, "")) if words else "", False


def _opaque(view: FrameView, *, later_fragment: bool) -> str:
    if later_fragment:
        return "" if view.version == 6 else f"ip-proto-{view.protocol}"
    return f"ip-proto-{view.protocol}, cut off"


def _transport(view: FrameView) -> str:
    match view.protocol:
        case 6:  # TCP
            return _tcp(view)
        case 17:
            return _udp(view)
        case 1:
            return _icmp(view)
        case 58:
            return _icmpv6(view)
        case 132:
            return _sctp(view)
        case 59 if view.version == 6:
            return "no next header"
        case protocol:
            return f"ip-proto-{protocol} {view.end - view.transport}"


# --- transports -----------------------------------------------------------------------------------------------------


def _tcp(view: FrameView) -> str:
    if view.tcp_header_length < 20:
        return f"tcp [bad hdr length {view.tcp_header_length} - too short, < 20]"
    flags = view.tcp_flags
    total = view.end - view.transport
    payload = view.payload
    length = total - view.tcp_header_length
    parts = [f"Flags [{flags_text(flags)}]"]
    if length > 0:
        parts.append(f"seq {view.tcp_seq}:{(view.tcp_seq + length) & 0xFFFFFFFF}")
    elif flags & (TcpFlag.SYN | TcpFlag.FIN | TcpFlag.RST):
        parts.append(f"seq {view.tcp_seq}")
    if flags & TcpFlag.ACK:
        parts.append(f"ack {view.tcp_ack}")
    parts.append(f"win {view.tcp_window}")
    if flags & TcpFlag.URG:
        at = view.transport + 18
        parts.append(f"urg {int.from_bytes(view.frame[at : at + 2], 'big')}")
    if options := view.tcp_options:
        parts.append(f"options [{tcp_options_text(options)}]")
    parts.append(f"length {max(length, 0)}")
    text = ", ".join(parts)
    if not payload:
        return text
    ports = {view.sport, view.dport}
    if ports & _HTTP_PORTS:
        return f"{text}: {_http(payload)}"
    if ports & _DNS_PORTS and len(payload) > 2:
        claimed = payload[0] << 8 | payload[1]
        # tcpdump's odd want of a comma is kept.
        return f"{text} {dns_text(payload[2 : 2 + claimed], claimed)}"
    return text


def tcp_options_text(options: bytes) -> str:
    """TCP options as tcpdump prints them: ``mss 1460,sackOK,TS val 1 ecr 0,nop,wscale 10``."""
    words: list[str] = []
    used = 0
    for kind, value in iter_tcp_options(options):
        words.append(_tcp_option(kind, value))
        used += 1 if kind == TcpOption.NOP else 2 + len(value)
    if used < len(options):
        words.append("eol" if options[used] == TcpOption.EOL else f"malformed 0x{options[used:].hex()}")
    return ",".join(words)


def _tcp_option(kind: int, value: bytes) -> str:
    if kind == TcpOption.NOP:
        return "nop"
    if kind == TcpOption.MSS and len(value) == 2:
        return f"mss {int.from_bytes(value, 'big')}"
    if kind == TcpOption.WINDOW and len(value) == 1:
        return f"wscale {value[0]}"
    if kind == TcpOption.SACK_PERM and not value:
        return "sackOK"
    if kind == TcpOption.TIMESTAMP and len(value) == 8:
        return "TS val {} ecr {}".format(*struct.unpack("!II", value))
    if kind == TcpOption.SACK and len(value) % 8 == 0:
        blocks = "".join("{{{}:{}}}".format(*pair) for pair in struct.iter_unpack("!II", value))
        return f"sack {len(value) // 8} {blocks}"
    return f"unknown-{kind} 0x{value.hex()}" if value else f"unknown-{kind}"


def _udp(view: FrameView) -> str:
    at = view.transport
    length = int.from_bytes(view.frame[at + 4 : at + 6], "big") - 8
    payload = view.payload[: max(length, 0)]
    if length < 0:
        return f"UDP, bad length {length + 8} < 8"
    if view.sport in _DNS_PORTS or view.dport in _DNS_PORTS:
        return dns_text(payload, length)
    if view.dport in VXLAN_PORTS and len(payload) >= 8:
        flags = payload[0]
        vni = int.from_bytes(payload[4:7], "big")
        letters = ("I" if flags & 0x08 else ".") if flags & ~0x08 == 0 else f"0x{flags:02x}"
        text = f"VXLAN, flags [{letters}] (0x{flags:02x}), vni {vni}"
        return f"{text} | {_view_summary(FrameView(payload[8:]))}"
    return f"UDP, length {length}"


_CHUNKS: Final = {
    0: "DATA",
    1: "INIT",
    2: "INIT ACK",
    3: "SACK",
    4: "HB REQ",
    5: "HB ACK",
    6: "ABORT",
    7: "SHUTDOWN",
    8: "SHUTDOWN ACK",
    9: "OP ERR",
    10: "COOKIE ECHO",
    11: "COOKIE ACK",
    14: "SHUTDOWN COMPLETE",
}


def _sctp(view: FrameView) -> str:
    frame, at = view.frame, view.transport + 12
    words: list[str] = []
    while at + 4 <= view.end:
        length = frame[at + 2] << 8 | frame[at + 3]
        if length < 4:
            break
        words.append(f"({len(words) + 1}) [{_CHUNKS.get(frame[at], f'chunk {frame[at]}')}]")
        at += (length + 3) & ~3
    return f"sctp {', '.join(words)}".rstrip()


# --- ICMP -----------------------------------------------------------------------------------------------------------

#: Code -> text of "destination unreachable"; the quoted packet's destination goes into it.
_UNREACHABLE: Final = {
    0: "net {} unreachable",
    1: "host {} unreachable",
    5: "{} unreachable - source route failed",
    6: "net {} unreachable - unknown",
    7: "host {} unreachable - unknown",
    8: "{} unreachable - source host isolated",
    9: "net {} unreachable - admin prohibited",
    10: "host {} unreachable - admin prohibited",
    11: "net {} unreachable - tos prohibited",
    12: "host {} unreachable - tos prohibited",
    13: "host {} unreachable - admin prohibited filter",
    14: "host {} unreachable - host precedence violation",
    15: "host {} unreachable - precedence cutoff",
}
_REDIRECTS: Final = {
    0: "redirect {} to net {}",
    1: "redirect {} to host {}",
    2: "redirect-tos {} to net {}",
    3: "redirect-tos {} to host {}",
}


def _icmp(view: FrameView) -> str:
    kind, code = view.icmp_type, view.icmp_code
    length = view.end - view.transport
    rest = view.icmp_rest
    quoted = view.quoted
    about = ip_to_text(quoted.daddr) if quoted is not None else "?"
    match kind:
        case 0 | 8:
            word = "request" if kind == 8 else "reply"
            text = f"echo {word}, id {rest >> 16}, seq {rest & 0xFFFF}"
        case 3:
            text = _unreachable(code, rest, about, quoted)
        case 4:
            text = "source quench"
        case 5:
            redirect = _REDIRECTS.get(code, f"redirect-#{code} {{}} to {{}}")
            text = redirect.format(about, ip_to_text(rest.to_bytes(4, "big")))
        case 11:
            text = {0: "time exceeded in-transit", 1: "ip reassembly time exceeded"}.get(code, f"time exceeded-#{code}")
        case 9:
            text = "router advertisement"
        case 10:
            text = "router solicitation"
        case 12:
            text = f"parameter problem - octet {rest >> 24}" if code == 0 else f"parameter problem - code {code}"
        case 13:
            text = f"time stamp query id {rest >> 16} seq {rest & 0xFFFF}"
        case 14:
            text = f"time stamp reply id {rest >> 16} seq {rest & 0xFFFF}"
        case _:
            text = f"type-#{kind}"
    return f"ICMP {text}, length {length}"


def _unreachable(code: int, rest: int, about: str, quoted: FrameView | None) -> str:
    if code == 2:
        return f"{about} protocol {quoted.protocol if quoted is not None else '?'} unreachable"
    if code == 3:
        return f"{about} {_quoted_port(quoted)} unreachable"
    if code == 4:
        mtu = rest & 0xFFFF
        return f"{about} unreachable - need to frag" + (f" (mtu {mtu})" if mtu else "")
    return _UNREACHABLE.get(code, f"{{}} unreachable - #{code}").format(about)


def _quoted_port(quoted: FrameView | None) -> str:
    """``udp port 53`` of a quoted packet, of whose transport header 8 bytes are enough."""
    if quoted is None:
        return "port ?"
    header = quoted.network + (quoted.frame[quoted.network] & 0x0F) * 4 if quoted.version == 4 else quoted.network + 40
    port = int.from_bytes(quoted.frame[header + 2 : header + 4], "big")
    name = {IPPROTO_TCP: "tcp", IPPROTO_UDP: "udp"}.get(quoted.protocol)
    return f"{name} port {port}" if name else f"protocol {quoted.protocol} port {port}"


_UNREACHABLE6: Final = {
    0: "unreachable route {}",
    1: "unreachable prohibited {}",
    2: "beyond scope {}",
    3: "unreachable address {}",
    5: "source address failed policy {}",  # RFC 4443 section 3.1; tcpdump 4.99 does not know these two
    6: "reject route {}",
}


def _icmpv6(view: FrameView) -> str:
    kind, code = view.icmp_type, view.icmp_code
    length = view.end - view.transport
    body = view.payload
    rest = view.icmp_rest if length >= 8 else 0
    quoted = view.quoted
    about = ip_to_text(quoted.daddr) if quoted is not None else "?"
    match kind:
        case 1:
            where = f"unreachable port, {about} {_quoted_port(quoted)}" if code == 4 else ""
            where = where or _UNREACHABLE6.get(code, f"unreachable code-#{code}").format(about)
            text = f"destination unreachable, {where}"
        case 2:
            text = f"packet too big, mtu {rest}"
        case 3:
            words = {0: f" for {about}", 1: " (reassembly)"}
            text = f"time exceeded in-transit{words.get(code, f', unknown code ({code})')}"
        case 4:
            words = {0: "erroneous", 1: "next header", 2: "option", 3: "incomplete header chain"}
            text = f"parameter problem, {words.get(code, f'code-#{code}')} - octet {rest}"
        case 128 | 129:
            word = "request" if kind == 128 else "reply"
            text = f"echo {word}, id {rest >> 16}, seq {rest & 0xFFFF}"
        case 133:
            text = "router solicitation"
        case 134:
            text = "router advertisement"
        case 135 if len(body) >= 16:
            text = f"neighbor solicitation, who has {ip_to_text(body[:16])}"
        case 136 if len(body) >= 16:
            text = f"neighbor advertisement, tgt is {ip_to_text(body[:16])}"
        case 137 if len(body) >= 32:
            text = f"redirect, {ip_to_text(body[16:32])} to {ip_to_text(body[:16])}"
        case 130 if len(body) >= 16:
            text = f"multicast listener query {'v2 ' if length >= 28 else ''}[gaddr {ip_to_text(body[:16])}]"
        case 131 if len(body) >= 16:
            text = f"multicast listener report, max resp delay: {rest >> 16} addr: {ip_to_text(body[:16])}"
        case 132 if len(body) >= 16:
            text = f"multicast listener done, max resp delay: {rest >> 16} addr: {ip_to_text(body[:16])}"
        case 143:
            text = f"multicast listener report v2, {rest & 0xFFFF} group record(s)"
        case _:
            text = f"unknown icmp6 type ({kind})"
    return f"ICMP6, {text}, length {length}"


# --- payloads -------------------------------------------------------------------------------------------------------

_HTTP_WORDS: Final = (
    *(b"GET", b"PUT", b"HEAD", b"POST", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT"),
    *(b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2"),
)


def _http(payload: bytes) -> str:
    line, _, _ = payload.partition(b"\n")
    line = line.rstrip(b"\r")
    if line.split(b" ", 1)[0] not in _HTTP_WORDS:
        return "HTTP"
    return "HTTP: " + "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in line)


_OPCODES: Final = ("", " inv_q", " stat", " op3", " notify", " update", *(f" op{code}" for code in range(6, 16)))
_RCODES: Final = (
    *("", " FormErr", " ServFail", " NXDomain", " NotImp", " Refused", " YXDomain", " YXRRSet", " NXRRSet", " NotAuth"),
    *(" NotZone", " Resp11", " Resp12", " Resp13", " Resp14", " Resp15"),
)
_TYPES: Final = {
    1: "A",
    2: "NS",
    5: "CNAME",
    6: "SOA",
    12: "PTR",
    13: "HINFO",
    15: "MX",
    16: "TXT",
    28: "AAAA",
    33: "SRV",
    35: "NAPTR",
    39: "DNAME",
    41: "OPT",
    43: "DS",
    46: "RRSIG",
    47: "NSEC",
    48: "DNSKEY",
    50: "NSEC3",
    51: "NSEC3PARAM",
    52: "TLSA",
    64: "SVCB",
    65: "HTTPS",
    99: "SPF",
    251: "IXFR",
    252: "AXFR",
    255: "ANY",
    256: "URI",
    257: "CAA",
}


def dns_text(message: bytes, length: int | None = None) -> str:
    """A DNS message in tcpdump's short form: ``27756*- 1/0/0 A 172.30.0.1 (92)``.

    Args:
        message: As far as it is there.
        length: What the datagram or TCP length says, if more.
    """
    size = len(message) if length is None else length
    if len(message) < 12:
        return f"[|domain] ({size})"
    ident, flags, questions, answers, authorities, additionals = struct.unpack_from("!6H", message)
    opcode, rcode = flags >> 11 & 0xF, flags & 0xF
    reader = _DnsReader(message)
    if flags & 0x8000:
        marks = "".join(
            (
                _OPCODES[opcode],
                _RCODES[rcode],
                "*" if flags & 0x0400 else "",
                "" if flags & 0x0080 else "-",
                "|" if flags & 0x0200 else "",
                "$" if flags & 0x0020 else "",
            )
        )
        odd = f" [{questions}q]" if questions != 1 else ""
        text = f"{ident}{marks}{odd} {answers}/{authorities}/{additionals}"
        try:
            for _ in range(questions):
                reader.question()
            records = [reader.record() for _ in range(answers)]
        except (IndexError, struct.error, _DnsLoop):
            return f"{text} [|domain] ({size})"
        return f"{text}{' ' if records else ''}{', '.join(records)} ({size})"
    marks = f"{_OPCODES[opcode]}{'+' if flags & 0x0100 else ''}{'%' if flags & 0x0010 else ''}"
    counts = "".join(
        f" [{count}{name}]"
        for count, name, expected in (
            (questions, "q", 1),
            (answers, "a", 0),
            (authorities, "n", 0),
            (additionals, "au", 0),
        )
        if count != expected
    )
    text = f"{ident}{marks}{counts}"
    try:
        asked = [reader.question() for _ in range(questions)]
    except (IndexError, struct.error, _DnsLoop):
        return f"{text} [|domain] ({size})"
    return f"{text}{''.join(f' {question}' for question in asked)} ({size})"


class _DnsLoop(Exception):
    """A compressed name that does not end."""


class _DnsReader:
    """Reads the sections of a DNS message in order (RFC 1035 section 4)."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._at = 12

    def _take(self, layout: str) -> tuple[int, ...]:
        values = struct.unpack_from(layout, self._message, self._at)
        self._at += struct.calcsize(layout)
        return values

    def name(self) -> str:
        """A domain name with its final dot; leaves the reader behind it."""
        message, at = self._message, self._at
        labels: list[str] = []
        end = -1
        steps = 0
        while (size := message[at]) != 0:
            steps += 1
            if steps > 127:  # more labels than a name can have (RFC 1035 section 2.3.4)
                raise _DnsLoop
            if size & 0xC0 == 0xC0:
                if end < 0:
                    end = at + 2
                at = (size & 0x3F) << 8 | message[at + 1]
                continue
            label = message[at + 1 : at + 1 + size]
            if len(label) < size or size & 0xC0:
                raise IndexError
            labels.append(
                "".join(chr(byte) if 0x20 <= byte < 0x7F else f"^{chr((byte ^ 0x40) & 0x7F)}" for byte in label)
            )
            at += 1 + size
        self._at = at + 1 if end < 0 else end
        return ".".join(labels) + "."

    def question(self) -> str:
        """``A? web.`` with the class if it is not IN."""
        name = self.name()
        kind, klass = self._take("!HH")
        return f"{_type_text(kind)}{_class_text(klass)}? {name}"

    def record(self) -> str:
        """``A 10.0.0.1``: type, class if not IN, and what is short of its data."""
        self.name()
        kind, klass, _ttl, size = self._take("!HHIH")
        start = self._at
        if start + size > len(self._message):
            raise IndexError
        data = self._message[start : start + size]
        # OPT's class is a size (RFC 6891 section 6.1.2).
        text = f"{_class_text(klass)} {_type_text(kind)}".lstrip() + self._data(kind, data)
        if kind == 41:
            text = f"OPT UDPsize={klass}"
        self._at = start + size
        return text

    def _data(self, kind: int, data: bytes) -> str:
        match kind:
            case 1 if len(data) == 4:
                return f" {ip_to_text(data)}"
            case 28 if len(data) == 16:
                return f" {ip_to_text(data)}"
            case 2 | 5 | 12 | 39:
                return f" {self.name()}"
            case 15:
                (preference,) = self._take("!H")
                return f" {self.name()} {preference}"
            case 33:
                priority, weight, port = self._take("!HHH")
                return f" {self.name()}:{port} {priority} {weight}"
            case 16:
                texts = []
                at = 0
                while at < len(data):
                    size = data[at]
                    texts.append(data[at + 1 : at + 1 + size].decode("ascii", "backslashreplace"))
                    at += 1 + size
                return "".join(f' "{text}"' for text in texts)
            case _:
                return ""


def _type_text(kind: int) -> str:
    return _TYPES.get(kind, f"Type{kind}")


def _class_text(klass: int) -> str:
    klass &= 0x7FFF  # the top bit is mDNS's (RFC 6762 section 10.2)
    return "" if klass == 1 else {3: " CHAOS", 255: " ANY"}.get(klass, f" (Class {klass})")
