"""Slices follow selectors, pods and nodes."""

from __future__ import annotations

import pytest

from pktsim.clock import Clock
from pktsim.cluster.endpointslice import MAX_ENDPOINTS, EndpointSliceController
from pktsim.cluster.kubeproxy.versions import Release
from pktsim.cluster.loader import load_objects
from pktsim.cluster.objects import EndpointSlice
from pktsim.cluster.store import ObjectStore
from pktsim.cluster.topology_hints import milli
from pktsim.errors import UnsupportedFeature

NODE = "apiVersion: v1\nkind: Node\nmetadata: {name: n, labels: {topology.kubernetes.io/zone: a}}\n---\n"


def service(name: str = "web", spec: str = "", metadata: str = "", port: str = "{port: 80, targetPort: http}") -> str:
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}{metadata}}}\n"
        f"spec: {{clusterIP: 10.0.0.1, selector: {{app: web}}, ports: [{port}]{spec}}}\n---\n"
    )


def pod(
    name: str, ip: str = "10.1.0.1", *, ready: bool = True, spec: str = "", metadata: str = "", number: int = 8080
) -> str:
    return (
        f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web}}{metadata}}}\n"
        f"spec: {{nodeName: n, containers: [{{name: c, ports: [{{name: http, containerPort: {number}}}]}}]{spec}}}\n"
        f"status: {{phase: Running, podIP: '{ip}', conditions: [{{type: Ready, status: '{ready}'}}]}}\n---\n"
    )


class World:
    def __init__(self, text: str, version: str = "1.30") -> None:
        self.clock = Clock()
        self.store = ObjectStore()
        self.store.apply_all(load_objects(text))
        self.controller = EndpointSliceController(self.store, self.clock, release=Release.parse(version))
        self.run()

    def run(self) -> None:
        self.clock.run_for(1)

    def apply(self, text: str) -> None:
        self.store.apply_all(load_objects(text))
        self.run()

    def delete(self, kind: str, name: str) -> None:
        self.store.delete(kind, name, "default")
        self.run()

    @property
    def slices(self) -> list[EndpointSlice]:
        return self.store.list(EndpointSlice)

    def lines(self) -> list[str]:
        """``address:port conditions`` of every endpoint."""
        found = []
        for one in self.slices:
            ports = ",".join(str(port.port) for port in one.ports)
            for endpoint in one.endpoints:
                conditions = endpoint.conditions
                words = [name for name in ("ready", "serving", "terminating") if getattr(conditions, name)]
                found.append(" ".join([f"{endpoint.addresses[0]}:{ports}", *words]))
        return sorted(found)


def test_named_port_and_conditions() -> None:
    world = World(NODE + service() + pod("p") + pod("q", "10.1.0.2", ready=False))
    assert world.lines() == ["10.1.0.1:8080 ready serving", "10.1.0.2:8080"]
    one = world.slices[0]
    assert one.service_name == "web"
    assert one.metadata.labels["endpointslice.kubernetes.io/managed-by"] == "endpointslice-controller.k8s.io"
    assert one.endpoints[0].node_name == "n"
    assert one.endpoints[0].zone == "a"
    assert one.endpoints[0].target_ref is not None
    assert one.endpoints[0].target_ref.name == "p"


def test_terminating_pod_serves_until_it_is_not_ready() -> None:
    gone = ", deletionTimestamp: 2024-01-01T00:00:00Z"
    world = World(NODE + service() + pod("p", metadata=gone) + pod("q", "10.1.0.2", ready=False, metadata=gone))
    assert world.lines() == ["10.1.0.1:8080 serving terminating", "10.1.0.2:8080 terminating"]


def test_publish_not_ready_addresses() -> None:
    gone = ", deletionTimestamp: 2024-01-01T00:00:00Z"
    world = World(NODE + service(spec=", publishNotReadyAddresses: true") + pod("p", ready=False, metadata=gone))
    assert world.lines() == ["10.1.0.1:8080 ready terminating"]


def test_finished_pods_and_pods_without_address_or_node_are_left_out() -> None:
    world = World(
        NODE
        + service()
        + pod("p").replace("phase: Running", "phase: Succeeded")
        + pod("q", "").replace("podIP: '', ", "")
        + pod("r", "10.1.0.3").replace("nodeName: n", "nodeName: nowhere")
    )
    assert world.lines() == []


def test_service_without_endpoints_has_one_empty_slice() -> None:
    world = World(NODE + service())
    assert [(one.ports, one.endpoints) for one in world.slices] == [((), ())]
    world.apply(pod("p"))
    assert world.lines() == ["10.1.0.1:8080 ready serving"]
    world.delete("Pod", "p")
    assert [(one.ports, one.endpoints) for one in world.slices] == [((), ())]


def test_pods_with_other_port_numbers_are_in_another_slice() -> None:
    world = World(NODE + service() + pod("p") + pod("q", "10.1.0.2", number=9090))
    assert world.lines() == ["10.1.0.1:8080 ready serving", "10.1.0.2:9090 ready serving"]
    assert len(world.slices) == 2


def test_pod_without_the_named_port_is_in_a_slice_without_ports() -> None:
    world = World(NODE + service(port="{port: 80, targetPort: nope}") + pod("p"))
    assert [(one.ports, len(one.endpoints)) for one in world.slices] == [((), 1)]


def test_at_most_a_hundred_endpoints_in_a_slice() -> None:
    pods = "".join(pod(f"p{i}", f"10.1.{i // 100}.{i % 100}") for i in range(2 * MAX_ENDPOINTS + 1))
    world = World(NODE + service() + pods)
    assert sorted(len(one.endpoints) for one in world.slices) == [1, 100, 100]
    small = next(one.name for one in world.slices if len(one.endpoints) == 1)
    world.apply(pod("new", "10.2.0.1"))
    assert sorted(len(one.endpoints) for one in world.slices) == [2, 100, 100]
    assert any(one.name == small and len(one.endpoints) == 2 for one in world.slices)


def test_an_endpoint_stays_in_its_slice_and_new_ones_fill_slices_that_change() -> None:
    pods = "".join(pod(f"p{i:03}", f"10.1.0.{i}") for i in range(MAX_ENDPOINTS))
    world = World(NODE + service() + pods)
    [name] = [one.name for one in world.slices]
    world.store.delete("Pod", "p050", "default")
    world.apply(pod("new", "10.2.0.1"))
    [one] = world.slices
    assert one.name == name
    assert one.endpoints[-1].addresses == ("10.2.0.1",)
    assert [endpoint.addresses[0] for endpoint in one.endpoints[:50]] == [f"10.1.0.{i}" for i in range(50)]


def test_dual_stack_has_slices_of_each_family() -> None:
    both = service().replace("clusterIP: 10.0.0.1", "clusterIPs: [10.0.0.1, 'fd00::1'], ipFamilies: [IPv4, IPv6]")
    two = pod("p").replace("podIP: '10.1.0.1'", "podIPs: [{ip: 10.1.0.1}, {ip: 'fd01::1'}]")
    world = World(NODE + both + two)
    assert {(one.address_type, one.endpoints[0].addresses) for one in world.slices} == {
        ("IPv4", ("10.1.0.1",)),
        ("IPv6", ("fd01::1",)),
    }


def test_hostname_is_told_only_under_its_own_subdomain() -> None:
    named = ", hostname: h, subdomain: web"
    world = World(
        NODE + service() + pod("p", spec=named) + pod("q", "10.1.0.2", spec=", hostname: h, subdomain: other")
    )
    assert [endpoint.hostname for endpoint in world.slices[0].endpoints] == ["h", None]


def test_headless_slices_are_labelled_and_service_labels_copied() -> None:
    text = service(metadata=", labels: {team: x}").replace("clusterIP: 10.0.0.1", "clusterIP: None")
    world = World(NODE + text + pod("p"))
    ipv4 = next(one for one in world.slices if one.address_type == "IPv4")
    assert ipv4.metadata.labels["service.kubernetes.io/headless"] == ""
    assert ipv4.metadata.labels["team"] == "x"


def test_deleted_service_takes_its_slices_along() -> None:
    world = World(NODE + service() + pod("p"))
    assert world.slices
    world.delete("Service", "web")
    assert world.slices == []


def test_pod_that_loses_its_label_leaves() -> None:
    world = World(NODE + service() + pod("p") + pod("q", "10.1.0.2"))
    world.apply(pod("q", "10.1.0.2").replace("{app: web}", "{app: other}"))
    assert world.lines() == ["10.1.0.1:8080 ready serving"]


SLICE = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-abcde
  labels: {kubernetes.io/service-name: web, endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}
addressType: IPv4
endpoints: [{addresses: [10.9.9.9], conditions: {ready: true}}]
ports: [{name: "", port: 8080, protocol: TCP}]
---
"""


def test_given_slices_stay_while_there_are_no_pods_and_are_adopted_with_them() -> None:
    world = World(NODE + service() + SLICE)
    assert world.lines() == ["10.9.9.9:8080 ready"]
    world.apply(pod("p"))
    assert world.lines() == ["10.1.0.1:8080 ready serving"]


def test_without_change_nothing_is_written() -> None:
    world = World(NODE + service() + pod("p"))
    revision = world.store.revision
    world.controller._mark(("default", "web"))
    world.run()
    assert world.store.revision == revision


def test_service_without_selector_is_left_alone_but_endpoints_are_mirrored() -> None:
    plain = service().replace("selector: {app: web}, ", "")
    world = World(NODE + plain + pod("p"))
    assert world.slices == []
    world.apply(
        "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web}\nsubsets:\n- addresses: [{ip: 192.0.2.1}]\n"
        "  notReadyAddresses: [{ip: 192.0.2.2}]\n  ports: [{port: 5432}]\n"
    )
    assert world.lines() == ["192.0.2.1:5432 ready", "192.0.2.2:5432"]
    world.delete("Endpoints", "web")
    assert world.slices == []


def test_zone_of_a_node_that_moves_is_followed_with_the_next_change() -> None:
    """The controller looks at a node's zone when it looks at a Service; a node alone makes it do so for hints only."""
    world = World(NODE + service() + pod("p"))
    world.apply(NODE.replace("zone: a", "zone: b"))
    assert world.slices[0].endpoints[0].zone == "a"
    world.apply(pod("q", "10.1.0.2"))
    assert [endpoint.zone for endpoint in world.slices[0].endpoints] == ["b", "b"]


def test_a_slice_whose_endpoints_are_all_replaced_keeps_its_name() -> None:
    world = World(NODE + service() + pod("p"))
    (before,) = world.slices
    world.store.delete("Pod", "p", "default")
    world.apply(pod("p", "10.1.0.2"))
    (after,) = world.slices
    assert after.name == before.name
    assert [endpoint.addresses for endpoint in after.endpoints] == [("10.1.0.2",)]
    world.apply(pod("p", "10.1.0.2", number=9090))
    assert [one.name for one in world.slices] == [before.name]
    assert world.lines() == ["10.1.0.2:9090 ready serving"]


def many(first: int, last: int) -> str:
    return "".join(pod(f"p{number}", f"10.1.{number // 200}.{number % 200 + 1}") for number in range(first, last))


def sizes(world: World) -> list[int]:
    return sorted(len(one.endpoints) for one in world.slices)


def test_endpoints_are_packed_as_the_controller_packs_them() -> None:
    world = World(NODE + service() + many(0, 230))
    assert sizes(world) == [30, 100, 100]
    # few new ones go to the fullest slice that has room for all of them
    world.apply(many(230, 250))
    assert sizes(world) == [50, 100, 100]
    # more than fit in one slice make a new slice, though there would be room in several
    world.apply(many(250, 310))
    assert sizes(world) == [50, 60, 100, 100]
    # slices that change anyway are filled first, the fullest one before others
    full = next(one for one in world.slices if len(one.endpoints) == 100)
    gone = [endpoint.target_ref.name for endpoint in full.endpoints[:5] if endpoint.target_ref]
    for name in gone:
        world.store.delete("Pod", name, "default")
    world.apply(many(310, 317))
    assert sizes(world) == [50, 62, 100, 100]


def test_labels_of_the_service_are_the_slices_and_hints_survive_that() -> None:
    zoned = NODES + service(spec=", trafficDistribution: PreferClose") + pod("p")
    world = World(zoned, "1.31")
    world.apply(service(spec=", trafficDistribution: PreferClose", metadata=", labels: {team: red}"))
    (one,) = world.slices
    assert one.metadata.labels["team"] == "red"
    assert hints(world) == {"p": "a"}


def test_publish_not_ready_addresses_and_a_pod_that_ends() -> None:
    ending = ", deletionTimestamp: '2026-01-01T00:00:00Z'"
    world = World(NODE + service() + pod("p", metadata=ending) + pod("q", "10.1.0.2", ready=False, metadata=ending))
    assert world.lines() == ["10.1.0.1:8080 serving terminating", "10.1.0.2:8080 terminating"]
    world.apply(service(spec=", publishNotReadyAddresses: true"))
    assert world.lines() == ["10.1.0.1:8080 ready serving terminating", "10.1.0.2:8080 ready terminating"]


# hints


def node(name: str, zone: str, cpu: str = "2", *, ready: bool = True) -> str:
    return (
        f"apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n"
        f"status: {{allocatable: {{cpu: '{cpu}'}}, conditions: [{{type: Ready, status: '{ready}'}}]}}\n---\n"
    )


NODES = node("n", "a") + node("m", "b")
AUTO = ", annotations: {service.kubernetes.io/topology-mode: Auto}"


def on(name: str, where: str, number: int) -> str:
    return pod(name, f"10.1.0.{number}").replace("nodeName: n", f"nodeName: {where}")


def hints(world: World) -> dict[str, str]:
    """By pod, the zones and nodes that it is meant for."""
    found = {}
    for one in world.slices:
        for endpoint in one.endpoints:
            assert endpoint.target_ref is not None
            if endpoint.hints is not None:
                names = [zone.name for zone in endpoint.hints.for_zones]
                names += [node.name for node in endpoint.hints.for_nodes]
                found[endpoint.target_ref.name] = " ".join(names)
    return found


def test_endpoints_are_dealt_out_by_cpus() -> None:
    """Two thirds of the CPUs are in zone a, all endpoints in zone b: two of three are for zone a."""
    world = World(node("n", "a", "4") + node("m", "b") + service(metadata=AUTO))
    world.apply("".join(on(f"p{number}", "m", number + 1) for number in range(3)))
    assert sorted(hints(world).values()) == ["a", "a", "b"]


def test_own_zones_are_kept_while_nobody_is_overloaded() -> None:
    world = World(NODES + service(metadata=AUTO) + "".join(on(f"p{n}", "nm"[n % 2], n + 1) for n in range(6)))
    assert hints(world) == {f"p{n}": "ab"[n % 2] for n in range(6)}
    # one more in zone a: 3.5 are wanted in each zone, which 4 and 3 are near enough to
    world.apply(on("p6", "n", 7))
    assert hints(world)["p6"] == "a"
    assert sorted(hints(world).values()) == ["a"] * 4 + ["b"] * 3


NO_HINTS = {
    "one zone": NODES.replace("zone: b", "zone: a"),
    "a node without a zone": NODES.replace("topology.kubernetes.io/zone: b", "x: y"),
    "a node without CPUs": NODES.replace("cpu: '2'", "memory: 1Gi", 1),
    "a zone whose node is not ready": node("n", "a") + node("m", "b", ready=False),
    "a zone with control planes only": NODES.replace("zone: b", "zone: b, node-role.kubernetes.io/control-plane: ''"),
    "fewer endpoints than zones": NODES + node("l", "c"),
    "shares that cannot be met": node("n", "a", "10") + node("m", "b", "1"),
}


@pytest.mark.parametrize("name", NO_HINTS)
def test_no_hints(name: str) -> None:
    world = World(NO_HINTS[name] + service(metadata=AUTO) + on("p", "n", 1) + on("q", "n", 2))
    assert hints(world) == {}


def test_hints_come_with_nodes_and_go_with_pods_and_the_annotation() -> None:
    world = World(NODES + service(metadata=AUTO) + on("p", "n", 1) + on("q", "m", 2))
    assert hints(world) == {"p": "a", "q": "b"}
    # now zone c has no endpoint: the Service is overloaded, and there are too few endpoints for three zones
    world.apply(node("l", "c"))
    assert hints(world) == {}
    world.apply(on("r", "l", 3))
    assert hints(world) == {"p": "a", "q": "b", "r": "c"}
    world.apply(service())
    assert hints(world) == {}


def test_traffic_distribution_by_version() -> None:
    text = NODES + on("p", "n", 1) + on("q", "m", 2)
    close = text + service(spec=", trafficDistribution: PreferClose")
    assert hints(World(close)) == {}
    assert hints(World(close, "1.31")) == {"p": "a", "q": "b"}
    same_node = text + service(spec=", trafficDistribution: PreferSameNode")
    assert hints(World(same_node, "1.34")) == {"p": "a n", "q": "b m"}
    with pytest.raises(UnsupportedFeature, match=r"PreferSameNode with kube-proxy 1\.33"):
        World(same_node, "1.33")


QUANTITIES = {"4": 4000, "3920m": 3920, "0.5": 500, "1e1": 10000, "1k": 1000000, "0.0001": 1, "": 0, "many": 0}


@pytest.mark.parametrize("text", QUANTITIES)
def test_quantity(text: str) -> None:
    assert milli(text) == QUANTITIES[text]
