"""The text of ``iptables-save`` and ``iptables-restore`` (and ``ip6tables-``): read and printed as 1.8.9 does.

Printing gives the save tool's text to the byte, in the normal forms that the kernel's structures lead to. Reading takes
all that the restore tool takes, which is more. Regular lines (and a big cluster has hundreds of thousands of them) go a
short way: split, look up, and remember each extension's words; whatever is unusual goes to
:class:`~pktsim.netfilter.iptables_rule.CommandReader`, which alone decides.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from pktsim.errors import RulesetSyntaxError, UnsupportedFeature
from pktsim.netfilter import iptables_rule
from pktsim.netfilter.catalogue import MATCHES, TARGETS
from pktsim.netfilter.iptables_command import apply_command
from pktsim.netfilter.iptables_rule import (
    LONGEST_NAME,
    CommandKind,
    CommandReader,
    OtherFamilyError,
    Word,
    header_address,
    plain_target,
)
from pktsim.netfilter.matches.comment import CommentMatch
from pktsim.netfilter.names import PROTOCOL_NUMBERS
from pktsim.netfilter.option import BadValue, Context, Extension, Given, accept, finish
from pktsim.netfilter.ruleset import (
    BUILTIN_CHAINS,
    Chain,
    Counters,
    Family,
    HeaderMatch,
    MaskedAddress,
    Match,
    Rule,
    Ruleset,
    Table,
    Target,
)
from pktsim.netfilter.transaction import EditError, TableEdit

_NO_COUNTERS = Counters()
#: ``MAX_ARGC`` less the words that the tool puts in front, without and with counters; its buffers for words and lines.
_MOST_WORDS = 251
_MOST_WORDS_COUNTED = 248
_LONGEST_WORD = 1023
_LONGEST_LINE = 10239
#: Lines of this length are within all of these.
_SHORT = 800
_BLANK_WORD = re.compile(r"[^ \t]+")
_ALL_NAMES = frozenset({"-s", "-d", "-i", "-o", "-p", "-m", "-j", "-g", "-f"})


# Words


def split_words(text: str, start: int = 0) -> list[Word]:
    """Words as ``add_param_to_argv`` splits them, with their columns.

    Blanks and tabs separate; double quotes hold together (single ones do not), and a backslash within them takes the
    next character as it is. A closing quote ends its word.
    """
    words: list[Word] = []
    current: list[str] = []
    begin = -1
    quoted = escaped = False
    for at in range(start, len(text)):
        letter = text[at]
        if quoted:
            if escaped:
                current.append(letter)
                escaped = False
            elif letter == "\\":
                escaped = True
            elif letter == '"':
                quoted = False
                words.append(Word("".join(current), begin + 1))
                current.clear()
                begin = -1
            else:
                current.append(letter)
            continue
        if letter == '"':
            quoted = True
            if begin < 0:
                begin = at
        elif letter in " \t\n":
            if current:
                words.append(Word("".join(current), begin + 1))
                current.clear()
            begin = -1
        else:
            if begin < 0:
                begin = at
            current.append(letter)
    if quoted:
        current.append("\n")  # the line's own end is quoted too
    if current:
        words.append(Word("".join(current), begin + 1))
    return words


def _blank_words(text: str, start: int) -> list[Word]:
    """Words between blanks and tabs, quotes being nothing special: of a line that declares a chain."""
    return [Word(found.group(), found.start() + 1) for found in _BLANK_WORD.finditer(text, start)]


# Reading


class _ShortWay:
    """Reads regular ``-A`` lines. ``None`` from ``read`` means: not one of them, ask ``CommandReader``.

    Where a protocol stands for what extensions depend on, an inverted one is its negative.
    """

    def __init__(self, family: Family) -> None:
        self._family = family
        self.nat = False  # whether the lines belong to the nat table, where DROP is not allowed
        self._matches = MATCHES[family]
        self._targets = TARGETS[family]
        self._addresses: dict[str, MaskedAddress | None] = {}
        self._protocols: dict[str, int | None] = {}
        self._contexts: dict[int | None, Context] = {}
        self._known: dict[tuple[int | None, bool], dict[tuple[str, ...], Match | Target]] = {}
        self._options: dict[str, dict[str, Any]] = {}
        self._plain: dict[tuple[str, bool], Target | None] = {}

    def _words(self, line: str) -> list[str] | None:
        """The words of a line without escapes whose quotes stand apart from other words."""
        if '"' not in line:
            return line.split()
        pieces = line.split('"')
        if not len(pieces) & 1:
            return None
        words = pieces[0].split()
        for at in range(1, len(pieces), 2):
            inner, after = pieces[at], pieces[at + 1]
            if not inner or inner[0] in "-!" or pieces[at - 1][-1:] != " " or (after and after[0] != " "):
                return None
            words.append(inner)
            words.extend(after.split())
        return words

    def _extension(self, words: tuple[str, ...], protocol: int | None, *, is_match: bool) -> Match | Target | None:
        known = self._known.get((protocol, is_match))
        if known is None:
            known = self._known[protocol, is_match] = {}
        found = known.get(words)
        if found is None:
            found = self._read_extension(words, protocol, is_match=is_match)
            if found is not None:
                known[words] = found
        return found

    def _read_extension(self, words: tuple[str, ...], protocol: int | None, *, is_match: bool) -> Match | Target | None:
        name = words[0]
        extension: Extension[Match] | Extension[Target] | None
        extension = self._matches.get(name) if is_match else self._targets.get(name)
        if extension is None:
            return None
        key = f"m {name}" if is_match else f"j {name}"
        options = self._options.get(key)
        if options is None:
            options = self._options[key] = extension.by_name()
        context = self._contexts.get(protocol)
        if context is None:
            inverted = protocol is not None and protocol < 0
            context = Context(self._family, abs(protocol) if protocol is not None else None, inverted)
            self._contexts[protocol] = context
        given = Given(context)
        at, end = 1, len(words)
        try:
            while at < end:
                word = words[at]
                at += 1
                inverted = word == "!"
                if inverted:
                    if at >= end:
                        return None
                    word = words[at]
                    at += 1
                option = options.get(word[2:]) if word[:2] == "--" else None
                if option is None:
                    return None
                count = 0 if option.read is None else 1 if option.second is None else 2
                if at + count > end:
                    return None
                taken = words[at : at + count]
                if count and (taken[0] == "!" or (count == 2 and taken[1][:1] in "-!")):
                    return None
                at += count
                accept(option, given, inverted, taken)
            found = finish(extension, given)
        except (BadValue, UnsupportedFeature):
            return None
        assert isinstance(found, (Match, Target))
        return found

    def _address(self, text: str) -> MaskedAddress | None:
        """Raises BadValue if it is none, or a list."""
        addresses = self._addresses
        if text in addresses:
            return addresses[text]
        found = addresses[text] = header_address(text, self._family, False)
        return found

    def read(self, line: str, counters: Counters) -> tuple[str, Rule] | None:
        """Read a line that begins with ``-A`` and is printable ASCII without a backslash."""
        words = self._words(line)
        if words is None or len(words) < 2:
            return None
        chain = words[1]
        if chain[0] in "-!" or len(chain) > LONGEST_NAME:
            return None
        src = dst = in_interface = out_interface = None
        src_inverted = dst_inverted = in_inverted = out_inverted = protocol_inverted = False
        protocol: int | None = None
        signed: int | None = None
        matches: list[Match] = []
        named: set[str] = set()
        last = ""
        target: Target | None = None
        seen = 0
        at, end = 2, len(words)
        inverted = False
        while at < end:
            word = words[at]
            if word == "!":
                if inverted:
                    return None
                inverted = True
                at += 1
                continue
            at += 1
            if word not in _ALL_NAMES or at >= end:
                return None
            value = words[at]
            at += 1
            if value == "!":
                return None
            if word == "-m":
                if inverted:
                    return None
                if value == "comment":
                    # Nearly every comment is different: not worth remembering.
                    text = words[at + 1] if at + 1 < end and words[at] == "--comment" else "!"
                    if text == "!" or len(text) > 255:
                        return None
                    matches.append(CommentMatch(text))
                    at += 2
                    continue
                first = at - 1
                at = self._end(words, at)
                match = self._extension(tuple(words[first:at]), signed, is_match=True)
                # between two of one kind another may have taken over the name of an option
                if match is None or (value != last and value in named):
                    return None
                named.add(value)
                last = value
                matches.append(match)  # type: ignore[arg-type]
            elif word in ("-j", "-g"):
                if inverted or seen & 1:
                    return None
                seen |= 1
                goto = word == "-g"
                if not goto and value in self._targets:
                    first = at - 1
                    at = self._end(words, at)
                    found = self._extension(tuple(words[first:at]), signed, is_match=False)
                    if found is None:
                        return None
                    target = found  # type: ignore[assignment]
                else:
                    key = (value, goto)
                    if key in self._plain:
                        target = self._plain[key]
                    else:
                        if len(value) > LONGEST_NAME or value[0] in "-!":
                            return None
                        target = self._plain[key] = plain_target(value, goto)
                    if target is None or (self.nat and value == "DROP"):
                        return None
            elif word == "-s" or word == "-d":
                try:
                    address = self._address(value)
                except BadValue:
                    return None
                if word == "-s":
                    if seen & 2 or (inverted and address is None):
                        return None
                    seen |= 2
                    src, src_inverted = address, inverted
                else:
                    if seen & 4 or (inverted and address is None):
                        return None
                    seen |= 4
                    dst, dst_inverted = address, inverted
                inverted = False
            elif word == "-p":
                number = PROTOCOL_NUMBERS.get(value)
                if number is None or seen & 8 or not number:
                    return None
                seen |= 8
                protocol, protocol_inverted = number, inverted
                signed = -number if inverted else number
                inverted = False
            elif word == "-i":
                if seen & 16 or chain == "OUTPUT" or chain == "POSTROUTING" or len(value) > 15 or value == "+":
                    return None
                seen |= 16
                in_interface, in_inverted = value, inverted
                inverted = False
            elif word == "-o":
                if seen & 32 or chain == "INPUT" or chain == "PREROUTING" or len(value) > 15 or value == "+":
                    return None
                seen |= 32
                out_interface, out_inverted = value, inverted
                inverted = False
            else:
                return None
        if inverted:
            return None
        header = HeaderMatch(
            src,
            src_inverted,
            dst,
            dst_inverted,
            in_interface,
            in_inverted,
            out_interface,
            out_inverted,
            protocol,
            protocol_inverted,
        )
        return chain, Rule(header, tuple(matches), target, counters)

    @staticmethod
    def _end(words: list[str], at: int) -> int:
        """Where the options of an extension end: at the next word that is one of the rule's own."""
        end = len(words)
        while at < end and words[at] not in _ALL_NAMES:
            at += 1
        if at < end and words[at - 1] == "!":
            at -= 1
        return at


class _Reading:
    """One restore text being read into the tables of a ruleset."""

    def __init__(self, ruleset: Ruleset, file: str | None, *, noflush: bool) -> None:
        self._family = ruleset.family
        self._file = file
        self._noflush = noflush
        self._tables = {table.name: table for table in ruleset.tables}
        self._short = _ShortWay(ruleset.family)
        self._edit: TableEdit | None = None
        self._line = 0
        self._lines: list[str] = []
        self._counters: dict[str, Counters] = {"[0:0]": _NO_COUNTERS}
        #: Where each rule of a chain stands, for as long as rules are only appended.
        self._places: dict[str, list[int]] | None = None

    def _fail(self, what: str, token: str = "", mend: str = "", column: int | None = None) -> NoReturn:
        raise RulesetSyntaxError(what, token=token, mend=mend, file=self._file, line=self._line, column=column)

    def read(self, text: str) -> Ruleset:
        """Read it all."""
        short = self._short
        edit: TableEdit | None = None
        places: dict[str, list[int]] | None = None
        lines = self._lines = text.split("\n")
        for self._line, line in enumerate(lines, 1):
            if not line or line[0] == "#":
                continue
            if edit is None:
                if line[0] != "*":
                    self._fail("a table begins with *TABLE", line, "put *filter or another table before it", 1)
                edit = self._begin(line)
                places = self._places
                continue
            if line[0] == ":":
                self._chain(edit, line)
                continue
            if line == "COMMIT":
                self._finish(edit)
                edit = None
                continue
            counters, begin = _NO_COUNTERS, 0
            if line[0] == "[":
                counters, begin = self._rule_counters(line)
            rule_line = line[begin:] if begin else line
            plain = len(line) <= _SHORT and "\\" not in line and line.isascii() and line.isprintable()
            if plain and rule_line[:3] == "-A ":
                read = short.read(rule_line, counters)
                if read is not None:
                    chain, rule = read
                    try:
                        edit.append(chain, rule)
                    except EditError as error:
                        self._edit_failed(error, line)
                    if places is not None:
                        places[chain].append(self._line)
                    continue
            self._command(edit, line, begin, counters)
            places = self._places
        if edit is not None:
            self._fail("COMMIT expected at the end of the table", "", "add a line COMMIT")
        return Ruleset(self._family, tuple(self._tables[name] for name in sorted(self._tables)))

    def _begin(self, line: str) -> TableEdit:
        words = line[1:].split()
        name = words[0] if words else ""
        try:
            edit = TableEdit(self._family, name, self._tables.get(name))
        except EditError as error:
            self._fail(error.what, name, error.mend, 2)
        if not self._noflush:
            edit.clear()
        self._short.nat = name == "nat"
        self._places = {chain: [] for chain in edit.chain_names()} if not self._noflush else None
        return edit

    def _chain(self, edit: TableEdit, line: str) -> None:
        if (
            line[-8:] == " - [0:0]" and line.isascii() and line.isprintable() and '"' not in line
        ):  # the usual case first
            name = line[1:-8]
            if " " not in name and not edit.is_builtin(name) and not (self._noflush and edit.has_chain(name)):
                try:
                    edit.new_chain(name, declared=True)
                except EditError as error:
                    self._edit_failed(error, line)
                if self._places is not None:
                    self._places[name] = []
                return
        words = _blank_words(line, 1)
        if not words:
            self._fail("chain name missing", line, "write :CHAIN POLICY [PACKETS:BYTES]", 1)
        name = words[0].text
        if len(words) < 2:
            self._fail(f"chain {name} has no policy", name, "write - for a chain of the user's", words[0].column)
        try:
            if not edit.is_builtin(name):
                if self._noflush and edit.has_chain(name):
                    edit.flush(name)
                else:
                    edit.new_chain(name, declared=True)
                    if self._places is not None:
                        self._places[name] = []
            policy = words[1].text
            if policy != "-":
                counters = self._parse_counters(words[2].text, words[2].column) if len(words) > 2 else None
                edit.set_policy(name, policy, counters)
        except EditError as error:
            self._edit_failed(error, line)

    def _parse_counters(self, text: str, column: int) -> Counters:
        found = self._counters.get(text)
        if found is None:
            packets, colon, size = text[1:-1].partition(":")
            if text[0] != "[" or text[-1] != "]" or not colon or not (packets.isdecimal() and size.isdecimal()):
                self._fail(f"bad counters {text!r}", text, "write [PACKETS:BYTES]", column)
            found = Counters(int(packets), int(size))
        return found

    def _rule_counters(self, line: str) -> tuple[Counters, int]:
        end = line.find("]")
        if end < 0:
            self._fail("] missing", line, "write [PACKETS:BYTES] in front of the rule", 1)
        counters = self._parse_counters(line[: end + 1], 1)
        begin = end + 1
        while line[begin : begin + 1] == " ":
            begin += 1
        return counters, begin

    def _command(self, edit: TableEdit, line: str, begin: int, counters: Counters) -> None:
        words = split_words(line, begin)
        self._check_size(line, words, begin)
        reader = CommandReader(
            self._family, words, file=self._file, line=self._line, restore=True, table=edit.name, counters=counters
        )
        try:
            command = reader.read()
        except OtherFamilyError:
            return
        try:
            apply_command(edit, command)
        except EditError as error:
            self._edit_failed(error, line)
        if self._places is not None:
            if command.kind is CommandKind.APPEND and command.chain is not None:
                self._places[command.chain].extend([self._line] * len(command.rules))
            else:
                self._places = None

    def _check_size(self, line: str, words: list[Word], begin: int) -> None:
        """The tool's buffers."""
        if len(line.encode("utf-8", "surrogateescape")) > _LONGEST_LINE:
            self._fail("the line is too long", "", f"use at most {_LONGEST_LINE} characters")
        if len(words) > (_MOST_WORDS_COUNTED if begin else _MOST_WORDS):
            self._fail("too many arguments", words[-1].text, f"use at most {_MOST_WORDS_COUNTED}", words[-1].column)
        if begin and (said := next((word for word in words if word.text in ("-c", "--set-counters")), None)):
            self._fail("multiple -c flags not allowed", said.text, "drop it, or the counters in front", said.column)
        for word in words:
            if len(word.text) > _LONGEST_WORD:
                self._fail("parameter too long", word.text, f"use at most {_LONGEST_WORD} characters", word.column)

    def _edit_failed(self, error: EditError, line: str) -> NoReturn:
        columns = [word.column for word in split_words(line.lstrip(":")) if word.text == error.token]
        shift = len(line) - len(line.lstrip(":"))
        self._fail(error.what, error.token, error.mend, columns[-1] + shift if columns else None)

    def _finish(self, edit: TableEdit) -> None:
        try:
            self._tables[edit.name] = edit.finish()
        except EditError as error:
            problem = error.problem
            if problem is not None and self._places is not None:
                self._line = self._places[problem.chain][problem.number]
                columns = [
                    word.column for word in split_words(self._lines[self._line - 1]) if word.text == problem.token
                ]
                self._fail(problem.what, problem.token, problem.mend, columns[-1] if columns else None)
            self._fail(error.what, "", error.mend)


def parse_save(text: str, family: Family, file: str | None = None) -> Ruleset:
    """Read what ``iptables-save`` printed, or any input of ``iptables-restore``, into empty tables.

    Args:
        text: The text; tables that it does not mention are not loaded.
        family: Whose tables they are.
        file: For errors.

    Raises:
        RulesetSyntaxError: The restore tool, or the kernel, would not take it.
        UnsupportedFeature: It would, but a match or target is not modelled.
    """
    return restore(Ruleset(family), text, file)


def restore(ruleset: Ruleset, text: str, file: str | None = None, *, noflush: bool = False) -> Ruleset:
    """What ``ruleset`` is after ``iptables-restore -c`` of ``text``; all of it or an error.

    Args:
        ruleset: What is loaded; tables that the text does not mention stay.
        text: The text.
        file: For errors.
        noflush: Keep what is in the tables, and empty only chains that the text declares (``--noflush``).

    Raises:
        RulesetSyntaxError: The tool, or the kernel, would not take it.
        UnsupportedFeature: It would, but a match or target is not modelled.
    """
    # A big text makes a million objects that stay, which the cycle collector would look through again and again.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _Reading(ruleset, file, noflush=noflush).read(text)
    finally:
        if collecting:
            gc.enable()


_PLACE = re.compile(r"table (\S+), chain (\S+), rule (\d+)")


@contextmanager
def located(text: str, file: str | None) -> Iterator[None]:
    """Say of what loading the tables of ``text`` refuses where in the text it stands, as of what reading it refuses."""
    try:
        yield
    except (RulesetSyntaxError, UnsupportedFeature) as error:
        place = _PLACE.fullmatch(error.place)
        found = _locate(text, place.group(1), place.group(2), int(place.group(3))) if place is not None else None
        if error.line is None and found is not None:
            error.line, line = found
            named = error.token if isinstance(error, RulesetSyntaxError) else error.feature.split(" ")[1]
            error.column = next((word.column for word in split_words(line) if word.text == named), None)
            error.file = file
        raise


def _locate(text: str, table: str, chain: str, number: int) -> tuple[int, str] | None:
    """The line that makes a rule of a table, if all lines append one."""
    here, seen = "", 0
    for at, line in enumerate(text.split("\n"), 1):
        if line.startswith("*"):
            here = line[1:].strip()
        words = split_words(line)
        if words and words[0].text.startswith("["):
            words = words[1:]
        if here != table or not words or not words[0].text.startswith("-"):
            continue
        if words[0].text != "-A":
            return None
        if len(words) > 1 and words[1].text == chain:
            seen += 1
            if seen == number:
                return at, line
    return None


def parse_rule(text: str, family: Family, table: str = "filter", file: str | None = None) -> tuple[str, Rule]:
    """Read one ``-A CHAIN …`` line, counters in front allowed; gives the chain's name and the rule.

    Raises:
        RulesetSyntaxError: The tool would not take it, or it stands for several rules or is another command.
        UnsupportedFeature: It would, but a match or target is not modelled.
    """
    begin, counters = 0, _NO_COUNTERS
    if text.startswith("["):
        counters, begin = _Reading(Ruleset(family), file, noflush=False)._rule_counters(text)
    words = split_words(text, begin)
    command = CommandReader(family, words, file=file, table=table, counters=counters).read()
    if command.kind is not CommandKind.APPEND or len(command.rules) != 1 or command.chain is None:
        raise RulesetSyntaxError("not one rule", token=text, mend="write -A CHAIN and one address at most", file=file)
    return command.chain, command.rules[0]


# Printing


def rule_text(rule: Rule, chain: str, family: Family | None = None) -> str:
    """The ``-A CHAIN …`` line of the save tool. ``family`` is what the rule's values say anyway: it may be left out."""
    return iptables_rule.rule_text(rule, chain)


def table_lines(table: Table, *, counters: bool = False) -> Iterator[str]:
    """The lines of one table, from ``*name`` to ``COMMIT``."""
    yield f"*{table.name}"
    chains = _in_order(table)
    for chain in chains:
        if chain.policy is None:
            yield f":{chain.name} - [0:0]"
        else:
            yield f":{chain.name} {chain.policy.value} [{chain.counters.packets}:{chain.counters.bytes}]"
    text_of = iptables_rule.rule_text
    for chain in chains:
        name = chain.name
        if counters:
            for rule in chain.rules:
                yield f"[{rule.counters.packets}:{rule.counters.bytes}] {text_of(rule, name)}"
        else:
            for rule in chain.rules:
                yield text_of(rule, name)
    yield "COMMIT"


def _in_order(table: Table) -> list[Chain]:
    """Built-in chains first, then the user's in the order of their names' bytes, whoever made the table."""
    builtin = {name: at for at, name in enumerate(BUILTIN_CHAINS[table.name])}
    last = len(builtin)

    def place(chain: Chain) -> tuple[int, bytes]:
        return builtin.get(chain.name, last), chain.name.encode("utf-8", "surrogateescape")

    return sorted(table.chains, key=place)


def print_save(
    ruleset: Ruleset, *, counters: bool = False, generated_at: str = "", tables: Iterable[str] | None = None
) -> str:
    """What the save tool prints.

    Args:
        ruleset: The loaded tables of one family.
        counters: ``-c``: the counters of each rule in front of it. Those of built-in chains are always there.
        generated_at: If given, the comment lines of the tool are printed too, with this date.
        tables: Names of the tables to print, in this order; all in the order of their names if not given.
    """
    lines: list[str] = []
    tool = "iptables-save" if ruleset.family is Family.IPV4 else "ip6tables-save"
    for name in [table.name for table in ruleset.tables] if tables is None else tables:
        table = ruleset.table(name)
        if table is None:
            continue
        if generated_at:
            lines.append(f"# Generated by {tool} v1.8.9 on {generated_at}")
        lines.extend(table_lines(table, counters=counters))
        if generated_at:
            lines.append(f"# Completed on {generated_at}")
    return "\n".join(lines) + "\n" if lines else ""
