"""The words of ``ipset``: commands, and the text of ``ipset restore`` and ``ipset save``.

Source: lib/ipset.c and lib/parse.c of ipset 7.17; what the kernel says is in its words too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NoReturn

from pktsim.errors import RulesetSyntaxError, UnsupportedFeature
from pktsim.netfilter.ipset import Entry, Extensions, Found, IpSet, IpSets, SkbInfo, new_set
from pktsim.netfilter.ipset_elements import (
    Element,
    ElementReader,
    element_text,
    ip_range,
    port_range,
    to_address_text,
    to_ip,
)
from pktsim.netfilter.ipset_types import ALIASES, FLAGS, OBSOLETE, TYPES, Families
from pktsim.netfilter.iptables_rule import Word
from pktsim.netfilter.matches.set import LONGEST_SET_NAME
from pktsim.netfilter.option import BadValue, to_number
from pktsim.netfilter.ruleset import Family

U16_MAX = 0xFFFF
U32_MAX = 0xFFFFFFFF
#: ``IPSET_MAX_TIMEOUT``, which the tool holds to half of what fits a jiffy.
_MAX_TIMEOUT_S = (1 << 31) // 1000
_MAX_COUNTER = (1 << 64) - 2
_MAX_BITMAP = 65536
_LONGEST_COMMENT = 255
_LIST_MIN_SIZE = 4
_HASH_MIN_SIZE = 64
_AHASH_STEP = 2  # AHASH_INIT_SIZE
_MAX_BUCKET = 14 - _AHASH_STEP

_FAMILIES = {
    "inet": Family.IPV4,
    "ipv4": Family.IPV4,
    "-4": Family.IPV4,
    "inet6": Family.IPV6,
    "ipv6": Family.IPV6,
    "-6": Family.IPV6,
}
_VERBS = {
    "create": ("create", "-N", "--create", "n", "-n"),
    "add": ("add", "-A", "--add", "a"),
    "del": ("del", "-D", "--del", "d"),
    "test": ("test", "-T", "--test", "t"),
    "flush": ("flush", "-F", "--flush", "f"),
    "destroy": ("destroy", "-X", "--destroy", "x"),
    "rename": ("rename", "-E", "--rename", "e"),
    "swap": ("swap", "-W", "--swap", "w"),
    "list": ("list", "-L", "--list", "l"),
    "save": ("save", "-S", "--save", "s"),
}
_VERB_BY_WORD = {word: verb for verb, words in _VERBS.items() for word in words}
#: What ``create -exist`` compares, and the mask of addresses; not the family.
_SETTINGS = ("type", "timeout_s", "maxelem", "markmask", "bounds", "size", "counters", "comment", "skbinfo")
_EXIST = frozenset({"-exist", "--exist", "-!"})
_HARMLESS = frozenset({"-quiet", "--quiet", "-q", "-sorted", "--sorted", "-s", "-resolve", "--resolve", "-r"})
_SKBMARK = re.compile(r"0x([0-9a-fA-F]+)(?:/0x([0-9a-fA-F]+))?")
_SKBPRIO = re.compile(r"(?:0[xX])?([0-9a-fA-F]+):(?:0[xX])?([0-9a-fA-F]+)")
_ADD_OPTIONS = ("timeout", "packets", "bytes", "comment", "skbmark", "skbprio", "skbqueue")
_NEEDS = {
    "timeout": ("timeout", "Timeout cannot be used: set was created without timeout support"),
    "packets": ("counters", "Packet/byte counters cannot be used: set was created without counter support"),
    "bytes": ("counters", "Packet/byte counters cannot be used: set was created without counter support"),
    "comment": ("comment", "Comment cannot be used: set was created without comment support"),
    "skbmark": ("skbinfo", "Skbinfo mapping cannot be used: set was created without skbinfo support"),
    "skbprio": ("skbinfo", "Skbinfo mapping cannot be used: set was created without skbinfo support"),
    "skbqueue": ("skbinfo", "Skbinfo mapping cannot be used: set was created without skbinfo support"),
}


def split_line(line: str) -> list[Word]:
    """Words of a line of ``ipset restore`` with their columns: double quotes hold together."""
    words: list[Word] = []
    for found in re.finditer(r'"([^"]*)"|([^\s"]+)|(")', line):
        if found.group(3):
            raise BadValue("the double quotes are not closed", "close them")
        words.append(Word(found.group(1) if found.group(1) is not None else found.group(2), found.start() + 1))
    return words


@dataclass(slots=True)
class _Options:
    """Options of one command as given."""

    values: dict[str, Word] = field(default_factory=dict)
    flags: dict[str, Word] = field(default_factory=dict)


class IpsetCommand:
    """Runs commands on the sets of a namespace.

    Args:
        sets: The sets.
        now_ns: For time-outs.
        file: For errors.
    """

    def __init__(self, sets: IpSets, *, now_ns: int = 0, file: str | None = None) -> None:
        self._sets = sets
        self._now_ns = now_ns
        self._file = file
        self._line: int | None = None
        self._here = Word("")
        self._exist = False

    def restore(self, text: str) -> None:
        """Run ``ipset restore`` text.

        Raises:
            RulesetSyntaxError: What the tool or the kernel would refuse. Lines before it have been done.
            UnsupportedFeature: Something that is not modelled.
        """
        for self._line, line in enumerate(text.splitlines(), start=1):
            if line.lstrip()[:1] not in ("", "#"):
                try:
                    words = split_line(line)
                except BadValue as error:
                    self._here = Word("", line.find('"') + 1)
                    self._fail(error)
                if words[0].text not in ("COMMIT", "quit", "exit"):
                    self.run(words)

    def run(self, words: Sequence[Word]) -> str:
        """One command, without ``ipset`` in front. Returns what it prints."""
        self._exist = any(word.text in _EXIST for word in words)
        words = [word for word in words if word.text not in _EXIST and word.text not in _HARMLESS]
        self._here = words[0] if words else Word("")
        try:
            return self._run(words)
        except BadValue as error:
            self._fail(error)
        except UnsupportedFeature as error:
            error.file, error.line, error.column = self._file, self._line, self._here.column or None
            raise

    def _fail(self, error: BadValue) -> NoReturn:
        raise RulesetSyntaxError(
            error.what,
            token=self._here.text,
            mend=error.mend,
            file=self._file,
            line=self._line,
            column=self._here.column or None,
        ) from None

    def _run(self, words: Sequence[Word]) -> str:
        if not words:
            raise BadValue("No command specified", "begin with create, add, del, flush, destroy, rename or swap")
        verb = _VERB_BY_WORD.get(words[0].text)
        if verb is None:
            raise BadValue(f"No command specified: unknown argument {words[0].text}")
        least = {"create": 2, "add": 2, "del": 2, "test": 2, "rename": 2, "swap": 2}.get(verb, 0)
        if len(words) - 1 < least:
            raise BadValue(f"Missing mandatory argument to command {verb}", "see ipset(8)")
        arguments = words[1:]
        if verb == "create":
            self._create(arguments)
        elif verb == "add":
            self._add(arguments)
        elif verb == "del":
            self._delete(arguments)
        elif verb == "rename":
            self._rename(arguments)
        elif verb == "swap":
            self._swap(arguments)
        elif verb == "flush":
            for target in [self._named(arguments[0])] if arguments else list(self._sets.sets.values()):
                target.flush()
        elif verb == "destroy":
            self._destroy(arguments)
        elif verb == "save":
            return save_text(self._sets, self._now_ns, [self._named(word).name for word in arguments] or None)
        else:
            raise UnsupportedFeature(f"ipset command {verb}", mend="see what ipset save prints")
        return ""

    def _named(self, word: Word) -> IpSet:
        self._here = word
        found = self._sets.sets.get(word.text)
        if found is None:
            raise BadValue("The set with the given name does not exist", f"create {word.text} first")
        return found

    def _check_name(self, word: Word) -> str:
        self._here = word
        if len(word.text.encode()) > LONGEST_SET_NAME or not word.text:
            raise BadValue(f"setname '{word.text}' is longer than {LONGEST_SET_NAME} characters")
        return word.text

    # sets

    def _options(self, words: Sequence[Word], allowed: Sequence[str], flags: frozenset[str]) -> _Options:
        found = _Options()
        at = 0
        while at < len(words):
            word = self._here = words[at]
            at += 1
            name = {"-4": "family", "-6": "family"}.get(word.text, word.text.removeprefix("--"))
            if name not in allowed:
                raise BadValue(f"Unknown argument: `{word.text}'", f"options here are {', '.join(sorted(allowed))}")
            if name in flags:
                found.flags[name] = word
                continue
            value = word
            if word.text not in ("-4", "-6"):
                if at >= len(words):
                    raise BadValue(f"Missing mandatory argument of option `{name}'")
                value = words[at]
                at += 1
            if name in found.values:
                raise BadValue(f"{name} already specified")
            found.values[name] = value
        return found

    def _create(self, words: Sequence[Word]) -> None:
        name = self._check_name(words[0])
        self._here = words[1]
        type_ = TYPES.get(ALIASES.get(words[1].text, words[1].text))
        if type_ is None:
            raise BadValue(f"typename '{words[1].text}' is unknown", f"types are {', '.join(TYPES)}")
        allowed = [*type_.create, *(("forceadd", *OBSOLETE) if type_.hashed else ())]
        given = self._options(words[2:], allowed, FLAGS)
        made = new_set(name, type_.name, self._family(given))
        for flag in ("counters", "comment", "skbinfo", "forceadd"):
            setattr(made, flag, flag in given.flags)
        self._settings(made, given)
        there = self._sets.sets.get(name)
        self._here = words[0]
        if there is not None:
            if self._exist and same_settings(there, made):
                return
            raise BadValue("Set cannot be created: set with the same name already exists", "destroy it first")
        self._sets.sets[name] = made

    def _family(self, given: _Options) -> Family:
        word = given.values.get("family")
        if word is None:
            return Family.IPV4
        self._here = word
        found = _FAMILIES.get(word.text)
        if found is None:
            raise BadValue(f"unknown inet family {word.text}", "write inet or inet6")
        return found

    def _number(self, given: _Options, name: str, low: int, high: int, default: int) -> int:
        word = given.values.get(name)
        if word is None:
            return default
        self._here = word
        return to_number(word.text, low, high)

    def _settings(self, made: IpSet, given: _Options) -> None:
        values = given.values
        if "timeout" in values:
            made.timeout_s = self._number(given, "timeout", 0, _MAX_TIMEOUT_S, 0)
        hashsize = max(self._number(given, "hashsize", 0, U32_MAX, made.hashsize), _HASH_MIN_SIZE)
        made.hashsize = 1 << (hashsize - 1).bit_length()
        made.maxelem = self._number(given, "maxelem", 0, U32_MAX, made.maxelem)
        bucketsize = self._number(given, "bucketsize", 0, 255, made.bucketsize)
        made.bucketsize = min(max(bucketsize + bucketsize % _AHASH_STEP, _AHASH_STEP), _MAX_BUCKET)
        if "initval" in values:
            made.initval = self._number(given, "initval", 0, U32_MAX, 0)
        made.markmask = self._number(given, "markmask", 1, U32_MAX, made.markmask)
        made.size = max(self._number(given, "size", 0, U32_MAX, made.size), _LIST_MIN_SIZE)
        if "netmask" in values and "bitmask" in values:
            self._here = values["bitmask"]
            raise BadValue("bitmask and netmask are mutually exclusive, provide only one")
        if "netmask" in values:
            netmask = self._number(given, "netmask", 1, made.bits, made.bits)
            made.netmask = netmask if netmask != made.bits else None
        if "bitmask" in values:
            self._here = values["bitmask"]
            assert made.family is not None
            made.bitmask = to_ip(self._here.text, made.family)
            if not made.bitmask:
                raise BadValue("The value of the netmask parameter is invalid", "leave some bits of the address")
        if "range" in made.type.create:
            self._range(made, given)

    def _range(self, made: IpSet, given: _Options) -> None:
        word = given.values.get("range")
        if word is None:
            raise BadValue("Mandatory option `range' is missing", "say which addresses or ports: range FIRST-LAST")
        self._here = word
        if made.type.families is Families.ANY:
            if "-" not in word.text:
                raise BadValue("Mandatory option `to' is missing", "write FIRST-LAST")
            ports = port_range(word.text.rpartition(":")[2])
            made.bounds = ports[0], ports[-1]
            return
        first, last = ip_range(word.text, Family.IPV4)
        if made.netmask is not None:
            first, last = first & made.ip_mask, last | (made.ip_mask ^ U32_MAX)
            length = next((bits for bits in range(31, -1, -1) if last >> (32 - bits) << (32 - bits) == first), 32)
            if made.netmask <= length:  # elements are to be networks within the range's own
                raise BadValue("Element is out of the range of the set", "give a larger range, a network of its own")
        if (last - first + 1) >> (32 - (made.netmask or 32)) > _MAX_BITMAP:
            raise BadValue("The range you specified exceeds the size limit of the set type", "65536 elements at most")
        made.bounds = first, last

    def _rename(self, words: Sequence[Word]) -> None:
        old, new = self._named(words[0]), self._check_name(words[1])
        self._here = words[0]
        if self._sets.in_use(old.name):
            raise BadValue("Set cannot be renamed: it is in use by another system", "swap it with another one")
        if new in self._sets.sets:
            raise BadValue("Set cannot be renamed: a set with the new name already exists")
        self._sets.sets = {new if name == old.name else name: one for name, one in self._sets.sets.items()}
        old.name = new

    def _swap(self, words: Sequence[Word]) -> None:
        first, second = self._named(words[0]), self._sets.sets.get(words[1].text)
        self._here = words[1]
        if second is None:
            raise BadValue("Sets cannot be swapped: the second set does not exist")
        if first.type.features != second.type.features or first.family is not second.family:
            raise BadValue("The sets cannot be swapped: their type does not match", "swap sets of one type and family")
        first.name, second.name = second.name, first.name
        swapped = {words[0].text: second, words[1].text: first}
        self._sets.sets = {name: swapped.get(name, one) for name, one in self._sets.sets.items()}

    def _destroy(self, words: Sequence[Word]) -> None:
        if not words:
            held = self._sets.named_by_rules()
            if any(name in held or self._sets.in_list(name) for name in self._sets.sets):
                raise BadValue("Set cannot be destroyed: it is in use by a kernel component", "delete its rules first")
            self._sets.sets.clear()
            return
        name = self._named(words[0]).name
        if self._sets.in_use(name):
            raise BadValue("Set cannot be destroyed: it is in use by a kernel component", "delete its rules first")
        del self._sets.sets[name]

    # elements

    def _reader(self, target: IpSet) -> ElementReader:
        family = target.family or Family.IPV4
        return ElementReader(target.type, family, target.ip_mask, target.stride, target.bounds)

    def _element_options(self, target: IpSet, words: Sequence[Word], *, adding: bool) -> _Options:
        allowed = [*target.type.add, *(_ADD_OPTIONS if adding else ())]
        given = self._options(words, allowed, frozenset({"nomatch", "wildcard"}))
        for name, word in given.values.items():
            if name in _NEEDS:
                has, complaint = _NEEDS[name]
                self._here = word
                if (has == "timeout" and target.timeout_s is None) or (has != "timeout" and not getattr(target, has)):
                    raise BadValue(complaint, f"create the set with {has}")
        return given

    def _extensions(self, given: _Options) -> Extensions:
        values = given.values
        comment = ""
        if "comment" in values:
            self._here = values["comment"]
            comment = self._here.text
            if '"' in comment:
                raise BadValue('" character is not permitted in comments')
            if len(comment.encode()) > _LONGEST_COMMENT:
                raise BadValue(f"Comment is longer than the maximum allowed {_LONGEST_COMMENT} characters")
        return Extensions(
            self._number(given, "timeout", 0, _MAX_TIMEOUT_S, 0) if "timeout" in values else None,
            self._number(given, "packets", 0, _MAX_COUNTER, 0) if "packets" in values else None,
            self._number(given, "bytes", 0, _MAX_COUNTER, 0) if "bytes" in values else None,
            comment,
            self._skbinfo(given),
            "nomatch" in given.flags,
        )

    def _skbinfo(self, given: _Options) -> SkbInfo:
        info = SkbInfo()
        if "skbmark" in given.values:
            self._here = given.values["skbmark"]
            found = _SKBMARK.match(self._here.text)
            if found is None:
                raise BadValue("Invalid skbmark format", "write MARK or MARK/MASK in hex with 0x")
            info.mark = min(int(found.group(1), 16), U32_MAX)
            info.mark_mask = min(int(found.group(2), 16), U32_MAX) if found.group(2) else U32_MAX
        if "skbprio" in given.values:
            self._here = given.values["skbprio"]
            found = _SKBPRIO.match(self._here.text)
            if found is None:
                raise BadValue("Invalid skbprio format", "write MAJOR:MINOR")
            info.priority = (int(found.group(1), 16) & U16_MAX) << 16 | int(found.group(2), 16) & U16_MAX
        info.queue = self._number(given, "skbqueue", 0, U16_MAX, 0)
        return info

    def _elements(self, target: IpSet, word: Word, given: _Options) -> Iterator[Element]:
        self._here = word
        return self._reader(target).read(word.text, wildcard="wildcard" in given.flags)

    def _add(self, words: Sequence[Word]) -> None:
        target = self._named(words[0])
        given = self._element_options(target, words[2:], adding=True)
        extensions = self._extensions(given)
        if target.type.name == "list:set":
            self._add_member(target, words[1], given, extensions)
            return
        for element in self._elements(target, words[1], given):
            came = target.add(element, extensions, self._now_ns, exist=self._exist)
            if came is Found.EXISTS:
                raise BadValue("Element cannot be added to the set: it's already added", "use -exist to renew it")
            if came is Found.FULL:
                raise BadValue("Hash is full, cannot add more elements", "create the set with a larger maxelem")

    def _member(self, word: Word) -> Element:
        self._here = word
        found = self._sets.sets.get(word.text)
        if found is None:
            raise BadValue("Set to be added/deleted/tested as element does not exist.", f"create {word.text} first")
        if found.type.name == "list:set":
            raise BadValue("Sets with list:set type cannot be added to the set.")
        return (found.name,)

    def _anchor(self, given: _Options) -> tuple[str, str]:
        before, after = given.values.get("before"), given.values.get("after")
        if before is not None and after is not None:
            raise BadValue("before and after cannot be used together")
        anchor = before or after
        if anchor is not None:
            self._here = anchor
            if anchor.text not in self._sets.sets:
                raise BadValue("The set to which you referred with 'before' or 'after' does not exist.")
        return before.text if before is not None else "", after.text if after is not None else ""

    def _add_member(self, target: IpSet, word: Word, given: _Options, extensions: Extensions) -> None:
        element = self._member(word)
        before, after = self._anchor(given)
        for old in [one for one, entry in target.elements.items() if target.expired(entry, self._now_ns)]:
            target.delete(old, self._now_ns)
            target.elements.pop(old, None)
        self._here = word
        anchor = before or after
        if anchor and (anchor,) not in target.elements:
            raise BadValue("The set to which you referred with 'before' or 'after' is not added to the set.")
        if element in target.elements or not anchor:
            if target.add(element, extensions, self._now_ns, exist=self._exist) is Found.EXISTS:
                raise BadValue("Element cannot be added to the set: it's already added", "use -exist to renew it")
            return
        target.insert(element, extensions, self._now_ns, before, after)

    def _delete(self, words: Sequence[Word]) -> None:
        target = self._named(words[0])
        given = self._element_options(target, words[2:], adding=False)
        if target.type.name == "list:set":
            element = self._member(words[1])
            before, after = self._anchor(given)
            names = [name for (name,) in target.elements]
            if before or after:
                pair = (element[0], before) if before else (after, element[0])
                if pair not in pairwise(names):
                    raise BadValue("The set to which you referred with 'before' or 'after' is not added to the set.")
            elements: Iterator[Element] = iter([element])
        else:
            elements = self._elements(target, words[1], given)
        for element in elements:
            if target.delete(element, self._now_ns) is Found.MISSING and not self._exist:
                raise BadValue("Element cannot be deleted from the set: it's not added")


def run_ipset(sets: IpSets, words: Sequence[str], *, now_ns: int = 0) -> str:
    """One ``ipset`` command. Returns what it prints.

    Raises:
        RulesetSyntaxError: What the tool or the kernel would refuse.
        UnsupportedFeature: Something that is not modelled.
    """
    return IpsetCommand(sets, now_ns=now_ns).run([Word(word) for word in words])


def restore_sets(sets: IpSets, text: str, *, now_ns: int = 0, file: str | None = None) -> None:
    """``ipset restore``: see :meth:`IpsetCommand.restore`."""
    IpsetCommand(sets, now_ns=now_ns, file=file).restore(text)


def same_settings(one: IpSet, other: IpSet) -> bool:
    """Whether ``create -exist`` takes one for the other (``same_set`` of the kernel)."""
    masks = [each.ip_mask if each.netmask or each.bitmask is not None else None for each in (one, other)]
    return masks[0] == masks[1] and all(getattr(one, name) == getattr(other, name) for name in _SETTINGS)


# Text


def create_text(one: IpSet) -> str:
    """The ``create`` line of ``ipset save``.

    Without ``initval`` where nobody said one: the kernel draws it.
    """
    words = ["create", one.name, one.type.name]
    family = one.family or Family.IPV4
    for name in one.type.create:
        if name == "family":
            words += ["family", "inet6" if one.family is Family.IPV6 else "inet"]
        elif name == "range":
            assert one.bounds is not None
            low, high = one.bounds
            if one.type.families is Families.ANY:
                words += ["range", f"{low}-{high}"]
            else:
                words += ["range", f"{to_address_text(low, family)}-{to_address_text(high, family)}"]
        elif name == "timeout":
            words += ["timeout", str(one.timeout_s)] if one.timeout_s is not None else []
        elif name in ("counters", "comment", "skbinfo"):
            words += [name] if getattr(one, name) else []
        elif name == "netmask":
            words += ["netmask", str(one.netmask)] if one.netmask is not None else []
        elif name == "bitmask":
            words += ["bitmask", to_address_text(one.bitmask, family)] if one.bitmask is not None else []
        elif name == "markmask":
            words += ["markmask", f"{one.markmask:#010x}"]
        elif name == "initval":
            words += ["initval", f"{one.initval:#010x}"] if one.initval is not None else []
        else:
            words += [name, str(getattr(one, name))]
    return " ".join(words)


def add_text(one: IpSet, element: Element, entry: Entry, now_ns: int) -> str:
    """The ``add`` line of ``ipset save``."""
    shown = (*element, entry.mac) if one.type.name == "bitmap:ip,mac" else element
    words = ["add", one.name, element_text(one.type, one.family or Family.IPV4, shown)]
    if one.timeout_s is not None:
        words += ["timeout", str(entry.remaining_s(now_ns))]
    if entry.nomatch:
        words.append("nomatch")
    if "wildcard" in one.type.add and element[1].wildcard:
        words.append("wildcard")
    if one.counters:
        words += ["packets", str(entry.packets), "bytes", str(entry.bytes)]
    if one.comment and entry.comment:
        words += ["comment", f'"{entry.comment}"']
    info = entry.skbinfo
    if info.mark or info.mark_mask:
        mask = f"/{info.mark_mask:#x}" if info.mark_mask not in (0, U32_MAX) else ""
        words += ["skbmark", f"{info.mark:#x}{mask}"]
    if info.priority:
        words += ["skbprio", f"{info.priority >> 16:x}:{info.priority & U16_MAX:x}"]
    if info.queue:
        words += ["skbqueue", str(info.queue)]
    return " ".join(words)


def save_text(sets: IpSets, now_ns: int, names: Sequence[str] | None = None) -> str:
    """``ipset save -sorted``: sets in the order in which they were made, lists of sets behind them."""
    lines: list[str] = []
    chosen = [sets.sets[name] for name in names] if names is not None else list(sets.sets.values())
    for one in sorted(chosen, key=lambda one: one.type.name == "list:set"):
        lines.append(create_text(one))
        added = [add_text(one, element, entry, now_ns) for element, entry in one.live(now_ns)]
        lines += added if one.type.name == "list:set" else sorted(added)
    return "".join(f"{line}\n" for line in lines)


def save_elements(sets: IpSets, now_ns: int) -> list[str]:
    """The ``add`` lines of all sets, sorted."""
    return sorted(add_text(one, *pair, now_ns) for one in sets.sets.values() for pair in one.live(now_ns))
