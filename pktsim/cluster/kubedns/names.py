"""What a name asks of the cluster's zone.

Source: coredns v1.13.1, plugin/kubernetes/parse.go; the DNS specification of Kubernetes, version 1.1.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from . import dnsname

SVC = "svc"
POD = "pod"
#: Where the zone's name server lives, below the zone.
DEFAULT_NS = "ns.dns"


class InvalidName(Exception):
    """A name that nothing in the zone can have."""


@dataclass(frozen=True, slots=True)
class RecordRequest:
    """The parts of a name; what is empty was not asked for.

    Attributes:
        kind: ``svc`` or ``pod``; empty for the zone itself and the two names below it that only hold others.
        namespace: The namespace.
        service: The service, or the pod's address with dashes.
        endpoint: An endpoint of the service.
        port: A port's name.
        protocol: A port's protocol.
    """

    kind: str = ""
    namespace: str = ""
    service: str = ""
    endpoint: str = ""
    port: str = ""
    protocol: str = ""


@lru_cache(maxsize=1 << 14)
def parse_request(name: str, zone: str) -> RecordRequest:
    """Take apart ``name``, which is in ``zone`` and in lower case.

    One label before the service is an endpoint, two are port and protocol, with or without underscores.

    Raises:
        InvalidName: It is neither below ``svc`` nor below ``pod``, or too long.
    """
    base = dnsname.trim_zone(name, zone) or ""
    if base in ("", SVC, POD):
        return RecordRequest()
    labels = dnsname.split(base)
    kind = labels.pop()
    if kind not in (SVC, POD):
        raise InvalidName(name)
    namespace = labels.pop() if labels else ""
    service = labels.pop() if labels else ""
    if len(labels) > 2:
        raise InvalidName(name)
    if len(labels) == 2:
        port, protocol = (label.removeprefix("_") for label in labels)
        return RecordRequest(kind, namespace, service, port=port, protocol=protocol)
    return RecordRequest(kind, namespace, service, endpoint=labels[0] if labels else "")


def is_default_ns(name: str, zone: str) -> bool:
    """Whether ``name`` is ``ns.dns`` of the zone; the zone is compared as it was spelled."""
    prefix = DEFAULT_NS + "."
    return name.startswith(prefix) and name.find(zone) == len(prefix)
