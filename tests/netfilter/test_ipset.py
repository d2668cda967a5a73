"""``ipset`` by its words: what each stands for, what is refused, and how sets are saved.

Every outcome here was seen with ipset 7.17 on Linux 6.18; ``tests/live/test_ipset_text.py`` compares random ones.
"""

from __future__ import annotations

import pytest

from pktsim import Kernel
from pktsim.clock import NS_PER_JIFFY
from pktsim.errors import RulesetSyntaxError, UnsupportedFeature
from pktsim.netfilter.ipset import IpSets
from pktsim.netfilter.ipset_text import restore_sets, run_ipset, save_text
from pktsim.netfilter.ipset_types import TYPES

NS_PER_S = 1_000_000_000


def made(*lines: str) -> IpSets:
    sets = IpSets()
    restore_sets(sets, "\n".join(lines))
    return sets


def added(*lines: str) -> list[str]:
    return [line.split(" ", 2)[2] for line in save_text(made(*lines), 0).splitlines() if line.startswith("add")]


@pytest.mark.parametrize(
    ("given", "saved"),
    [
        ("create s hash:ip", "create s hash:ip family inet hashsize 1024 maxelem 65536 bucketsize 12"),
        (
            "create s hash:ip counters comment skbinfo forceadd timeout 10 netmask 24 maxelem 10 hashsize 65 "
            "bucketsize 3 initval 0x1",
            "create s hash:ip family inet hashsize 128 maxelem 10 netmask 24 timeout 10 counters comment skbinfo "
            "bucketsize 4 initval 0x00000001",
        ),
        (
            "create s hash:ip,port -6 bitmask ffff::ffff",
            "create s hash:ip,port family inet6 hashsize 1024 maxelem 65536 bucketsize 12 bitmask ffff::ffff",
        ),
        ("create s nethash", "create s hash:net family inet hashsize 1024 maxelem 65536 bucketsize 12"),
        ("create s bitmap:port range http-90", "create s bitmap:port range 80-90"),
        ("create s bitmap:ip range 10.0.0.9-10.0.0.1", "create s bitmap:ip range 10.0.0.1-10.0.0.9"),
        (
            "create s bitmap:ip range 10.0.0.0/16 netmask 24 timeout 3",
            "create s bitmap:ip range 10.0.0.0-10.0.255.255 netmask 24 timeout 3",
        ),
        ("create s list:set size 2 comment", "create s list:set size 4 comment"),
        ("create s hash:ip gc 10 probes 3", "create s hash:ip family inet hashsize 1024 maxelem 65536 bucketsize 12"),
    ],
)
def test_a_set_is_saved_with_all_that_it_has(given: str, saved: str) -> None:
    assert save_text(made(given), 0) == f"{saved}\n"


@pytest.mark.parametrize(
    ("kind", "element", "saved"),
    [
        ("hash:ip", "10.0.0.2/30", ["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3"]),
        ("hash:ip", "10.0.0.9-10.0.0.8", ["10.0.0.8", "10.0.0.9"]),
        ("hash:ip", "10.1", ["10.0.0.1"]),
        ("hash:ip netmask 24", "10.0.0.7-10.0.2.0", ["10.0.0.0", "10.0.1.0", "10.0.2.0"]),
        ("hash:ip family inet6", "FD00:0::A", ["fd00::a"]),
        ("hash:net", "10.0.0.1-10.0.0.3", ["10.0.0.1", "10.0.0.2/31"]),
        ("hash:net", "10.1.2.3/8 nomatch", ["10.0.0.0/8 nomatch"]),
        ("hash:ip,port", "10.0.0.1,81-80", ["10.0.0.1,tcp:80", "10.0.0.1,tcp:81"]),
        ("hash:ip,port", "10.0.0.1,udp:domain", ["10.0.0.1,udp:53"]),
        ("hash:ip,port", "10.0.0.1,icmp:ping", ["10.0.0.1,icmp:echo-request"]),
        ("hash:ip,port", "10.0.0.1,icmp:3/8", ["10.0.0.1,icmp:3/8"]),
        ("hash:ip,port", "10.0.0.1,47:0", ["10.0.0.1,gre:0"]),
        ("hash:ip,port family inet6", "fd00::1,icmpv6:128/0", ["fd00::1,ipv6-icmp:echo-request"]),
        ("hash:ip,port,net", "10.0.0.1,80,10.5.6.7/16", ["10.0.0.1,tcp:80,10.5.0.0/16"]),
        ("hash:net,iface", "0.0.0.0/0,eth wildcard", ["0.0.0.0/0,eth wildcard"]),
        ("hash:net,iface", "10.0.0.7,physdev:eth0", ["10.0.0.7,physdev:eth0"]),
        ("hash:ip,mark", "10.0.0.1,7", ["10.0.0.1,0x00000007"]),
        ("bitmap:ip,mac range 10.0.0.0/24", "10.0.0.1,a:b:c:0:0:1", ["10.0.0.1,0A:0B:0C:00:00:01"]),
        ("bitmap:port range 80-90", "tcp:82-83", ["82", "83"]),
        (
            "hash:ip counters comment skbinfo",
            '10.0.0.1 packets 5 bytes 010 comment "a # b" skbmark 0x1/0xff skbprio 1:10 skbqueue 3',
            ['10.0.0.1 packets 5 bytes 8 comment "a # b" skbmark 0x1/0xff skbprio 1:10 skbqueue 3'],
        ),
        ("hash:ip skbinfo", "10.0.0.1 skbmark 0x1ffffffff", ["10.0.0.1 skbmark 0xffffffff"]),
    ],
)
def test_what_an_element_stands_for(kind: str, element: str, saved: list[str]) -> None:
    assert added(f"create s {kind}", f"add s {element}") == saved


@pytest.mark.parametrize(
    ("lines", "message", "column"),
    [
        (["create s hash:nope"], "typename 'hash:nope' is unknown", 10),
        (["create s"], "Missing mandatory argument to command create", 1),
        (["create s hash:ip", "create s hash:ip"], "Set cannot be created: set with the same name already exists", 8),
        ([f"create {'s' * 32} hash:ip"], "is longer than 31 characters", 8),
        (["create s hash:ip range 1.1.1.1-1.1.1.2"], "Unknown argument: `range'", 18),
        (["create s hash:ip netmask 33"], "out of range", 26),
        (["create s hash:ip netmask 24 bitmask 255.0.0.0"], "mutually exclusive", 37),
        (["create s hash:ip timeout 10 timeout 20"], "timeout already specified", 29),
        (["create s hash:ip timeout 2147484"], "out of range", 26),
        (["create s hash:ip family inet4"], "unknown inet family inet4", 25),
        (["create s bitmap:port"], "Mandatory option `range' is missing", None),
        (["create s bitmap:ip range 10.0.0.0/8"], "exceeds the size limit", 26),
        (["create s hash:ip", "add s 10.0.0.1", "add s 10.0.0.1"], "it's already added", 7),
        (["create s hash:ip", "del s 10.0.0.1"], "it's not added", 7),
        (["create s hash:ip maxelem 1", "add s 10.0.0.1-10.0.0.2"], "Hash is full", 7),
        (["create s hash:ip", "add s 0.0.0.0"], "Null-valued element", 7),
        (["create s hash:ip", "add s fd00::1"], "resolving to IPv4 address failed", 7),
        (["create s hash:ip", "add s 10.0.0.1 nomatch"], "Unknown argument: `nomatch'", 16),
        (["create s hash:ip", "add s 10.0.0.1 timeout 5"], "created without timeout support", 24),
        (["create s hash:ip", "add s 10.0.0.1 packets 5"], "created without counter support", 24),
        (["create s hash:ip comment", 'add s 10.0.0.1 comment "a'], "quotes are not closed", 24),
        (["create s hash:ip", "add s 10.0.0.1 # no comment"], "Unknown argument: `#'", 16),
        (["create s hash:net", "add s 0.0.0.0/0"], "CIDR parameter of the IP address is invalid", 7),
        (["create s hash:ip,port", "add s 10.0.0.1"], "Second element is missing", 7),
        (["create s hash:ip,port", "add s 10.0.0.1,icmp:8"], "as an ICMP type/code", 7),
        (["create s hash:ip,port", "add s 10.0.0.1,icmpv6:128/0"], "with the other family only", 7),
        (["create s hash:ip,port", "add s 10.0.0.1,gre:5"], "pseudo port value 0 only", 7),
        (["create s hash:ip,port", "add s 10.0.0.1,udp:http"], "as a udp port", 7),
        (["create s bitmap:port range 80-90", "add s 79"], "out of the range of the set", 7),
        (["create s list:set", "add s t"], "as element does not exist", 7),
        (["create s list:set", "add s s"], "list:set type cannot be added", 7),
        (["create s hash:ip", "create l list:set", "add l s", "destroy s"], "in use by a kernel component", 9),
        (["create s hash:ip", "create l list:set", "add l s", "rename s t"], "in use by another system", 8),
        (["create s hash:ip", "create t hash:net", "swap s t"], "their type does not match", 8),
        (["flush nope"], "does not exist", 7),
    ],
)
def test_what_is_refused_and_where(lines: list[str], message: str, column: int | None) -> None:
    with pytest.raises(RulesetSyntaxError) as caught:
        restore_sets(IpSets(), "\n".join(lines), file="sets")
    assert message in str(caught.value)
    assert (caught.value.file, caught.value.line) == ("sets", len(lines))
    assert column is None or caught.value.column == column


def test_commands_that_change_what_is_there() -> None:
    sets = made(
        "create a hash:ip", "add a 10.0.0.1", "create b hash:ip maxelem 7", "add b 10.0.0.2", "swap a b",
        "add a 10.0.0.2 -exist", "create a hash:ip maxelem 7 -exist", "rename b c", "del a 10.0.0.9 -exist",
        "create l list:set", "add l c", "add l a before c", "create d hash:ip", "add l d after a",
    )  # fmt: skip
    text = save_text(sets, 0)
    assert [line for line in text.splitlines() if line.startswith("add")] == [
        "add a 10.0.0.2", "add c 10.0.0.1", "add l a", "add l d", "add l c",
    ]  # fmt: skip
    assert run_ipset(sets, ["save", "c"]).splitlines()[1:] == ["add c 10.0.0.1"]
    again = IpSets()
    restore_sets(again, text)
    assert save_text(again, 0) == text


def test_time_runs_out_after_the_jiffy_in_which_it_ends() -> None:
    sets = made("create s hash:ip timeout 10", "add s 10.0.0.1", "add s 10.0.0.2 timeout 3", "add s 10.0.0.3 timeout 0")
    at = [save_text(sets, seconds * NS_PER_S).count("\nadd") for seconds in (0, 3, 10, 11)]
    assert at == [3, 3, 2, 1]
    assert save_text(sets, 3 * NS_PER_S + NS_PER_JIFFY).count("\nadd") == 2
    assert "add s 10.0.0.1 timeout 6\n" in save_text(sets, 3 * NS_PER_S + NS_PER_JIFFY)


def test_a_full_set_with_forceadd_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedFeature, match="forceadd") as caught:
        restore_sets(IpSets(), "create s hash:ip forceadd maxelem 1\nadd s 10.0.0.1\nadd s 10.0.0.2", file="sets")
    assert (caught.value.file, caught.value.line, caught.value.column) == ("sets", 3, 7)


def test_every_type_can_be_made_and_saved() -> None:
    for name, kind in TYPES.items():
        given = f"create s {name}"
        if "range" in kind.create:
            given += " range 80-90" if name == "bitmap:port" else " range 10.0.0.0/24"
        text = save_text(made(given), 0)
        assert save_text(made(text.strip()), 0) == text


class TestRules:
    """Rules that name sets."""

    def test_a_set_that_is_not_there(self) -> None:
        kernel = Kernel()
        with pytest.raises(RulesetSyntaxError, match="chain INPUT, rule 1: Set s doesn't exist"):
            kernel.iptables("-A INPUT -m set --match-set s src")
        with pytest.raises(RulesetSyntaxError, match="Set s doesn't exist") as caught:
            kernel.iptables_restore("*filter\n-A OUTPUT\n-A INPUT\n-A INPUT -m set --match-set s src\nCOMMIT\n")
        assert (caught.value.line, caught.value.column) == (4, 29)
        assert "match-set" not in kernel.iptables_save()

    @pytest.mark.parametrize("words", ["-m ipvs --ipvs", "-p tcp -j TPROXY --on-port 80", "-m helper --helper ftp"])
    def test_what_is_not_modelled_is_refused_where_it_stands(self, words: str) -> None:
        kernel = Kernel()
        with pytest.raises(UnsupportedFeature) as caught:
            kernel.iptables_restore(f"*mangle\n[1:2] -A PREROUTING -i lo\n[0:0] -A PREROUTING {words}\nCOMMIT\n")
        column = 21 + len(words[: words.index(caught.value.feature.split()[1])])
        assert (caught.value.line, caught.value.column) == (3, column)

    def test_a_set_of_the_other_family(self) -> None:
        kernel = Kernel()
        kernel.ipset("create s hash:ip family inet6")
        with pytest.raises(RulesetSyntaxError, match="protocol family of set s is IPv6"):
            kernel.iptables("-A INPUT -m set --match-set s src")

    def test_a_set_in_use(self) -> None:
        kernel = Kernel()
        kernel.ipset("create s hash:ip")
        kernel.iptables("-A INPUT -m set --match-set s src")
        with pytest.raises(RulesetSyntaxError, match="in use by a kernel component"):
            kernel.ipset("destroy s")
        kernel.iptables("-F INPUT")
        kernel.ipset("destroy s")
        assert kernel.ipset_save() == ""

    def test_map_set_is_for_mangle(self) -> None:
        kernel = Kernel()
        kernel.ipset("create s hash:ip skbinfo")
        kernel.iptables("-t mangle -A INPUT -j SET --map-set s src --map-mark")
        with pytest.raises(RulesetSyntaxError, match="SET can be used in table mangle only"):
            kernel.iptables("-A INPUT -j SET --map-set s src --map-mark")
