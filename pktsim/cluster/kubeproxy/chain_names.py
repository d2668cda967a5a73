"""Names of the chains that kube-proxy writes in iptables mode, and what each is for.

Source: pkg/proxy/iptables/proxier.go of Kubernetes 1.30.
"""

from __future__ import annotations

from base64 import b32encode
from hashlib import sha256

#: nat: service addresses, then node ports; filter: cluster IPs without endpoints.
KUBE_SERVICES = "KUBE-SERVICES"
#: filter: external IPs, load balancer IPs and node ports without usable endpoints.
KUBE_EXTERNAL_SERVICES = "KUBE-EXTERNAL-SERVICES"
#: nat: node ports; filter: health check node ports, which are let in.
KUBE_NODEPORTS = "KUBE-NODEPORTS"
#: nat: masquerades what KUBE-MARK-MASQ has marked.
KUBE_POSTROUTING = "KUBE-POSTROUTING"
#: nat: marks a packet for masquerading.
KUBE_MARK_MASQ = "KUBE-MARK-MASQ"
#: filter: lets forwarded service traffic pass, drops what conntrack finds invalid.
KUBE_FORWARD = "KUBE-FORWARD"
#: filter: load balancer traffic that no source range let through.
KUBE_PROXY_FIREWALL = "KUBE-PROXY-FIREWALL"
#: All tables: empty; that it is gone shows that somebody flushed the rules.
KUBE_PROXY_CANARY = "KUBE-PROXY-CANARY"
#: filter: kubelet's guard of 127.0.0.0/8, of which kube-proxy keeps a copy.
KUBE_FIREWALL = "KUBE-FIREWALL"

#: Endpoints under policy Cluster, and under policy Local.
CLUSTER_POLICY_PREFIX = "KUBE-SVC-"
LOCAL_POLICY_PREFIX = "KUBE-SVL-"
#: Source ranges of a load balancer.
FIREWALL_PREFIX = "KUBE-FW-"
#: Traffic to any external destination of a service port.
EXTERNAL_PREFIX = "KUBE-EXT-"
#: One endpoint.
ENDPOINT_PREFIX = "KUBE-SEP-"

#: What a stale chain's name starts with.
SERVICE_CHAIN_PREFIXES = (
    CLUSTER_POLICY_PREFIX,
    LOCAL_POLICY_PREFIX,
    ENDPOINT_PREFIX,
    FIREWALL_PREFIX,
    EXTERNAL_PREFIX,
)


def chain_hash(text: str) -> str:
    """The part of a name that is a hash: 16 characters of base32 of SHA-256, 80 bits."""
    return b32encode(sha256(text.encode()).digest()[:10]).decode()


def endpoint_chain(service_port: str, protocol: str, endpoint: str) -> str:
    """The chain of one endpoint.

    Args:
        service_port: ``namespace/name:port``, or ``namespace/name`` for a port without a name.
        protocol: In lower case.
        endpoint: ``IP:PORT``, IPv6 addresses in brackets.
    """
    return ENDPOINT_PREFIX + chain_hash(service_port + protocol + endpoint)


def is_service_chain(name: str) -> bool:
    """Whether a chain is of one service port, and so deleted when no service port needs it."""
    return name.startswith(SERVICE_CHAIN_PREFIXES)
