"""One rule or command line of ``iptables``: words to data, as ``getopt_long`` and ``do_parse`` of 1.8.9 read them.

This is the reader that decides. It loads extensions in the order in which they are named, gives an option to the last
one that knows it, takes shortened option names, and loads the protocol's match when an option needs it
(``-p tcp --dport 80``). :mod:`pktsim.netfilter.iptables_text` has a shorter way for the regular lines of big files,
which gives up to this one at anything unusual.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from pktsim.errors import RulesetSyntaxError, UnsupportedFeature
from pktsim.netfilter.catalogue import UNMODELLED_MATCHES, UNMODELLED_TARGETS, find_match, find_target
from pktsim.netfilter.names import PROTOCOL_NAMES
from pktsim.netfilter.option import (
    U64_MAX,
    BadValue,
    Context,
    Extension,
    Given,
    Option,
    accept,
    finish,
    interface,
    leading_number,
    masked_text,
    to_masked_address,
    to_protocol,
)
from pktsim.netfilter.ruleset import (
    Counters,
    Family,
    HeaderMatch,
    Jump,
    MaskedAddress,
    Match,
    Rule,
    Target,
    Verdict,
    VerdictTarget,
)

#: ``XT_EXTENSION_MAXNAMELEN`` less the final NUL: the longest name of a chain, match or target.
LONGEST_NAME = 28

VERDICTS = frozenset(verdict.value for verdict in Verdict)


@dataclass(frozen=True, slots=True)
class Word:
    """One argument and where it stands (1-based column of its first character; 0 if it did not come from a line)."""

    text: str
    column: int = 0


class CommandKind(enum.Enum):
    """What a command line does; the value is its short option."""

    APPEND = "-A"
    INSERT = "-I"
    REPLACE = "-R"
    DELETE = "-D"
    CHECK = "-C"
    LIST = "-L"
    LIST_RULES = "-S"
    FLUSH = "-F"
    ZERO = "-Z"
    NEW_CHAIN = "-N"
    DELETE_CHAIN = "-X"
    RENAME_CHAIN = "-E"
    SET_POLICY = "-P"


_RULE_COMMANDS = frozenset(
    {CommandKind.APPEND, CommandKind.INSERT, CommandKind.REPLACE, CommandKind.DELETE, CommandKind.CHECK}
)


#: Those that take ``-c``.
_WITH_COUNTERS = frozenset({CommandKind.APPEND, CommandKind.INSERT, CommandKind.REPLACE, CommandKind.SET_POLICY})


class OtherFamilyError(Exception):
    """A restore file for both families: this line is for the other one."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command line as read.

    Attributes:
        kind: What to do.
        table: ``-t``.
        chain: Its chain; ``None`` for all of them (``-F``, ``-X``, ``-Z``, ``-L``, ``-S``).
        number: Rule number from 1 if one was given.
        rules: The rules it speaks of: several if ``-s`` or ``-d`` listed several addresses.
        new_name: For ``RENAME_CHAIN``.
        policy: For ``SET_POLICY``.
        jump_place: The word that named the target, for errors about a chain that does not exist.
    """

    kind: CommandKind
    table: str = "filter"
    chain: str | None = None
    number: int | None = None
    rules: tuple[Rule, ...] = ()
    new_name: str = ""
    policy: str = ""
    counters: Counters | None = None
    jump_place: Word = field(default=Word(""), compare=False)


# The tool's own options: long name, short name, 0 no argument / 1 argument / 2 optional argument (in the same word).
_GLOBAL: tuple[tuple[str, str, int], ...] = (
    ("append", "A", 1),
    ("delete", "D", 1),
    ("check", "C", 1),
    ("insert", "I", 1),
    ("replace", "R", 1),
    ("list", "L", 2),
    ("list-rules", "S", 2),
    ("flush", "F", 2),
    ("zero", "Z", 2),
    ("new-chain", "N", 1),
    ("delete-chain", "X", 2),
    ("rename-chain", "E", 1),
    ("policy", "P", 1),
    ("source", "s", 1),
    ("destination", "d", 1),
    ("src", "s", 1),
    ("dst", "d", 1),
    ("protocol", "p", 1),
    ("in-interface", "i", 1),
    ("jump", "j", 1),
    ("table", "t", 1),
    ("match", "m", 1),
    ("numeric", "n", 0),
    ("out-interface", "o", 1),
    ("verbose", "v", 0),
    ("wait", "w", 2),
    ("wait-interval", "W", 2),
    ("exact", "x", 0),
    ("fragments", "f", 0),
    ("version", "V", 0),
    ("help", "h", 2),
    ("line-numbers", "0", 0),
    ("modprobe", "M", 1),
    ("set-counters", "c", 1),
    ("goto", "g", 1),
    ("ipv4", "4", 0),
    ("ipv6", "6", 0),
)
_GLOBAL_LONG = {name: (letter, argument) for name, letter, argument in _GLOBAL}
_SHORT_ARGUMENT = {letter: argument for _name, letter, argument in _GLOBAL if letter not in "0M"}
_KIND_BY_LETTER = {kind.value[1]: kind for kind in CommandKind}

#: Chains in which an egress interface cannot be known yet, or an ingress interface no more.
_NO_OUT_INTERFACE = frozenset({"PREROUTING", "INPUT"})
_NO_IN_INTERFACE = frozenset({"POSTROUTING", "OUTPUT"})


class _Loaded:
    """An extension that the rule has named, with what it was given so far."""

    __slots__ = ("extension", "given", "options", "place")

    def __init__(self, extension: Extension[Match] | Extension[Target], context: Context, place: Word) -> None:
        self.extension = extension
        self.given = Given(context)
        self.options = extension.by_name()
        self.place = place


def check_chain_name(name: str, family: Family) -> None:
    """Whether a new chain may be called so (``assert_valid_chain_name``).

    Raises:
        BadValue: It may not.
    """
    if len(name.encode("utf-8", "surrogateescape")) > LONGEST_NAME:
        raise BadValue(f"chain name {name!r} is too long", f"use at most {LONGEST_NAME} characters")
    if not name or name[0] in "-!" or name.split() != [name]:
        raise BadValue(f"bad chain name {name!r}", "use no white space, and neither - nor ! at its beginning")
    if name in VERDICTS or name in UNMODELLED_TARGETS or find_target(name, family) is not None:
        raise BadValue(f"chain name {name!r} is the name of a target", "choose another name")


class CommandReader:
    """Reads one command line.

    Args:
        family: Whose tool this is.
        words: The arguments, without the program's name.
        file: For errors.
        line: For errors.
        restore: Whether the line stands in a restore file, where ``-t`` and ``-w`` are not allowed.
        table: The table when no ``-t`` is given.
        counters: Of the rule, when no ``-c`` is given.
    """

    def __init__(
        self,
        family: Family,
        words: Sequence[Word],
        *,
        file: str | None = None,
        line: int | None = None,
        restore: bool = False,
        table: str = "filter",
        counters: Counters | None = None,
    ) -> None:
        self._family = family
        self._words = words
        self._file = file
        self._line = line
        self._restore = restore
        self._table = table
        self._next = 0
        self._here = words[0] if words else Word("")
        self._inverted = False
        self._loaded: list[_Loaded] = []  # in the order named, the target among them
        self._target: _Loaded | None = None
        self._protocol_name: str | None = None
        self._protocol_match_used = False
        self._context = Context(family)
        self._seen: dict[str, Word] = {}
        self._header: dict[str, object] = {}
        self._addresses: dict[str, tuple[Word, bool]] = {}  # looked at last of all, as the tool does
        self._jump: Word | None = None
        self._goto = False
        self._kind: CommandKind | None = None
        self._chain: Word | None = None
        self._number: int | None = None
        self._argument = Word("")
        self._counters = counters
        self._listing: set[str] = set()

    # errors

    def _fail(self, what: str, mend: str = "", word: Word | None = None) -> NoReturn:
        word = self._here if word is None else word
        raise RulesetSyntaxError(
            what, token=word.text, mend=mend, file=self._file, line=self._line, column=word.column or None
        )

    def _bad(self, error: BadValue, word: Word | None = None) -> NoReturn:
        self._fail(error.what, error.mend, word)

    def _unsupported(self, error: UnsupportedFeature, word: Word) -> UnsupportedFeature:
        """The same with where it was found."""
        return UnsupportedFeature(
            error.feature, mend=error.mend, file=self._file, line=self._line, column=word.column or None
        )

    # words

    def _take(self, option: str) -> Word:
        """The next word, as the argument of ``option``."""
        if self._next >= len(self._words):
            self._fail(f"option {option} requires an argument", "the line ends too early")
        word = self._words[self._next]
        self._next += 1
        return word

    def _optional(self) -> Word | None:
        """The next word if it is neither an option nor ``!`` (``xs_has_arg``)."""
        if self._next < len(self._words):
            word = self._words[self._next]
            if not word.text.startswith(("-", "!")):
                self._next += 1
                return word
        return None

    def read(self) -> Command:
        """Read it all.

        Raises:
            RulesetSyntaxError: The tool would not take it.
            UnsupportedFeature: It would, but the match or target is not modelled.
        """
        while self._next < len(self._words):
            word = self._here = self._words[self._next]
            self._next += 1
            text = word.text
            if text == "!":
                if self._inverted:
                    self._fail("multiple consecutive ! not allowed")
                self._inverted = True
                continue
            if text == "--":
                if self._next < len(self._words):
                    self._fail("unknown arguments found on commandline", "leave out what follows --")
                break
            if text.startswith("--"):
                self._long(word)
            elif text.startswith("-") and len(text) > 1:
                self._shorts(word)
            else:
                self._fail(f"bad argument {text!r}", "options begin with -")
            self._inverted = False
        if self._inverted:
            self._fail("nothing follows the !")
        return self._command()

    def _shorts(self, word: Word) -> None:
        text = word.text
        at = 1
        while at < len(text):
            letter = text[at]
            takes = _SHORT_ARGUMENT.get(letter)
            if takes is None:
                self._unknown(word)
            attached = Word(text[at + 1 :], word.column + at + 1 if word.column else 0) if at + 1 < len(text) else None
            if takes == 0:
                self._global(letter, None, f"-{letter}")
                at += 1
                continue
            if attached is not None:
                self._check_attached(letter, word)
            self._global(letter, attached or (self._take(f"-{letter}") if takes == 1 else None), f"-{letter}")
            return

    def _long(self, word: Word) -> None:
        name, equals, value = word.text[2:].partition("=")
        attached = Word(value, word.column + 3 + len(name) if word.column else 0) if equals else None
        for _attempt in range(2):
            found = self._find(name)
            if isinstance(found, str):
                letter, takes = _GLOBAL_LONG[found]
                if takes == 0 and attached is not None:
                    self._fail(f"option --{found} takes no argument")
                argument = attached
                if attached is not None:
                    self._check_attached(letter, word)
                elif takes == 1:
                    argument = self._take(f"--{found}")
                self._global(letter, argument, f"--{found}")
                return
            if found is not None:
                self._option(*found, attached)
                return
            if not self._load_protocol():
                break
        self._unknown(word)

    def _check_attached(self, letter: str, word: Word) -> None:
        """These options look at the word before the next one instead of at their argument (``argv[optind - 1]``)."""
        if letter in "spdioj":
            self._fail(f"the argument of -{letter} must be a word of its own", "put a blank before it", word)

    def _unknown(self, word: Word) -> NoReturn:
        mend = ""
        if not any(loaded is not self._target for loaded in self._loaded) and self._protocol_name is None:
            mend = "name its match with -m, or the protocol with -p, before it"
        self._fail(f"unknown option {word.text}", mend, word)

    def _find(self, name: str) -> str | tuple[_Loaded, Option] | None:
        """As ``getopt_long``: an exact name first, the tool's own before the extensions'; else a beginning that fits
        one option only. Of two extensions with such an option it is the one that was named for the first time later.
        """
        if name in _GLOBAL_LONG:
            return name
        # the options of a match that is named again are not put in front again (command_match in xshared.c)
        last_of_each = {id(loaded.extension): loaded for loaded in self._loaded}
        for loaded in reversed(last_of_each.values()):
            option = loaded.options.get(name)
            if option is not None:
                return loaded, option
        candidates: dict[object, str | tuple[_Loaded, Option]] = {}
        for long_name, (letter, _takes) in _GLOBAL_LONG.items():
            if long_name.startswith(name):
                candidates[letter] = long_name
        for loaded in reversed(self._loaded):
            for spelling, option in loaded.options.items():
                if spelling.startswith(name):
                    candidates[id(loaded), option.name] = loaded, option
        return next(iter(candidates.values())) if len(candidates) == 1 else None

    # options of extensions

    def _option(self, loaded: _Loaded, option: Option, attached: Word | None) -> None:
        here = self._here
        words: tuple[str, ...] = ()
        if option.read is None:
            if attached is not None:
                self._fail(f"option --{option.name} takes no argument")
        else:
            first = attached or self._take(f"--{option.name}")
            words = (first.text,)
            place = first
            if option.second is not None:
                second = self._optional()
                if second is None:
                    self._fail(f"option --{option.name} requires two arguments")
                words = (first.text, second.text)
        try:
            loaded.given.context = self._context
            accept(option, loaded.given, self._inverted, words)
        except BadValue as error:
            self._bad(error, place if words else here)
        except UnsupportedFeature as error:
            raise self._unsupported(error, place if words else here) from None

    def _load(self, extension: Extension[Match] | Extension[Target], place: Word) -> _Loaded:
        loaded = _Loaded(extension, self._context, place)
        self._loaded.append(loaded)
        return loaded

    def _load_protocol(self) -> bool:
        """Load the match of ``-p`` when an option is not known otherwise (``load_proto``)."""
        name = self._protocol_name
        if name is None:
            return False
        found = leading_number(name)
        if found is not None and not found[1]:
            name = PROTOCOL_NAMES.get(found[0], "")
        extension = find_match(name, self._family)
        if extension is None:
            return False
        already = any(loaded.extension is extension for loaded in self._loaded)
        if already and self._protocol_match_used:
            return False
        self._protocol_match_used = True
        self._load(extension, self._here)
        return True

    def _match(self, word: Word) -> None:
        if self._inverted:
            self._fail("unexpected ! before -m", "put the ! before the match's option")
        if len(word.text) > LONGEST_NAME:
            self._fail(f"match name {word.text!r} is too long", f"use at most {LONGEST_NAME} characters", word)
        extension = find_match(word.text, self._family)
        if extension is None:
            if word.text in UNMODELLED_MATCHES:
                raise self._unsupported(UnsupportedFeature(f"match {word.text}"), word)
            version = 4 if self._family is Family.IPV4 else 6
            self._fail(f"no match is called {word.text!r} in IPv{version}", "see iptables-extensions(8)", word)
        self._load(extension, word)

    def _jump_to(self, word: Word, *, goto: bool) -> None:
        name = word.text
        if not name or len(name) > LONGEST_NAME or any(letter.isspace() for letter in name):
            self._fail(f"bad target name {name!r}", f"use at most {LONGEST_NAME} characters, no white space", word)
        self._jump = word
        self._goto = goto
        if goto:
            return
        extension = find_target(name, self._family)
        if extension is not None:
            self._target = self._load(extension, word)
        elif name in UNMODELLED_TARGETS:
            raise self._unsupported(UnsupportedFeature(f"target {name}"), word)

    # the tool's own options

    def _once(self, letter: str) -> None:
        if letter in self._seen:
            self._fail(f"multiple -{letter} flags not allowed")
        self._seen[letter] = self._here

    def _global(self, letter: str, argument: Word | None, spelled: str) -> None:
        if letter in "spdiof":
            self._header_option(letter, argument)
            return
        if letter in "jg":
            assert argument is not None
            self._once("j")
            if self._inverted:
                self._fail(f"cannot have ! before {spelled}")
            self._jump_to(argument, goto=letter == "g")
            return
        if letter == "m":
            assert argument is not None
            self._match(argument)
            return
        if self._inverted:
            self._fail(f"unexpected ! before {spelled}")
        if letter in _KIND_BY_LETTER:
            self._command_option(_KIND_BY_LETTER[letter], argument)
        elif letter == "c":
            assert argument is not None
            self._set_counters(argument)
        elif letter == "t":
            assert argument is not None
            if self._restore:
                self._fail("the -t option cannot be used here", "a restore file names its table in a * line")
            self._table = argument.text
        elif letter in "wW":
            if self._restore:
                self._fail(f"the -{letter} option cannot be used here")
            if argument is None and (seconds := self._optional()) is not None and not seconds.text.isdecimal():
                self._fail("wait seconds not numeric", "write a number", seconds)
        elif letter in "46":
            if (letter == "4") != (self._family is Family.IPV4):
                if self._restore:
                    raise OtherFamilyError
                self._fail(f"-{letter} in rules of the other family", "keep one file for each family")
        elif letter in "nvx0":
            self._listing.add(letter)  # how a listing looks
        elif letter == "M":
            return
        else:
            self._fail(f"{spelled} does nothing to a ruleset", "leave it out")

    def _header_option(self, letter: str, argument: Word | None) -> None:
        self._once(letter)
        inverted = self._inverted
        try:
            if letter == "f":
                if self._family is Family.IPV6:
                    self._fail("-f is not supported in IPv6", "use -m frag")
                self._header.update(fragment=True, fragment_inverted=inverted)
                return
            assert argument is not None
            text = argument.text
            if letter == "p":
                self._protocol_name = text.lower()
                number = to_protocol(self._protocol_name)
                if number == 0 and inverted:
                    self._fail("rule would never match protocol", "drop the !", argument)
                self._context = Context(self._family, number, inverted)
                self._header.update(
                    protocol=number or None,
                    protocol_inverted=inverted,
                    all_protocols=number == 0 and self._family is Family.IPV6,
                )
            elif letter == "i":
                self._header.update(in_interface=_wildcard(interface(text, self._context), inverted))
                self._header.update(in_interface_inverted=inverted)
            elif letter == "o":
                self._header.update(out_interface=_wildcard(interface(text, self._context), inverted))
                self._header.update(out_interface_inverted=inverted)
            else:
                self._addresses[letter] = argument, inverted
                self._header.update({"src_inverted" if letter == "s" else "dst_inverted": inverted})
        except BadValue as error:
            self._bad(error, argument)

    def _set_counters(self, argument: Word) -> None:
        self._once("c")
        packets, comma, size = argument.text.partition(",")
        if not comma:
            second = self._optional()
            if second is None:
                self._fail("-c requires packet and byte counter")
            size = second.text
        if not (packets.isdecimal() and size.isdecimal() and int(packets) <= U64_MAX and int(size) <= U64_MAX):
            self._fail("counters are not numeric", "write -c PACKETS BYTES", argument)
        self._counters = Counters(int(packets), int(size))

    def _rule_number(self, word: Word) -> int:
        found = leading_number(word.text)
        if found is None or found[1] or not 1 <= found[0] <= 0x7FFFFFFF:
            self._fail(f"invalid rule number {word.text!r}", "rules count from 1", word)
        return found[0]

    def _command_option(self, kind: CommandKind, argument: Word | None) -> None:
        if self._kind is not None:
            pair = {self._kind, kind}
            if pair not in ({CommandKind.LIST, CommandKind.ZERO}, {CommandKind.LIST_RULES, CommandKind.ZERO}):
                self._fail(f"cannot use {kind.value} with {self._kind.value}")
            kind = next(iter(pair - {CommandKind.ZERO}))
        self._kind = kind
        if kind in (CommandKind.LIST, CommandKind.LIST_RULES, CommandKind.FLUSH, CommandKind.ZERO):
            self._chain = argument or self._optional() or self._chain
            if kind is not CommandKind.FLUSH and (word := self._optional()) is not None:
                self._number = self._rule_number(word)
            return
        if kind is CommandKind.DELETE_CHAIN:
            self._chain = argument or self._optional()
            return
        assert argument is not None
        self._chain = argument
        if kind is CommandKind.NEW_CHAIN:
            try:
                check_chain_name(argument.text, self._family)
            except BadValue as error:
                self._bad(error, argument)
        elif kind in (CommandKind.INSERT, CommandKind.DELETE):
            if (word := self._optional()) is not None:
                self._number = self._rule_number(word)
        elif kind is CommandKind.REPLACE:
            word = self._optional()
            if word is None:
                self._fail("-R requires a rule number")
            self._number = self._rule_number(word)
        elif kind is CommandKind.RENAME_CHAIN:
            word = self._optional()
            if word is None:
                self._fail("-E requires the old and the new name of the chain")
            self._argument = word
        elif kind is CommandKind.SET_POLICY:
            word = self._optional()
            if word is None:
                self._fail("-P requires a chain and a policy")
            self._argument = word

    # what it all comes to

    def _command(self) -> Command:
        kind = self._kind
        if kind is None:
            self._fail("no command specified", "begin with -A CHAIN")
        self._check_options(kind)
        chain = None if self._chain is None else self._chain.text
        if chain is not None and len(chain) > LONGEST_NAME:
            self._fail(f"chain name {chain!r} is too long", f"use at most {LONGEST_NAME} characters", self._chain)
        matches, target = self._extensions()
        numbered = kind is CommandKind.DELETE and self._number is not None
        if kind not in _RULE_COMMANDS or numbered:
            speaks = self._loaded or self._jump or set(self._seen) - {"c"}
            if speaks:
                self._fail(f"a rule cannot be given with {kind.value}", word=self._chain)
            if kind is CommandKind.SET_POLICY and self._table == "nat" and self._argument.text == "DROP":
                self._fail("the nat table is not for filtering: DROP is inhibited", "drop in filter", self._argument)
            return Command(
                kind,
                self._table,
                chain,
                self._number,
                new_name=self._argument.text if kind is CommandKind.RENAME_CHAIN else "",
                policy=self._argument.text if kind is CommandKind.SET_POLICY else "",
                counters=self._counters,
            )
        assert chain is not None
        sources, destinations = self._header_addresses("s"), self._header_addresses("d")
        if kind is CommandKind.REPLACE and len(sources) * len(destinations) != 1:
            self._fail("a replacement rule needs one address only")
        if "o" in self._seen and chain in _NO_OUT_INTERFACE:
            self._fail(f"cannot use -o with {chain}", "the way out is not known there", self._seen["o"])
        if "i" in self._seen and chain in _NO_IN_INTERFACE:
            self._fail(f"cannot use -i with {chain}", "use -o", self._seen["i"])
        if self._jump is not None and self._jump.text == "DROP" and self._table == "nat":
            self._fail("the nat table is not for filtering: DROP is inhibited", "drop in filter or raw", self._jump)
        counters = self._counters or Counters()
        rules = tuple(
            Rule(
                HeaderMatch(src=source, dst=destination, **self._header),  # type: ignore[arg-type]
                matches,
                target,
                counters,
            )
            for source in sources
            for destination in destinations
        )
        return Command(
            kind, self._table, chain, self._number, rules, counters=self._counters, jump_place=self._jump or Word("")
        )

    def _header_addresses(self, letter: str) -> list[MaskedAddress | None]:
        if letter not in self._addresses:
            return [None]
        argument, inverted = self._addresses[letter]
        parts = [part.lstrip() for part in argument.text.split(",")]
        if inverted and len(parts) > 1:
            self._fail("! not allowed with several addresses", "write one rule for each", argument)
        try:
            return [header_address(part, self._family, inverted) for part in parts]
        except BadValue as error:
            self._bad(error, argument)

    def _check_options(self, kind: CommandKind) -> None:
        """``generic_opt_check``, beyond what makes a rule."""
        if kind is not CommandKind.LIST and (illegal := self._listing - {"v"}):
            self._fail(f"illegal option -{min(illegal)} with this command", "leave it out")
        if "c" in self._seen and (kind not in _WITH_COUNTERS):
            self._fail("illegal option -c with this command", "leave it out", self._seen["c"])

    def _extensions(self) -> tuple[tuple[Match, ...], Target | None]:
        matches: list[Match] = []
        target: Target | None = None
        for loaded in self._loaded:
            try:
                loaded.given.context = self._context
                built = finish(loaded.extension, loaded.given)
            except BadValue as error:
                self._bad(error, loaded.place)
            except UnsupportedFeature as error:
                raise self._unsupported(error, loaded.place) from None
            if isinstance(built, Match):
                matches.append(built)
            else:
                assert isinstance(built, Target)
                target = built
        if self._jump is not None and target is None:
            target = plain_target(self._jump.text, self._goto)
        return tuple(matches), target


def plain_target(name: str, goto: bool) -> Target | None:
    """A verdict or a chain by its name; ``None`` for a target that exists and is not modelled."""
    if not goto:
        if name in VERDICTS:
            return VerdictTarget(Verdict(name))
        if name in UNMODELLED_TARGETS:
            return None
    return Jump(name, goto)


def _wildcard(name: str, inverted: bool) -> str | None:
    """``+`` alone is any interface, which is the same as not said."""
    return None if name == "+" and not inverted else name


def header_address(text: str, family: Family, inverted: bool) -> MaskedAddress | None:
    """An address of ``-s`` or ``-d``; ``None`` if it covers all addresses (and is not inverted)."""
    found = to_masked_address(text, family)
    return None if not inverted and not int(found.mask) else found


# Printing


def _flag(letter: str, value: str, inverted: bool) -> str:
    return f" ! -{letter} {value}" if inverted else f" -{letter} {value}"


def rule_text(rule: Rule, chain: str) -> str:
    """The rule as the save tool prints it: ``-A CHAIN …``, without counters."""
    header = rule.header
    text = f"-A {chain}"
    if header.src is not None:
        text += _flag("s", masked_text(header.src), header.src_inverted)
    if header.dst is not None:
        text += _flag("d", masked_text(header.dst), header.dst_inverted)
    if header.in_interface is not None and header.in_interface != "+":
        text += _flag("i", header.in_interface, header.in_interface_inverted)
    if header.out_interface is not None and header.out_interface != "+":
        text += _flag("o", header.out_interface, header.out_interface_inverted)
    if header.protocol is not None:
        name = PROTOCOL_NAMES.get(header.protocol) or str(header.protocol)
        text += _flag("p", name, header.protocol_inverted)
    if header.fragment:
        text += " ! -f" if header.fragment_inverted else " -f"
    for match in rule.matches:
        text += f" -m {match.extension}{match.options_text()}"
    target = rule.target
    if target is None:
        return text
    if isinstance(target, Jump):
        return f"{text} {'-g' if target.goto else '-j'} {target.chain}"
    if isinstance(target, VerdictTarget):
        return f"{text} -j {target.verdict.value}"
    return f"{text} -j {target.extension}{target.options_text()}"
