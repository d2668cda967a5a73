"""The objects that make kube-dns in a cluster that brings none, as kubeadm's CoreDNS addon would, and how to know it.

Source: cmd/kubeadm/app/phases/addons/dns/manifests.go of Kubernetes 1.30.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from pktsim.cluster.control_plane import pod_addresses, pod_network
from pktsim.cluster.endpoints import serves_dns
from pktsim.cluster.loader import load_objects
from pktsim.cluster.objects import ConfigMap, KubeObject, Node, Pod, Service
from pktsim.cluster.store import ObjectStore

DNS_NAMESPACE, DNS_SERVICE = "kube-system", "kube-dns"
#: The pod has this address of its node's network, if that is free.
_POD_OFFSET = 53

COREFILE = """\
.:53 {
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    forward . /etc/resolv.conf
    loadbalance
}
"""

_OBJECTS = """\
apiVersion: v1
kind: Service
metadata: {{name: kube-dns, namespace: kube-system, labels: {{k8s-app: kube-dns}}}}
spec:
  clusterIP: {address}
  selector: {{k8s-app: kube-dns}}
  ports:
  - {{name: dns, port: 53, targetPort: 53, protocol: UDP}}
  - {{name: dns-tcp, port: 53, targetPort: 53, protocol: TCP}}
---
apiVersion: v1
kind: Pod
metadata: {{name: coredns, namespace: kube-system, labels: {{k8s-app: kube-dns}}}}
spec:
  nodeName: {node}
  dnsPolicy: Default
  containers:
  - name: coredns
    ports: [{{containerPort: 53, protocol: UDP}}, {{containerPort: 53, protocol: TCP}}]
status: {{podIP: {pod_ip}}}
"""


def dns_objects(store: ObjectStore, address: IPv4Address) -> list[KubeObject]:
    """A Service at ``address`` and its pod on the last node; nothing if that node has no network for pods."""
    node = store.list(Node)[-1]
    network = pod_network(node)
    if network is None:
        return []
    wanted = network.network_address + _POD_OFFSET
    free = wanted in network and wanted not in set(pod_addresses(store))
    return load_objects(_OBJECTS.format(address=address, node=node.name, pod_ip=wanted if free else ""))


def dns_service(store: ObjectStore) -> Service | None:
    """kube-dns' Service, if there is one."""
    return store.get(Service, DNS_SERVICE, DNS_NAMESPACE)


def is_dns_pod(store: ObjectStore, pod: Pod) -> bool:
    """Whether it is one of kube-dns' pods."""
    return serves_dns(pod, store, dns_service(store))


def corefile(store: ObjectStore) -> str:
    """What kube-dns' pods are configured with: ConfigMap ``coredns``, or kubeadm's."""
    found = store.get(ConfigMap, "coredns", DNS_NAMESPACE)
    return found.data.get("Corefile", COREFILE) if found is not None else COREFILE
