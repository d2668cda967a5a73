"""What a later kube-proxy does otherwise, and that 1.30 does not."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from typer.testing import CliRunner

from pktsim.cli import app
from pktsim.clock import NS_PER_MS, NS_PER_S, Clock
from pktsim.cluster.cluster import Cluster
from pktsim.cluster.kubeproxy.config import KubeProxyConfiguration
from pktsim.cluster.kubeproxy.proxier import KubeProxy, SyncReport
from pktsim.cluster.kubeproxy.recording import RecordedHost
from pktsim.cluster.kubeproxy.recording_updates import RecordedEntry
from pktsim.cluster.kubeproxy.versions import CHANGES, DEFAULT_RELEASE, GATES, NEWEST, OLDEST, Behaviour, Release
from pktsim.cluster.loader import load_objects
from pktsim.cluster.store import ObjectStore
from pktsim.errors import ObjectError, UnsupportedFeature
from pktsim.netfilter.iptables_text import print_save
from pktsim.netfilter.ruleset import Family
from pktsim.scenario.script import front, world
from tests.cluster.test_kubeproxy import NODE, endpoints, service

VERSIONS = [f"1.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1)]


class World:
    def __init__(
        self, text: str, version: str, *, nfacct: bool = False, config: dict[str, object] | None = None
    ) -> None:
        self.clock = Clock()
        self.store = ObjectStore()
        self.store.apply_all(load_objects(text, check=False))
        self.host = RecordedHost((ip_address("127.0.0.1"), ip_address("192.0.2.1")), nfacct=nfacct)
        self.reports: list[SyncReport] = []
        settings = KubeProxyConfiguration.model_validate({"clusterCIDR": "10.0.0.0/8", **(config or {})})
        self.proxy = KubeProxy(settings, "n", self.host, self.clock, self.store, Release.parse(version))
        self.proxy.observe(self.reports.append)
        self.proxy.start()
        self.host.commands.clear()

    def apply(self, text: str, seconds: float = 2) -> None:
        self.store.apply_all(load_objects(text, check=False))
        self.clock.run_for(int(seconds * NS_PER_S))

    def gone(self, *lines: str) -> list[bool]:
        """Which of these entries were deleted since the start."""
        entries = [RecordedEntry.parse(line) for line in lines]
        return [any(one.matches(entry) for one in self.host.commands) for entry in entries]

    @property
    def rules(self) -> str:
        return print_save(self.host.ruleset(Family.IPV4))


def udp(*ips: str) -> str:
    return endpoints("a", *ips, protocol="UDP")


SERVICE = service("a", "10.96.0.1", "UDP")


def entry(endpoint: str, port: int = 8080, vip: str = "10.96.0.1", dport: int = 80) -> str:
    return (
        f"udp src=10.1.0.9 dst={vip} sport=5 dport={dport} [UNREPLIED] src={endpoint} dst=10.1.0.9 sport={port} dport=5"
    )


TO_ONE, TO_TWO = entry("10.1.0.1"), entry("10.1.0.2")

#: The endpoint goes away, and what of these is deleted: since which release.
GONE_WITH_ITS_ENDPOINT = {version: version not in ("1.32", "1.33", "1.34", "1.35", "1.36") for version in VERSIONS}


@pytest.mark.parametrize("version", VERSIONS)
def test_last_endpoint_goes(version: str) -> None:
    """kubernetes/kubernetes#139628: a black hole from 1.32 until it was mended."""
    world = World(NODE + SERVICE + udp("10.1.0.1"), version)
    world.apply(udp())
    assert world.gone(TO_ONE) == [GONE_WITH_ITS_ENDPOINT[version]]


@pytest.mark.parametrize("version", VERSIONS)
def test_one_of_two_endpoints_goes(version: str) -> None:
    world = World(NODE + SERVICE + udp("10.1.0.1", "10.1.0.2"), version)
    world.apply(udp("10.1.0.2"))
    assert world.gone(TO_ONE, TO_TWO) == [True, False]
    tcp = TO_ONE.replace("udp", "tcp SYN_SENT")
    assert world.gone(tcp) == [False]


@pytest.mark.parametrize("version", VERSIONS)
def test_service_is_deleted(version: str) -> None:
    """kubernetes/kubernetes#141371."""
    world = World(NODE + SERVICE.replace("ports:", "externalIPs: [198.51.100.1], ports:") + udp("10.1.0.1"), version)
    world.store.delete("Service", "a", "default")
    world.clock.run_for(NS_PER_S)
    outside = entry("10.1.0.1", vip="198.51.100.1")
    assert world.gone(TO_ONE, outside) == {"1.30": [True, False], "1.31": [True, False], "1.38": [True, True]}.get(
        version, [False, False]
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_target_port_changes(version: str) -> None:
    """Events know the endpoint's whole text, the reconciler its port since kubernetes/kubernetes#130542."""
    world = World(NODE + SERVICE + udp("10.1.0.1"), version)
    world.apply(udp("10.1.0.1").replace("8080", "9090"))
    assert world.gone(TO_ONE) == [version not in ("1.32", "1.33")]


@pytest.mark.parametrize("version", VERSIONS)
def test_entries_of_the_other_port_of_a_service(version: str) -> None:
    """The tool's filter has no port; the reconciler knows ports."""
    two = SERVICE.replace("{port: 80,", "{name: a, port: 80, protocol: UDP}, {name: b, port: 81,")
    slices = udp("10.1.0.1", "10.1.0.2").replace("{name: ''", "{name: a, port: 8080, protocol: UDP}, {name: b")
    world = World(NODE + two + slices, version)
    world.apply(slices.replace("{name: a, port: 8080, protocol: UDP}, ", "").replace("name: a-ipv4", "name: a-ipv4"))
    other = entry("10.1.0.1", dport=81)
    assert world.gone(other) == [version in ("1.30", "1.31")]


@pytest.mark.parametrize("version", ["1.32", "1.38"])
def test_the_table_is_read_only_when_udp_endpoints_change(version: str) -> None:
    world = World(NODE + SERVICE + udp("10.1.0.1") + service("b", "10.96.0.2") + endpoints("b", "10.1.1.1"), version)
    world.apply(endpoints("b", "10.1.1.2"))
    assert world.host.commands == []
    world.apply(udp("10.1.0.2"))
    (one,) = world.host.commands
    assert one.arguments == ()


def test_what_is_not_known_about_stays() -> None:
    world = World(NODE + SERVICE.replace("port: 80,", "port: 80, nodePort: 30080,") + udp("10.1.0.1"), "1.38")
    world.apply(udp("10.1.0.2"))
    to_node_port = entry("10.1.0.1", vip="192.0.2.1", dport=30080)
    plain = entry("192.0.2.7", vip="192.0.2.7", dport=53)
    six = "udp src=fd00::9 dst=fd00::1 sport=5 dport=80 [UNREPLIED] src=fd01::1 dst=fd00::9 sport=8080 dport=5"
    assert world.gone(to_node_port, plain, six) == [True, False, False]


@pytest.mark.parametrize("version", VERSIONS)
def test_three_changes_in_a_row(version: str) -> None:
    """The runner's token bucket let two syncs pass at once."""
    world = World(NODE + SERVICE + udp("10.1.0.1"), version)
    world.clock.run_for(10 * NS_PER_S)
    world.reports.clear()
    start = world.clock.now_ns
    for number in range(2, 5):
        world.apply(udp(f"10.1.0.{number}"), 0.1)
    world.clock.run_for(5 * NS_PER_S)
    times = [(one.at_ns - start) // NS_PER_MS for one in world.reports]
    assert times == ([0, 100, 1100] if version < "1.34" else [0, 1000])


@pytest.mark.parametrize("version", VERSIONS)
def test_labels_other_than_the_zone(version: str) -> None:
    world = World(NODE, version)
    world.reports.clear()
    world.apply(NODE.replace("labels: {}", "labels: {a: b}"))
    assert len(world.reports) == (2 if version < "1.35" else 0)
    world.apply(NODE.replace("labels: {}", "labels: {a: b, topology.kubernetes.io/zone: x}"))
    assert world.reports[-1].full


NODE_PORT = service("a", "10.96.0.1", spec=", type: NodePort").replace("port: 80,", "port: 80, nodePort: 30080,")


def test_nfacct_rules_where_the_kernel_has_them() -> None:
    text = NODE + NODE_PORT + endpoints("a", "10.1.0.1")
    plain, counted = World(text, "1.30", nfacct=True).rules, World(text, "1.31", nfacct=True).rules
    assert plain == World(text, "1.38").rules
    new = sorted(set(counted.splitlines()) - set(plain.splitlines()))
    assert [line.partition(" -j")[0] for line in new] == [
        "-A KUBE-FORWARD -m conntrack --ctstate INVALID -m nfacct --nfacct-name  ct_state_invalid_dropped_pkts",
        '-A KUBE-NODEPORTS -d 127.0.0.0/8 -p tcp -m comment --comment "default/a" -m tcp --dport 30080 -m nfacct '
        "--nfacct-name  localhost_nps_accepted_pkts",
    ]
    off = World(text, "1.31", nfacct=True, config={"iptables": {"localhostNodePorts": False}}).rules
    assert "localhost_nps" not in off


# releases


def test_every_behaviour_has_a_release_and_a_source() -> None:
    assert {change.behaviour for change in CHANGES} == set(Behaviour)
    assert all(OLDEST < change.since <= NEWEST and change.source for change in CHANGES)
    assert all(list(gates) == sorted(gates, key=lambda gate: gate.since) for gates in GATES.values())


@pytest.mark.parametrize("text", ["1.33", "v1.33", "1.33.4", " v1.33.0 "])
def test_versions_that_are_read(text: str) -> None:
    assert Release.parse(text).version == (1, 33)


@pytest.mark.parametrize("text", ["1.29", "1.39", "1", "2.30", "latest", ""])
def test_versions_that_are_refused(text: str) -> None:
    with pytest.raises(UnsupportedFeature, match=r"choose one from 1\.30 to 1\.38"):
        Release.parse(text)


def test_gates() -> None:
    old, new = Release.parse("1.30"), Release.parse("1.33")
    assert not old.feature("ServiceTrafficDistribution")
    assert old.feature("ServiceTrafficDistribution", {"AllAlpha": True})
    assert not old.feature("LoadBalancerIPMode", {"AllBeta": False})
    assert old.feature("LoadBalancerIPMode", {"AllBeta": False, "LoadBalancerIPMode": True})
    assert new.feature("ServiceTrafficDistribution", {"AllBeta": False})
    assert not old.feature("PreferSameTrafficDistribution", {"PreferSameTrafficDistribution": True})
    assert new.feature("PreferSameTrafficDistribution", {"PreferSameTrafficDistribution": True})


def test_a_locked_gate_is_no_start() -> None:
    with pytest.raises(ObjectError, match=r"LoadBalancerIPMode is locked to true in 1\.32"):
        World(NODE, "1.32", config={"featureGates": {"LoadBalancerIPMode": False}})


def test_version_of_a_cluster() -> None:
    cluster = Cluster(1, kube_proxy_version="1.33")
    proxy = cluster.nodes[0].proxy
    assert proxy is not None
    assert str(proxy.release) == "1.33"


def test_nfacct_objects_of_a_cluster_count_on_each_node() -> None:
    cluster = world(0, front(), kube_proxy_version="1.36")
    nodes = [machine for machine in cluster.nodes if machine.proxy is not None]
    for times, node in enumerate(nodes, start=1):
        for _ in range(times):
            assert node.http_get("http://127.0.0.1:30080/").status == 200
    counted = [node.netns.datapath.context.accounts["localhost_nps_accepted_pkts"] for node in nodes]
    assert counted == [[times, times * 60] for times in range(1, len(nodes) + 1)]
    assert len(nodes) > 1


@pytest.mark.slow
def test_version_on_the_command_line() -> None:
    result = CliRunner().invoke(app, ["demo", "--kube-proxy-version", "1.38"])
    assert result.exit_code == 0
    for verb in ("demo", "run", "rules", "trace"):
        assert "--kube-proxy-version" in CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200"}).output
    assert str(DEFAULT_RELEASE) == "1.30"
