"""Elements of nft's sets: what they cover, and in which order nft lists them.

Source: src/mergesort.c, src/intervals.c and src/segtree.c of nftables 1.0.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pktsim.errors import RulesetSyntaxError
from pktsim.netfilter.nft_ruleset import Concat, Const, Element, Expr, Prefix, Range, Wildcard, flag_type
from pktsim.netfilter.nft_types import Base


def has_interval(key: Expr) -> bool:
    """Whether a key covers more than one value."""
    if isinstance(key, Concat):
        return any(has_interval(part) for part in key.parts)
    return isinstance(key, (Prefix, Range))


def bounds(key: Expr) -> tuple[bytes, bytes]:
    """The least and the greatest value of a key that is no concatenation."""
    if isinstance(key, Const):
        return key.data, key.data
    if isinstance(key, Range):
        return key.low.data, key.high.data
    assert isinstance(key, Prefix)
    low = int.from_bytes(key.value.data, "big")
    size = len(key.value.data)
    width = 8 * size if key.datatype.base is Base.STRING else key.value.width
    return key.value.data, (low | (1 << (width - key.length)) - 1).to_bytes(size, "big")


def sort_key(key: Expr) -> int:
    """``expr_msort_value``: what elements are listed by, where the kernel keeps no order."""
    if isinstance(key, Wildcard):
        return 1 << 600
    if isinstance(key, Concat):
        data = b""
        for part in key.parts:
            value = part.low if isinstance(part, Range) else part.value if isinstance(part, Prefix) else part
            assert isinstance(value, Const)
            raw = value.data[::-1] if value.type.host and value.type.base is not Base.STRING else value.data
            data += raw.ljust(-(-len(raw) // 4) * 4, b"\0")
        return int.from_bytes(data, "little")
    low = key.low if isinstance(key, Range) else key.value if isinstance(key, Prefix) else key
    assert isinstance(low, Const)
    if low.type.base is Base.STRING:
        return int.from_bytes(low.data, "little")
    if flag_type(low.type):
        return low.number & -low.number  # that of its first flag
    return low.number


def ordered(elements: Sequence[Element], *, interval: bool, concat: bool, merge: bool = False) -> list[Element]:
    """Elements in the order in which nft lists them, equal ones once.

    Raises:
        RulesetSyntaxError: Intervals that overlap.
    """
    unique: dict[Expr, Element] = {}
    for element in map(_as_prefixes, elements) if interval else elements:
        before = unique.setdefault(element.key, element)
        if before.data != element.data:
            raise RulesetSyntaxError("two elements with one key lead to different things")
    if interval and concat:
        return list(unique.values())
    if not interval:
        # nft's merge sort puts the later ones of equals first
        found = list(unique.values())
        found.reverse()
        found.sort(key=lambda element: sort_key(element.key))
        return found
    plain = sorted(
        (element for element in unique.values() if not isinstance(element.key, Wildcard)),
        key=lambda element: (bounds(element.key)[0], bounds(element.key)[1]),
    )
    kept: list[Element] = []
    for element in plain:
        if kept:
            low, high = bounds(element.key)
            last_low, last_high = bounds(kept[-1].key)
            if low <= last_high:
                if not merge:
                    raise RulesetSyntaxError("conflicting intervals", mend="let them not overlap")
                if high > last_high:
                    kept[-1] = Element(range_of(last_low, high, kept[-1].key), element.data)
                elif low == last_low:
                    kept[-1] = element
                continue
            if merge and element.key.datatype.base is not Base.STRING and _follows(last_high, low):
                kept[-1] = Element(range_of(last_low, high, kept[-1].key), element.data)
                continue
        kept.append(element)
    return kept + [element for element in unique.values() if isinstance(element.key, Wildcard)]


def _as_prefixes(element: Element) -> Element:
    key = canonical_key(element.key)
    return element if key is element.key else replace(element, key=key)


def canonical_key(key: Expr) -> Expr:
    """A range that is a prefix is one."""
    if isinstance(key, Concat):
        parts = tuple(canonical_key(part) for part in key.parts)
        return key if parts == key.parts else Concat(parts)
    return range_of(key.low.data, key.high.data, key.low) if isinstance(key, Range) else key


def _follows(before: bytes, after: bytes) -> bool:
    return int.from_bytes(before, "big") + 1 == int.from_bytes(after, "big")


def range_of(low: bytes, high: bytes, like: Expr) -> Expr:
    """The interval from one value to another as nft prints it: a prefix where the type has them and it is one."""
    datatype, width = like.datatype, like.bits
    first = Const(low, datatype, width)
    if low == high:
        return first
    difference = int.from_bytes(low, "big") ^ int.from_bytes(high, "big")
    length = width - difference.bit_length()
    full = difference == (1 << difference.bit_length()) - 1
    if full and datatype.prefix and not int.from_bytes(low, "big") & difference:
        return Prefix(first, length)
    return Range(first, Const(high, datatype, width))
