"""Random lines of restore files as no tool would print them: odd spellings, odd places, values right and wrong.

Which options an extension has is taken from the catalogue; what they mean is the real tool's to say.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from pktsim.netfilter.catalogue import MATCHES, TARGETS
from pktsim.netfilter.option import Extension, Option
from pktsim.netfilter.ruleset import BUILTIN_CHAINS, Family

#: They refer to what is outside of the tables, or need what this machine's kernel has not.
_LEFT_OUT: Final = frozenset({"helper", "ipvs", "nfacct", "TPROXY", "IDLETIMER", "connlabel"})
_TABLES: Final = ("filter", "filter", "mangle", "mangle", "nat", "nat", "raw", "security")


def _words() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for line in Path(__file__).with_name("rule_words.txt").read_text().splitlines():
        if line and line[0] != "#":
            name, _, text = line.partition(": ")
            values: list[str] = []
            for value in text.split(" ; "):
                values += found[value] if value in found and value[0] == "@" else [value]
            found[name] = tuple(values)
    return found


_VALUES: Final = _words()
_ADDRESSES: Final = frozenset({"ctorigsrc", "ctorigdst", "ctreplsrc", "ctrepldst"})
#: Options whose values are like another's.
_LIKE: Final = {"dst-type": "src-type", "dst-range": "src-range", "to-source": "to-destination", "on-port": "every"}
_ODD: Final = (
    *("-f", "! -f", "-c 1 2", "-c 1,2", "-c 1", "-4", "-6", "-v", "-n", "-t nat", "-w", "extra", "--", "-x", "-c x y"),
    *("!", "-Z", "-L", "--line-numbers"),
)


class Lines:
    """Lines of one seed."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self.family = Family.IPV6 if self._rng.random() < 0.3 else Family.IPV4
        self.table = self._rng.choice(_TABLES)
        self._chain = self._rng.choice((*BUILTIN_CHAINS[self.table], "user"))

    def _maybe(self, chance: float) -> bool:
        return self._rng.random() < chance

    def text(self) -> str:
        """A restore file with one rule."""
        chains = "".join(f":{name} ACCEPT [0:0]\n" for name in BUILTIN_CHAINS[self.table])
        return f"*{self.table}\n{chains}:user - [0:0]\n:other - [0:0]\n{self._line()}\nCOMMIT\n"

    def _line(self) -> str:
        rng = self._rng
        others = (f"-A{self._chain}", f"--append {self._chain}", f"-I {self._chain}")
        words = [rng.choice((*(f"-A {self._chain}",) * 12, *others))]
        pieces: list[Callable[[], str]] = []
        match_count = rng.choice((0, 1, 1, 1, 2))
        if self._maybe(0.65):
            pieces.append(self._protocol)
        pieces += [self._match] * match_count
        if self._maybe(0.25):
            pieces.append(self._address)
        if self._maybe(0.2):
            pieces.append(self._interface)
        if self._maybe(0.85):
            pieces.append(self._target)
        if self._maybe(0.1):
            rng.shuffle(pieces)
        words += [piece() for piece in pieces]
        if self._maybe(0.06):
            words.append(rng.choice(_ODD))
        return " ".join(word for word in words if word)

    def _not(self, chance: float = 0.12) -> str:
        return "! " if self._maybe(chance) else ""

    def _one(self, values: Sequence[str], odd: float = 0.3) -> str:
        """One of the plain values at the beginning, or any."""
        return self._rng.choice(values if self._maybe(odd) else values[: max(len(values) // 3, 1)])

    def _protocol(self) -> str:
        flag = self._rng.choice(("-p", "-p", "-p", "--protocol", "--proto", "-p"))
        return f"{self._not(0.06)}{flag} {self._one(_VALUES['@protocols'])}"

    def _address(self) -> str:
        flag = self._rng.choice(("-s", "-d", "--source", "--dst", "--src", "--destination", "--dest"))
        return f"{self._not()}{flag} {self._one(self._addresses())}"

    def _addresses(self) -> tuple[str, ...]:
        return _VALUES["@ipv4" if (self.family is Family.IPV4) != self._maybe(0.02) else "@ipv6"]

    def _interface(self) -> str:
        flag = self._rng.choice(("-i", "-o", "--in-interface", "--out-interface", "--in-i"))
        return f"{self._not()}{flag} {self._one(_VALUES['@interfaces'])}"

    def _match(self) -> str:
        rng = self._rng
        some = MATCHES[self.family]
        usual = ("tcp", "udp", "conntrack", "comment", "multiport", "addrtype", "mark")
        name = rng.choice(usual if self._maybe(0.4) else sorted(some))
        if name in _LEFT_OUT or name == "set" or name not in some:
            name = "mark"
        with_match = "" if name in ("tcp", "udp", "icmp", "icmp6", "sctp") and self._maybe(0.3) else f"-m {name}"
        if self._maybe(0.04):
            with_match = f"--match {name}" if self._maybe(0.5) else f"-m{name}"
        return " ".join([with_match, *self._options(some[name])])

    def _target(self) -> str:
        rng = self._rng
        if self._maybe(0.35):
            to = self._one(
                ("ACCEPT", "DROP", "RETURN", "other", "QUEUE", "user", "INPUT", "NOSUCH", "x" * 29, "accept"), 0.2
            )
            return f"{self._one(('-j', '-j', '--jump', '-g', '--goto', '! -j'))} {to}"
        some = TARGETS[self.family]
        name = rng.choice(sorted(some))
        if name in _LEFT_OUT or name == "SET":
            name = "MARK"
        return " ".join([f"-j {name}", *self._options(some[name])])

    def _options(self, extension: Extension[Any]) -> list[str]:
        rng = self._rng
        options = list(extension.options)
        wanted = [option for option in options if option.mandatory]
        others = [option for option in options if not option.mandatory]
        rng.shuffle(others)
        wanted += others[: rng.choice((0, 1, 1, 1, 2, 2, 3)) if wanted else rng.choice((1, 1, 1, 2, 2, 3, 0))]
        if self._maybe(0.1):
            rng.shuffle(wanted)
        if self._maybe(0.04) and wanted:
            wanted.append(rng.choice(wanted))
        if self._maybe(0.03) and wanted:
            wanted.pop()
        return [self._option(option) for option in wanted]

    def _option(self, option: Option) -> str:
        rng = self._rng
        name = rng.choice((option.name, option.name, *option.aliases))
        if self._maybe(0.06) and len(name) > 3:
            name = name[: rng.randrange(2, len(name) + 1)]
        inverted = self._not(0.15 if option.invertible else 0.03)
        if option.read is None:
            return f"{inverted}--{name}{'=x' if self._maybe(0.01) else ''}"
        value = self._value(option.name)
        if option.second is not None:
            value += f" {self._value(option.name)}"
        if self._maybe(0.02):
            return f"{inverted}--{name}={value}"
        if self._maybe(0.005):
            return f"--{name} ! {value}"
        return f"{inverted}--{name} {value}"

    def _value(self, name: str) -> str:
        name = _LIKE.get(name, name)
        if name in _ADDRESSES:
            return self._one(self._addresses())
        if "port" in name and name not in ("to-ports", "every"):
            name = "@ports"
        elif name.startswith("physdev"):
            name = "@interfaces"
        found = _VALUES.get(name)
        if found and not self._maybe(0.03):
            return self._one(found)
        return self._one(_VALUES[self._rng.choice(("@numbers", "@numbers", "@ranges"))])
