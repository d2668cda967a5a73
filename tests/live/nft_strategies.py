"""Random nft rulesets for cases, decided by a few bytes for each rule.

They are in the words of :mod:`tests.live.nft_words`. Chains are hooked in at priorities before, between, at and behind
those of iptables, connection tracking and NAT.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pktsim.errors import PktsimError
from pktsim.netfilter.nft_ruleset import NftRuleset
from pktsim.netfilter.nft_text import run_script
from pktsim.netfilter.nft_transaction import refuse_unmodelled
from tests.live.case_rules import Dice
from tests.live.case_worlds import Form
from tests.live.nft_words import REJECTS_ANY, SETS, WORDS4, WORDS6, Words

_PRIORITIES: Final = (
    "0",
    "-1",
    "1",
    "-310",
    "-290",
    "-210",
    "-190",
    "-150",
    "-110",
    "-100",
    "-90",
    "50",
    "60",
    "110",
    "300",
)
_NAT_PRIORITIES: Final = {"prerouting": ("-100", "-110", "-90"), "output": ("-100", "-90"), "input": ("100", "90"),
                          "postrouting": ("100", "110", "90")}  # fmt: skip
#: What nft lists by the name of the one protocol, and then refuses to read behind several.
_NOT_READ_AGAIN: Final = re.compile(r"(tcp|udp|icmp\w*) .*l4proto \{ tcp, udp \} dnat")
_HOOKS: Final = ("prerouting", "input", "forward", "output", "postrouting")


@dataclass(frozen=True, slots=True)
class _Chain:
    """Where a rule can go: a base chain of a type at a hook, or one of the user's."""

    name: str
    kind: str = ""
    hook: str = ""


_CHAINS: Final = (
    *(_Chain(f"f{number}_{hook}", "filter", hook) for hook in _HOOKS for number in range(2)),
    _Chain("r_output", "route", "output"),
    *(_Chain(f"n_{hook}", "nat", hook) for hook in _NAT_PRIORITIES),
    *(_Chain(name) for name in ("u0", "u1", "ud", "us")),
)
_WEIGHTED: Final = tuple(
    chain
    for chain in _CHAINS
    for _ in range(3 if chain.kind == "nat" and chain.hook != "input" else 2 if chain.kind == "filter" else 1)
)


def _fill(dice: Dice, form: Form) -> str:
    template, parts = form
    return template.format(*(dice.pick(part) for part in parts))


def _rule(dice: Dice, chain: _Chain, family: str, worlds: Sequence[Words]) -> str:
    """A rule in the words of the first of these, now and then in the other's."""
    inet = family == "inet"
    mine = worlds[1] if inet and dice.one_in(8) else worlds[0]
    words: list[str] = []
    for _ in range(dice.pick((1, 0, 1, 2, 1))):
        words.append(_fill(dice, dice.pick(mine.matches)))
    if chain.hook in ("prerouting", "input", "forward") and dice.one_in(6):
        # nft itself cannot read again what it makes of a link-layer address and a refusal in one rule of family inet
        words.append(_fill(dice, dice.pick(mine.came_in[:-2] if inet else mine.came_in)))
    if chain.hook in ("prerouting", "input", "forward") and dice.one_in(12):
        words.append(dice.pick(mine.fibs))
    if chain.hook in ("output", "postrouting", "forward") and dice.one_in(12):
        words.append(_fill(dice, dice.pick(mine.gone_out)))
    if chain.hook == "forward" and dice.one_in(8):
        words.append(_fill(dice, mine.forwarded))
    if not dice.one_in(6):
        words.append("counter")
    if chain.kind != "nat" or dice.one_in(4):
        words.append(dice.pick((*mine.steps, mine.routed) if chain.hook in ("prerouting", "forward") else mine.steps))
    words.append(_end(dice, chain, mine, inet=inet))
    return " ".join(word for word in words if word).replace("{ip}", f" {mine.family}" if inet else "")


def _end(dice: Dice, chain: _Chain, mine: Words, *, inet: bool) -> str:
    if chain.name == "ud" or (chain.kind == "nat" and chain.hook in ("prerouting", "output")):
        return dice.pick((*mine.dnats, "jump ud", "accept", "") if chain.kind else (*mine.dnats, "return"))
    if chain.name == "us" or (chain.kind == "nat" and chain.hook == "postrouting"):
        return dice.pick((*mine.snats, "jump us", "accept", "") if chain.kind else mine.snats)
    if chain.kind == "nat":
        return dice.pick(tuple(one for one in mine.snats if "masq" not in one and "oifname" not in one))
    if chain.name == "u0":
        return dice.pick(("", "accept", "drop", "return", "jump u1"))
    if chain.name == "u1":
        return dice.pick(("", "accept", "drop", "return"))
    if chain.hook in ("input", "forward", "output") and dice.one_in(4):
        return dice.pick((*mine.rejects, *REJECTS_ANY) if inet else mine.rejects)
    if chain.hook in ("prerouting", "output") and dice.one_in(10):
        return dice.pick(("notrack", "ct zone set 1"))
    return dice.pick(mine.ends)


def nft_text(rules: Sequence[bytes], *, version: int = 0) -> str:
    """The ruleset that these bytes decide, without the rules that nft would refuse.

    Args:
        rules: What decides each.
        version: Of IP, for whose packets it is; 0 for either.
    """
    dice = Dice(b"".join(rules)[::-1])
    both = (WORDS4, WORDS6)
    worlds = both[::-1] if (version or dice.pick((4, 6))) == 6 else both
    family = dice.pick((worlds[0].family, "inet"))
    made: dict[str, list[str]] = {chain.name: [] for chain in _CHAINS}
    for data in rules:
        rule_dice = Dice(data)
        chain = rule_dice.pick(_WEIGHTED)
        made[chain.name].append(_rule(rule_dice, chain, family, worlds))
    lines = [f"table {family} t {{", *SETS, *(line for one in worlds for line in one.sets if _has(family, one))]
    lines += [f"\tchain {chain.name} {{ }}" for chain in _CHAINS if not chain.kind]
    for chain in _CHAINS:
        priority = dice.pick(_NAT_PRIORITIES[chain.hook] if chain.kind == "nat" else _PRIORITIES)
        policy = "drop" if chain.kind == "filter" and dice.below(60) == 59 else "accept"
        if chain.kind and (made[chain.name] or policy == "drop"):
            lines.append(
                f"\tchain {chain.name} {{ type {chain.kind} hook {chain.hook} priority {priority}; policy {policy}; }}"
            )
    text = "\n".join([*lines, "}"]) + "\n"
    ruleset = run_script(NftRuleset(), text, ifindex=_ifindex).ruleset
    for name, rules_of in made.items():
        for rule in rules_of:
            if _NOT_READ_AGAIN.search(rule):
                continue
            command = f"add rule {family} t {name} {rule}\n"
            try:
                made_of_it = run_script(ruleset, command, ifindex=_ifindex).ruleset
                refuse_unmodelled(made_of_it.tables[0])
            except PktsimError:
                continue
            ruleset = made_of_it
            text += command
    return text


def _has(family: str, words: Words) -> bool:
    return family in ("inet", words.family)


def _ifindex(name: str) -> int:
    return int(name == "lo")
