"""Settings: names, checks, and what ``all`` and ``default`` do to interfaces."""

from __future__ import annotations

import pytest

from pktsim.errors import PktsimError, UnsupportedFeature
from pktsim.kernel.sysctl import Sysctls


def with_interface() -> Sysctls:
    sysctls = Sysctls()
    sysctls.interface_added("eth0")
    return sysctls


def test_defaults_are_those_of_a_fresh_namespace() -> None:
    sysctls = with_interface()
    assert sysctls.number("net.ipv4.ip_default_ttl") == 64
    assert sysctls.number("net.ipv4.ip_forward") == 0
    assert sysctls.numbers("net.ipv4.tcp_rmem") == (4096, 131072, 33554432)
    assert sysctls.text("net.ipv4.tcp_congestion_control") == "cubic"
    assert sysctls.number("net.ipv4.neigh.eth0.proxy_delay") == 80
    assert sysctls.number("net.netfilter.nf_conntrack_tcp_timeout_established") == 432000


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("net.ipv4.ip_default_ttl", 0, "not in 1..255"),
        ("net.ipv4.ip_default_ttl", "many", "is not a number"),
        ("net.ipv4.tcp_rmem", "1 2", "takes 3 numbers"),
        ("net.ipv4.conf.eth7.rp_filter", 1, "no interface 'eth7'"),
        ("net.ipv4.conf.eth0.rp_filtre", 1, "is not modelled"),
        ("net.ipv4.no_such_thing", 1, "is not modelled"),
        ("net.ipv4.conf.eth0.bc_forwarding", 1, "is not modelled"),
    ],
)
def test_bad_setting_is_refused_in_one_line(name: str, value: str | int, part: str) -> None:
    sysctls = with_interface()
    with pytest.raises(PktsimError) as caught:
        sysctls.set(name, value)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_value_that_is_not_modelled_may_be_written_as_it_is() -> None:
    sysctls = with_interface()
    sysctls.set("net.ipv4.conf.eth0.bc_forwarding", 0)
    sysctls.set("net.netfilter.nf_conntrack_events", 0)
    with pytest.raises(UnsupportedFeature):
        sysctls.set("net.netfilter.nf_conntrack_events", 1)


def test_labels_of_connections_are_not_reflected() -> None:
    sysctls = with_interface()
    sysctls.set("net.ipv6.flowlabel_reflect", 4)
    for value in (1, 2, 5, 7):
        with pytest.raises(UnsupportedFeature, match="flowlabel_reflect"):
            sysctls.set("net.ipv6.flowlabel_reflect", value)


def test_forwarding_of_all_reaches_every_interface_and_default() -> None:
    changes: list[tuple[str, str, str]] = []
    sysctls = Sysctls(lambda *change: changes.append(change))
    sysctls.interface_added("eth0")
    sysctls.set("net.ipv4.ip_forward", 1)
    assert sysctls.number("net.ipv4.conf.eth0.forwarding") == 1
    assert ("net.ipv4.conf", "eth0", "forwarding") in changes
    sysctls.interface_added("eth1")
    assert sysctls.number("net.ipv4.conf.eth1.forwarding") == 1
    assert sysctls.number("net.ipv4.conf.all.accept_redirects") == 0


def test_default_reaches_interfaces_that_were_not_told_otherwise() -> None:
    sysctls = with_interface()
    sysctls.interface_added("eth1")
    sysctls.set("net.ipv4.conf.eth0.rp_filter", 2)
    sysctls.set("net.ipv4.conf.default.rp_filter", 1)
    assert sysctls.number("net.ipv4.conf.eth0.rp_filter") == 2
    assert sysctls.number("net.ipv4.conf.eth1.rp_filter") == 1


def test_all_combines_with_the_interface_when_read() -> None:
    sysctls = with_interface()
    sysctls.set("net.ipv4.conf.all.arp_ignore", 1)
    sysctls.set("net.ipv4.conf.eth0.arp_ignore", 2)
    assert sysctls.conf_max("eth0", "arp_ignore") == 2
    sysctls.set("net.ipv4.conf.eth0.arp_ignore", 0)
    assert sysctls.conf_max("eth0", "arp_ignore") == 1
    assert not sysctls.conf_or("eth0", "proxy_arp")
    sysctls.set("net.ipv4.conf.all.proxy_arp", 1)
    assert sysctls.conf_or("eth0", "proxy_arp")
    assert not sysctls.conf_and("eth0", "proxy_arp")


def test_interface_with_a_dot_is_written_with_slashes() -> None:
    sysctls = Sysctls()
    sysctls.interface_added("eth0.100")
    sysctls.set("net/ipv4/conf/eth0.100/rp_filter", 1)
    assert sysctls.number("net.ipv4.conf.eth0.100.rp_filter") == 1


def test_renamed_interface_keeps_its_settings() -> None:
    sysctls = with_interface()
    sysctls.set("net.ipv4.conf.eth0.rp_filter", 1)
    sysctls.interface_renamed("eth0", "uplink")
    assert sysctls.number("net.ipv4.conf.uplink.rp_filter") == 1
    sysctls.interface_removed("uplink")
    with pytest.raises(PktsimError):
        sysctls.number("net.ipv4.conf.uplink.rp_filter")


def test_listing_is_sorted_and_complete() -> None:
    names = [name for name, _ in with_interface()]
    assert names == sorted(names)
    assert "net.ipv4.ip_forward" in names
    assert "net.ipv4.conf.eth0.proxy_arp" in names
