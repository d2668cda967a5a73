"""What all Kubernetes objects share: strict models with the API's field names, metadata, selectors.

Attributes are snake case, their aliases are the API's own names (``cluster_ips`` is ``clusterIPs``). A field that the
API does not have is an error, as with ``kubectl --validate=strict``; fields that it has, but that change nothing here,
are in a model's ``harmless`` set and are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from .addresses import parse_cidr, parse_ip

#: Parts of names that are not simply capitalised in the API's camel case.
_ACRONYMS = {
    "arp": "ARP",
    "cidr": "CIDR",
    "cidrs": "CIDRs",
    "dsr": "DSR",
    "fqdn": "FQDN",
    "id": "ID",
    "ip": "IP",
    "ips": "IPs",
    "ipc": "IPC",
    "pid": "PID",
    "uid": "UID",
    "uuid": "UUID",
}


def api_name(attribute: str) -> str:
    """Return the API's name of a field: ``ip_families`` is ``ipFamilies``, ``cluster_ips`` is ``clusterIPs``."""
    first, *rest = attribute.split("_")
    return first + "".join(_ACRONYMS.get(part, part.capitalize()) for part in rest)


class KubeModel(BaseModel):
    """A part of an object: frozen, and without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=api_name, populate_by_name=True)


class LenientModel(KubeModel):
    """A part that has fields in the API which change nothing in service networking."""

    harmless: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _drop_harmless(cls, data: Any) -> Any:
        if isinstance(data, dict) and not cls.harmless.isdisjoint(data):
            return {key: value for key, value in data.items() if key not in cls.harmless}
        return data


class OpaqueModel(KubeModel):
    """A part of which only some fields matter, and whose other fields are too many and too far away to list."""

    model_config = ConfigDict(extra="ignore")


def _ip_text(text: str) -> str:
    parse_ip(text)
    return text


def _cidr_text(text: str) -> str:
    parse_cidr(text.strip())
    return text


_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_PORT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def dns_label(text: str) -> str:
    """Check an RFC 1123 label (apimachinery ``IsDNS1123Label``)."""
    if len(text) > 63 or _LABEL.fullmatch(text) is None:
        raise ValueError(
            f"{text!r} is not a DNS label: lower case letters, digits and '-', "
            "a letter or digit at both ends, at most 63 characters"
        )
    return text


def dns_label_1035(text: str) -> str:
    """Check an RFC 1035 label, which also starts with a letter (apimachinery ``IsDNS1035Label``)."""
    if len(text) > 63 or _LABEL_1035.fullmatch(text) is None:
        raise ValueError(
            f"{text!r} is not a DNS label that starts with a letter: lower case letters, digits and '-', "
            "at most 63 characters"
        )
    return text


def dns_subdomain(text: str) -> str:
    """Check an RFC 1123 subdomain (apimachinery ``IsDNS1123Subdomain``)."""
    if len(text) > 253 or _SUBDOMAIN.fullmatch(text) is None:
        raise ValueError(
            f"{text!r} is not a DNS name: labels of lower case letters, digits and '-', "
            "joined by '.', at most 253 characters"
        )
    return text


def container_port_name(text: str) -> str:
    """Check an IANA service name (apimachinery ``IsValidPortName``)."""
    if not 1 <= len(text) <= 15 or _PORT_NAME.fullmatch(text) is None or "--" in text or text.isdigit():
        raise ValueError(
            f"{text!r} is not a port name: lower case letters, digits and single '-', "
            "at least one letter, at most 15 characters"
        )
    return text


Int32 = Annotated[int, Field(strict=True, ge=-(2**31), le=2**31 - 1)]
Int64 = Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)]
Bool = Annotated[bool, Field(strict=True)]
PortNumber = Annotated[int, Field(strict=True, ge=1, le=65535)]
PortNumberOrZero = Annotated[int, Field(strict=True, ge=0, le=65535)]
IPText = Annotated[str, AfterValidator(_ip_text)]
CIDRText = Annotated[str, AfterValidator(_cidr_text)]
DNSLabel = Annotated[str, AfterValidator(dns_label)]
DNSSubdomain = Annotated[str, AfterValidator(dns_subdomain)]
ContainerPortName = Annotated[str, AfterValidator(container_port_name)]
IntOrString = Annotated[int, Field(strict=True)] | str


class OwnerReference(KubeModel):
    """Who made an object, and is followed by it into deletion."""

    api_version: str
    kind: str
    name: str
    uid: str = ""
    controller: Bool = False
    block_owner_deletion: Bool = False


class ObjectMeta(LenientModel):
    """``metadata`` of any object. ``namespace`` is empty for kinds that have none."""

    harmless = frozenset({"managedFields", "selfLink", "clusterName"})

    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    uid: str = ""
    resource_version: str = ""
    generation: Int64 = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: Int64 | None = None
    owner_references: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()


class LabelSelectorRequirement(KubeModel):
    """One of ``matchExpressions``."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels meet it (apimachinery ``labels.Requirement.Matches``)."""
        if self.operator == "In":
            return labels.get(self.key) in self.values
        if self.operator == "NotIn":
            return labels.get(self.key) not in self.values
        return (self.key in labels) == (self.operator == "Exists")


class LabelSelector(KubeModel):
    """A selector of workloads; an empty one matches everything."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels meet all of it."""
        return selects(self.match_labels, labels) and all(one.matches(labels) for one in self.match_expressions)


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether every pair of ``selector`` is among ``labels``."""
    return all(labels.get(key) == value for key, value in selector.items())


class KubeObject(LenientModel):
    """Any object: what the store holds and the loader returns.

    Attributes:
        namespaced: Whether objects of this kind live in a namespace.
        api_versions: The versions in which this kind is read.
    """

    harmless = frozenset({"status"})
    namespaced: ClassVar[bool] = True
    api_versions: ClassVar[tuple[str, ...]] = ("v1",)

    api_version: str = ""
    kind: str = ""
    metadata: ObjectMeta = ObjectMeta()

    @model_validator(mode="before")
    @classmethod
    def _fill_type(cls, data: Any) -> Any:
        """An object made in Python need not say what it is; one that was read has been asked for it by the loader."""
        if isinstance(data, dict) and not (data.get("kind") and ("apiVersion" in data or "api_version" in data)):
            return {"apiVersion": cls.api_versions[0], "kind": cls.__name__, **data}
        return data

    @property
    def name(self) -> str:
        """``metadata.name``."""
        return self.metadata.name

    @property
    def namespace(self) -> str:
        """``metadata.namespace``, empty for kinds without one."""
        return self.metadata.namespace

    @property
    def full_name(self) -> str:
        """``namespace/name``, or the name alone for kinds without a namespace."""
        return f"{self.metadata.namespace}/{self.metadata.name}" if self.namespaced else self.metadata.name

    @property
    def key(self) -> tuple[str, str, str]:
        """Kind, namespace and name: what tells objects apart."""
        return (self.kind, self.metadata.namespace, self.metadata.name)

    def __str__(self) -> str:
        return f"{self.kind} {self.full_name}"

    @classmethod
    def check_name(cls, name: str) -> None:
        """Check a name as the API server does for this kind.

        Raises:
            ValueError: It would refuse the name.
        """
        dns_subdomain(name)
