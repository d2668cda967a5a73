"""What the API server refuses of Ingress, IngressClass and Secret; and the class that it gives an Ingress without one.

Source: Kubernetes 1.30, pkg/apis/networking/validation/validation.go (``ValidateIngressCreate``,
``ValidateIngressClass``), pkg/apis/core/validation/validation.go (``ValidateSecret``), and
plugin/pkg/admission/network/defaultingressclass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from .addresses import parse_ip
from .objects_ingress import (
    ANNOTATION_INGRESS_CLASS,
    SECRET_TLS,
    TLS_CERTIFICATE,
    TLS_PRIVATE_KEY,
    HTTPIngressPath,
    Ingress,
    IngressBackend,
    IngressClass,
    Secret,
)
from .objects_meta import container_port_name, dns_label_1035, dns_subdomain

Path = tuple[str | int, ...]
#: Where in an object, what is wrong, how to mend it (or nothing).
Finding = tuple[Path, str, str]

#: What may not stand in an Exact or Prefix path: it would mean another path (``invalidPathSequences``).
_INVALID_SEQUENCES = ("//", "/./", "/../", "%2f", "%2F")
_INVALID_SUFFIXES = ("/..", "/.")
_MAX_CONTROLLER = 250
_QUALIFIED_PATH = re.compile(r"[a-zA-Z0-9/\-._~%!$&'()*+,;=:]+")


def wildcard_host(text: str) -> str:
    """Check a wildcard host (apimachinery ``IsWildcardDNS1123Subdomain``)."""
    if not text.startswith("*.") or "*" in text[1:]:
        raise ValueError(f"{text!r}: '*' may only be the whole first label, as in *.example.com")
    dns_subdomain(text[2:])
    return text


def check_ingress(ingress: Ingress) -> Iterator[Finding]:
    """Check an Ingress."""
    spec = ingress.spec
    if spec.ingress_class_name is not None and ANNOTATION_INGRESS_CLASS in ingress.metadata.annotations:
        path: Path = ("metadata", "annotations", ANNOTATION_INGRESS_CLASS)
        yield path, "stands beside spec.ingressClassName", "remove the annotation"
    if not spec.rules and spec.default_backend is None:
        yield ("spec",), "has neither rules nor defaultBackend", ""
    if spec.default_backend is not None:
        yield from _backend(spec.default_backend, ("spec", "defaultBackend"))
    for number, tls in enumerate(spec.tls):
        for index, host in enumerate(tls.hosts):
            yield from _host(host, ("spec", "tls", number, "hosts", index))
    for number, rule in enumerate(spec.rules):
        if rule.host:
            yield from _host(rule.host, ("spec", "rules", number, "host"))
        if rule.http is None:
            continue
        if not rule.http.paths:
            yield ("spec", "rules", number, "http", "paths"), "is empty", "name a path, or remove http"
        for index, one in enumerate(rule.http.paths):
            yield from _path(one, ("spec", "rules", number, "http", "paths", index))


def _host(host: str, path: Path) -> Iterator[Finding]:
    try:
        parse_ip(host)
    except ValueError:
        pass
    else:
        yield path, f"{host} is an address, not a DNS name", "leave host out to serve every name"
        return
    yield from _wrong(wildcard_host if "*" in host else dns_subdomain, host, path)


def _wrong(check: Callable[[str], str], text: str, path: Path) -> Iterator[Finding]:
    try:
        check(text)
    except ValueError as error:
        yield path, str(error), ""


def _path(one: HTTPIngressPath, path: Path) -> Iterator[Finding]:
    place: Path = (*path, "path")
    if one.path_type == "ImplementationSpecific":
        if one.path and not one.path.startswith("/"):
            yield place, f"{one.path!r} must start with '/'", ""
    else:
        if not one.path.startswith("/"):
            yield place, f"{one.path!r} must start with '/' where pathType is {one.path_type}", ""
        for part in _INVALID_SEQUENCES:
            if part in one.path:
                yield place, f"{one.path!r} must not contain {part!r}", ""
        for part in _INVALID_SUFFIXES:
            if one.path.endswith(part):
                yield place, f"{one.path!r} must not end in {part!r}", ""
    yield from _backend(one.backend, (*path, "backend"))


def _backend(backend: IngressBackend, path: Path) -> Iterator[Finding]:
    service = backend.service
    if (service is None) == (backend.resource is None):
        yield path, "needs a service or a resource, and not both", ""
    elif service is not None:
        yield from _wrong(dns_label_1035, service.name, (*path, "service", "name"))
        port: Path = (*path, "service", "port")
        if bool(service.port.name) == bool(service.port.number):
            yield port, "needs a name or a number, and not both", ""
        elif service.port.name:
            yield from _wrong(container_port_name, service.port.name, (*port, "name"))


def check_ingress_class(found: IngressClass) -> Iterator[Finding]:
    """Check an IngressClass."""
    controller = found.spec.controller
    path: Path = ("spec", "controller")
    domain, slash, rest = controller.partition("/")
    if len(controller) > _MAX_CONTROLLER:
        yield path, f"is longer than {_MAX_CONTROLLER} characters", ""
    elif controller and (not slash or _QUALIFIED_PATH.fullmatch(rest) is None):
        yield path, f"{controller!r} is not a domain with a path, as in example.com/controller", ""
    elif controller:
        yield from _wrong(dns_subdomain, domain, path)


def check_secret(found: Secret) -> Iterator[Finding]:
    """Check a Secret."""
    if found.type == SECRET_TLS:
        for key in (TLS_CERTIFICATE, TLS_PRIVATE_KEY):
            if found.value(key) is None:
                yield ("data",), f"{key} is missing", f"type {SECRET_TLS} needs {TLS_CERTIFICATE} and {TLS_PRIVATE_KEY}"


def with_default_class(ingress: Ingress, classes: Iterable[IngressClass]) -> Ingress:
    """Give an Ingress that names no class the default one, as the admission plug-in DefaultIngressClass does.

    Args:
        ingress: As it comes in.
        classes: All that there are. Of several defaults the newest is taken, of equally old ones the first by name.
    """
    if ingress.spec.ingress_class_name is not None or ANNOTATION_INGRESS_CLASS in ingress.metadata.annotations:
        return ingress
    defaults = sorted((found for found in classes if found.is_default), key=lambda found: found.name)
    if not defaults:
        return ingress
    newest = max(defaults, key=lambda found: found.metadata.creation_timestamp or "")
    spec = ingress.spec.model_copy(update={"ingress_class_name": newest.name})
    return ingress.model_copy(update={"spec": spec})
