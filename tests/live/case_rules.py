"""Random rules that iptables takes, in the words of a :class:`~tests.live.case_worlds.World`.

Each rule is decided by a few bytes of its own (:class:`Dice`). Hypothesis draws these, which is many times faster than
to ask it for each decision, and takes away rules, or puts zeros for bytes, when it shrinks: so the first alternative is
always the plainest.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from tests.live.case_worlds import INTERFACES, Form, World

T = TypeVar("T")


class Dice:
    """Decisions by the bytes given; when these are used up, the first alternative."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, n: int) -> int:
        """A number less than ``n``, which is small."""
        if n <= 1 or self._at >= len(self._data):
            return 0
        self._at += 1
        return self._data[self._at - 1] % n

    def pick(self, values: Sequence[T]) -> T:
        """One of the values."""
        return values[self.below(len(values))]

    def one_in(self, n: int) -> bool:
        """True once in ``n`` times."""
        return self.below(n) == n - 1


_NOT = ("", "", "", "! ")
_MSS: Final = ("TCPMSS --set-mss 1000", "TCPMSS --set-mss 1400")
_TCP_MANGLES: Final = ("TCPOPTSTRIP --strip-options 2", "TCPOPTSTRIP --strip-options 3,4")
_RAWS: Final = (
    "CT --notrack", "CT --notrack", "CT --zone 1", "CT --zone-orig 2", "CT --zone-reply 2", "CT --zone mark",
    "CT --ctevents new", "CT --zone-orig mark", "CT",
)  # fmt: skip
_BUILTIN: Final = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
#: User chains, and which builtin ones may lead to each. Jumps go to later ones only.
_USER_CHAINS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "raw": {"R0": ("PREROUTING", "OUTPUT")},
    "mangle": {"M0": ("PREROUTING", "FORWARD", "OUTPUT"), "M1": ("PREROUTING", "FORWARD", "OUTPUT")},
    "nat": {"D0": ("PREROUTING", "OUTPUT"), "D1": ("PREROUTING", "OUTPUT"), "S0": ("POSTROUTING",)},
    "filter": dict.fromkeys(("F0", "F1", "F2"), ("INPUT", "FORWARD", "OUTPUT")),
    "security": {},
}


@dataclass(frozen=True)
class _Place:
    table: str
    hooks: tuple[str, ...]
    jumps: tuple[str, ...]


def _places() -> dict[tuple[str, str], _Place]:
    found: dict[tuple[str, str], _Place] = {}
    for table, builtin in _BUILTIN.items():
        users = _USER_CHAINS[table]
        for chain in builtin:
            found[table, chain] = _Place(
                table, (chain,), tuple(name for name, hooks in users.items() if chain in hooks)
            )
        for index, (chain, hooks) in enumerate(users.items()):
            later = tuple(name for name, reach in list(users.items())[index + 1 :] if reach == hooks)
            found[table, chain] = _Place(table, hooks, later)
    return found


_PLACES: Final = _places()
#: Where rules go, the more often the more matters there.
_WEIGHTS: Final = {"raw": 2, "mangle": 2, "nat": 6, "filter": 6, "security": 1}
_WEIGHTED: Final = tuple(key for key in _PLACES for _ in range(_WEIGHTS[key[0]]))
_POLICIES: Final = tuple((table, chain) for table, chains in _BUILTIN.items() if table != "nat" for chain in chains)


def _fill(dice: Dice, form: Form) -> str:
    template, parts = form
    return template.format(*(dice.pick(part) for part in parts))


@functools.cache
def _forms(world: World, hooks: tuple[str, ...]) -> tuple[Form, ...]:
    """Matches that some hooks have, and these hooks all do."""
    return tuple(form for only, forms in world.placed if set(hooks) <= only for form in forms)


def _rule(dice: Dice, world: World, place: _Place) -> str:
    words: list[str] = []
    target = dice.pick(_targets(world, place))
    icmp = world.icmp[0]
    protocol = _needed_protocol(target) or dice.pick(("", "", "tcp", "udp", "tcp", "udp", icmp, "sctp"))
    if protocol:
        words.append(f"-p {protocol}")
    elif dice.one_in(10):
        words.append(f"! -p {dice.pick(('tcp', 'udp', icmp))}")
    if dice.one_in(3):
        words.append(_fill(dice, dice.pick(world.of_protocol[protocol] if protocol else world.general)))
    for _ in range(dice.pick((0, 1, 0, 1, 0, 2))):
        another = _fill(dice, dice.pick(world.general))
        if _goes_with(another, words):
            words.append(another)
    if dice.one_in(8) and (forms := _forms(world, place.hooks)):
        words.append(_fill(dice, dice.pick(forms)))
    for flag in ("-s", "-d"):
        if dice.one_in(4):
            words.append(f"{dice.pick(_NOT)}{flag} {dice.pick((*world.addresses, *world.networks))}")
    if dice.one_in(6) and not {"OUTPUT", "POSTROUTING"} & set(place.hooks):
        words.append(f"{dice.pick(_NOT)}-i {dice.pick(INTERFACES)}")
    if dice.one_in(6) and not {"INPUT", "PREROUTING"} & set(place.hooks):
        words.append(f"{dice.pick(_NOT)}-o {dice.pick(INTERFACES)}")
    return " ".join([*words, *([target] if target else [])])


def _goes_with(another: str, words: Sequence[str]) -> bool:
    """Nothing twice whose options the tool takes for another match's: ``-m recent``, ``--mark``, ``--set``, ``-f``."""
    if "-m recent" in another and any("-m recent" in word for word in words):
        return False
    if "--mark" in another and any("--mark" in word for word in words):
        return False
    if " --set" in another and any(" --set" in word for word in words):
        return False
    return not (another.endswith("-f") and any(word.endswith("-f") for word in words))


def _needed_protocol(target: str) -> str:
    if any(word in target for word in ("tcp-reset", "TCPMSS", "TCPOPTSTRIP", "-j ECN")):
        return "tcp"
    return "udp" if "--to-ports" in target or re.search(r"(to-destination|to-source) (\S*]|[^:\s]*):", target) else ""


@functools.cache
def _targets(world: World, place: _Place) -> tuple[str, ...]:
    some = ["", "-j RETURN", *(f"-{how} {chain}" for chain in place.jumps for how in "jjg")]
    hooks = set(place.hooks)
    if place.table == "nat":
        some.append("-j ACCEPT")
        if hooks <= {"PREROUTING", "OUTPUT"}:
            some += [f"-j DNAT --to-destination {to}" for to in world.dnats]
            some += ["-j REDIRECT", f"-j NETMAP --to {world.netmap}", *(f"-j {to}" for to in world.port_dnats)]
        if hooks <= {"POSTROUTING", "INPUT"}:
            some += [f"-j SNAT --to-source {to}" for to in world.snats]
            if hooks == {"POSTROUTING"}:
                some += ["-j MASQUERADE"] * 4 + [f"-j {to}" for to in world.port_snats]
        some.append(f"-j {world.copies[4]}")
        return tuple(some)
    some += ["-j ACCEPT", "-j DROP"]
    if place.table == "raw":
        some += [f"-j {target}" for target in (*_RAWS, *world.copies)]
    elif place.table == "mangle":
        some += [f"-j {target}" for target in (*world.mangles, *world.copies)]
        some += [f"-m tcp --tcp-flags SYN,RST SYN -j {target}" for target in _MSS]
        some += [f"-j {target}" for target in (*_TCP_MANGLES, *(("ECN --ecn-tcp-remove",) * (world.version == 4)))]
    elif place.table == "filter":
        some += ["-j ACCEPT", "-j ACCEPT", "-j DROP"]
        some += [f"-j REJECT --reject-with {kind}" for kind in (*world.rejects, "tcp-reset", "tcp-reset", "tcp-reset")]
        some += [f"-j SET --{verb}-set hi {side}" for verb in ("add", "del") for side in ("src", "dst")]
        some += [f"-j {target}" for target in world.copies]
    return tuple(some)


def rules_text(world: World, rules: Sequence[bytes], dropping: int) -> str:
    """``iptables-restore`` text with all tables.

    Args:
        world: In whose words.
        rules: Bytes that decide each rule, its place first.
        dropping: Which builtin chain has the policy DROP; none if there are not so many.
    """
    lines: dict[tuple[str, str], list[str]] = {key: [] for key in _PLACES}
    for data in rules:
        dice = Dice(data)
        key = dice.pick(_WEIGHTED)
        lines[key].append(f"-A {key[1]} {_rule(dice, world, _PLACES[key])}".rstrip())
    text = []
    for table, builtin in _BUILTIN.items():
        text.append(f"*{table}")
        for chain in builtin:
            drop = dropping < len(_POLICIES) and _POLICIES[dropping] == (table, chain)
            text.append(f":{chain} {'DROP' if drop else 'ACCEPT'} [0:0]")
        text += [f":{chain} - [0:0]" for chain in _USER_CHAINS[table]]
        text += [line for (where, _), some in lines.items() if where == table for line in some]
        text.append("COMMIT")
    found = "\n".join(text) + "\n"
    return without_copies(found) if "REJECT" in found else found


def without_copies(text: str) -> str:
    """Rules beside which something is refused: what REJECT says of a copy is said too late here for the original.

    See the ledger: ``netfilter.tee``.
    """
    return re.sub(r"TEE --gateway \S+", "AUDIT --type drop", text)
