"""Pod and the workloads that make pods: Deployment, ReplicaSet, DaemonSet, StatefulSet.

Of a pod, what decides on its addresses, names, ports, readiness and life is modelled; what runs inside its containers
is not, and those fields are read and dropped.

Source: k8s.io/api/core/v1/types.go and k8s.io/api/apps/v1/types.go of Kubernetes 1.30.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from .addresses import IPAddress, parse_ip
from .objects_meta import (
    Bool,
    ContainerPortName,
    DNSLabel,
    Int32,
    Int64,
    IntOrString,
    IPText,
    KubeModel,
    KubeObject,
    LabelSelector,
    LenientModel,
    ObjectMeta,
    OpaqueModel,
    PortNumber,
    PortNumberOrZero,
)
from .objects_services import Protocol


class ContainerPort(KubeModel):
    """A port that a container says it listens on; targets of named service ports are found by its name."""

    container_port: PortNumber
    name: ContainerPortName | None = None
    protocol: Protocol = "TCP"
    host_port: PortNumberOrZero = 0
    host_ip: str = ""


class EnvVar(OpaqueModel):
    """An environment variable of a container."""

    name: str
    value: str = ""


class HTTPGetAction(OpaqueModel):
    """``httpGet`` of a probe."""

    port: IntOrString
    path: str = "/"
    scheme: str = "HTTP"


class TCPSocketAction(OpaqueModel):
    """``tcpSocket`` of a probe."""

    port: IntOrString


class Probe(OpaqueModel):
    """How kubelet finds out whether a container is ready."""

    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    initial_delay_seconds: Int32 = 0
    period_seconds: Int32 = 10
    timeout_seconds: Int32 = 1
    success_threshold: Int32 = 1
    failure_threshold: Int32 = 3


class Container(LenientModel):
    """A container: its name, ports and probe. Image and command may tell what kind of program answers on the ports."""

    harmless = frozenset(
        {
            "envFrom", "imagePullPolicy", "lifecycle", "resizePolicy", "resources",
            "securityContext", "startupProbe", "livenessProbe", "stdin", "stdinOnce",
            "terminationMessagePath", "terminationMessagePolicy", "tty", "volumeDevices", "volumeMounts", "workingDir",
        }
    )  # fmt: skip

    name: str
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    readiness_probe: Probe | None = None
    restart_policy: str = ""


class PodDNSConfigOption(KubeModel):
    """One option of ``resolv.conf`` (``ndots: 2``)."""

    name: str
    value: str | None = None


class PodDNSConfig(KubeModel):
    """What a pod adds to its ``resolv.conf``."""

    nameservers: tuple[IPText, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[PodDNSConfigOption, ...] = ()


class HostAlias(KubeModel):
    """A line of a pod's ``/etc/hosts``."""

    ip: IPText
    hostnames: tuple[str, ...] = ()


class PodReadinessGate(KubeModel):
    """A condition besides its containers' that a pod needs to be ready."""

    condition_type: str


class PodSpec(LenientModel):
    """``Pod.spec``."""

    harmless = frozenset(
        {
            "activeDeadlineSeconds", "affinity", "automountServiceAccountToken", "enableServiceLinks",
            "ephemeralContainers", "hostIPC", "hostPID", "hostUsers", "imagePullSecrets", "initContainers",
            "nodeSelector", "os", "overhead", "preemptionPolicy", "priority", "priorityClassName", "resourceClaims",
            "runtimeClassName", "schedulerName", "schedulingGates", "securityContext", "serviceAccount",
            "serviceAccountName", "shareProcessNamespace", "tolerations", "topologySpreadConstraints", "volumes",
        }
    )  # fmt: skip

    containers: tuple[Container, ...] = ()
    node_name: str = ""
    hostname: DNSLabel | None = None
    subdomain: DNSLabel | None = None
    set_hostname_as_fqdn: Bool = False
    host_network: Bool = False
    host_aliases: tuple[HostAlias, ...] = ()
    dns_policy: Literal["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"] = "ClusterFirst"
    dns_config: PodDNSConfig | None = None
    readiness_gates: tuple[PodReadinessGate, ...] = ()
    restart_policy: str = "Always"
    termination_grace_period_seconds: Int64 = 30


class PodIP(KubeModel):
    """One address of a pod."""

    ip: IPText


class HostIP(KubeModel):
    """One address of a pod's node."""

    ip: IPText


class PodCondition(OpaqueModel):
    """One of ``Pod.status.conditions``."""

    type: str
    status: str = "Unknown"


class PodStatus(OpaqueModel):
    """``Pod.status``. ``pod_ips`` holds ``pod_ip`` too."""

    phase: str = ""
    conditions: tuple[PodCondition, ...] = ()
    pod_ip: str = ""
    pod_ips: tuple[PodIP, ...] = ()
    host_ip: str = ""
    host_ips: tuple[HostIP, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _both_addresses(cls, data: object) -> object:
        # pkg/apis/core/v1/conversion.go, Convert_v1_PodStatus_To_core_PodStatus: podIP is podIPs[0].
        if isinstance(data, dict):
            if data.get("podIP") and not data.get("podIPs"):
                return {**data, "podIPs": [{"ip": data["podIP"]}]}
            several = data.get("podIPs")
            if several and not data.get("podIP") and isinstance(several, list | tuple) and isinstance(several[0], dict):
                return {**data, "podIP": several[0].get("ip", "")}
        return data


class Pod(KubeObject):
    """A pod."""

    harmless: ClassVar[frozenset[str]] = frozenset()

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """Its addresses, the primary one first; empty while it has none."""
        return tuple(parse_ip(one.ip) for one in self.status.pod_ips)

    @property
    def ready(self) -> bool:
        """Whether its ``Ready`` condition is true."""
        return any(one.type == "Ready" and one.status == "True" for one in self.status.conditions)

    def with_ready(self, *, ready: bool) -> Pod:
        """The pod with its Ready condition as given."""
        conditions = [one for one in self.status.conditions if one.type != "Ready"]
        conditions.append(PodCondition(type="Ready", status=str(ready)))
        return self.model_copy(update={"status": self.status.model_copy(update={"conditions": tuple(conditions)})})

    @property
    def terminating(self) -> bool:
        """Whether it has been deleted and waits for its end."""
        return self.metadata.deletion_timestamp is not None

    @property
    def terminated(self) -> bool:
        """Whether all its containers are over for good."""
        return self.status.phase in ("Succeeded", "Failed")


class PodTemplateSpec(KubeModel):
    """What the pods of a workload are made from."""

    metadata: ObjectMeta = ObjectMeta()
    spec: PodSpec = PodSpec()


class _Workload(KubeObject):
    """What the four kinds of workload have in common."""

    api_versions = ("apps/v1",)


class DeploymentSpec(LenientModel):
    """``Deployment.spec``."""

    harmless = frozenset({"minReadySeconds", "paused", "progressDeadlineSeconds", "revisionHistoryLimit", "strategy"})

    replicas: Int32 = Field(default=1, ge=0)
    selector: LabelSelector
    template: PodTemplateSpec


class Deployment(_Workload):
    """Interchangeable pods, by way of a ReplicaSet."""

    spec: DeploymentSpec


class ReplicaSetSpec(LenientModel):
    """``ReplicaSet.spec``."""

    harmless = frozenset({"minReadySeconds"})

    replicas: Int32 = Field(default=1, ge=0)
    selector: LabelSelector
    template: PodTemplateSpec = PodTemplateSpec()


class ReplicaSet(_Workload):
    """A number of equal pods."""

    spec: ReplicaSetSpec


class DaemonSetSpec(LenientModel):
    """``DaemonSet.spec``."""

    harmless = frozenset({"minReadySeconds", "revisionHistoryLimit", "updateStrategy"})

    selector: LabelSelector
    template: PodTemplateSpec


class DaemonSet(_Workload):
    """One pod on every node."""

    spec: DaemonSetSpec


class StatefulSetOrdinals(KubeModel):
    """Where the numbers of a StatefulSet's pods start."""

    start: Int32 = 0


class StatefulSetSpec(LenientModel):
    """``StatefulSet.spec``."""

    harmless = frozenset(
        {
            "minReadySeconds", "persistentVolumeClaimRetentionPolicy", "podManagementPolicy", "revisionHistoryLimit",
            "updateStrategy", "volumeClaimTemplates",
        }
    )  # fmt: skip

    replicas: Int32 = Field(default=1, ge=0)
    selector: LabelSelector
    template: PodTemplateSpec
    service_name: str = ""
    ordinals: StatefulSetOrdinals = StatefulSetOrdinals()


class StatefulSet(_Workload):
    """Numbered pods with lasting names."""

    spec: StatefulSetSpec


#: Objects that own pods.
Workload = Deployment | ReplicaSet | DaemonSet | StatefulSet
