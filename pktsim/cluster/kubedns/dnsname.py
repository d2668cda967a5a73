"""Domain names as text, as CoreDNS holds them: labels with a dot after each, odd octets escaped.

CoreDNS compares, cuts and joins names as texts all the way, so what is odd about a name (an escaped dot, an empty
label, another case) decides the answer by what these functions do with the text. Names here are that text:
``web.default.`` is two labels and the root, ``a\\.b.`` one label with a dot in it.

Source: miekg/dns v1.1.68, labels.go, defaults.go, msg.go; coredns v1.13.1, plugin/normalize.go, plugin/pkg/dnsutil.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache

#: Octets that are escaped by a backslash although they can be printed (types.go, ``isDomainNameLabelSpecial``).
_SPECIAL = frozenset(b". '@;()\"\\")

#: How each octet of a label is written.
LABEL_TEXT: tuple[str, ...] = tuple(
    "\\" + chr(octet) if octet in _SPECIAL else chr(octet) if 0x20 <= octet <= 0x7E else f"\\{octet:03d}"
    for octet in range(256)
)

_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
#: A dot that ends a label: an even number of backslashes stands before it.
_LABEL_END = re.compile(r"(?:[^\\.]|\\.)*\.", re.DOTALL)
_DDD = re.compile(r"[0-9]{3}")


class NameTextError(ValueError):
    """A text that cannot be packed as a name: an empty label, or one of more than 63 octets."""


@lru_cache(maxsize=1 << 14)
def lower(text: str) -> str:
    """Lower case of the ASCII letters alone."""
    return text.translate(_LOWER)


_PLAIN_NAME = re.compile(r"[A-Za-z0-9_*/+=.-]*")
_ESCAPED = re.compile(r"\\([0-9]{3})|\\(.)|([^\\])", re.DOTALL)


@lru_cache(maxsize=1 << 14)
def display(name: str) -> str:
    """Escape what needs to be, and only that (``sprintName``); a name that was read from a message stays as it is."""
    if _PLAIN_NAME.fullmatch(name):
        return name
    parts = []
    for ddd, escaped, plain in _ESCAPED.findall(name):
        parts.append("." if plain == "." else LABEL_TEXT[int(ddd) & 0xFF if ddd else ord(escaped or plain) & 0xFF])
    return "".join(parts)


def is_fqdn(name: str) -> bool:
    """Whether a name ends with a dot that is not escaped."""
    if not name.endswith("."):
        return False
    body = name[:-1]
    return (len(body) - len(body.rstrip("\\"))) % 2 == 0


def fqdn(name: str) -> str:
    """Add the last dot if it is not there."""
    return name if is_fqdn(name) else name + "."


def normalize(name: str) -> str:
    """A name from a configuration: complete and in lower case."""
    return lower(fqdn(name))


def next_label(name: str, offset: int) -> tuple[int, bool]:
    """Return where the label after the one at ``offset`` begins, and whether there is none."""
    if not name:
        return 0, True
    last = len(name) - 1
    at = offset
    while (at := name.find(".", at, last)) >= 0:
        before = at
        while before > 0 and name[before - 1] == "\\":
            before -= 1
        if (at - before) % 2 == 0:
            return at + 1, False
        at += 1
    return max(offset, last) + 1, True


def starts(name: str) -> list[int]:
    """Where the labels of a name begin; empty for the root."""
    if name == ".":
        return []
    if "\\" not in name:
        found = [0]
        last = len(name) - 1
        at = 0
        while (at := name.find(".", at, last) + 1) > 0:
            found.append(at)
        return found
    found = [0]
    offset, end = next_label(name, 0)
    while not end:
        found.append(offset)
        offset, end = next_label(name, offset)
    return found


def split(name: str) -> list[str]:
    """The labels of a name, without the dots between them."""
    if not name:
        return []
    if "\\" not in name:
        return [] if name == "." else name.removesuffix(".").split(".")
    begins = starts(name)
    end = len(name) - 1 if is_fqdn(name) else len(name)
    ends = [*(begin - 1 for begin in begins[1:]), end]
    return [name[begin:stop] for begin, stop in zip(begins, ends, strict=True)]


def count_labels(name: str) -> int:
    """How many labels a name has; the root has none."""
    return len(starts(name))


def previous_label(name: str, n: int) -> tuple[int, bool]:
    """Return where the ``n``-th label from the right begins, and whether there are fewer."""
    if not name:
        return 0, True
    if n == 0:
        return len(name), False
    at = len(name) - 1
    if name[at] == ".":
        at -= 1
    while at >= 0 and n > 0:
        if name[at] == ".":
            before = at
            while before > 0 and name[before - 1] == "\\":
                before -= 1
            if (at - before) % 2 == 0:
                n -= 1
                if n == 0:
                    return at + 1, False
        at -= 1
    return 0, n > 1


@lru_cache(maxsize=1 << 14)
def trim_zone(name: str, zone: str) -> str | None:
    """What stands before ``zone``, without the dot between; ``None`` if that is nothing or ``zone`` has more labels."""
    begin, overshot = previous_label(name, count_labels(zone))
    return None if overshot or begin < 1 else name[: begin - 1]


@lru_cache(maxsize=1 << 14)
def is_subdomain(parent: str, child: str) -> bool:
    """Whether ``child`` is ``parent`` or below it, whatever the case."""
    if parent == ".":
        return True
    child, parent = lower(child), lower(parent)
    if child == parent:
        return True
    if not child.endswith(parent):
        return False
    before = child[: len(child) - len(parent)]
    return before.endswith(".") and is_fqdn(before)


def longest_zone(zones: Iterable[str], name: str) -> str:
    """The longest of ``zones`` that ``name`` is in; empty if it is in none (``plugin.Zones.Matches``)."""
    found = ""
    for zone in zones:
        if len(zone) > len(found) and is_subdomain(zone, name):
            found = zone
    return found


def join(*labels: str) -> str:
    """Join labels and a zone at the end, which may be the root (dnsutil ``Join``)."""
    if labels[-1] == ".":
        return ".".join(labels[:-1]) + "."
    return fqdn(".".join(labels))


def is_name(text: str) -> bool:
    """Whether a text can be packed as a name of at most 256 octets."""
    if not text:
        return False
    try:
        return len(to_wire(fqdn(text))) <= 257
    except NameTextError:
        return False


def _octets(label: str) -> bytes:
    if "\\" not in label:
        return label.encode("latin-1")
    octets = bytearray()
    at = 0
    while at < len(label):
        if label[at] == "\\":
            if _DDD.match(label, at + 1):
                octets.append(int(label[at + 1 : at + 4]) & 0xFF)
                at += 4
                continue
            at += 1
        if at < len(label):
            octets.append(ord(label[at]))
        at += 1
    return bytes(octets)


@lru_cache(maxsize=1 << 14)
def wire_labels(name: str) -> tuple[tuple[str, bytes], ...]:
    """For each label of a complete name: the name from there on, and the label's octets with their length.

    Raises:
        NameTextError: The name cannot be packed.
    """
    if name == ".":
        return ()
    if not is_fqdn(name):
        raise NameTextError(f"{name!r} is not complete")
    found = []
    if "\\" not in name:
        at = 0
        for label in name[:-1].split("."):
            if not 0 < len(label) < 64:
                raise NameTextError(f"a label of {name!r} has {len(label)} octets")
            found.append((name[at:], bytes((len(label),)) + label.encode("latin-1")))
            at += len(label) + 1
        return tuple(found)
    at = 0
    while at < len(name):
        match = _LABEL_END.match(name, at)
        if match is None:
            raise NameTextError(f"{name!r} ends in the middle of an escape")
        octets = _octets(name[at : match.end() - 1])
        if not 0 < len(octets) < 64:
            raise NameTextError(f"a label of {name!r} has {len(octets)} octets")
        found.append((name[at:], bytes((len(octets),)) + octets))
        at = match.end()
    return tuple(found)


@lru_cache(maxsize=1 << 14)
def to_wire(name: str) -> bytes:
    """The octets of a complete name, uncompressed.

    Raises:
        NameTextError: The name cannot be packed.
    """
    return b"".join(octets for _, octets in wire_labels(name)) + b"\0"


@lru_cache(maxsize=1 << 14)
def text_length(name: str) -> int:
    """Octets of a name whose text may be escaped, without the last one (``escapedNameLen``)."""
    if "\\" not in name:
        return len(name)
    length = at = 0
    while at < len(name):
        if name[at] == "\\":
            at += 3 if _DDD.match(name, at + 1) else 1
        length += 1
        at += 1
    return length


@lru_cache(maxsize=1 << 12)
def parse_ip(text: str) -> bytes | None:
    """An address as Go reads it: 4 octets, or 16; an IPv4 address within IPv6 is one of 4. ``None`` if it is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return None
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped.packed
    return address.packed


def format_ip(packed: bytes) -> str:
    """An address as Go writes it."""
    return str(ipaddress.ip_address(packed))


def address_of_reverse(name: str) -> str:
    """The address that a reverse name stands for; empty if it stands for none (``ExtractAddressFromReverse``)."""
    if name.endswith(".in-addr.arpa."):
        parts = name.removesuffix(".in-addr.arpa.").split(".")
        packed = parse_ip(".".join(reversed(parts)))
        return format_ip(packed) if packed is not None and len(packed) == 4 else ""
    if name.endswith(".ip6.arpa."):
        parts = name.removesuffix(".ip6.arpa.").split(".")[::-1]
        groups = ["".join(parts[at * 4 : at * 4 + 4]) for at in range(len(parts) // 4)]
        packed = parse_ip(":".join(groups))
        return format_ip(packed) if packed is not None else ""
    return ""


def reverse_name(address: str) -> str:
    """The name under which an address's PTR record lives."""
    return ipaddress.ip_address(address).reverse_pointer + "."


def is_reverse(name: str) -> bool:
    """Whether a name is below one of the two reverse trees."""
    return name.endswith((".in-addr.arpa.", ".ip6.arpa."))
