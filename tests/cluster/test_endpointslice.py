"""Slices follow selectors, pods and nodes."""

from __future__ import annotations

import pytest

from pktsim.clock import Clock
from pktsim.cluster.endpointslice import MAX_ENDPOINTS, EndpointSliceController
from pktsim.cluster.loader import load_objects
from pktsim.cluster.objects import EndpointSlice
from pktsim.cluster.store import ObjectStore
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
    def __init__(self, text: str) -> None:
        self.clock = Clock()
        self.store = ObjectStore()
        self.store.apply_all(load_objects(text))
        self.controller = EndpointSliceController(self.store, self.clock)
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


def test_hints_of_the_controller_are_refused_by_name() -> None:
    text = service(metadata=", annotations: {service.kubernetes.io/topology-mode: Auto}")
    with pytest.raises(UnsupportedFeature, match="topology hints of the endpoint slice controller"):
        World(NODE + text + pod("p"))


def test_zone_of_a_node_that_moves_is_followed() -> None:
    world = World(NODE + service() + pod("p"))
    world.apply(NODE.replace("zone: a", "zone: b"))
    assert world.slices[0].endpoints[0].zone == "b"
