"""All kinds of objects in one place, and which kinds are harmless, refused or unknown."""

from __future__ import annotations

from .objects_balancer import LoadBalancer
from .objects_ingress import (
    ANNOTATION_DEFAULT_CLASS,
    ANNOTATION_INGRESS_CLASS,
    HTTPIngressPath,
    Ingress,
    IngressBackend,
    IngressClass,
    IngressLoadBalancerIngress,
    IngressLoadBalancerStatus,
    IngressPortStatus,
    IngressStatus,
    Secret,
)
from .objects_meta import (
    KubeModel,
    KubeObject,
    LabelSelector,
    ObjectMeta,
    OwnerReference,
    selects,
)
from .objects_nodes import LABEL_TOPOLOGY_ZONE, ConfigMap, Namespace, Node, NodeAddress
from .objects_outside import Outside
from .objects_pods import (
    Container,
    ContainerPort,
    DaemonSet,
    Deployment,
    Pod,
    PodCondition,
    PodIP,
    PodSpec,
    PodStatus,
    PodTemplateSpec,
    ReplicaSet,
    StatefulSet,
    Workload,
)
from .objects_services import (
    ANNOTATION_TOPOLOGY_AWARE_HINTS,
    ANNOTATION_TOPOLOGY_MODE,
    CLUSTER_IP_NONE,
    LABEL_HEADLESS,
    LABEL_MANAGED_BY,
    LABEL_SERVICE_NAME,
    LABEL_SERVICE_PROXY_NAME,
    Endpoint,
    EndpointConditions,
    EndpointHints,
    EndpointPort,
    Endpoints,
    EndpointSlice,
    ForZone,
    LoadBalancerIngress,
    ObjectReference,
    Service,
    ServicePort,
    ServiceSpec,
)

#: Every kind that is read, by name.
KINDS: dict[str, type[KubeObject]] = {
    kind.__name__: kind
    for kind in (
        ConfigMap,
        DaemonSet,
        Deployment,
        Endpoints,
        EndpointSlice,
        Ingress,
        IngressClass,
        LoadBalancer,
        Namespace,
        Node,
        Outside,
        Pod,
        ReplicaSet,
        Secret,
        Service,
        StatefulSet,
    )
}

#: Kinds of Kubernetes itself that may stand in a file and are passed over: none of them changes what happens to a
#: packet of service networking, or only by way of objects that would be in the file too (an autoscaler's replicas).
HARMLESS_KINDS: frozenset[str] = frozenset(
    {
        # configuration and rights
        "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ServiceAccount",
        "CertificateSigningRequest",
        # storage
        "CSIDriver", "CSINode", "CSIStorageCapacity", "PersistentVolume", "PersistentVolumeClaim", "StorageClass",
        "VolumeAttachment",
        # scheduling, sizes and limits
        "HorizontalPodAutoscaler", "LimitRange", "PodDisruptionBudget", "PodTemplate", "PriorityClass", "ResourceQuota",
        "RuntimeClass",
        # bookkeeping and control plane
        "APIService", "ComponentStatus", "ControllerRevision", "CustomResourceDefinition", "Event", "FlowSchema",
        "Lease", "MutatingWebhookConfiguration", "PriorityLevelConfiguration", "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding", "ValidatingWebhookConfiguration",
    }
)  # fmt: skip

_POLICY = "it would drop packets that pass here; remove it to see the cluster without policies"

#: Kinds that would change a verdict and are not modelled: why each is refused.
REFUSED_KINDS: dict[str, str] = {
    "NetworkPolicy": _POLICY,
    "AdminNetworkPolicy": _POLICY,
    "BaselineAdminNetworkPolicy": _POLICY,
    "CiliumNetworkPolicy": _POLICY,
    "CiliumClusterwideNetworkPolicy": _POLICY,
    "GlobalNetworkPolicy": _POLICY,
    "Job": "write the Pod that it would start instead",
    "CronJob": "write the Pod that it would start instead",
    "ReplicationController": "write a ReplicaSet instead",
    "Gateway": "write an Ingress, or the Service in front of the gateway's pods",
    "HTTPRoute": "write an Ingress, or the Service in front of the gateway's pods",
    "VirtualService": "a service mesh's proxies are not modelled; remove it",
    "DestinationRule": "a service mesh's proxies are not modelled; remove it",
}

__all__ = [
    "ANNOTATION_DEFAULT_CLASS",
    "ANNOTATION_INGRESS_CLASS",
    "ANNOTATION_TOPOLOGY_AWARE_HINTS",
    "ANNOTATION_TOPOLOGY_MODE",
    "CLUSTER_IP_NONE",
    "HARMLESS_KINDS",
    "KINDS",
    "LABEL_HEADLESS",
    "LABEL_MANAGED_BY",
    "LABEL_SERVICE_NAME",
    "LABEL_SERVICE_PROXY_NAME",
    "LABEL_TOPOLOGY_ZONE",
    "REFUSED_KINDS",
    "ConfigMap",
    "Container",
    "ContainerPort",
    "DaemonSet",
    "Deployment",
    "Endpoint",
    "EndpointConditions",
    "EndpointHints",
    "EndpointPort",
    "EndpointSlice",
    "Endpoints",
    "ForZone",
    "HTTPIngressPath",
    "Ingress",
    "IngressBackend",
    "IngressClass",
    "IngressLoadBalancerIngress",
    "IngressLoadBalancerStatus",
    "IngressPortStatus",
    "IngressStatus",
    "KubeModel",
    "KubeObject",
    "LabelSelector",
    "LoadBalancer",
    "LoadBalancerIngress",
    "Namespace",
    "Node",
    "NodeAddress",
    "ObjectMeta",
    "ObjectReference",
    "Outside",
    "OwnerReference",
    "Pod",
    "PodCondition",
    "PodIP",
    "PodSpec",
    "PodStatus",
    "PodTemplateSpec",
    "ReplicaSet",
    "Secret",
    "Service",
    "ServicePort",
    "ServiceSpec",
    "StatefulSet",
    "Workload",
    "selects",
]
