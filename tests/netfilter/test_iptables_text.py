"""Reading and printing rules: the forms people write, errors with their place, counters, whole restore files."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from pktsim.errors import RulesetSyntaxError, UnsupportedFeature
from pktsim.netfilter.catalogue import MATCHES, TARGETS, UNMODELLED_MATCHES, UNMODELLED_TARGETS
from pktsim.netfilter.iptables_rule import CommandReader
from pktsim.netfilter.iptables_text import parse_rule, parse_save, print_save, restore, rule_text, split_words
from pktsim.netfilter.matches.comment import CommentMatch
from pktsim.netfilter.matches.statistic import StatisticRandomMatch
from pktsim.netfilter.matches.tcp import TcpMatch
from pktsim.netfilter.option import prefix_mask
from pktsim.netfilter.ruleset import Counters, Family, HeaderMatch, Jump, MaskedAddress, Rule, Ruleset, Verdict
from pktsim.netfilter.targets.dnat import DnatTarget
from pktsim.netfilter.values import AddressRange, NatRange, PortRange
from tests.netfilter.rule_cases import CASES, UNSEEN_CASES, Case

V4 = Family.IPV4


def _text(*lines: str, table: str = "filter") -> str:
    return "\n".join([f"*{table}", *lines, "COMMIT", ""])


def _rules(ruleset: Ruleset) -> tuple[str, ...]:
    return tuple(line for line in print_save(ruleset).splitlines() if line.startswith("-A"))


@pytest.mark.parametrize("case", CASES + UNSEEN_CASES, ids=lambda case: case.name)
def test_rule_as_people_write_it(case: Case) -> None:
    text = _text(*case.given, table=case.table)
    if case.saved is None:
        with pytest.raises(RulesetSyntaxError) as caught:
            parse_save(text, case.family, "rules.txt")
        assert caught.value.file == "rules.txt"
        assert caught.value.line is not None
        assert str(caught.value).startswith("rules.txt:")
        return
    ruleset = parse_save(text, case.family)
    assert _rules(ruleset) == case.saved
    assert parse_save(print_save(ruleset), case.family) == ruleset


def test_the_table_of_cases_names_every_case_once() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def test_every_match_and_target_stands_in_some_case() -> None:
    seen = {word.text for case in CASES + UNSEEN_CASES for line in case.given for word in split_words(line)}
    seen |= {"icmp6", "ipv6-icmp", "icmpv6"}  # loaded by -p icmpv6
    for family in Family:
        assert MATCHES[family].keys() <= seen
        assert TARGETS[family].keys() <= seen


def test_data_of_a_rule() -> None:
    chain, rule = parse_rule(
        '[3:180] -A KUBE-SEP-X -s 10.0.0.1 -p tcp -m comment --comment "a/b:c" -m tcp '
        "-j DNAT --to-destination 10.0.0.1:80",
        V4,
        "nat",
    )
    address = IPv4Address("10.0.0.1")
    assert chain == "KUBE-SEP-X"
    assert rule == Rule(
        HeaderMatch(src=MaskedAddress(address, prefix_mask(32, V4)), protocol=6),
        (CommentMatch("a/b:c"), TcpMatch()),
        DnatTarget(NatRange(AddressRange(address, address), PortRange(80, 80))),
    )
    assert rule.counters == Counters(3, 180)


def test_probability_is_the_kernels_number() -> None:
    for divisor in range(1, 200):
        written = f"{1 / divisor:.10f}"  # as kube-proxy writes it
        _, rule = parse_rule(f"-A C -m statistic --mode random --probability {written}", V4)
        match = rule.matches[0]
        assert isinstance(match, StatisticRandomMatch)
        assert match.probability == round(float(written) * 2**31)
        assert parse_rule(rule_text(rule, "C"), V4)[1] == rule


@pytest.mark.parametrize(
    ("line", "place", "token"),
    [
        ("-A INPUT -m foo -j ACCEPT", "rules.txt:2:13: ", "foo"),
        ("-A INPUT -p tcp --dport 80 --foo 3", "rules.txt:2:28: ", "--foo"),
        ("-A INPUT -p tcp --dport 80 -j NOWHERE", "rules.txt:2:31: ", "NOWHERE"),
        ('-A INPUT -m comment --comment "x y" -s 10.0.0.0/99', "rules.txt:2:40: ", "10.0.0.0/99"),
        ("[1:2] -A INPUT -s 10.0.0.0/99", "rules.txt:2:19: ", "10.0.0.0/99"),
        ("-A INPUT -p udp -m mark --mark 1 -m tcp --dport 80", "rules.txt:2:37: ", "tcp"),
        ("-A INPUT -j", "rules.txt:2:10: ", "-j"),
        ("[1 -A INPUT", "rules.txt:2:1: ", "[1 -A INPUT"),
        ("[x:y] -A INPUT", "rules.txt:2:1: ", "[x:y]"),
        (":INPUT", "rules.txt:2:2: ", "INPUT"),
        (":", "rules.txt:2:1: ", ":"),
    ],
)
def test_an_error_says_where(line: str, place: str, token: str) -> None:
    with pytest.raises(RulesetSyntaxError) as caught:
        parse_save(_text(line), V4, "rules.txt")
    assert str(caught.value).startswith(place)
    assert caught.value.token == token
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words", ["{} -m set --match-set a src {}", "-m comment --comment x {} -m set --match-set a src {}"]
)
@pytest.mark.parametrize("match", ["-m connlabel --label 1 --set", "-m recent --name R --set"])
def test_an_option_belongs_to_the_match_that_is_named_first_later(words: str, match: str) -> None:
    """A match that is named again does not take the name of an option back, as iptables 1.8.9 says."""
    assert len(_rules(parse_save(_text(f"-A INPUT {match} -m set --match-set a src"), V4))) == 1
    assert len(_rules(parse_save(_text(f"-A INPUT -m set --match-set a src {match}"), V4))) == 1
    with pytest.raises(RulesetSyntaxError, match="--match-set requires"):
        parse_save(_text(f"-A INPUT {words.format(match, match)}"), V4)


def test_what_is_not_modelled_is_refused_by_name() -> None:
    for name in sorted(UNMODELLED_MATCHES):
        with pytest.raises(UnsupportedFeature, match=f"^rules.txt:2:13: match {name} is not modelled"):
            parse_save(_text(f"-A INPUT -m {name}"), V4, "rules.txt")
    for name in sorted(UNMODELLED_TARGETS):
        with pytest.raises(UnsupportedFeature, match=f"^rules.txt:2:13: target {name} is not modelled"):
            parse_save(_text(f"-A INPUT -j {name}"), V4, "rules.txt")


@pytest.mark.parametrize(
    ("words", "column", "what"),
    [
        ("-m bpf --object-pinned /x", 33, "match bpf --object-pinned"),
        ("-m cgroup --path x", 27, "match cgroup --path"),
        ("-m connlimit --connlimit-above 2 --connlimit-mask 255.0.255.0", 60, "match connlimit with a mask that is no"),
        ("-m hashlimit --hashlimit-name x --hashlimit-above 10kb/s", 60, "match hashlimit with a rate in bytes"),
        ("-m hashlimit --hashlimit-name x --hashlimit-above 10/s --hashlimit-rate-match", 13, "match hashlimit --hash"),
        ("-p tcp -j ECN --ecn-tcp-cwr 1", 38, "target ECN --ecn-tcp-cwr"),
    ],
)
def test_an_option_that_is_not_modelled_is_refused_where_it_is(words: str, column: int, what: str) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        parse_save(_text(f"-A INPUT {words}", table="mangle"), V4, "rules.txt")
    assert str(caught.value).startswith(f"rules.txt:2:{column}: {what}")


@pytest.mark.parametrize(("mask", "length"), [("255.255.255.0", 24), ("0x10", 16), ("0.0.0.0", 0)])
def test_connlimit_counts_by_prefix(mask: str, length: int) -> None:
    line = f"-A INPUT -m connlimit --connlimit-above 2 --connlimit-mask {mask}"
    assert f"--connlimit-mask {length} " in _rules(parse_save(_text(line), V4))[0]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("-A INPUT -j ACCEPT\n", "a table begins with"),
        ("*filter\n-A INPUT -j ACCEPT\n", "COMMIT expected"),
        ("*nowhere\nCOMMIT\n", "there is no table 'nowhere'"),
        ("*\nCOMMIT\n", "there is no table ''"),
        ("*filter\n*nat\nCOMMIT\n", "bad argument"),
    ],
)
def test_text_that_is_no_restore_file(text: str, what: str) -> None:
    with pytest.raises(RulesetSyntaxError, match=what):
        parse_save(text, V4)


@pytest.mark.parametrize("words", ["-s ! 10.0.0.1", "-p ! tcp", "-i ! lo", "-p tcp -m tcp --dport ! 80"])
def test_the_old_place_of_the_exclamation_mark_is_no_more(words: str) -> None:
    with pytest.raises(RulesetSyntaxError):
        parse_rule(f"-A C {words}", V4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-A INPUT -m comment --comment " + "x" * 1024, "parameter too long"),
        ("-A INPUT " + "-m mark --mark 1 " * 80, "too many arguments"),
        ("-A INPUT " + " " * 10240, "line is too long"),
        ("[1:2] -A INPUT -c 3 4", "multiple -c flags"),
        (":ACCEPT - [0:0]", "name of a verdict"),
        (':"my chain" - [0:0]', "bad counters"),
    ],
)
def test_what_the_restore_tool_has_no_room_or_name_for(line: str, message: str) -> None:
    with pytest.raises(RulesetSyntaxError, match=message):
        parse_save(_text(line), V4)


def test_a_quote_left_open_takes_the_end_of_the_line() -> None:
    assert split_words('-m comment --comment "a b')[-1].text == "a b\n"


def test_not_any_interface_matches_nothing_and_is_not_printed() -> None:
    _chain, rule = parse_rule("-A C ! -i +", V4)
    assert (rule.header.in_interface, rule.header.in_interface_inverted) == ("+", True)
    assert rule_text(rule, "C", V4) == "-A C"


def test_lines_of_the_other_family_are_skipped() -> None:
    text = _text("-A INPUT -4 -p icmp -j ACCEPT", "-A INPUT -6 -p icmpv6 -s nonsense", "-A INPUT -j DROP")
    with pytest.raises(RulesetSyntaxError, match="nonsense"):  # read before the family is known
        parse_save(_text("-A INPUT -p nonsense -6"), V4)
    assert _rules(parse_save(_text("-A INPUT -s nonsense -6"), V4)) == ()  # addresses are read last
    text = text.replace("-s nonsense", "-j ACCEPT")
    assert _rules(parse_save(text, V4)) == ("-A INPUT -p icmp -j ACCEPT", "-A INPUT -j DROP")
    assert _rules(parse_save(text, Family.IPV6)) == ("-A INPUT -p ipv6-icmp -j ACCEPT", "-A INPUT -j DROP")


def test_counters_and_policies() -> None:
    chains = (":INPUT DROP [7:700]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [1:2]", ":C - [0:0]")
    text = _text(*chains, "[3:180] -A INPUT -j C")
    ruleset = parse_save(text, V4)
    assert print_save(ruleset, counters=True) == text
    assert print_save(ruleset) == text.replace("[3:180] ", "")
    table = ruleset.table("filter")
    assert table is not None
    assert table.chain("INPUT").policy is Verdict.DROP
    assert table.chain("INPUT").counters == Counters(7, 700)
    assert table.chain("C").policy is None
    assert ruleset == parse_save(text.replace("[3:180]", "[4:180]"), V4), "counters are no part of a ruleset's meaning"


def test_comment_lines_of_the_tool() -> None:
    ruleset = parse_save("# hello\n\n*raw\nCOMMIT\n# bye\n", V4)
    when = "Tue Nov 24 02:05:45 2026"
    assert print_save(ruleset, generated_at=when) == (
        f"# Generated by iptables-save v1.8.9 on {when}\n*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
        f"# Completed on {when}\n"
    )
    assert print_save(Ruleset(V4)) == ""


def test_tables_come_in_order_of_their_names() -> None:
    ruleset = parse_save("*nat\nCOMMIT\n*filter\nCOMMIT\n", V4)
    assert [table.name for table in ruleset.tables] == ["filter", "nat"]
    assert print_save(ruleset, tables=["nat", "raw", "filter"]).split("\n", 1)[0] == "*nat"


def test_restore_replaces_a_table_and_leaves_the_others() -> None:
    before = parse_save("*filter\n:INPUT DROP [0:0]\n:C - [0:0]\n-A INPUT -j C\nCOMMIT\n*nat\n:N - [0:0]\nCOMMIT\n", V4)
    after = restore(before, "*filter\n:D - [0:0]\n-A INPUT -j D\nCOMMIT\n")
    assert _rules(after) == ("-A INPUT -j D",)
    assert after.table("nat") == before.table("nat")
    table = after.table("filter")
    assert table is not None
    assert table.chain("INPUT").policy is Verdict.DROP, "a policy that is not mentioned stays"
    assert [chain.name for chain in table.chains] == ["INPUT", "FORWARD", "OUTPUT", "D"]


def test_restore_without_flush_empties_declared_chains_only() -> None:
    before = parse_save(_text(":C - [0:0]", ":D - [0:0]", "-A C -j ACCEPT", "-A D -j ACCEPT", "-A INPUT -j C"), V4)
    after = restore(before, _text(":C - [0:0]", ":D - [0:0]", "-X D", "-A C -j DROP", "-A INPUT -j DROP"), noflush=True)
    assert _rules(after) == ("-A INPUT -j C", "-A INPUT -j DROP", "-A C -j DROP")


def test_a_failing_restore_changes_nothing() -> None:
    before = parse_save(_text("-A INPUT -j ACCEPT"), V4)
    with pytest.raises(RulesetSyntaxError):
        restore(before, "*nat\n:C - [0:0]\nCOMMIT\n*filter\n-A INPUT -j NOWHERE\nCOMMIT\n")
    assert _rules(before) == ("-A INPUT -j ACCEPT",)
    assert before.table("nat") is None


@pytest.mark.parametrize(
    "line",
    [
        "-A C -p tcp -m tcp --dport 80 -m comment --comment --sport",
        "-A C -m comment --comment -j -j ACCEPT",
        "-A C -m mark -m comment --comment x --mark 1",
        "-A C -p tcp -m comment --comment x --dport 80",
        '-A C -m comment --comment ""',
        '-A C -m comment --comment "!" -j ACCEPT',
        "-A C -m comment --comment ! -j ACCEPT",
        '-A C -m comment --comment a"b c"d',
        "-A C -p tcp -j DNAT --to-dest 10.0.0.1:80",
        "-A C -p tcp -m tcp --destination-port 80 ! --syn -j C",
        "-A C -p 6 -m tcp --dport 80",
        "-A C ! -p tcp -m conntrack ! --ctstate NEW ! -s 10.0.0.0/8 ! -i lo -g C",
        "-A C -p tcp -m multiport ! --ports 1,2:3 -j MARK --set-mark 1",
    ],
)
def test_the_short_way_reads_as_the_long_one(line: str) -> None:
    command: object
    try:
        command = CommandReader(V4, split_words(line), table="nat").read().rules
    except RulesetSyntaxError as error:
        command = error.what
    found: object
    try:
        table = parse_save(_text(":C - [0:0]", line, table="nat"), V4).table("nat")
        assert table is not None
        found = table.chain("C").rules
    except RulesetSyntaxError as error:
        found = error.what if "loop" not in error.what else command
    assert found == command


def test_rules_made_by_hand_print() -> None:
    rule = Rule(
        HeaderMatch(in_interface="eth0", in_interface_inverted=True, fragment=True), target=Jump("C", goto=True)
    )
    assert rule_text(rule, "FORWARD", V4) == "-A FORWARD ! -i eth0 -f -g C"
    assert parse_rule(rule_text(rule, "FORWARD"), V4) == ("FORWARD", rule)


def test_parse_rule_wants_one_rule() -> None:
    for text in ("-D C", "-A C -s 1.0.0.1,1.0.0.2", "-F C"):
        with pytest.raises(RulesetSyntaxError, match="not one rule"):
            parse_rule(text, V4)
