"""One ``iptables`` or ``ip6tables`` command line, applied to a ruleset."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from pktsim.errors import RulesetSyntaxError, UnsupportedFeature
from pktsim.netfilter.iptables_rule import Command, CommandKind, CommandReader, Word, rule_text
from pktsim.netfilter.ruleset import Family, Ruleset
from pktsim.netfilter.transaction import EditError, TableEdit, Transaction


@dataclass(frozen=True, slots=True)
class CommandOutcome:
    """What a command line led to: the ruleset after it, and what it printed."""

    ruleset: Ruleset
    output: str = ""


def apply_command(edit: TableEdit, command: Command) -> str:
    """Apply ``command`` to the table being edited (its own ``table`` is not looked at).

    Returns:
        What the tool prints (``-S``); empty for all other commands.

    Raises:
        EditError: It cannot be done.
        UnsupportedFeature: ``-L``, whose layout is for people.
    """
    kind, chain = command.kind, command.chain
    if kind is CommandKind.APPEND:
        assert chain is not None
        for rule in command.rules:
            edit.append(chain, rule)
    elif kind is CommandKind.INSERT:
        assert chain is not None
        for rule in command.rules:
            edit.insert(chain, rule, command.number or 1)
    elif kind is CommandKind.REPLACE:
        assert chain is not None
        assert command.number is not None
        edit.replace(chain, command.rules[0], command.number)
    elif kind is CommandKind.DELETE:
        assert chain is not None
        if command.number is not None:
            edit.delete_number(chain, command.number)
        for rule in command.rules:
            edit.delete(chain, rule)
    elif kind is CommandKind.CHECK:
        assert chain is not None
        for rule in command.rules:
            if edit.find(chain, rule) is None:
                raise EditError(f"no rule of chain {chain} is like that", mend="see what the save tool prints")
    elif kind is CommandKind.NEW_CHAIN:
        assert chain is not None
        edit.new_chain(chain)
    elif kind is CommandKind.DELETE_CHAIN:
        if chain is None:
            edit.delete_user_chains()
        else:
            edit.delete_chain(chain)
    elif kind is CommandKind.RENAME_CHAIN:
        assert chain is not None
        edit.rename_chain(chain, command.new_name)
    elif kind is CommandKind.FLUSH:
        edit.flush(chain)
    elif kind is CommandKind.ZERO:
        edit.zero(chain, command.number)
    elif kind is CommandKind.SET_POLICY:
        assert chain is not None
        edit.set_policy(chain, command.policy, command.counters)
    elif kind is CommandKind.LIST_RULES:
        return _list_rules(edit, chain, command.number)
    else:
        raise UnsupportedFeature("listing with -L", mend="use -S, or print what the save tool prints")
    return ""


def _list_rules(edit: TableEdit, chain: str | None, number: int | None) -> str:
    """``-S``: policies and chains first, then the rules."""
    table = edit.finish()
    if chain is not None:
        edit.rules(chain)  # raises if there is none
    chains = [one for one in table.chains if chain in (None, one.name)]
    lines: list[str] = []
    if number is None:
        lines += [f"-N {one.name}" if one.policy is None else f"-P {one.name} {one.policy.value}" for one in chains]
    for one in chains:
        lines += [rule_text(rule, one.name) for at, rule in enumerate(one.rules, 1) if number in (None, at)]
    return "".join(f"{line}\n" for line in lines)


def run_command(ruleset: Ruleset, arguments: str | Sequence[str]) -> CommandOutcome:
    """Do what the tool would do with ``ruleset`` loaded.

    Args:
        ruleset: What is loaded. A table that is not is loaded by the command, as the tool loads its module.
        arguments: The arguments as a list, or as a shell's line; the tool's name in front may be there or not.

    Raises:
        RulesetSyntaxError: The tool, or the kernel, would not take it; the ruleset stays as it was.
        UnsupportedFeature: It would, but it is not modelled.
    """
    line: str | None = None
    if isinstance(arguments, str):
        line = arguments
        try:
            arguments = shlex.split(arguments)
        except ValueError as error:
            raise RulesetSyntaxError(f"{error}", token=line, mend="close the quote") from None
    words = list(arguments)
    if words and words[0] in ("iptables", "ip6tables"):
        if (words[0] == "iptables") != (ruleset.family is Family.IPV4):
            raise RulesetSyntaxError(f"{words[0]} on tables of the other family", token=words[0])
        del words[0]
    command = CommandReader(ruleset.family, _placed(words, line)).read()
    transaction = Transaction(ruleset)
    output = apply_command(transaction.table(command.table), command)
    return CommandOutcome(transaction.commit(), output)


def _placed(words: Sequence[str], line: str | None) -> list[Word]:
    """Words with their columns, as far as they can be found in the line as written."""
    placed: list[Word] = []
    at = 0
    for word in words:
        found = line.find(word, at) if line is not None else -1
        placed.append(Word(word, found + 1))
        if found >= 0:
            at = found + len(word)
    return placed
