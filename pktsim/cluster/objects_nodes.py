"""Node, Namespace, ConfigMap.

Source: k8s.io/api/core/v1/types.go of Kubernetes 1.30.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from .addresses import IPAddress, parse_ip
from .objects_meta import CIDRText, Int32, KubeModel, KubeObject, LenientModel, OpaqueModel, dns_label

#: The well-known label with a node's zone (k8s.io/api/core/v1/well_known_labels.go).
LABEL_TOPOLOGY_ZONE = "topology.kubernetes.io/zone"


class Taint(LenientModel):
    """A node's taint; only the one of a node that is going away matters, for load balancer health."""

    harmless = frozenset({"timeAdded"})

    key: str
    effect: str
    value: str = ""


class NodeSpec(LenientModel):
    """``Node.spec``."""

    harmless = frozenset({"providerID", "unschedulable", "configSource", "externalID"})

    pod_cidr: str = ""
    pod_cidrs: tuple[CIDRText, ...] = ()
    taints: tuple[Taint, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _both_cidrs(cls, data: object) -> object:
        # pkg/apis/core/v1/conversion.go, Convert_v1_NodeSpec_To_core_NodeSpec: podCIDR is podCIDRs[0].
        if isinstance(data, dict) and data.get("podCIDR") and not data.get("podCIDRs"):
            return {**data, "podCIDRs": [data["podCIDR"]]}
        return data


class NodeAddress(KubeModel):
    """One of ``Node.status.addresses``."""

    type: str
    address: str


class NodeCondition(OpaqueModel):
    """One of ``Node.status.conditions``."""

    type: str
    status: str = "Unknown"


class DaemonEndpoint(KubeModel):
    """A port on which a daemon of the node listens."""

    port: Int32 = 0


class NodeDaemonEndpoints(OpaqueModel):
    """``Node.status.daemonEndpoints``."""

    kubelet_endpoint: DaemonEndpoint = DaemonEndpoint()


class NodeStatus(OpaqueModel):
    """``Node.status``."""

    addresses: tuple[NodeAddress, ...] = ()
    allocatable: dict[str, str | int | float] = Field(default={})
    conditions: tuple[NodeCondition, ...] = ()
    daemon_endpoints: NodeDaemonEndpoints = NodeDaemonEndpoints()


class Node(KubeObject):
    """A machine."""

    harmless: ClassVar[frozenset[str]] = frozenset()
    namespaced = False

    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def host_ips(self) -> tuple[IPAddress, ...]:
        """The node's primary address, and its first one of the other family.

        Internal addresses come before external ones (component-helpers ``GetNodeHostIPs``).
        """
        found = [
            parse_ip(address.address)
            for kind in ("InternalIP", "ExternalIP")
            for address in self.status.addresses
            if address.type == kind
        ]
        return tuple(found[:1]) + tuple(ip for ip in found[1:] if ip.version != found[0].version)[:1]

    def with_ready(self, *, ready: bool) -> Node:
        """The node with its Ready condition as given."""
        conditions = [one for one in self.status.conditions if one.type != "Ready"]
        conditions.append(NodeCondition(type="Ready", status=str(ready)))
        return self.model_copy(update={"status": self.status.model_copy(update={"conditions": tuple(conditions)})})

    def condition(self, kind: str) -> bool:
        """Whether a condition (``Ready``) is ``True``."""
        return any(one.type == kind and one.status == "True" for one in self.status.conditions)


class Namespace(KubeObject):
    """A namespace."""

    harmless = frozenset({"spec", "status"})
    namespaced = False

    @classmethod
    def check_name(cls, name: str) -> None:
        dns_label(name)


class ConfigMap(KubeObject):
    """Texts by name: the ``Corefile`` of kube-dns, the configuration of kube-proxy."""

    harmless = frozenset({"binaryData", "immutable"})

    data: dict[str, str] = Field(default={})
