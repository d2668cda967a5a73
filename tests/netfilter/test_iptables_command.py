"""Command lines applied to a ruleset, and transactions: all or nothing."""

from __future__ import annotations

import pytest

from pktsim.errors import RulesetSyntaxError, UnsupportedFeature
from pktsim.netfilter.iptables_command import run_command
from pktsim.netfilter.iptables_text import parse_rule, parse_save, print_save
from pktsim.netfilter.ruleset import Counters, Family, Ruleset, Table
from pktsim.netfilter.transaction import EditError, TableEdit, Transaction, find_problem, reachable_hooks

V4 = Family.IPV4
BEFORE = parse_save(
    "*filter\n:C - [0:0]\n:D - [0:0]\n-A INPUT -j C\n-A INPUT -p tcp -j ACCEPT\n-A C -j DROP\nCOMMIT\n*nat\nCOMMIT\n",
    V4,
)


def _table(ruleset: Ruleset, name: str = "filter") -> Table:
    table = ruleset.table(name)
    assert table is not None
    return table


def _rules(ruleset: Ruleset, name: str = "filter") -> list[str]:
    return [line for line in print_save(ruleset, tables=[name]).splitlines() if line.startswith("-A")]


def _after(*commands: str) -> Ruleset:
    ruleset = BEFORE
    for command in commands:
        ruleset = run_command(ruleset, command).ruleset
    return ruleset


def test_append_insert_replace() -> None:
    after = _after("-A INPUT -j DROP", "-I INPUT -s 10.0.0.1,10.0.0.2 -j ACCEPT", "iptables -R INPUT 3 -p udp")
    assert _rules(after) == [
        "-A INPUT -s 10.0.0.2/32 -j ACCEPT",
        "-A INPUT -s 10.0.0.1/32 -j ACCEPT",
        "-A INPUT -p udp",
        "-A INPUT -p tcp -j ACCEPT",
        "-A INPUT -j DROP",
        "-A C -j DROP",
    ]


def test_delete_by_rule_and_by_number() -> None:
    assert _rules(_after("-D INPUT -p 6 -j ACCEPT", "-D C 1")) == ["-A INPUT -j C"]


def test_nothing_is_dropped_by_policy_in_the_nat_table() -> None:
    with pytest.raises(RulesetSyntaxError, match="nat table is not for filtering"):
        run_command(BEFORE, "-t nat -P POSTROUTING DROP")
    assert run_command(BEFORE, "-t nat -P POSTROUTING ACCEPT").ruleset.table("nat") is not None


def test_words_need_no_shell() -> None:
    after = run_command(BEFORE, ["-A", "OUTPUT", "-m", "comment", "--comment", "a b", "-j", "D"]).ruleset
    assert _rules(after)[-2] == '-A OUTPUT -m comment --comment "a b" -j D'
    assert _rules(_after("-A OUTPUT -m comment --comment 'a b' -j D")) == _rules(after)


def test_chains_come_and_go() -> None:
    after = _after("-N E", "-E C F", "-X D", "-F F", "-P INPUT DROP")
    assert [chain.name for chain in _table(after).chains] == ["INPUT", "FORWARD", "OUTPUT", "E", "F"]
    assert _rules(after) == ["-A INPUT -j F", "-A INPUT -p tcp -j ACCEPT"]
    assert run_command(after, "-S").output.splitlines() == [
        "-P INPUT DROP",
        "-P FORWARD ACCEPT",
        "-P OUTPUT ACCEPT",
        "-N E",
        "-N F",
        "-A INPUT -j F",
        "-A INPUT -p tcp -j ACCEPT",
    ]
    assert run_command(after, "-S INPUT 2").output == "-A INPUT -p tcp -j ACCEPT\n"
    assert [chain.name for chain in _table(_after("-F", "-X")).chains] == ["INPUT", "FORWARD", "OUTPUT"]


def test_a_table_is_loaded_by_its_first_command() -> None:
    after = _after("-t mangle -A PREROUTING -j MARK --set-mark 1")
    assert [table.name for table in after.tables] == ["filter", "mangle", "nat"]
    assert _rules(after, "mangle") == ["-A PREROUTING -j MARK --set-xmark 0x1/0xffffffff"]
    assert BEFORE.table("mangle") is None


def test_counters_are_given_and_zeroed() -> None:
    after = _after("-A D -c 3 180 -j DROP", "-A D -c 4,240 -j ACCEPT")
    assert [rule.counters for rule in _table(after).chain("D").rules] == [Counters(3, 180), Counters(4, 240)]
    one = run_command(after, "-Z D 1").ruleset
    assert [rule.counters for rule in _table(one).chain("D").rules] == [Counters(), Counters(4, 240)]
    every = run_command(after, "-Z").ruleset
    assert [rule.counters for rule in _table(every).chain("D").rules] == [Counters(), Counters()]


def test_check_tells_by_an_error() -> None:
    assert run_command(BEFORE, "-C INPUT -p tcp -j ACCEPT").ruleset == BEFORE
    with pytest.raises(RulesetSyntaxError, match="no rule of chain INPUT is like that"):
        run_command(BEFORE, "-C INPUT -p udp -j ACCEPT")


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("", "no command specified"),
        ("-A INPUT -j 'x", "No closing quotation"),
        ("ip6tables -A INPUT", "other family"),
        ("-A NOWHERE", "there is no chain 'NOWHERE'"),
        ("-t nowhere -A INPUT", "there is no table 'nowhere'"),
        ("-D INPUT 3", "there is no rule 3"),
        ("-D INPUT 0", "invalid rule number"),
        ("-R INPUT -p tcp", "needs? a rule number|requires a rule number"),
        ("-R INPUT 1 -s 1.0.0.1,1.0.0.2", "one address only"),
        ("-I INPUT 4 -j DROP", "index of insertion too big"),
        ("-N C", "exists already"),
        ("-N -x", "bad chain name"),
        ("-E C D", "exists already"),
        ("-E C", "requires the old and the new name|-E requires"),
        ("-E INPUT IN", "built in"),
        ("-X INPUT", "built in"),
        ("-X C", "not empty"),
        ("-P C DROP", "no policy"),
        ("-P INPUT RETURN", "bad policy"),
        ("-P INPUT", "requires a chain and a policy"),
        ("-F INPUT -p tcp", "a rule cannot be given"),
        ("-F NOWHERE", "there is no chain"),
        ("-S NOWHERE", "there is no chain"),
        ("-A INPUT -c 3", "requires packet and byte counter"),
        ("-A INPUT -c x y", "not numeric"),
        ("-A C -j C", None),
        ("-A C -g C", None),
        ("-t nat -A POSTROUTING -j DNAT --to 10.0.0.1", "not allowed"),
    ],
)
def test_what_cannot_be_done(command: str, what: str | None) -> None:
    with pytest.raises(RulesetSyntaxError, match=what or "makes a loop"):
        run_command(BEFORE, command)


def test_errors_of_a_command_line_have_a_column() -> None:
    with pytest.raises(RulesetSyntaxError) as caught:
        run_command(BEFORE, "-A INPUT -p tcp --dport 99999")
    assert (caught.value.column, caught.value.token) == (25, "99999")


def test_listing_for_people_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedFeature, match="listing with -L"):
        run_command(BEFORE, "-L")


def test_a_transaction_is_all_or_nothing() -> None:
    transaction = Transaction(BEFORE)
    transaction.table("filter").append("INPUT", parse_rule("-A INPUT -j DROP", V4)[1])
    transaction.table("nat").append("POSTROUTING", parse_rule("-A POSTROUTING -j REDIRECT", V4, "nat")[1])
    with pytest.raises(EditError, match="nat POSTROUTING rule 1: REDIRECT can be reached from POSTROUTING") as caught:
        transaction.commit()
    assert caught.value.problem is not None
    assert (caught.value.problem.chain, caught.value.problem.number) == ("POSTROUTING", 0)
    assert len(_table(BEFORE).chain("INPUT").rules) == 2


def test_a_transaction_of_several_tables() -> None:
    transaction = Transaction(BEFORE)
    transaction.table("raw").append("OUTPUT", parse_rule("-A OUTPUT -j NOTRACK", V4, "raw")[1])
    transaction.table("filter").flush()
    after = transaction.commit()
    assert [table.name for table in after.tables] == ["filter", "nat", "raw"]
    assert _rules(after) == []
    assert _rules(after, "raw") == ["-A OUTPUT -j NOTRACK"]


def test_a_renamed_chain_takes_its_jumps_along() -> None:
    edit = TableEdit(V4, "filter", BEFORE.table("filter"))
    edit.rename_chain("C", "E")
    assert edit.finish().chain("INPUT").rules[0] == parse_rule("-A INPUT -j E", V4)[1]


def test_hooks_from_which_a_chain_is_reached() -> None:
    table = _table(
        parse_save(
            "*nat\n:A - [0:0]\n:B - [0:0]\n:C - [0:0]\n-A PREROUTING -j A\n-A OUTPUT -g B\n-A A -j B\nCOMMIT\n", V4
        ),
        "nat",
    )
    hooks = reachable_hooks(table)
    assert hooks["A"] == {"PREROUTING"}
    assert hooks["B"] == {"PREROUTING", "OUTPUT"}
    assert hooks["C"] == frozenset()
    assert find_problem(table) is None


def test_a_loop_that_no_packet_reaches_is_none() -> None:
    ruleset = parse_save("*filter\n:A - [0:0]\n:B - [0:0]\n-A A -j B\n-A B -j A\nCOMMIT\n", V4)
    assert find_problem(_table(ruleset)) is None
