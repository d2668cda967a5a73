"""nft rulesets at work in one kernel: order, verdicts, sets, states. The live tests compare the same with Linux."""

from __future__ import annotations

import random
from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from pktsim._fastpath import NftSet
from pktsim.errors import PktsimError, UnsupportedFeature
from pktsim.kernel.kernel import Fate, Kernel

POD_MAC = "02:00:00:00:02:0a"


@pytest.fixture
def kernel() -> Kernel:
    made = Kernel(forward=True)
    made.interface("eth0", "10.0.0.1/24", mac="02:00:00:00:00:01")
    made.interface("pod0", mac="02:00:00:00:00:0a")
    made.route("10.244.1.2 dev pod0 scope link")
    made.neighbour("10.244.1.2", POD_MAC, "pod0")
    made.neighbour("10.0.0.2", "02:00:00:00:01:02", "eth0")
    return made


def frame(
    *,
    dport: int = 80,
    sport: int = 4000,
    src: str = "10.0.0.2",
    dst: str = "10.244.1.2",
    udp: bool = False,
    data: str = "",
) -> bytes:
    layer = UDP(sport=sport, dport=dport) if udp else TCP(sport=sport, dport=dport, flags="S")
    packet = Ether(src="02:00:00:00:01:02", dst="02:00:00:00:00:01") / IP(src=src, dst=dst) / layer / data.encode()
    return bytes(packet)


def fate(kernel: Kernel, **packet: object) -> Fate:
    return kernel.receive("eth0", frame(**packet)).fate  # type: ignore[arg-type]


def counters(kernel: Kernel) -> list[int]:
    """Packets of each counter, in the order of the rules."""
    words = kernel.nft_list_ruleset().split()
    return [int(words[at + 2]) for at, word in enumerate(words) if word == "counter" and words[at + 1] == "packets"]


FORWARD = "type filter hook forward priority {}; policy {};"


def test_accept_ends_one_base_chain_and_drop_all(kernel: Kernel) -> None:
    first, second = FORWARD.format(0, "accept"), FORWARD.format(10, "accept")
    accepting = f"chain a {{ {first} counter accept; counter; }}"
    kernel.nft(f"table ip t {{ {accepting}; chain b {{ {second} counter tcp dport 80 drop; }} }}")
    assert fate(kernel) is Fate.DROPPED
    assert fate(kernel, dport=81) is Fate.FORWARDED
    assert counters(kernel) == [2, 0, 2]


def test_the_policy_is_for_what_no_rule_decides(kernel: Kernel) -> None:
    kernel.nft(f"table ip t {{ chain a {{ {FORWARD.format(0, 'drop')} tcp dport 80 accept; }} }}")
    assert fate(kernel) is Fate.FORWARDED
    assert fate(kernel, dport=81) is Fate.DROPPED


def test_who_comes_later_goes_first_at_one_priority(kernel: Kernel) -> None:
    kernel.iptables("-A FORWARD -p tcp --dport 80 -j DROP")
    hook = FORWARD.format(0, "accept")
    kernel.nft(f"table ip t {{ chain a {{ {hook} counter; }}; chain b {{ {hook} counter meta mark set 1; }} }}")
    text = str(kernel.receive("eth0", frame()))
    assert text.index("chain b") < text.index("chain a") < text.index("table filter")


def test_priorities_interleave_with_iptables(kernel: Kernel) -> None:
    kernel.iptables("-t mangle -A PREROUTING -j MARK --set-mark 1")
    kernel.nft(
        "table ip t {"
        " chain before { type filter hook prerouting priority -160; meta mark 1 counter; }"
        " chain after { type filter hook prerouting priority -140; meta mark 1 counter; } }"
    )
    fate(kernel)
    assert counters(kernel) == [0, 1]


def test_dnat_and_masquerade(kernel: Kernel) -> None:
    kernel.nft(
        "table ip t {"
        " chain pre { type nat hook prerouting priority dstnat;"
        " ip daddr 10.96.0.10 tcp dport 80 counter dnat to 10.244.1.2:8080; }"
        " chain post { type nat hook postrouting priority srcnat; oifname \"pod0\" counter snat to 10.0.0.1; } }"
    )  # fmt: skip
    ((interface, sent),) = kernel.receive("eth0", frame(dst="10.96.0.10")).sent
    packet = Ether(sent)
    assert (interface, packet[IP].dst, packet[TCP].dport, packet[IP].src) == ("pod0", "10.244.1.2", 8080, "10.0.0.1")
    # only the first packet of a connection is asked
    kernel.receive("eth0", frame(dst="10.96.0.10"))
    assert counters(kernel) == [1, 1]


def test_a_nat_chain_alone_does_not_track_connections(kernel: Kernel) -> None:
    kernel.nft("table ip t { chain pre { type nat hook prerouting priority -100; counter; } }")
    fate(kernel)
    assert counters(kernel) == [0]
    assert kernel.conntrack() == ""


def test_a_truncated_header_is_no_match_and_no_drop(kernel: Kernel) -> None:
    kernel.nft(f"table ip t {{ chain a {{ {FORWARD.format(0, 'accept')} tcp dport 80 counter drop; counter; }} }}")
    header = IP(src="10.0.0.2", dst="10.244.1.2", proto=6) / b"\x0f\xa0"
    assert kernel.receive("eth0", bytes(Ether(dst="02:00:00:00:00:01") / header)).fate is Fate.FORWARDED
    assert counters(kernel) == [0, 1]


def test_a_verdict_map_leads_on_and_back(kernel: Kernel) -> None:
    kernel.nft(
        "table ip t { chain web { counter; }; chain dns { counter return; counter; }"
        f" chain a {{ {FORWARD.format(0, 'drop')}"
        " meta l4proto . th dport vmap { tcp . 80 : jump web, udp . 53 : jump dns };"
        " counter accept; } }"
    )  # fmt: skip
    assert fate(kernel) is Fate.FORWARDED
    assert fate(kernel, dport=53, udp=True) is Fate.FORWARDED
    assert counters(kernel) == [1, 1, 0, 2]


def test_a_transaction_keeps_counters_and_elements(kernel: Kernel) -> None:
    kernel.nft(
        "table ip t { set seen { type ipv4_addr; flags dynamic; }"
        f" chain a {{ {FORWARD.format(0, 'accept')} counter add @seen {{ ip saddr }}; }} }}"
    )
    fate(kernel)
    kernel.nft("add rule ip t a tcp dport 80 counter\nadd element ip t seen { 1.2.3.4 }")
    fate(kernel)
    assert counters(kernel) == [2, 1]
    assert "elements = { 1.2.3.4, 10.0.0.2 }" in kernel.nft_list_ruleset()


def test_a_script_that_fails_changes_nothing(kernel: Kernel) -> None:
    kernel.nft(f"table ip t {{ chain a {{ {FORWARD.format(0, 'accept')} counter; }} }}")
    before = kernel.nft_list_ruleset()
    with pytest.raises(PktsimError):
        kernel.nft("flush ruleset\nadd rule ip t a drop")
    with pytest.raises(UnsupportedFeature):
        kernel.nft("add rule ip t a drop\nadd rule ip t a ct count 5")
    assert kernel.nft_list_ruleset() == before
    fate(kernel)
    assert counters(kernel) == [1]


def test_elements_time_out_on_the_simulated_clock(kernel: Kernel) -> None:
    kernel.nft(
        "table ip t { set s { type ipv4_addr; flags dynamic,timeout; timeout 10s; }"
        f" chain a {{ {FORWARD.format(0, 'accept')} ip saddr @s counter; update @s {{ ip saddr }}; }} }}"
    )
    fate(kernel)
    kernel.run(8)
    fate(kernel)
    kernel.run(8)
    fate(kernel)
    assert counters(kernel) == [2]
    assert "10.0.0.2 expires" in kernel.nft_list_ruleset()
    kernel.run(11)
    assert "elements" not in kernel.nft_list_ruleset()


def test_an_update_goes_by_the_time_of_the_rule_or_the_set(kernel: Kernel) -> None:
    kernel.nft(
        "table ip t { set s { type ipv4_addr; flags dynamic,timeout; timeout 10s; }"
        " set u { type ipv4_addr; flags dynamic,timeout; }"
        f" chain a {{ {FORWARD.format(0, 'accept')} add @s {{ ip saddr timeout 1h }} add @u {{ ip saddr timeout 1h }}"
        " tcp dport 81 update @s { ip saddr } update @u { ip saddr }; } }"
    )
    fate(kernel)
    assert kernel.nft_list_ruleset().count("10.0.0.2 timeout 1h expires 1h") == 2
    fate(kernel, dport=81)
    assert "10.0.0.2 timeout 1h expires 10s" in kernel.nft_list_ruleset()
    assert "elements" not in kernel.nft_list_ruleset().split("set u")[1].split("chain")[0]


def test_a_reset_that_is_made_a_segment_to_refuse_is_no_endless_matter(kernel: Kernel) -> None:
    kernel.nft(
        f"table ip t {{ chain a {{ {FORWARD.format(0, 'accept')} reject with tcp reset; }}"
        " chain b { type filter hook output priority 0; tcp flags set syn reject with tcp reset; } }"
    )
    with pytest.raises(UnsupportedFeature, match="refused itself"):
        fate(kernel)


def test_a_full_set_takes_no_more(kernel: Kernel) -> None:
    kernel.nft(
        "table ip t { set s { type ipv4_addr; flags dynamic; size 2; }"
        f" chain a {{ {FORWARD.format(0, 'accept')} add @s {{ ip saddr }} counter; }} }}"
    )
    for last in (2, 3, 4, 2):
        fate(kernel, src=f"10.0.0.{last}")
    assert counters(kernel) == [3]


def test_limits_and_quotas(kernel: Kernel) -> None:
    kernel.nft(
        f"table ip t {{ chain a {{ {FORWARD.format(0, 'accept')}"
        " limit rate 1/second burst 2 packets counter; quota 80 bytes counter; quota over 80 bytes counter; } }"
    )
    for _ in range(4):
        fate(kernel)
    kernel.run(1)
    fate(kernel)
    assert counters(kernel) == [3, 2, 3]


def test_what_is_written_to_a_packet_mends_its_checksums(kernel: Kernel) -> None:
    kernel.nft(
        f"table ip t {{ chain a {{ {FORWARD.format(0, 'accept')}"
        " ip ttl set 9 ip dscp set ef ip daddr set 10.244.1.2 tcp sport set 77 ; } }"
    )
    ((_, sent),) = kernel.receive("eth0", frame()).sent
    packet = Ether(sent)
    assert (packet[IP].ttl, packet[IP].tos, packet[TCP].sport) == (9, 0xB8, 77)
    again = packet.copy()
    del again[IP].chksum, again[TCP].chksum
    assert bytes(again) == sent


def test_reject_answers(kernel: Kernel) -> None:
    kernel.nft(
        f"table inet t {{ chain a {{ {FORWARD.format(0, 'accept')} tcp dport 80 reject with tcp reset; reject; }} }}"
    )
    outcome = kernel.receive("eth0", frame())
    assert outcome.fate is Fate.REFUSED
    assert Ether(outcome.sent[0][1])[TCP].flags == "RA"
    assert Ether(kernel.receive("eth0", frame(dport=81)).sent[0][1])[IP].proto == 1


def test_the_trace_names_chains_and_rules(kernel: Kernel) -> None:
    kernel.nft(
        f"table ip t {{ chain web {{ tcp dport 80 drop; }}; chain a {{ {FORWARD.format(0, 'accept')} jump web; }} }}"
    )
    text = str(kernel.receive("eth0", frame()))
    assert "table ip t, chain a" in text
    assert "web tcp dport 80 drop" in text
    assert "a rule said DROP (ip t web rule 1)" in text


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_sets_find_what_a_list_would(kind: int) -> None:
    chance = random.Random(kind)
    sizes = [4, 4] if kind == 2 else [4]
    engine = NftSet(kind, sizes, 4)
    kept: list[tuple[bytes, bytes, bytes]] = []
    taken = 0
    for number in range(150):
        low, high = b"", b""
        for _ in sizes:
            if kind == 1:
                first = taken + chance.randrange(1, 20)
                taken = last = first + chance.randrange(0, 9)
            else:
                first = chance.randrange(0, 400)
                last = first + (chance.randrange(0, 60) if kind else 0)
            low, high = low + first.to_bytes(4, "big"), high + last.to_bytes(4, "big")
        if kind == 0 and any(low == one[0] for one in kept):
            continue
        data = number.to_bytes(4, "big")
        engine.add(low, high, data)
        kept.append((low, high, data))
    for gone in kept[::7]:
        assert engine.delete(gone[0])
    kept = [one for at, one in enumerate(kept) if at % 7]
    engine.build()

    def wanted(key: bytes) -> bytes | None:
        for low, high, data in kept:
            parts = range(0, len(key), 4)
            if all(low[at : at + 4] <= key[at : at + 4] <= high[at : at + 4] for at in parts):
                return data
        return None

    for _ in range(3000):
        key = b"".join(chance.randrange(0, 2000 if kind == 1 else 500).to_bytes(4, "big") for _ in sizes)
        assert engine.find(key, 0) == wanted(key), IPv4Address(key[:4])


def test_an_address_of_two_interfaces_is_that_of_the_first(kernel: Kernel) -> None:
    kernel.interface("pod1", "10.244.1.1/32", mac="02:00:00:00:00:0b")
    kernel.interface("pod2", "10.244.1.1/32", mac="02:00:00:00:00:0c")
    hook = "type filter hook prerouting priority 0; policy accept;"
    kernel.nft(f"table ip t {{ chain a {{ {hook} fib daddr . iif type local counter; }} }}")
    for number, name in enumerate(("pod1", "pod2")):
        packet = Ether(dst=f"02:00:00:00:00:0{'bc'[number]}") / IP(src="10.244.1.9", dst="10.244.1.1") / UDP()
        kernel.receive(name, bytes(packet))
    assert counters(kernel) == [1]


def test_an_authentication_header_is_a_transport_header(kernel: Kernel) -> None:
    kernel.interface("six", "fd00::1/64", mac="02:00:00:00:00:06")
    hook = "type filter hook prerouting priority 0; policy accept;"
    kernel.nft(f"table ip6 t {{ chain a {{ {hook} meta l4proto ah counter; udp dport 9 counter; }} }}")
    header = bytes.fromhex("11040000000000000000000000000000" + "0000000000000000")
    packet = Ether(dst="02:00:00:00:00:06") / IPv6(src="fd00::2", dst="fd00::1", nh=51) / (header + bytes(UDP(dport=9)))
    kernel.receive("six", bytes(packet))
    assert counters(kernel) == [1, 0]
