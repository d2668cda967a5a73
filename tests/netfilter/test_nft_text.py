"""nft text: what is read prints as the tool prints it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pktsim.errors import PktsimError, RulesetSyntaxError, UnsupportedFeature
from pktsim.netfilter.nft_print import Printer
from pktsim.netfilter.nft_ruleset import NftRuleset
from pktsim.netfilter.nft_text import parse_ruleset, run_script
from tests.netfilter import nft_mismatches
from tests.netfilter.nft_conflicts import CONFLICTS, HEAD, NO_CONFLICTS
from tests.netfilter.nft_rules import RULES

_INTERFACES = {"lo": 1}


def _ifindex(name: str) -> int:
    return _INTERFACES.get(name, 0)


def _ifname(ifindex: int) -> str:
    return {1: "lo"}.get(ifindex, "")


def listed(text: str) -> str:
    """A script's ruleset as ``nft list ruleset`` prints it."""
    return Printer(_ifname).ruleset(parse_ruleset(text, ifindex=_ifindex))


def script(family: str, kind: str, hook: str, rule: str) -> str:
    head = f"type {kind} hook {hook} priority 5; policy accept;"
    return f"table {family} t {{\n\tchain x {{\n\t}}\n\n\tchain c {{\n\t\t{head}\n\t\t{rule}\n\t}}\n}}\n"


@pytest.mark.parametrize(("family", "kind", "hook", "rule", "wanted"), RULES)
def test_a_rule_is_listed_as_the_tool_lists_it(family: str, kind: str, hook: str, rule: str, wanted: str) -> None:
    printed = listed(script(family, kind, hook, rule))
    assert printed.splitlines()[-3].strip() == (wanted or rule)


@pytest.mark.parametrize(("family", "kind", "hook", "rule", "wanted"), RULES)
def test_what_is_listed_is_listed_the_same_again(family: str, kind: str, hook: str, rule: str, wanted: str) -> None:
    # the tool itself makes no set any more of the one interval that is left of several
    printed = listed(listed(script(family, kind, hook, rule)))
    assert listed(printed) == printed


SETS = Path(__file__).with_name("sets.nft").read_text(encoding="utf-8")


def test_sets_and_objects_are_listed_as_they_are_read() -> None:
    assert listed(SETS) == SETS


def test_a_block_may_use_what_it_declares_later() -> None:
    text = "table ip t { chain c { ip saddr @s jump d; }; chain d { accept; }; set s { type ipv4_addr; } }"
    assert "ip saddr @s jump d" in listed(text)


def test_commands_change_what_is_there() -> None:
    before = parse_ruleset("table ip t { chain c { tcp dport 1 accept; tcp dport 2 accept; }; set s { type mark; } }")
    handles = [rule.handle for rule in before.tables[0].chains[0].rules]
    outcome = run_script(
        before,
        f"""
        add rule ip t c tcp dport 4 drop
        insert rule ip t c tcp dport 0 drop
        add rule t c position {handles[0]} tcp dport 5 drop
        delete rule ip t c handle {handles[1]}
        replace rule ip t c handle {handles[0]} tcp dport 6 drop
        add element t s {{ 1, 2 }}
        delete element t s {{ 1 }}
        add table ip6 u
        list chain ip t c
        """,
    )
    rules = [line.strip() for line in outcome.output.splitlines() if "dport" in line]
    assert rules == [f"tcp dport {port} drop" for port in (0, 6, 5, 4)]
    assert "0x00000002" in Printer().ruleset(outcome.ruleset)
    assert "table ip6 u" in Printer().ruleset(outcome.ruleset)


def test_definitions_stand_for_their_words() -> None:
    definitions = 'define ports = { 80, 443 }\ndefine dev = "eth0"\n'
    text = definitions + "table ip t { chain c { iifname $dev tcp dport $ports drop; } }"
    assert 'iifname "eth0" tcp dport { 80, 443 } drop' in listed(text)


def test_on_an_error_nothing_has_changed() -> None:
    before = parse_ruleset("table ip t { chain c { accept; } }")
    with pytest.raises(RulesetSyntaxError):
        run_script(before, "flush ruleset\nadd rule ip t c drop")
    assert before == parse_ruleset("table ip t { chain c { accept; } }")


#: What is wrong, and a word of what is said about it.
WRONG = (
    ("table ip t { chain c { tcp dport 80 udp dport 53; } }", "conflicting protocols"),
    ("table ip t { chain c { ip6 saddr ::1; } }", "conflicting protocols"),
    ("table ip t { chain c { tcp dprt 80; } }", "dprt"),
    ("table ip t { chain c { tcp dport 80000; } }", "80000"),
    ("table ip t { chain c { ip saddr 1.2.3; } }", ".2.3"),
    ("table ip t { chain c { jump nowhere; } }", "nowhere"),
    ("table ip t { chain c { ip saddr @none; } }", "none"),
    ("table ip t { chain c { jump d; }; chain d { jump c; } }", "leads to itself"),
    ("table ip t { chain c { accept drop; } }", "terminal"),
    ("table ip t { chain c { type nat hook forward priority 0; } }", "forward"),
    ("table ip t { chain c { type nat hook output priority -300; } }", "priority"),
    ("table ip t { chain c { type filter hook input priority 0; masquerade; } }", "masquerade"),
    ("table ip t { chain c { dnat to :80; } }", "transport"),
    ("table ip t { set s { type ipv4_addr; elements = { 10.0.0.0/8 } } }", "interval"),
    ("table ip t { set s { type mark; flags interval; elements = { 1-5, 3-7 } } }", "overlap"),
    ("add rule ip t c accept", "there is no table"),
    ("table ip t { chain c { meta mark set tcp dport; } }", "mark"),
    ("table ip t { chain c { ip saddr vmap { 1.2.3.4 : drop, 1.2.3.0/24 : accept }; } }", "intervals"),
    ("table ip t { chain c { ip saddr . tcp dport 10.0.0.1 . 80; } }", "sets and maps only"),
    ("table ip t { chain c { ip protocol icmp ip protocol { tcp, icmp } reject with tcp reset; } }", "this is icmp"),
    ("table ip t { chain c { meta l4proto 99 reject with tcp reset; } }", "a reset answers tcp"),
    ("table ip t { chain c { tcp option maxseg kind 2; } }", "kind"),
    ("table ip t { map m { type mark : mark; }; chain c { add @m { mark : mark map { 1 : 2 } }; } }", "map"),
    ("table ip t {", "the end"),
)  # fmt: skip
#: What is refused by name.
REFUSED = (
    ("table bridge t { }", "bridge"),
    ("table ip t { chain c { queue; } }", "queue"),
    ("table inet t { chain c { meta nfproto { ipv4, ipv6 } reject; } }", "reject without a reason"),
    ("table ip t { chain c { meta cpu 1; } }", "meta cpu"),
    ("table ip t { chain c { type filter hook ingress device eth0 priority 0; } }", "ingress"),
    ("table ip t { flowtable f { hook ingress priority 0; } }", "flowtable"),
    ("table ip t { chain c { ct helper set \"ftp\"; } }", "ct helper"),
    ("table ip t { chain c { ip length >> 4 1; } }", "shifted value"),
    ("table ip t { chain c { tcp dport ^ 1 1-3; } }", "several values"),
    ("table ip t { chain c { tcp dport ^ 1 vmap { 1 : drop }; } }", "several values"),
    ("include \"x\"", "include"),
)  # fmt: skip


@pytest.mark.parametrize(("text", "word"), WRONG)
def test_what_the_tool_refuses_is_refused_in_one_line(text: str, word: str) -> None:
    with pytest.raises(PktsimError) as caught:
        parse_ruleset(text, file="rules.nft")
    assert word in str(caught.value)
    assert str(caught.value).startswith("rules.nft")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("family", "rule", "place", "names"), CONFLICTS)
def test_protocols_that_contradict_each_other_are_refused_where_the_second_is(
    family: str, rule: str, place: str, names: str
) -> None:
    command = f"add rule {family} t c {rule}"
    head = HEAD.format(family=family)
    with pytest.raises(RulesetSyntaxError) as caught:
        parse_ruleset(head + command, file="rules.nft")
    line, column = head.count("\n") + 1, command.index(place) + 1
    assert f"rules.nft:{line}:{column}: conflicting protocols specified: {names}" in str(caught.value)


@pytest.mark.parametrize(("family", "rule"), NO_CONFLICTS)
def test_protocols_that_do_not_contradict_each_other(family: str, rule: str) -> None:
    ruleset = parse_ruleset(f"{HEAD.format(family=family)}add rule {family} t c {rule}")
    assert len(ruleset.tables[0].chains[0].rules) == 1


@pytest.mark.parametrize("rule", nft_mismatches.MISMATCHES)
def test_what_is_looked_up_must_be_of_the_type_of_the_set(rule: str) -> None:
    with pytest.raises(RulesetSyntaxError, match=r" of type | leads to |lead to verdicts| is wanted, and this is "):
        parse_ruleset(f"{nft_mismatches.HEAD}add rule inet t c {rule}")


@pytest.mark.parametrize("rule", nft_mismatches.MATCHES)
def test_what_is_of_the_type_of_the_set(rule: str) -> None:
    ruleset = parse_ruleset(f"{nft_mismatches.HEAD}add rule inet t c {rule}")
    assert len(ruleset.tables[0].chains[0].rules) == 1


def test_raw_flags_are_compared_whole() -> None:
    assert "tcp flags == syn" in listed("table inet t { chain c { meta l4proto tcp @th,104,8 2; } }")


@pytest.mark.parametrize(("text", "feature"), REFUSED)
def test_what_is_not_modelled_is_refused_by_name(text: str, feature: str) -> None:
    with pytest.raises(UnsupportedFeature, match=feature):
        parse_ruleset(text)


def test_nothing_prints_as_nothing() -> None:
    assert Printer().ruleset(NftRuleset()) == ""
