"""Which server, which location, which endpoints: from the objects to what nginx goes by.

Source: ingress-nginx internal/ingress/controller/controller.go (``getBackendServers``, ``createServers``,
``createUpstreams``), location.go, endpointslices.go, store/store.go (``GetIngressClass``); nginx
src/http/ngx_http_core_module.c (``ngx_http_core_find_location``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

from pktsim.cluster.addresses import parse_ip
from pktsim.cluster.objects import (
    ANNOTATION_INGRESS_CLASS,
    CLUSTER_IP_NONE,
    EndpointSlice,
    Ingress,
    IngressBackend,
    IngressClass,
    Service,
    ServicePort,
)
from pktsim.fidelity import approximated

from .settings import Arguments, LocationSettings, Settings, location_settings

approximated(
    "ingress.trailing_slash",
    "a Prefix path with a slash at its end serves the path without it, and an Exact one does not, as the API says; "
    "nginx answers both with a redirect to the path with the slash",
    source="nginx src/http/ngx_http_core_module.c ngx_http_core_find_static_location",
)

#: The server for names that no other has, and the backend for what no Ingress wants: a server in the same nginx.
CATCH_ALL = "_"
DEFAULT_BACKEND = "upstream-default-backend"

_REFERENCE = re.compile(r"\$(\d)")
#: What nginx does not escape in a path that it has made (``ngx_escape_uri``, NGX_ESCAPE_URI).
_UNESCAPED = "".join(map(chr, range(33, 127))).replace("#", "").replace("%", "").replace("?", "")
_SUBDOMAIN = re.compile(r"[\w-]+", re.ASCII)

Objects = dict[tuple[str, str], Ingress]
#: The name of the Secret with the certificate for a host: of an Ingress, or ``None``.
SecretFor = Callable[[str, Ingress], str | None]


@dataclass(frozen=True, slots=True)
class Backend:
    """The endpoints of one port of a service.

    Attributes:
        name: ``namespace-service-port``, as the log has it.
        endpoints: Address and port; in place of an address the name of an ExternalName service.
    """

    name: str
    endpoints: tuple[tuple[str, int], ...] = ()
    external: bool = False


@dataclass(slots=True)
class Location:
    """What becomes of requests for some paths.

    Attributes:
        exact: Whether only this very path is meant.
        default: Whether it stands where no Ingress said anything.
        logged: Whether requests are written to the access log.
    """

    path: str
    exact: bool
    backend: str
    settings: LocationSettings
    ingress: str = ""
    service: tuple[str, str] | None = None
    port: str = ""
    default: bool = False
    logged: bool = True

    @property
    def rewrites(self) -> bool:
        """Whether requests go on with another path."""
        return self.settings.rewrite_target not in ("", self.path)

    def rewritten(self, path: str, target: str) -> str:
        """The target with which a request goes on (``rewrite … break``).

        Args:
            path: Its path, decoded.
            target: As it came; what is behind ``?`` stays.
        """
        found = re.search(self.path, path, re.IGNORECASE) if self.rewrites else None
        if found is None:
            return target
        groups = (found[0], *found.groups(""))

        def group(reference: re.Match[str]) -> str:
            number = int(reference[1])
            return groups[number] if number < len(groups) else ""

        made = _REFERENCE.sub(group, self.settings.rewrite_target)
        query = target.partition("?")[2]
        keeps = query and not made.endswith("?")
        made, _, more = made.removesuffix("?").partition("?")
        arguments = "&".join(part for part in (more, query if keeps else "") if part)
        return quote(made.encode("latin-1", "replace"), safe=_UNESCAPED) + (f"?{arguments}" if arguments else "")

    def __str__(self) -> str:
        kind = "exactly" if self.exact else "prefix"
        return f"{kind} {self.path} ({f'Ingress {self.ingress}' if self.ingress else 'nobody said anything of it'})"


@dataclass(slots=True)
class Server:
    """One host name, which may begin with ``*.``.

    Attributes:
        certificate: The Secret of its certificate as ``namespace/name``; empty for the default certificate; ``None`` if
            no Ingress asks for TLS.
        passthrough: Whether connections are handed on without being decrypted.
    """

    hostname: str
    locations: list[Location] = field(default_factory=list)
    certificate: str | None = None
    passthrough: bool = False
    _patterns: list[tuple[re.Pattern[str], Location]] = field(default_factory=list)
    _exact: dict[str, Location] = field(default_factory=dict)
    _prefixes: list[Location] = field(default_factory=list)

    def finish(self) -> None:
        """Bring the locations into the order in which they are tried."""
        if any(location.settings.use_regex or location.rewrites for location in self.locations):
            # One that is a pattern makes all of the host patterns, exact ones too (template.go, enforceRegexModifier).
            listed = sorted(self.locations, key=lambda one: one.path, reverse=True)
            for location in sorted(listed, key=lambda one: len(one.path), reverse=True):
                as_it_is = location.settings.use_regex or location.rewrites or location.exact or location.path == "/"
                for path in (location.path,) if as_it_is else (location.path.rstrip("/") + "/", location.path):
                    self._patterns.append((re.compile(path, re.IGNORECASE), location))
            return
        exact = {location.path for location in self.locations if location.exact}
        for location in self.locations:
            if location.exact:
                self._exact.setdefault(location.path, location)
                continue
            if location.path != "/":
                # A prefix is one of whole elements: "/foo/" and beside it exactly "/foo", unless that is said already.
                # Which of the two a prefix is written as makes no difference (the API's own table of examples).
                plain = location.path.rstrip("/")
                location.path = plain + "/"
                if plain not in exact:
                    self._exact.setdefault(plain, location)
            self._prefixes.append(location)
        self._prefixes.sort(key=lambda location: len(location.path), reverse=True)

    def location(self, path: str) -> Location:
        """The location for a path; ``/`` is always there."""
        for pattern, location in self._patterns:
            if pattern.match(path):
                return location
        found = self._exact.get(path)
        if found is not None:
            return found
        return next(location for location in self._prefixes if path.startswith(location.path))


class Routes:
    """All servers and backends of one configuration."""

    def __init__(self, servers: dict[str, Server], backends: dict[str, Backend]) -> None:
        self.servers = servers
        self.backends = backends
        for server in servers.values():
            server.finish()

    def find(self, host: str) -> Server | None:
        """The server of a name, or that of its wildcard, which stands for exactly one label."""
        found = self.servers.get(host)
        if found is not None and host != CATCH_ALL:
            return found
        label, _, domain = host.partition(".")
        if _SUBDOMAIN.fullmatch(label) is None:
            return None
        return self.servers.get(f"*.{domain}") if domain else None

    def server(self, host: str) -> Server:
        """The server of a name, or the one for all others."""
        return self.find(host) or self.servers[CATCH_ALL]


def serves(ingress: Ingress, classes: dict[tuple[str, str], IngressClass], arguments: Arguments) -> bool:
    """Whether an Ingress is this controller's (``GetIngressClass``)."""
    if arguments.watch_namespace not in ("", ingress.namespace):
        return False
    name = ingress.spec.ingress_class_name
    if name is not None:
        found = classes.get(("", name))
        if found is None:
            return False
        by_name = arguments.class_by_name and name == arguments.ingress_class
        return by_name or found.spec.controller == arguments.controller
    annotation = ingress.metadata.annotations.get(ANNOTATION_INGRESS_CLASS)
    if annotation is not None:
        return annotation == arguments.ingress_class
    return arguments.without_class


def in_order(ingresses: Iterable[Ingress]) -> list[Ingress]:
    """The oldest first: of two that want the same host and path it wins (``sortIngressSlice``).

    Objects that were made here have no creation time, but their uids count up.
    """

    def age(ingress: Ingress) -> tuple[str, str, str]:
        metadata = ingress.metadata
        return metadata.creation_timestamp or "~", metadata.uid, ingress.full_name

    return sorted(ingresses, key=age)


@dataclass(slots=True)
class Builder:
    """Makes routes.

    Attributes:
        ingresses: Those that this controller serves, the oldest first.
        services: All services.
        slices: All slices.
        secret_for: Finds the certificate of a host.
    """

    arguments: Arguments
    settings: Settings
    ingresses: list[Ingress]
    services: dict[tuple[str, str], Service]
    slices: dict[tuple[str, str], EndpointSlice]
    secret_for: SecretFor
    _backends: dict[str, Backend] = field(default_factory=dict)
    _servers: dict[str, Server] = field(default_factory=dict)
    _slices_of: dict[tuple[str, str], list[EndpointSlice]] = field(default_factory=dict)

    def build(self) -> Routes:
        """Make them."""
        for (namespace, _), piece in sorted(self.slices.items()):
            self._slices_of.setdefault((namespace, piece.service_name), []).append(piece)
        self._backends[DEFAULT_BACKEND] = Backend(DEFAULT_BACKEND, self._default_endpoints())
        catch_all = Location("/", False, DEFAULT_BACKEND, self.settings.location, default=True, logged=False)
        self._servers[CATCH_ALL] = Server(CATCH_ALL, [catch_all], certificate="")
        settings = {id(one): location_settings(one, self.settings.location) for one in self.ingresses}
        for ingress in self.ingresses:
            self._make_servers(ingress, settings[id(ingress)])
        for ingress in self.ingresses:
            self._secure(ingress, settings[id(ingress)])
        for ingress in self.ingresses:
            self._add_paths(ingress, settings[id(ingress)])
        return Routes(self._servers, self._backends)

    def _default_endpoints(self) -> tuple[tuple[str, int], ...]:
        namespace, _, name = self.arguments.default_backend.partition("/")
        service = self.services.get((namespace, name))
        found: tuple[tuple[str, int], ...] = ()
        if service is not None and service.spec.ports:
            found = tuple(self._endpoints(service, service.spec.ports[0]))
        return found or (("127.0.0.1", self.arguments.default_server_port),)

    def _make_servers(self, ingress: Ingress, settings: LocationSettings) -> None:
        backend = ingress.spec.default_backend
        name = DEFAULT_BACKEND
        if backend is not None and backend.service is not None:
            name = self._backend(ingress, backend, settings)
            root = self._servers[CATCH_ALL].locations[0]
            if root.default and not ingress.spec.rules:
                self._fill(root, ingress, backend, settings)
        for rule in ingress.spec.rules:
            host = rule.host or CATCH_ALL
            if host not in self._servers:
                location = Location("/", False, name, settings, ingress.full_name, default=True)
                self._servers[host] = Server(host, [location])

    def _secure(self, ingress: Ingress, settings: LocationSettings) -> None:
        for rule in ingress.spec.rules:
            host = rule.host or CATCH_ALL
            server = self._servers[host]
            server.passthrough |= settings.ssl_passthrough
            if server.certificate is None and ingress.spec.tls:
                name = self.secret_for(host, ingress)
                server.certificate = f"{ingress.namespace}/{name}" if name else ""

    def _add_paths(self, ingress: Ingress, settings: LocationSettings) -> None:
        for rule in ingress.spec.rules:
            server = self._servers[rule.host or CATCH_ALL]
            for path in rule.http.paths if rule.http is not None else ():
                if path.backend.service is None:
                    continue
                # ImplementationSpecific is Prefix here (internal/k8s/main.go, SetDefaultNGINXPathType).
                exact, text = path.path_type == "Exact", path.path or "/"
                same = next((one for one in server.locations if one.path == text), None)
                if same is None or same.exact != exact:
                    same = Location(text, exact, "", settings, default=True)
                    server.locations.append(same)
                if same.default:
                    self._fill(same, ingress, path.backend, settings)

    def _fill(self, location: Location, ingress: Ingress, backend: IngressBackend, settings: LocationSettings) -> None:
        """Let a location lead to a backend."""
        assert backend.service is not None
        location.backend = self._backend(ingress, backend, settings)
        location.default = False
        location.settings = settings
        location.ingress = ingress.full_name
        location.service = (ingress.namespace, backend.service.name)
        location.port = str(backend.service.port.number or backend.service.port.name)
        location.logged = settings.access_log

    def _backend(self, ingress: Ingress, backend: IngressBackend, settings: LocationSettings) -> str:
        """The name of a backend, which is made if it is not there: by the first Ingress that has it."""
        assert backend.service is not None
        port = str(backend.service.port.number or backend.service.port.name)
        name = f"{ingress.namespace}-{backend.service.name}-{port}"
        if name not in self._backends:
            service = self.services.get((ingress.namespace, backend.service.name))
            self._backends[name] = self._backend_of(name, service, port, settings)
        return name

    def _backend_of(self, name: str, service: Service | None, port: str, settings: LocationSettings) -> Backend:
        if service is None:
            return Backend(name)
        if service.spec.type == "ExternalName":
            return self._external(name, service, port)
        if settings.service_upstream and service.spec.cluster_ip not in ("", CLUSTER_IP_NONE):
            number = port if port.isdigit() else next((str(p.port) for p in service.spec.ports if p.name == port), "")
            if number:
                return Backend(name, ((service.spec.cluster_ip, int(number)),))
        for one in service.spec.ports:
            if port in (str(one.port), str(one.target), one.name):
                return Backend(name, tuple(self._endpoints(service, one)))
        return Backend(name)

    def _external(self, name: str, service: Service, port: str) -> Backend:
        """The name outside of the cluster that a service stands for; never this pod itself."""
        host = service.spec.external_name.removesuffix(".")
        try:
            loopback = parse_ip(host).is_loopback
        except ValueError:
            loopback = host == "localhost"
        if self.arguments.disable_external_name or loopback:
            return Backend(name)
        number = next((one.target for one in service.spec.ports if port in (str(one.port), one.name)), port)
        return Backend(name, ((host, int(number)),), external=True) if str(number).isdigit() else Backend(name)

    def _endpoints(self, service: Service, port: ServicePort) -> Iterator[tuple[str, int]]:
        """Ready endpoints of a port, each once (``getEndpointsFromSlices``)."""
        seen: set[tuple[str, int]] = set()
        target = port.target
        for piece in self._slices_of.get((service.namespace, service.name), ()):
            if piece.address_type == "FQDN":
                continue
            numbers = []
            for one in piece.ports:
                if one.protocol != "TCP":
                    continue
                matches = not port.name or port.name == one.name
                number = one.port if matches else target if isinstance(target, int) else None
                if number:
                    numbers.append(number)
            if not piece.ports and isinstance(target, int):
                numbers.append(target)
            for endpoint in piece.endpoints:
                if endpoint.conditions.ready is False:
                    continue
                for found in ((address, number) for number in numbers for address in endpoint.addresses):
                    if found not in seen:
                        seen.add(found)
                        yield found


def normal_path(target: str) -> str | None:
    """The path of a request target as locations see it: decoded, without empty and dot elements; ``None`` if it is bad.

    Source: nginx src/http/ngx_http_parse.c, ``ngx_http_parse_complex_uri`` with ``merge_slashes on``.
    """
    path = target.partition("?")[0].partition("#")[0]
    if "%" in path:
        decoded = bytearray()
        raw = path.encode("latin-1", "replace")
        position = 0
        while position < len(raw):
            octet = raw[position]
            if octet == 0x25:
                try:
                    octet = int(raw[position + 1 : position + 3].decode("ascii"), 16)
                except ValueError:
                    return None
                if octet == 0 or position + 3 > len(raw):
                    return None
                position += 2
            decoded.append(octet)
            position += 1
        path = decoded.decode("latin-1")
    if "//" not in path and "/." not in path:
        return path
    parts: list[str] = []
    elements = path.split("/")[1:]
    for index, element in enumerate(elements):
        last = index == len(elements) - 1
        if element == "..":
            if not parts:
                return None
            parts.pop()
        elif element not in ("", "."):
            parts.append(element)
            continue
        if last:
            parts.append("")
    return "/" + "/".join(parts)
