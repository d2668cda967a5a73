"""Manifests that are right, and what is said of those that are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pktsim.cluster.loader import load_objects, read_documents
from pktsim.cluster.objects import KINDS, EndpointSlice, Node, Pod, Service
from pktsim.cluster.objects_meta import api_name
from pktsim.errors import ObjectError, UnsupportedFeature

SERVICE = """\
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  selector: {app: web}
  ports:
  - port: 80
    targetPort: http
"""


def service(**changes: str) -> str:
    text = SERVICE
    for old, new in changes.items():
        text = text.replace(old.replace("_", " "), new)
    return text


def test_many_documents_and_lists_are_read_in_order() -> None:
    text = f"""\
{SERVICE}---
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {{name: p, namespace: shop, creationTimestamp: null}}
  spec: {{containers: [{{name: c}}]}}
- apiVersion: v1
  kind: ServiceAccount
  metadata: {{name: s}}
---
apiVersion: v1
kind: NodeList
items:
- metadata: {{name: n, creationTimestamp: 2024-05-14T08:00:00Z}}
"""
    found = load_objects(text)
    assert [str(one) for one in found] == ["Service default/web", "Pod shop/p", "Node n"]
    assert isinstance(found[0], Service)
    assert found[0].spec.ports[0].target == "http"
    assert isinstance(found[2], Node)
    assert found[2].metadata.creation_timestamp == "2024-05-14T08:00:00Z"


def test_file_and_line_are_told(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text("# a comment\n" + SERVICE.replace("port: 80", "port: 80000"))
    with pytest.raises(ObjectError) as caught:
        load_objects(path)
    assert str(caught.value) == (
        f"{path}:9: Service default/web, spec.ports[0].port: 80000: input should be less than or equal to 65535"
    )


BROKEN = {
    "unknown field": (
        SERVICE.replace("selector:", "externalTraficPolicy: Local\n  selector:"),
        "6: Service default/web, spec.externalTraficPolicy: unknown field 'externalTraficPolicy' "
        "(did you mean 'externalTrafficPolicy'?)",
    ),
    "unknown field of an item": (
        SERVICE.replace("targetPort: http", "targetport: http"),
        "9: Service default/web, spec.ports[0].targetport: unknown field 'targetport' (did you mean 'targetPort'?)",
    ),
    "port as text": (
        SERVICE.replace("port: 80", 'port: "80"'),
        "8: Service default/web, spec.ports[0].port: '80': input should be a valid integer",
    ),
    "port missing": (
        SERVICE.replace("- port: 80\n    targetPort", "- targetPort"),
        "8: Service default/web, spec.ports[0].port: is missing",
    ),
    "protocol": (
        SERVICE.replace("targetPort: http", "protocol: tcp"),
        "9: Service default/web, spec.ports[0].protocol: 'tcp' is none of 'TCP', 'UDP', 'SCTP'",
    ),
    "address": (
        SERVICE.replace("selector:", "externalIPs: [10.0.0.256]\n  selector:"),
        "6: Service default/web, spec.externalIPs[0]: '10.0.0.256' is not an IP address",
    ),
    "node port without its type": (
        SERVICE.replace("targetPort: http", "nodePort: 30080"),
        "9: Service default/web, spec.ports[0].nodePort: is only for types NodePort and LoadBalancer "
        "(remove it or change type ClusterIP)",
    ),
    "family": (
        SERVICE.replace("selector:", "clusterIP: fd00::1\n  ipFamilies: [IPv4]\n  selector:"),
        "6: Service default/web, spec.clusterIPs[0]: fd00::1 is not an IPv4 address, which ipFamilies asks for",
    ),
    "name": (
        SERVICE.replace("name: web", "name: Web"),
        "4: Service default/Web, metadata.name: 'Web' is not a DNS label that starts with a letter: "
        "lower case letters, digits and '-', at most 63 characters",
    ),
    "label not a text": (
        SERVICE.replace("{app: web}", "{app: 1}"),
        "6: Service default/web, spec.selector.app: 1: input should be a valid string",
    ),
    "same object twice": (
        SERVICE + "---\n" + SERVICE,
        "14: Service default/web, metadata.name: stands twice (remove one of them)",
    ),
    "unknown kind": (
        SERVICE.replace("kind: Service", "kind: Servise"),
        "2: Servise web, kind: unknown kind 'Servise' (did you mean 'Service'?)",
    ),
    "version": (
        SERVICE.replace("apiVersion: v1", "apiVersion: v2"),
        "1: Service default/web, apiVersion: apiVersion 'v2' of a Service is not read (write apiVersion: v1)",
    ),
    "no kind": (
        SERVICE.replace("kind: Service\n", ""),
        "1: document web: kind is missing (write apiVersion and kind of every object)",
    ),
    "no name": (
        SERVICE.replace("name: web", "labels: {}"),
        "3: Service, metadata: metadata.name is missing",
    ),
    "key twice": (
        SERVICE.replace("    targetPort: http", "    port: 81"),
        "9:5: key 'port' stands twice",
    ),
    "not YAML": (
        SERVICE.replace("selector: {app: web}", "selector: {app: web"),
        "7:8: not YAML: did not find expected ',' or '}'",
    ),
    "not a list": (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c}]}\nstatus: {podIPs: 5}\n",
        "5: Pod default/p, status.podIPs: 5: input should be a valid tuple",
    ),
    "not an object": ("- a\n- b\n", "1:1: a document must be a mapping with apiVersion and kind"),
    "namespace of a node": (
        "apiVersion: v1\nkind: Node\nmetadata: {name: n, namespace: default}\n",
        "3: Node n, metadata.namespace: a Node lives in no namespace (remove it)",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_manifest_is_one_clear_line(name: str) -> None:
    text, expected = BROKEN[name]
    with pytest.raises(ObjectError) as caught:
        load_objects(text, file="f.yaml")
    assert str(caught.value) == f"f.yaml:{expected}"


def test_two_services_cannot_share_a_node_port() -> None:
    one = SERVICE.replace("selector:", "type: NodePort\n  selector:").replace("targetPort: http", "nodePort: 30080")
    two = one.replace("name: web", "name: other")
    with pytest.raises(ObjectError, match=r"30080/TCP is a node port of Service default/web too"):
        load_objects(f"{one}---\n{two}")
    assert len(load_objects(f"{one}---\n{two}", check=False)) == 2


def test_what_would_change_verdicts_is_refused_by_name() -> None:
    text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny}\nspec: {}\n"
    with pytest.raises(UnsupportedFeature) as caught:
        load_objects(text)
    assert caught.value.feature == "kind NetworkPolicy"
    assert caught.value.line == 1


def test_null_is_an_absent_field_but_an_empty_label() -> None:
    found = load_objects(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, labels: {a: null}}\n"
        "addressType: IPv4\nports: null\nendpoints: null\n"
    )
    assert isinstance(found[0], EndpointSlice)
    assert found[0].ports == ()
    assert found[0].metadata.labels == {"a": ""}


def test_cluster_ip_fills_cluster_ips_and_back() -> None:
    one = load_objects(SERVICE.replace("selector:", "clusterIP: 10.0.0.1\n  selector:"))[0]
    other = load_objects(SERVICE.replace("selector:", "clusterIPs: [10.0.0.1]\n  selector:"))[0]
    assert isinstance(one, Service)
    assert one == other
    assert one.spec.cluster_ips == ("10.0.0.1",)


def test_pod_addresses_come_from_either_field() -> None:
    pod = load_objects(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c}]}\nstatus: {podIP: 10.1.1.1}\n"
    )[0]
    assert isinstance(pod, Pod)
    assert [str(address) for address in pod.addresses] == ["10.1.1.1"]


def test_base_60_and_timestamps_stay_text_and_anchors_merge() -> None:
    data = read_documents("a: 22:30\nb: 2024-01-01\nc: &x {d: 010, e: 0x10}\nf: {<<: *x, e: yes}\n")[0].data
    assert data == {"a": "22:30", "b": "2024-01-01", "c": {"d": 8, "e": 16}, "f": {"d": 8, "e": True}}


def test_api_names_of_fields() -> None:
    assert [api_name(name) for name in ("cluster_ips", "ip_families", "pod_cidr", "set_hostname_as_fqdn", "uid")] == [
        "clusterIPs",
        "ipFamilies",
        "podCIDR",
        "setHostnameAsFQDN",
        "uid",
    ]


def test_no_field_is_both_modelled_and_dropped() -> None:
    for model in KINDS.values():
        assert not {api_name(name) for name in model.model_fields} & model.harmless, model
