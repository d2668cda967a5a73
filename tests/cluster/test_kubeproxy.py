"""kube-proxy's timing, settings, configuration and health, where recordings do not reach."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktsim.clock import NS_PER_MS, NS_PER_S, Clock
from pktsim.cluster.kubeproxy.chain_names import KUBE_PROXY_CANARY, endpoint_chain, is_service_chain
from pktsim.cluster.kubeproxy.config import (
    KubeProxyConfiguration,
    NodePortAddresses,
    load_config,
    parse_duration_ns,
    startup_sysctls,
)
from pktsim.cluster.kubeproxy.conntrack_cleanup import ConntrackDelete
from pktsim.cluster.kubeproxy.iptables import probability
from pktsim.cluster.kubeproxy.proxier import KubeProxy, SyncReport
from pktsim.cluster.kubeproxy.recording import RecordedHost
from pktsim.cluster.kubeproxy.recording_updates import RecordedEntry
from pktsim.cluster.kubeproxy.restore import RestoreFailed, TableChange, TableWriter
from pktsim.cluster.kubeproxy.sync_runner import SyncRunner
from pktsim.cluster.loader import load_objects
from pktsim.cluster.store import ObjectStore
from pktsim.errors import ObjectError, TopologyError, UnsupportedFeature
from pktsim.netfilter.iptables_command import run_command
from pktsim.netfilter.iptables_text import parse_save, print_save
from pktsim.netfilter.ruleset import Family, Jump, Rule, Ruleset

NODE = "apiVersion: v1\nkind: Node\nmetadata: {name: n, labels: {}}\n---\n"


def service(name: str, ip: str, protocol: str = "TCP", spec: str = "", status: str = "{}") -> str:
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{clusterIP: '{ip}', ports: [{{port: 80, protocol: {protocol}}}]{spec}}}\nstatus: {status}\n---\n"
    )


def endpoints(name: str, *ips: str, protocol: str = "TCP", family: str = "IPv4", node: str = "n") -> str:
    several = ", ".join(f"{{addresses: ['{ip}'], nodeName: {node}}}" for ip in ips)
    return (
        f"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-{family.lower()}, "
        f"labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: {family}\n"
        f"ports: [{{name: '', port: 8080, protocol: {protocol}}}]\nendpoints: [{several}]\n---\n"
    )


class World:
    def __init__(self, text: str, config: str = "clusterCIDR: 10.0.0.0/8\n") -> None:
        head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
        self.clock = Clock()
        self.store = ObjectStore()
        self.store.apply_all(load_objects(text, check=False))
        self.host = RecordedHost((ip_address("127.0.0.1"), ip_address("192.0.2.1")))
        self.reports: list[SyncReport] = []
        self.proxy = KubeProxy(load_config(head + config), "n", self.host, self.clock, self.store)
        self.proxy.observe(self.reports.append)
        self.proxy.start()

    def apply(self, text: str, seconds: float = 0.0) -> None:
        self.store.apply_all(load_objects(text, check=False))
        self.clock.run_for(int(seconds * NS_PER_S))

    @contextmanager
    def syncs(self) -> Iterator[list[SyncReport]]:
        """The syncs that happen within."""
        before = len(self.reports)
        found: list[SyncReport] = []
        yield found
        found += self.reports[before:]

    def iptables(self, *commands: str) -> None:
        for command in commands:
            self.host.set_ruleset(run_command(self.host.ruleset(Family.IPV4), command).ruleset, {})

    @property
    def rules(self) -> str:
        return print_save(self.host.ruleset(Family.IPV4))


# timing


def test_three_changes_in_a_second_are_two_syncs_and_a_third_when_it_may() -> None:
    world = World(NODE + service("a", "10.96.0.1"))
    world.clock.run_for(5 * NS_PER_S)
    with world.syncs() as found:
        for number in range(4):
            world.apply(endpoints("a", f"10.1.0.{number}"), 0.01)
        world.clock.run_for(5 * NS_PER_S)
    start_ns = found[0].at_ns
    assert [(one.at_ns - start_ns) // NS_PER_MS for one in found] == [0, 10, 1010]
    assert "10.1.0.3:8080" in world.rules


def test_changes_of_one_instant_are_one_sync() -> None:
    world = World(NODE)
    with world.syncs() as found:
        world.apply(service("a", "10.96.0.1") + endpoints("a", "10.1.0.1"), 1)
    assert [one.family for one in found] == [Family.IPV4]
    assert not found[0].full


def test_what_kube_proxy_does_not_read_causes_no_sync() -> None:
    world = World(NODE + service("a", "10.96.0.1"))
    with world.syncs() as found:
        world.apply(service("a", "10.96.0.1", spec=", selector: {app: x}"), 1)
        world.apply(service("a", "10.96.0.1").replace("name: a}", "name: a, labels: {x: y}}"), 1)
        world.apply(NODE.replace("name: n", "name: other"), 1)
    assert found == []


def test_labels_of_the_own_node_cause_a_full_sync_of_both_families() -> None:
    world = World(NODE)
    with world.syncs() as found:
        world.apply(NODE.replace("labels: {}", "labels: {topology.kubernetes.io/zone: a}"), 1)
    assert [(one.family, one.full) for one in found] == [(Family.IPV4, True), (Family.IPV6, True)]


def test_a_quiet_hour_ends_with_a_partial_sync() -> None:
    world = World(NODE)
    with world.syncs() as found:
        world.clock.run_for(3600 * NS_PER_S)
    assert [(one.family, one.full) for one in found] == [(Family.IPV4, False), (Family.IPV6, False)]


def test_label_that_hides_a_service_is_a_deletion_to_kube_proxy() -> None:
    world = World(NODE + service("a", "10.96.0.1") + endpoints("a", "10.1.0.1"))
    assert "default/a" in world.rules
    hidden = service("a", "10.96.0.1").replace("name: a}", "name: a, labels: {service.kubernetes.io/headless: ''}}")
    world.apply(hidden, 1)
    assert "default/a" not in world.rules
    world.apply(service("a", "10.96.0.1"), 1)
    assert "default/a cluster IP" in world.rules


def test_flush_of_all_tables_is_repaired_within_the_sync_period() -> None:
    world = World(NODE + service("a", "10.96.0.1") + endpoints("a", "10.1.0.1"))
    before = world.rules
    for table in ("nat", "filter", "mangle"):
        world.iptables(f"-t {table} -F", f"-t {table} -X")
    assert KUBE_PROXY_CANARY not in world.rules
    world.clock.run_for(31 * NS_PER_S)
    assert world.rules == before
    assert world.reports[-1].full


def test_flush_of_mangle_alone_waits_five_seconds_more() -> None:
    world = World(NODE)
    world.clock.run_for(NS_PER_S)
    world.iptables("-t mangle -X")
    with world.syncs() as found:
        world.clock.run_for(60 * NS_PER_S)
    assert [one.at_ns // NS_PER_S for one in found] == [35]


def test_deleted_service_chains_make_the_next_sync_fail_and_a_full_one_follow() -> None:
    world = World(NODE + service("a", "10.96.0.1") + endpoints("a", "10.1.0.1") + service("b", "10.96.0.2", spec=""))
    world.iptables("-t nat -F", "-t nat -X")
    with world.syncs() as found:
        world.apply(endpoints("b", "10.1.0.2"), 40)
    assert [(one.succeeded, one.full) for one in found] == [(False, False), (True, True)]
    assert "does not exist" in found[0].failure
    assert found[1].at_ns - found[0].at_ns == 30 * NS_PER_S
    assert not world.proxy.health_check(30000)


def test_runner_that_was_stopped_runs_no_more() -> None:
    clock, runs = Clock(), list[int]()
    runner = SyncRunner(clock, lambda: runs.append(clock.now_ns), NS_PER_S, 3600 * NS_PER_S, 2)
    runner.request()
    runner.stop()
    clock.run_for(7200 * NS_PER_S)
    assert runs == []


# what a sync touches


def test_partial_sync_writes_only_the_chains_of_changed_services() -> None:
    world = World(
        NODE
        + service("a", "10.96.0.1")
        + endpoints("a", "10.1.0.1")
        + service("b", "10.96.0.2")
        + endpoints("b", "10.1.0.2")
    )
    with world.syncs() as found:
        world.apply(endpoints("a", "10.1.0.9"), 1)
    [one] = found
    new = endpoint_chain("default/a", "tcp", "10.1.0.9:8080")
    old = endpoint_chain("default/a", "tcp", "10.1.0.1:8080")
    other = endpoint_chain("default/b", "tcp", "10.1.0.2:8080")
    assert new in one.written["nat"]
    assert one.deleted == {"nat": frozenset({old})}
    assert other not in one.written["nat"]
    assert len([name for name in one.written["nat"] if is_service_chain(name)]) == 2


def test_untouched_chains_are_the_same_objects() -> None:
    world = World(NODE + service("a", "10.96.0.1") + endpoints("a", "10.1.0.1"))
    chain = endpoint_chain("default/a", "tcp", "10.1.0.1:8080")
    nat = world.host.ruleset(Family.IPV4).table("nat")
    assert nat is not None
    before = nat.chain(chain)
    world.apply(service("b", "10.96.0.2") + endpoints("b", "10.1.0.2"), 1)
    nat = world.host.ruleset(Family.IPV4).table("nat")
    assert nat is not None
    assert nat.chain(chain) is before


def test_rules_of_others_stay() -> None:
    world = World(NODE)
    world.iptables("-t nat -A POSTROUTING -s 10.1.0.0/16 -j MASQUERADE", "-N MINE", "-A FORWARD -j MINE")
    world.apply(NODE.replace("labels: {}", "labels: {a: b}"), 1)
    assert "-A POSTROUTING -s 10.1.0.0/16 -j MASQUERADE\n" in world.rules
    assert world.rules.count("-j KUBE-POSTROUTING") == 1
    assert "-A FORWARD -j MINE\n" in world.rules


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12))
def test_rules_depend_on_objects_and_not_on_how_they_came_about(steps: list[tuple[int, int]]) -> None:
    """A kube-proxy that lived through changes has the rules of one that starts with the result."""
    state = dict.fromkeys("abcd", 0)
    config = "clusterCIDR: 10.0.0.0/8\niptables: {minSyncPeriod: 1ns}\n"

    def text(name: str, kind: int) -> str:
        address = f"10.96.0.{ord(name)}"
        spec = ", type: NodePort" if kind == 3 else ""
        found = service(name, address, "UDP" if name == "a" else "TCP", spec)
        if kind == 3:
            found = found.replace("protocol", f"nodePort: {30000 + ord(name)}, protocol")
        ips = [f"10.1.{ord(name)}.{number}" for number in range(kind)]
        return found + endpoints(name, *ips, protocol="UDP" if name == "a" else "TCP")

    def everything() -> str:
        return NODE + "".join(text(name, kind) for name, kind in state.items())

    world = World(everything(), config)
    for index, kind in steps:
        name = "abcd"[index]
        state[name] = kind
        world.apply(text(name, kind), 0.001)
    fresh = World(everything(), config)
    assert world.rules == fresh.rules


def test_many_endpoints_lose_their_comments_and_stale_chains_stay_for_a_while() -> None:
    many = [f"10.1.{number // 250}.{number % 250}" for number in range(1001)]
    world = World(NODE + service("a", "10.96.0.1") + endpoints("a", *many))
    assert " -> 10.1.0.1:8080" not in world.rules
    assert "default/a cluster IP" in world.rules
    gone = endpoint_chain("default/a", "tcp", "10.1.0.0:8080")
    world.apply(service("b", "10.96.0.2") + endpoints("a", *many[1:], "10.2.0.1"), 2)
    assert f":{gone} " in world.rules
    world.clock.run_for(30 * NS_PER_S)
    world.apply(endpoints("b", "10.1.9.9"), 2)
    assert f":{gone} " not in world.rules


def test_table_writer_refuses_what_the_tool_refuses() -> None:
    ruleset = parse_save("*nat\n:A - [0:0]\n:KUBE-SVC-X - [0:0]\n-A A -j KUBE-SVC-X\nCOMMIT\n", Family.IPV4)
    writer = TableWriter("nat")
    with pytest.raises(RestoreFailed, match="chain NEW leads to NOWHERE, which does not exist"):
        writer.apply(ruleset, TableChange("nat", {"NEW": (Rule(target=Jump("NOWHERE")),)}))
    with pytest.raises(RestoreFailed, match="chain KUBE-SVC-X is in use by A"):
        writer.apply(ruleset, TableChange("nat", {}, ("KUBE-SVC-X",)))
    with pytest.raises(RestoreFailed, match="no chain NOWHERE to delete"):
        writer.apply(ruleset, TableChange("nat", {}, ("NOWHERE",)))
    after = writer.apply(ruleset, TableChange("nat", {"A": (), "B": (Rule(target=Jump("A")),)}, ("KUBE-SVC-X",)))
    assert "KUBE-SVC-X" not in print_save(after)
    assert writer.apply(Ruleset(Family.IPV4), TableChange("nat", {"Z": ()})).table("nat") is not None


# conntrack


def test_stale_udp_entries_are_deleted_on_the_host() -> None:
    world = World(NODE + service("a", "10.96.0.1", "UDP") + endpoints("a", "10.1.0.1", protocol="UDP"))
    world.host.commands.clear()
    world.apply(endpoints("a", "10.1.0.2", protocol="UDP"), 1)
    assert [" ".join(one.arguments) for one in world.host.commands] == [
        "-D --orig-dst 10.96.0.1 --dst-nat 10.1.0.1 -p udp"
    ]


DNATED = "udp src=10.1.0.9 dst=10.96.0.1 sport=5 dport=80 src=10.1.0.1 dst=10.1.0.9 sport=8080 dport=5 [ASSURED]"
PLAIN = "udp src=10.1.0.9 dst=10.96.0.1 sport=5 dport=80 [UNREPLIED] src=10.96.0.1 dst=10.1.0.9 sport=80 dport=5"
SIX = "udp src=fd00::9 dst=fd00::1 sport=5 dport=80 src=fd01::1 dst=fd00::9 sport=8080 dport=5 [ASSURED]"

FILTERS = {
    "address": (ConntrackDelete(Family.IPV4, "10.96.0.1"), DNATED, True),
    "other address": (ConntrackDelete(Family.IPV4, "10.96.0.2"), DNATED, False),
    "endpoint": (ConntrackDelete(Family.IPV4, "10.96.0.1", "10.1.0.1"), DNATED, True),
    "other endpoint": (ConntrackDelete(Family.IPV4, "10.96.0.1", "10.1.0.2"), DNATED, False),
    "without NAT": (ConntrackDelete(Family.IPV4, "10.96.0.1", "10.96.0.1"), PLAIN, False),
    "port": (ConntrackDelete(Family.IPV4, dport=80), PLAIN, True),
    "other port": (ConntrackDelete(Family.IPV4, dport=81), PLAIN, False),
    "TCP": (ConntrackDelete(Family.IPV4, dport=80), PLAIN.replace("udp", "tcp SYN_SENT"), False),
    "other family": (ConntrackDelete(Family.IPV6, dport=80), PLAIN, False),
    "IPv6, any endpoint": (ConntrackDelete(Family.IPV6, "fd00::1", "fd01::2"), SIX, True),
}


@pytest.mark.parametrize("name", FILTERS)
def test_conntrack_filter(name: str) -> None:
    delete, line, matches = FILTERS[name]
    assert delete.matches(RecordedEntry.parse(line)) is matches


# settings and configuration


def test_settings_written_at_the_start() -> None:
    config = KubeProxyConfiguration.model_validate(
        {"conntrack": {"tcpBeLiberal": True, "udpTimeout": "1m", "udpStreamTimeout": "2m30s"}}
    )
    assert {one.name.rsplit(".", 1)[-1]: one.value for one in startup_sysctls(config, 8)} == {
        "nf_conntrack_max": 262144,
        "nf_conntrack_tcp_timeout_established": 86400,
        "nf_conntrack_tcp_timeout_close_wait": 3600,
        "nf_conntrack_tcp_be_liberal": 1,
        "nf_conntrack_udp_timeout": 60,
        "nf_conntrack_udp_timeout_stream": 150,
        "route_localnet": 1,
    }
    assert startup_sysctls(KubeProxyConfiguration(), 1)[0].value == 131072


def test_a_liberal_kernel_has_the_effect_of_asking_for_it() -> None:
    host = RecordedHost((ip_address("127.0.0.1"),))
    host.sysctls["net.netfilter.nf_conntrack_tcp_be_liberal"] = 1
    proxy = KubeProxy(KubeProxyConfiguration(), "n", host, Clock(), ObjectStore())
    proxy.start()
    assert "INVALID" not in print_save(host.ruleset(Family.IPV4))


DURATIONS = {"30s": 30 * NS_PER_S, "1m30s": 90 * NS_PER_S, "1.5h": 5400 * NS_PER_S, "0": 0, "250ms": 250 * NS_PER_MS}


@pytest.mark.parametrize("text", DURATIONS)
def test_durations(text: str) -> None:
    assert parse_duration_ns(text) == DURATIONS[text]


BROKEN_CONFIGS = {
    "iptables: {syncPeriod: 30}": "iptables.syncPeriod: 30 is not a duration such as 30s or 1m30s",
    "iptables: {syncPeriod: 30 s}": "iptables.syncPeriod: '30 s' is not a duration such as 30s or 1m30s",
    "iptables: {syncPeriod: -1s}": "iptables.syncPeriod: must not be negative",
    "iptables: {minSyncPeriod: 1h}": "iptables.minSyncPeriod: must not be greater than syncPeriod",
    "iptables: {masqueradeBit: 32}": "iptables.masqueradeBit",
    "clusterCIDR: 10.0.0.0": "clusterCIDR: '10.0.0.0' is not a CIDR block such as 10.0.0.0/8",
    "clusterCIDR: 10.0.0.0/8,11.0.0.0/8": "clusterCIDR: must be one CIDR block, or one of each family",
    "detectLocalMode: BridgeInterface": "detectLocalMode: BridgeInterface needs detectLocal.bridgeInterface",
    "detectLocalMode: Bridge": "detectLocalMode: 'Bridge' is none of",
    "nodePortAddresses: [primary]": "nodePortAddresses[0]: 'primary' is not a CIDR block",
    "clusterCidr: 10.0.0.0/8": "unknown field 'clusterCidr' (did you mean 'clusterCIDR'?)",
    "mode: userspace": "mode: 'userspace' is none of",
}


@pytest.mark.parametrize("line", BROKEN_CONFIGS)
def test_configuration_that_kube_proxy_would_not_start_with(line: str) -> None:
    head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
    with pytest.raises(ObjectError) as caught:
        load_config(f"{head}{line}\n", file="config.yaml")
    assert str(caught.value).startswith("config.yaml:3: KubeProxyConfiguration, ")
    assert BROKEN_CONFIGS[line] in str(caught.value)


def test_other_modes_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedFeature, match="kube-proxy mode ipvs is not modelled"):
        World(NODE, "mode: ipvs\n")


def test_node_cidr_needs_a_pod_network() -> None:
    with pytest.raises(TopologyError, match="kube-proxy on n waits for the node's podCIDR"):
        World(NODE, "detectLocalMode: NodeCIDR\n")


def test_a_family_that_node_port_addresses_do_not_mention_matches_all() -> None:
    config = KubeProxyConfiguration.model_validate({"nodePortAddresses": ["10.0.0.0/8"]})
    assert not NodePortAddresses.of(config, Family.IPV4).match_all
    assert not NodePortAddresses.of(config, Family.IPV4).contains_ipv4_loopback
    assert NodePortAddresses.of(config, Family.IPV6).match_all


@given(st.integers(2, 5000))
def test_probability_is_what_the_save_tool_shows(n: int) -> None:
    """Ten decimals of 1/n, then the nearest number of 2**31st parts."""
    shown = probability(n).probability / 2**31
    assert abs(shown - 1 / n) <= 0.5e-10 + 0.5 / 2**31


# health

LOAD_BALANCER = ", type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 32000"


def test_health_check_counts_addresses_and_tells_the_weight() -> None:
    world = World(NODE + service("a", "10.96.0.1", spec=LOAD_BALANCER) + endpoints("a", "10.1.0.1", "10.1.0.2"))
    answer = world.proxy.health_check(32000)
    assert answer is not None
    assert answer.status == 200
    assert json.loads(answer.body) == {
        "service": {"namespace": "default", "name": "a"},
        "localEndpoints": 2,
        "serviceProxyHealthy": True,
    }
    assert ("X-Load-Balancing-Endpoint-Weight", "2") in answer.headers
    world.apply(endpoints("a", "10.1.0.1", node="other"), 1)
    answer = world.proxy.health_check(32000)
    assert answer is not None
    assert answer.status == 503
    assert world.proxy.health_check(32001) is None
    assert world.proxy.listening() == [(ip_address("0.0.0.0"), 32000)]
    world.proxy.stop()
    assert world.proxy.listening() == []


def test_health_check_of_a_dual_stack_service_is_the_first_family_s() -> None:
    text = service("a", "10.96.0.1", spec=LOAD_BALANCER).replace(
        "clusterIP: '10.96.0.1'", "clusterIPs: [10.96.0.1, 'fd00::1'], ipFamilies: [IPv4, IPv6]"
    )
    world = World(NODE + text + endpoints("a", "fd01::1", family="IPv6"))
    answer = world.proxy.health_check(32000)
    assert answer is not None
    assert answer.status == 503


def test_healthz_falls_ill_when_syncs_fail_and_when_the_node_is_about_to_go() -> None:
    world = World(NODE + service("a", "10.96.0.1") + endpoints("a", "10.1.0.1"))
    assert world.proxy.healthz().status == 200
    world.apply(NODE.replace("---", "spec: {taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}\n---"))
    answer = world.proxy.healthz()
    assert answer.status == 503
    assert json.loads(answer.body) == {
        "lastUpdated": "1970-01-01 00:00:00 +0000 UTC m=+0.000000000",
        "currentTime": "1970-01-01 00:00:00 +0000 UTC m=+0.000000000",
        "nodeEligible": False,
    }
    world.apply(NODE)
    assert world.proxy.healthz().status == 200
    # Rules of somebody else hold on to a chain that is stale: the sync fails, again and again.
    chain = endpoint_chain("default/a", "tcp", "10.1.0.1:8080")
    world.iptables(f"-t nat -A PREROUTING -j {chain}")
    world.apply(endpoints("a", "10.1.0.2"), 59)
    assert world.proxy.healthz().status == 200
    world.clock.run_for(2 * NS_PER_S)
    assert world.proxy.healthz().status == 503
    world.iptables(f"-t nat -D PREROUTING -j {chain}")
    world.clock.run_for(31 * NS_PER_S)
    assert world.proxy.healthz().status == 200


def test_a_wildcard_shares_its_port_with_no_address() -> None:
    """With addresses of one family chosen, the other family's server would listen on all addresses, and cannot."""
    text = service("a", "10.96.0.1", spec=LOAD_BALANCER) + endpoints("a", "10.1.0.1")
    world = World(NODE + text, "nodePortAddresses: [192.0.2.0/24]\n")
    assert world.proxy.listening() == [(ip_address("192.0.2.1"), 32000)]


def test_health_port_of_no_address_is_closed() -> None:
    text = service("a", "10.96.0.1", spec=LOAD_BALANCER) + endpoints("a", "10.1.0.1")
    world = World(NODE + text, "nodePortAddresses: [198.51.100.0/24, '2001:db8::/32']\n")
    assert world.proxy.health_check(32000) is None


def test_draining_gate_off_leaves_a_node_that_is_about_to_go_eligible() -> None:
    tainted = NODE.replace("---", "spec: {taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}\n---")
    assert World(tainted, "featureGates: {KubeProxyDrainingTerminatingNodes: false}\n").proxy.healthz().status == 200
    assert World(tainted).proxy.healthz().status == 503


LABELLED = NODE.replace("labels: {}", "labels: {a: b}")


def test_a_node_that_lost_its_labels_is_new_at_every_change() -> None:
    world = World(LABELLED)
    tainted = NODE.replace("---", "spec: {taints: [{key: a, effect: NoSchedule}]}\n---")
    for text, full in ((LABELLED, []), (NODE, [True, True]), (tainted, [True, True])):
        with world.syncs() as found:
            world.apply(text, 2)
        assert [one.full for one in found] == full


def test_a_deleted_node_means_a_full_sync() -> None:
    world = World(NODE)
    with world.syncs() as found:
        world.store.delete("Node", "n")
        world.clock.run_for(2 * NS_PER_S)
    assert [one.full for one in found] == [True, True]


def test_periods_of_none_are_the_defaults() -> None:
    config = KubeProxyConfiguration.model_validate({"iptables": {"syncPeriod": "0s", "minSyncPeriod": "0s"}})
    assert (config.iptables.sync_period, config.iptables.min_sync_period) == (30 * NS_PER_S, NS_PER_S)


POD_CIDR = NODE.replace("---", "spec: {podCIDR: 'PODNET', podCIDRs: ['PODNET']}\n---")


def test_node_cidr_of_the_wrong_family_or_another_one_later_is_no_start() -> None:
    with pytest.raises(TopologyError, match="IPv4-primary"):
        World(POD_CIDR.replace("PODNET", "fd00::/64"), "detectLocalMode: NodeCIDR\n")
    world = World(POD_CIDR.replace("PODNET", "10.1.0.0/24"), "detectLocalMode: NodeCIDR\n")
    with pytest.raises(UnsupportedFeature, match="another podCIDR"):
        world.apply(POD_CIDR.replace("PODNET", "10.2.0.0/24"))
