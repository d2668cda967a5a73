"""DNS messages as CoreDNS reads, measures, cuts and writes them.

A record's data is a sequence of octets and names, in wire order; that is all that packing, compressing and comparing
need. Names are texts (see :mod:`.dnsname`). Messages and records are mutable, because plugins change them on their way
through the chain as the Go code does; whoever keeps one copies it.

Source: miekg/dns v1.1.68: msg.go, msg_helpers.go, msg_truncate.go, edns.go, zmsg.go.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum

from . import dnsname

#: Longest message, and the longest over UDP without EDNS (RFC 1035, section 4.2.1).
MAX_MESSAGE = 65535
MIN_MESSAGE = 512
#: Names that begin later cannot be pointed to (14 bits).
_MAX_POINTER = 1 << 14
#: Octets of a name, and pointers followed, before reading gives up (msg.go).
_MAX_NAME_OCTETS = 255
_MAX_POINTERS = (_MAX_NAME_OCTETS + 1) // 2 - 2

_HEADER = struct.Struct("!6H")
_RR_FIXED = struct.Struct("!HHIH")
_U16_PAIR = struct.Struct("!HH")

QR, AA, TC, RD, RA, Z, AD, CD = (1 << bit for bit in (15, 10, 9, 8, 7, 6, 5, 4))


class Type(IntEnum):
    """Record types that have a meaning here."""

    NONE = 0
    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    HINFO = 13
    MX = 15
    TXT = 16
    AAAA = 28
    SRV = 33
    NAPTR = 35
    DNAME = 39
    OPT = 41
    DS = 43
    RRSIG = 46
    TSIG = 250
    IXFR = 251
    AXFR = 252
    ANY = 255


class Rcode(IntEnum):
    """Response codes."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


class Opcode(IntEnum):
    """Operation codes that have a meaning here."""

    QUERY = 0
    NOTIFY = 4
    UPDATE = 5


IN = 1
CLASS_ANY = 255


class WireError(Exception):
    """Octets that are not a message, or a message that cannot be written.

    Attributes:
        message: What had been read until then.
    """

    def __init__(self, what: str, message: Message | None = None) -> None:
        super().__init__(what)
        self.message = message


#: A record's data: octets, and names that may or (by type) may not be compressed.
Data = tuple[bytes | str, ...]

# How data is laid out: a number is that many octets, "n" a name, "s" one text of at most 255 octets, "t" texts to the
# end, "m" octets with their length in two octets before them, "*" what is left. Types not listed are octets. Reading
# ends early, without an error, where the data ends between two fields.
_LAYOUTS: dict[int, tuple[int | str, ...]] = {
    1: (4,),  # A
    2: ("n",),  # NS
    3: ("n",),  # MD
    4: ("n",),  # MF
    5: ("n",),  # CNAME
    6: ("n", "n", 20),  # SOA
    7: ("n",),  # MB
    8: ("n",),  # MG
    9: ("n",),  # MR
    12: ("n",),  # PTR
    13: ("s", "s"),  # HINFO
    14: ("n", "n"),  # MINFO
    15: (2, "n"),  # MX
    16: ("t",),  # TXT
    17: ("n", "n"),  # RP
    18: (2, "n"),  # AFSDB
    19: ("s",),  # X25
    20: ("s", "s"),  # ISDN
    21: (2, "n"),  # RT
    24: (18, "n", "*"),  # SIG
    26: (2, "n", "n"),  # PX
    28: (16,),  # AAAA
    30: ("n", "*"),  # NXT
    33: (6, "n"),  # SRV
    35: (4, "s", "s", "s", "n"),  # NAPTR
    36: (2, "n"),  # KX
    39: ("n",),  # DNAME
    46: (18, "n", "*"),  # RRSIG
    47: ("n", "*"),  # NSEC
    56: ("t",),  # NINFO
    58: ("n", "n"),  # TALINK
    64: (2, "n", "*"),  # SVCB
    65: (2, "n", "*"),  # HTTPS
    99: ("t",),  # SPF
    107: (2, "n"),  # LP
    250: ("n", 8, "m", 4, "m"),  # TSIG: name, time and fudge, mac, id and error, other
    257: (1, "s", "*"),  # CAA
    258: ("t",),  # AVC
    261: ("t",),  # RESINFO
}
#: Types whose names may be pointers in what is written (RFC 1035 types; types.go, ``cdomain-name``).
_COMPRESSIBLE = frozenset({2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 15, 21})
#: Types with texts whose length is measured as escaped.
_TEXTS = frozenset({13, 16, 19, 20, 35, 56, 99, 257, 258, 261})


class RR:
    """One resource record."""

    __slots__ = ("cls", "data", "name", "ttl", "type")

    def __init__(self, name: str, type: int, ttl: int, data: Data, cls: int = IN) -> None:
        self.name = name
        self.type = type
        self.ttl = ttl
        self.data = data
        self.cls = cls

    def __repr__(self) -> str:
        return f"RR({self.name!r}, {self.type}, {self.ttl}, {self.data!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RR) and self.key() == other.key()

    __hash__ = None  # type: ignore[assignment]

    def key(self) -> tuple[str, int, int, int, Data]:
        """All of it, to compare or collect records by."""
        return (self.name, self.type, self.cls, self.ttl, self.data)

    def copy(self) -> RR:
        """A record of its own; the data cannot change."""
        return RR(self.name, self.type, self.ttl, self.data, self.cls)

    def target(self) -> str:
        """The first name in the data; empty if there is none."""
        for part in self.data:
            if isinstance(part, str):
                return part
        return ""

    def set_target(self, name: str) -> None:
        """Replace the first name in the data."""
        parts = list(self.data)
        for at, part in enumerate(parts):
            if isinstance(part, str):
                parts[at] = name
                break
        self.data = tuple(parts)


class Opt(RR):
    """An OPT pseudo record (RFC 6891): class is the size, the TTL holds rcode, version and flags.

    Attributes:
        options: Codes and values, in order.
    """

    __slots__ = ("options",)

    DO = 0x8000

    def __init__(self, size: int = 0, ttl: int = 0, options: Iterable[tuple[int, bytes]] = (), name: str = ".") -> None:
        super().__init__(name, Type.OPT, ttl, (), size)
        self.options = list(options)

    def copy(self) -> Opt:
        return Opt(self.cls, self.ttl, self.options, self.name)

    def key(self) -> tuple[str, int, int, int, Data]:
        return (self.name, self.type, self.cls, self.ttl, (self.packed_options(),))

    @property
    def size(self) -> int:
        """The sender's UDP payload size."""
        return self.cls

    @property
    def do(self) -> bool:
        """Whether DNSSEC records are wanted."""
        return bool(self.ttl & self.DO)

    @property
    def version(self) -> int:
        """EDNS version."""
        return self.ttl >> 16 & 0xFF

    def packed_options(self) -> bytes:
        """The options as octets."""
        return b"".join(_U16_PAIR.pack(code, len(value)) + value for code, value in self.options)


def _option(code: int, value: bytes) -> bytes:
    """What an option becomes when it has been read and is written again (edns.go).

    Raises:
        WireError: It cannot be read.
    """
    length = len(value)
    if code == 8:  # client subnet
        if length < 4:
            raise WireError("client subnet option is too short")
        family, netmask, scope = int.from_bytes(value[:2], "big"), value[2], value[3]
        octets = {0: 0, 1: 4, 2: 16}.get(family)
        if octets is None or netmask > octets * 8 or (octets and scope > octets * 8):
            raise WireError("bad client subnet option")
        if not octets:
            return value[:4]
        address = int.from_bytes(value[4 : 4 + octets].ljust(octets, b"\0"), "big")
        address &= -1 << (octets * 8 - netmask)
        return value[:4] + address.to_bytes(octets, "big")[: (netmask + 7) // 8]
    if code == 9:  # expire
        if 0 < length < 4:
            raise WireError("expire option is too short")
        return value[:4]
    if code == 11:  # TCP keepalive
        if length not in (0, 2):
            raise WireError("keepalive option must have 0 or 2 octets")
        return b"" if value == b"\0\0" else value
    if code == 1:  # long-lived queries
        if length < 18:
            raise WireError("LLQ option is too short")
        return value[:18]
    if code == 2:  # update lease
        if length not in (4, 8):
            raise WireError("update lease option must have 4 or 8 octets")
        return value[:4] if value[4:] == b"\0\0\0\0" else value
    if code == 15 and length < 2:  # extended error
        raise WireError("extended error option is too short")
    return value


class Question:
    """What is asked."""

    __slots__ = ("cls", "name", "type")

    def __init__(self, name: str, type: int, cls: int = IN) -> None:
        self.name = name
        self.type = type
        self.cls = cls

    def __repr__(self) -> str:
        return f"Question({self.name!r}, {self.type}, {self.cls})"

    def copy(self) -> Question:
        """A question of its own."""
        return Question(self.name, self.type, self.cls)


class Message:
    """A whole message.

    Attributes:
        flags: The header's second word without opcode and rcode: :data:`QR`, :data:`AA` and so on.
        rcode: With the upper bits from an OPT record.
        compress: Whether names are compressed when it is written.
    """

    __slots__ = ("additional", "answer", "authority", "compress", "flags", "id", "opcode", "question", "rcode")

    def __init__(self, id: int = 0, flags: int = 0, opcode: int = 0, rcode: int = 0) -> None:
        self.id = id
        self.flags = flags
        self.opcode = opcode
        self.rcode = rcode
        self.question: list[Question] = []
        self.answer: list[RR] = []
        self.authority: list[RR] = []
        self.additional: list[RR] = []
        self.compress = False

    def copy(self) -> Message:
        """A message of its own, with records of its own."""
        twin = Message(self.id, self.flags, self.opcode, self.rcode)
        twin.compress = self.compress
        twin.question = [question.copy() for question in self.question]
        twin.answer = [record.copy() for record in self.answer]
        twin.authority = [record.copy() for record in self.authority]
        twin.additional = [record.copy() for record in self.additional]
        return twin

    def reply(self, rcode: int = Rcode.NOERROR, flags: int = 0) -> Message:
        """An empty answer to it (``SetReply``): RD and CD are copied, for queries at least."""
        copied = self.flags & (RD | CD) if self.opcode == Opcode.QUERY else 0
        answer = Message(self.id, QR | flags | copied, self.opcode, rcode)
        if self.question:
            answer.question = [self.question[0].copy()]
        return answer

    @property
    def opt(self) -> Opt | None:
        """The last OPT record of the additional section."""
        for record in reversed(self.additional):
            if isinstance(record, Opt):
                return record
        return None

    @property
    def truncated(self) -> bool:
        """Whether TC is set."""
        return bool(self.flags & TC)

    def pack(self) -> bytes:
        """Write it.

        Raises:
            WireError: A name cannot be written, or the rcode needs an OPT record and there is none.
        """
        return _pack(self)

    def length(self, *, compressed: bool = False) -> int:
        """How long it is taken to be; an estimate for some odd types, as in the Go library."""
        return _length(self, {} if compressed else None)

    def truncate(self, size: int) -> None:
        """Make it fit: compress it if it must, then drop records from the end and set TC."""
        _truncate(self, size)


def _name_length(name: str, offset: int, seen: dict[str, None] | None, compressible: bool) -> int:
    if name in ("", "."):
        return 1
    if seen is not None and (compressible or offset < _MAX_POINTER):
        for at in dnsname.starts(name):
            if name[at:] in seen:
                if compressible:
                    return dnsname.text_length(name[:at]) + 2
                break
            if offset + at < _MAX_POINTER:
                seen[name[at:]] = None
    return dnsname.text_length(name) + 1


def _escapes(texts: bytes) -> int:
    """How many characters more than octets a text has when it is escaped (``unpackString``)."""
    return sum(1 if octet in (0x22, 0x5C) else 0 if 0x20 <= octet <= 0x7E else 3 for octet in texts)


def _record_length(record: RR, offset: int, seen: dict[str, None] | None) -> int:
    length = _name_length(record.name, offset, seen, True) + 10
    if isinstance(record, Opt):
        return length + len(record.packed_options())
    compressible = record.type in _COMPRESSIBLE
    for part in record.data:
        if isinstance(part, str):
            length += _name_length(part, offset + length, seen, compressible)
        else:
            length += len(part)
    if record.type in _TEXTS:
        length += _text_escapes(record)
    return length


def _text_escapes(record: RR) -> int:
    total = 0
    for kind, part in zip(_LAYOUTS[record.type], record.data, strict=False):
        if kind in ("s", "t") and isinstance(part, bytes):
            at = 0
            while at < len(part):
                total += _escapes(part[at + 1 : at + 1 + part[at]])
                at += 1 + part[at]
    return total


def _length(message: Message, seen: dict[str, None] | None) -> int:
    length = 12
    for question in message.question:
        length += _name_length(question.name, length, seen, True) + 4
    for section in (message.answer, message.authority, message.additional):
        for record in section:
            length += _record_length(record, length, seen)
    return length


def _fitting(records: list[RR], size: int, length: int, seen: dict[str, None]) -> tuple[int, int]:
    """The length after as many records as fit, and how many those are; ``size`` once one did not fit."""
    for number, record in enumerate(records):
        length += _record_length(record, length, seen)
        if length > size:
            return size, number
        if length == size:
            return length, number + 1
    return length, len(records)


def _truncate(message: Message, size: int) -> None:
    if message.additional and message.additional[-1].type == Type.TSIG:
        return
    size = max(size, MIN_MESSAGE)
    if _length(message, None) <= size:
        message.compress = False
        return
    message.compress = True
    opt = message.opt
    if opt is not None:
        message.additional = [record for record in message.additional if record is not opt]
        size -= _record_length(opt, 0, None)
    seen: dict[str, None] = {}
    length = 12
    for question in message.question:
        length += _name_length(question.name, length, seen, True) + 4
    kept = []
    for section in (message.answer, message.authority, message.additional):
        count = 0
        if length < size:
            length, count = _fitting(section, size, length, seen)
        kept.append(count)
    answers, authorities, additionals = kept
    if len(message.answer) > answers or len(message.authority) > authorities or len(message.additional) > additionals:
        message.flags |= TC
    message.answer = message.answer[:answers]
    message.authority = message.authority[:authorities]
    message.additional = message.additional[:additionals]
    if opt is not None:
        message.additional.append(opt)


def _pack_name(name: str, out: bytearray, pointers: dict[str, int] | None, compress: bool) -> None:
    if not name:
        return
    if pointers is None:
        out += dnsname.to_wire(name)
        return
    for suffix, octets in dnsname.wire_labels(name):
        pointer = pointers.get(suffix)
        if pointer is not None:
            if compress:
                out += (0xC000 | pointer).to_bytes(2, "big")
                return
        elif len(out) < _MAX_POINTER:
            pointers[suffix] = len(out)
        out += octets
    out.append(0)


def _pack(message: Message) -> bytes:
    opt = message.opt
    if not 0 <= message.rcode <= 0xFFF:
        raise WireError(f"rcode {message.rcode} does not exist")
    if opt is not None:
        opt.ttl = opt.ttl & 0x00FFFFFF | message.rcode >> 4 << 24
    elif message.rcode > 0xF:
        raise WireError(f"rcode {message.rcode} needs an OPT record")
    pointers: dict[str, int] | None = {} if message.compress else None
    out = bytearray(
        _HEADER.pack(
            message.id,
            message.flags | message.opcode << 11 | message.rcode & 0xF,
            len(message.question),
            len(message.answer),
            len(message.authority),
            len(message.additional),
        )
    )
    try:
        for question in message.question:
            _pack_name(question.name, out, pointers, True)
            out += _U16_PAIR.pack(question.type, question.cls)
        for section in (message.answer, message.authority, message.additional):
            for record in section:
                _pack_record(record, out, pointers)
    except dnsname.NameTextError as error:
        raise WireError(str(error), message) from None
    return bytes(out)


def _pack_record(record: RR, out: bytearray, pointers: dict[str, int] | None) -> None:
    _pack_name(record.name, out, pointers, True)
    out += _RR_FIXED.pack(record.type, record.cls, record.ttl, 0)
    begin = len(out)
    if isinstance(record, Opt):
        out += record.packed_options()
    else:
        compressible = record.type in _COMPRESSIBLE
        for part in record.data:
            if isinstance(part, str):
                _pack_name(part, out, pointers, compressible)
            else:
                out += part
    length = len(out) - begin
    if length > 0xFFFF:
        raise WireError(f"data of {record.name} has {length} octets")
    out[begin - 2 : begin] = length.to_bytes(2, "big")


_LABEL_TEXT = dnsname.LABEL_TEXT
_PLAIN_LABEL = frozenset(octet for octet in range(256) if len(_LABEL_TEXT[octet]) == 1)


def unpack_name(octets: bytes, offset: int) -> tuple[str, int]:
    """Read a name; pointers may lead anywhere in ``octets``.

    Returns:
        The name as text, and where what follows it begins.

    Raises:
        WireError: There is no name.
    """
    parts: list[str] = []
    end = len(octets)
    after = 0
    budget = _MAX_NAME_OCTETS
    pointers = 0
    while True:
        if offset >= end:
            raise WireError("a name runs over the end")
        length = octets[offset]
        offset += 1
        if length == 0:
            break
        if length < 0x40:
            if offset + length > end:
                raise WireError("a label runs over the end")
            budget -= length + 1
            if budget <= 0:
                raise WireError("a name has more than 255 octets")
            label = octets[offset : offset + length]
            offset += length
            if _PLAIN_LABEL.issuperset(label):
                parts.append(label.decode("ascii"))
            else:
                parts.append("".join([_LABEL_TEXT[octet] for octet in label]))
        elif length >= 0xC0:
            if offset >= end:
                raise WireError("a pointer runs over the end")
            if not pointers:
                after = offset + 1
            pointers += 1
            if pointers > _MAX_POINTERS:
                raise WireError("too many compression pointers")
            offset = (length & 0x3F) << 8 | octets[offset]
        else:
            raise WireError("a label begins with reserved bits")
    if not pointers:
        after = offset
    if not parts:
        return ".", after
    parts.append("")
    return ".".join(parts), after


def _u16(octets: bytes, offset: int) -> int:
    if offset + 2 > len(octets):
        raise WireError("a number runs over the end")
    return octets[offset] << 8 | octets[offset + 1]


def _unpack_question(octets: bytes, offset: int) -> tuple[Question, int]:
    name, offset = unpack_name(octets, offset)
    question = Question(name, 0, 0)
    if offset == len(octets):
        return question, offset
    question.type = _u16(octets, offset)
    offset += 2
    if offset == len(octets):
        return question, offset
    question.cls = _u16(octets, offset)
    return question, offset + 2


def _string_end(octets: bytes, offset: int) -> int:
    if offset >= len(octets) or offset + 1 + octets[offset] > len(octets):
        raise WireError("a text runs over the end")
    return offset + 1 + octets[offset]


def _unpack_data(octets: bytes, offset: int, type: int) -> Data:
    """Read a record's data, which reaches to the end of ``octets``."""
    end = len(octets)
    layout = _LAYOUTS.get(type)
    if layout is None:
        return (octets[offset:],)
    parts: list[bytes | str] = []
    for kind in layout:
        if offset == end and parts:
            break
        if kind == "n":
            name, offset = unpack_name(octets, offset)
            parts.append(name)
            continue
        if kind == "*":
            stop = end
        elif kind == "s":
            stop = _string_end(octets, offset)
        elif kind == "t":
            stop = offset
            while stop < end:
                stop = _string_end(octets, stop)
        elif kind == "m":
            stop = offset + 2 + _u16(octets, offset)
        else:
            assert isinstance(kind, int)
            stop = offset + kind
        if stop > end:
            raise WireError("a record's data is too short")
        parts.append(octets[offset:stop])
        offset = stop
    if offset != end:
        raise WireError("bad rdlength")
    return tuple(parts)


def _unpack_options(octets: bytes, offset: int) -> list[tuple[int, bytes]]:
    options = []
    while offset < len(octets):
        if offset + 4 > len(octets):
            raise WireError("an option runs over the end")
        code, length = _U16_PAIR.unpack_from(octets, offset)
        offset += 4
        if offset + length > len(octets):
            raise WireError("an option runs over the end")
        options.append((code, _option(code, octets[offset : offset + length])))
        offset += length
    return options


def _unpack_record(octets: bytes, offset: int) -> tuple[RR | None, int]:
    """Read a record; ``None`` at the end of the octets, which is not an error there."""
    if offset == len(octets):
        return None, offset
    name, offset = unpack_name(octets, offset)
    if offset + 10 > len(octets):
        raise WireError("a record's header runs over the end")
    type, cls, ttl, length = _RR_FIXED.unpack_from(octets, offset)
    offset += 10
    end = offset + length
    if end > len(octets):
        raise WireError("overflowing header size")
    part = octets[:end]
    if type == Type.OPT:
        return Opt(cls, ttl, _unpack_options(part, offset), name), end
    return RR(name, type, ttl, _unpack_data(part, offset, type) if length else (), cls), end


def unpack_header(octets: bytes) -> tuple[Message, tuple[int, int, int, int]]:
    """Read the first 12 octets: a message without sections, and what it says they hold.

    Raises:
        WireError: There are fewer.
    """
    if len(octets) < 12:
        raise WireError("shorter than a header")
    id, bits, *counts = _HEADER.unpack_from(octets)
    message = Message(id, bits & (QR | AA | TC | RD | RA | Z | AD | CD), bits >> 11 & 0xF, bits & 0xF)
    return message, (counts[0], counts[1], counts[2], counts[3])


def unpack(octets: bytes) -> Message:
    """Read a message. Octets after it are ignored, and counts that promise more than there is are forgiven.

    Raises:
        WireError: It is malformed; ``message`` holds what was read, at least the header, if there was one.
    """
    message, counts = unpack_header(octets)
    unpack_sections(message, counts, octets)
    return message


def unpack_sections(message: Message, counts: tuple[int, int, int, int], octets: bytes) -> None:
    """Read what follows the header into ``message``. See :func:`unpack`."""
    offset = 12
    if offset == len(octets):
        return
    try:
        for _ in range(counts[0]):
            if offset == len(octets):
                break
            question, offset = _unpack_question(octets, offset)
            message.question.append(question)
        for section, count in zip((message.answer, message.authority, message.additional), counts[1:], strict=True):
            offset = _unpack_section(section, count, octets, offset)
    except WireError as error:
        error.message = message
        raise
    opt = message.opt
    if opt is not None:
        message.rcode |= opt.ttl >> 24 << 4


def _unpack_section(section: list[RR], count: int, octets: bytes, offset: int) -> int:
    try:
        for _ in range(count):
            record, offset = _unpack_record(octets, offset)
            if record is None:
                break
            section.append(record)
    except WireError:
        section.clear()
        raise
    return offset


def a_record(name: str, ttl: int, packed: bytes) -> RR:
    """An A or AAAA record, by the length of the address."""
    return RR(name, Type.A if len(packed) == 4 else Type.AAAA, ttl, (packed,))


def soa_record(name: str, ttl: int, mname: str, rname: str, numbers: tuple[int, int, int, int, int]) -> RR:
    """A SOA record; the numbers are serial, refresh, retry, expire and minimum."""
    return RR(name, Type.SOA, ttl, (mname, rname, struct.pack("!5I", *numbers)))


def srv_record(name: str, ttl: int, priority: int, weight: int, port: int, target: str) -> RR:
    """An SRV record."""
    return RR(name, Type.SRV, ttl, (struct.pack("!3H", priority, weight, port), target))


def text_data(*texts: bytes) -> bytes:
    """Texts of at most 255 octets, each with its length before it."""
    return b"".join(bytes((len(text),)) + text for text in texts)


def rdata_of_wire(type: int, octets: bytes) -> Data:
    """Read the data of a record from its own octets alone.

    Raises:
        WireError: They are not such data.
    """
    return _unpack_data(octets, 0, type) if octets else ()
