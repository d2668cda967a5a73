"""Ingress, IngressClass, and Secret, whose kind ``kubernetes.io/tls`` holds the certificates of an Ingress.

Source: k8s.io/api/networking/v1/types.go and k8s.io/api/core/v1/types.go of Kubernetes 1.30. What one field has to do
with another is checked in :mod:`pktsim.cluster.admission`.
"""

from __future__ import annotations

import base64
import binascii
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from .objects_meta import (
    Bool,
    DNSSubdomain,
    IPText,
    KubeModel,
    KubeObject,
    LenientModel,
    PortNumber,
    PortNumberOrZero,
)
from .objects_services import Protocol

#: The older way to name an Ingress' class (k8s.io/api/networking/v1beta1/well_known_annotations.go).
ANNOTATION_INGRESS_CLASS = "kubernetes.io/ingress.class"
#: ``"true"`` on an IngressClass: Ingresses that name no class get this one when they are created.
ANNOTATION_DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class"

#: Secrets with certificates (k8s.io/api/core/v1/types.go), and the two keys that they must have.
SECRET_TLS = "kubernetes.io/tls"
TLS_CERTIFICATE, TLS_PRIVATE_KEY = "tls.crt", "tls.key"


class IngressServiceBackendPort(KubeModel):
    """A service port by name or by number."""

    name: str = ""
    number: PortNumberOrZero = 0


class IngressServiceBackend(KubeModel):
    """The service that an ingress path leads to."""

    name: str
    port: IngressServiceBackendPort = IngressServiceBackendPort()


class TypedLocalObjectReference(KubeModel):
    """An object of any kind in the same namespace."""

    api_group: str | None = None
    kind: str
    name: str


class IngressBackend(KubeModel):
    """What an ingress path leads to."""

    service: IngressServiceBackend | None = None
    resource: TypedLocalObjectReference | None = None


class HTTPIngressPath(KubeModel):
    """One path of an ingress rule."""

    path_type: Literal["Exact", "Prefix", "ImplementationSpecific"]
    backend: IngressBackend
    path: str = ""


class HTTPIngressRuleValue(KubeModel):
    """The paths of an ingress rule."""

    paths: tuple[HTTPIngressPath, ...]


class IngressRule(KubeModel):
    """Paths of one host name, or of all if it is empty."""

    host: str = ""
    http: HTTPIngressRuleValue | None = None


class IngressTLS(KubeModel):
    """A certificate of an ingress."""

    hosts: tuple[str, ...] = ()
    secret_name: DNSSubdomain | Literal[""] = ""


class IngressSpec(KubeModel):
    """``Ingress.spec``."""

    ingress_class_name: DNSSubdomain | None = None
    default_backend: IngressBackend | None = None
    rules: tuple[IngressRule, ...] = ()
    tls: tuple[IngressTLS, ...] = ()


class IngressPortStatus(KubeModel):
    """A port that a load balancer serves for an Ingress."""

    port: PortNumber
    protocol: Protocol = "TCP"
    error: str | None = None


class IngressLoadBalancerIngress(KubeModel):
    """Where an Ingress is served."""

    ip: IPText | Literal[""] = ""
    hostname: str = ""
    ports: tuple[IngressPortStatus, ...] = ()


class IngressLoadBalancerStatus(KubeModel):
    """``Ingress.status.loadBalancer``."""

    ingress: tuple[IngressLoadBalancerIngress, ...] = ()


class IngressStatus(KubeModel):
    """``Ingress.status``."""

    load_balancer: IngressLoadBalancerStatus = IngressLoadBalancerStatus()


class Ingress(KubeObject):
    """HTTP hosts and paths, and the services behind them."""

    harmless: ClassVar[frozenset[str]] = frozenset()
    api_versions = ("networking.k8s.io/v1",)

    spec: IngressSpec = IngressSpec()
    status: IngressStatus = IngressStatus()


class IngressClassSpec(LenientModel):
    """``IngressClass.spec``."""

    harmless = frozenset({"parameters"})

    controller: str = ""


class IngressClass(KubeObject):
    """Which controller serves an ingress."""

    namespaced = False
    api_versions = ("networking.k8s.io/v1",)

    spec: IngressClassSpec = IngressClassSpec()

    @property
    def is_default(self) -> bool:
        """Whether Ingresses that name no class get this one."""
        return self.metadata.annotations.get(ANNOTATION_DEFAULT_CLASS) == "true"


class Secret(KubeObject):
    """Named values, kept apart from the objects that use them.

    Attributes:
        data: Base64.
        string_data: Plain text, which wins over ``data``; an API server takes it and never prints it.
    """

    type: str = "Opaque"
    data: dict[str, str] = Field(default={})
    string_data: dict[str, str] = Field(default={})
    immutable: Bool = False

    @field_validator("data")
    @classmethod
    def _base64(cls, value: dict[str, str]) -> dict[str, str]:
        for key, text in value.items():
            try:
                base64.b64decode(text.replace("\n", ""), validate=True)
            except (binascii.Error, ValueError):
                raise ValueError(f"{key}: is not base64") from None
        return value

    def value(self, key: str) -> bytes | None:
        """One of its values, or ``None``."""
        if key in self.string_data:
            return self.string_data[key].encode()
        text = self.data.get(key)
        return None if text is None else base64.b64decode(text.replace("\n", ""))
