"""Service, EndpointSlice, Endpoints.

Defaults are those of pkg/apis/core/v1/defaults.go (``SetDefaults_Service``) of Kubernetes 1.30. What one field has to
do with another is checked in :mod:`pktsim.cluster.admission`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from .addresses import parse_ip
from .objects_meta import (
    Bool,
    CIDRText,
    DNSLabel,
    Int32,
    IntOrString,
    IPText,
    KubeModel,
    KubeObject,
    LenientModel,
    OpaqueModel,
    PortNumber,
    PortNumberOrZero,
    dns_label_1035,
)

Protocol = Literal["TCP", "UDP", "SCTP"]
ServiceType = Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]
TrafficPolicy = Literal["Cluster", "Local"]
IPFamilyName = Literal["IPv4", "IPv6"]

#: ``clusterIP`` of a headless service.
CLUSTER_IP_NONE = "None"
#: ``DefaultClientIPServiceAffinitySeconds``: three hours.
DEFAULT_AFFINITY_SECONDS = 10800

#: Labels of a slice: its service, and who keeps it (k8s.io/api/discovery/v1/well_known_labels.go).
LABEL_SERVICE_NAME = "kubernetes.io/service-name"
LABEL_MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
#: Services and slices with one of these are not for kube-proxy.
LABEL_SERVICE_PROXY_NAME = "service.kubernetes.io/service-proxy-name"
LABEL_HEADLESS = "service.kubernetes.io/headless"
#: Annotations that switch topology hints on; the older one wins.
ANNOTATION_TOPOLOGY_MODE = "service.kubernetes.io/topology-mode"
ANNOTATION_TOPOLOGY_AWARE_HINTS = "service.kubernetes.io/topology-aware-hints"


class ServicePort(KubeModel):
    """One port of a service."""

    port: PortNumber
    name: DNSLabel | Literal[""] = ""
    protocol: Protocol = "TCP"
    target_port: IntOrString | None = None
    node_port: PortNumberOrZero = 0
    app_protocol: str | None = None

    @field_validator("target_port")
    @classmethod
    def _target(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, int) and not 0 <= value <= 65535:
            raise ValueError("must be between 1 and 65535")
        return value

    @property
    def target(self) -> int | str:
        """``targetPort``, which is the port itself where it is not given."""
        return self.target_port or self.port


class ClientIPConfig(KubeModel):
    """How long a client stays with its endpoint."""

    timeout_seconds: Int32 = Field(default=DEFAULT_AFFINITY_SECONDS, ge=1, le=86400)


class SessionAffinityConfig(KubeModel):
    """``Service.spec.sessionAffinityConfig``."""

    client_ip: ClientIPConfig = Field(default=ClientIPConfig())


class ServiceSpec(KubeModel):
    """``Service.spec``."""

    type: ServiceType = "ClusterIP"
    selector: dict[str, str] = Field(default={})
    ports: tuple[ServicePort, ...] = ()
    cluster_ip: str = ""
    cluster_ips: tuple[str, ...] = ()
    ip_families: tuple[IPFamilyName, ...] = ()
    ip_family_policy: Literal["SingleStack", "PreferDualStack", "RequireDualStack"] | None = None
    external_ips: tuple[IPText, ...] = ()
    external_name: str = ""
    external_traffic_policy: TrafficPolicy | Literal[""] = ""
    internal_traffic_policy: TrafficPolicy | None = None
    session_affinity: Literal["None", "ClientIP"] = "None"
    session_affinity_config: SessionAffinityConfig | None = None
    load_balancer_ip: str = ""
    load_balancer_class: str | None = None
    load_balancer_source_ranges: tuple[CIDRText, ...] = ()
    allocate_load_balancer_node_ports: Bool | None = None
    health_check_node_port: PortNumberOrZero = 0
    publish_not_ready_addresses: Bool = False
    traffic_distribution: str | None = None

    @field_validator("cluster_ip")
    @classmethod
    def _cluster_ip(cls, value: str) -> str:
        if value not in ("", CLUSTER_IP_NONE):
            parse_ip(value)
        return value

    @model_validator(mode="before")
    @classmethod
    def _both_cluster_ips(cls, data: Any) -> Any:
        # pkg/registry/core/service/strategy.go, NormalizeClusterIPs: whichever is given fills the other.
        if isinstance(data, dict):
            one, several = data.get("clusterIP"), data.get("clusterIPs")
            if one and not several:
                return {**data, "clusterIPs": [one]}
            if several and not one and isinstance(several, list):
                return {**data, "clusterIP": several[0]}
        return data


class PortStatus(OpaqueModel):
    """What a load balancer says of one port."""

    port: Int32


class LoadBalancerIngress(KubeModel):
    """Where a load balancer takes connections."""

    ip: IPText | Literal[""] = ""
    hostname: str = ""
    ip_mode: Literal["VIP", "Proxy"] | None = None
    ports: tuple[PortStatus, ...] = ()


class LoadBalancerStatus(KubeModel):
    """``Service.status.loadBalancer``."""

    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServiceStatus(LenientModel):
    """``Service.status``."""

    harmless = frozenset({"conditions"})

    load_balancer: LoadBalancerStatus = LoadBalancerStatus()


class Service(KubeObject):
    """A service."""

    harmless: ClassVar[frozenset[str]] = frozenset()

    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()

    @property
    def headless(self) -> bool:
        """Whether it has no address of its own by choice."""
        return self.spec.cluster_ip == CLUSTER_IP_NONE

    @property
    def externally_accessible(self) -> bool:
        """Whether the external traffic policy means anything (pkg/api/v1/service/util.go, ``ExternallyAccessible``)."""
        return self.spec.type in ("LoadBalancer", "NodePort") or (
            self.spec.type == "ClusterIP" and bool(self.spec.external_ips)
        )

    @property
    def external_policy_local(self) -> bool:
        """Whether external traffic stays on the node it came to."""
        return self.externally_accessible and self.spec.external_traffic_policy == "Local"

    @property
    def internal_policy_local(self) -> bool:
        """Whether traffic to the cluster IP stays on the node it came from."""
        return self.spec.internal_traffic_policy == "Local"

    @property
    def needs_health_check(self) -> bool:
        """Whether a load balancer asks each node for its local endpoints (``NeedsHealthCheck``)."""
        return self.spec.type == "LoadBalancer" and self.external_policy_local

    @property
    def affinity_seconds(self) -> int:
        """How long a client stays with its endpoint; 0 without session affinity."""
        if self.spec.session_affinity != "ClientIP":
            return 0
        config = self.spec.session_affinity_config
        return config.client_ip.timeout_seconds if config else DEFAULT_AFFINITY_SECONDS

    @classmethod
    def check_name(cls, name: str) -> None:
        dns_label_1035(name)


class EndpointConditions(KubeModel):
    """Whether an endpoint may be used. What is not said counts as ready, serving, not terminating."""

    ready: Bool | None = None
    serving: Bool | None = None
    terminating: Bool | None = None


class ForZone(KubeModel):
    """A zone whose nodes should use an endpoint."""

    name: str


class ForNode(KubeModel):
    """A node that should use an endpoint."""

    name: str


class EndpointHints(KubeModel):
    """Who should use an endpoint."""

    for_zones: tuple[ForZone, ...] = ()
    for_nodes: tuple[ForNode, ...] = ()


class ObjectReference(OpaqueModel):
    """What an endpoint stands for."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class Endpoint(KubeModel):
    """One endpoint of a slice. kube-proxy takes the first address only."""

    addresses: tuple[str, ...]
    conditions: EndpointConditions = EndpointConditions()
    hostname: str | None = None
    target_ref: ObjectReference | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: EndpointHints | None = None
    deprecated_topology: dict[str, str] = Field(default={})


class EndpointPort(KubeModel):
    """One port of a slice. ``None`` as the number means all ports, which kube-proxy does not serve."""

    name: str = ""
    protocol: Protocol = "TCP"
    port: PortNumberOrZero | None = None
    app_protocol: str | None = None


class EndpointSlice(KubeObject):
    """Some of the endpoints of a service, of one address family."""

    harmless: ClassVar[frozenset[str]] = frozenset()
    api_versions = ("discovery.k8s.io/v1",)

    address_type: Literal["IPv4", "IPv6", "FQDN"]
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()

    @property
    def service_name(self) -> str:
        """The service that it belongs to; empty if it does not say."""
        return self.metadata.labels.get(LABEL_SERVICE_NAME, "")


class EndpointAddress(KubeModel):
    """One address of an Endpoints object."""

    ip: IPText
    hostname: str = ""
    node_name: str | None = None
    target_ref: ObjectReference | None = None


class EndpointSubset(KubeModel):
    """Addresses that share their ports."""

    addresses: tuple[EndpointAddress, ...] = ()
    not_ready_addresses: tuple[EndpointAddress, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class Endpoints(KubeObject):
    """The older form of endpoints; mirrored into slices for services without a selector."""

    subsets: tuple[EndpointSubset, ...] = ()
