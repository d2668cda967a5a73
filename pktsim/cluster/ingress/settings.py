"""What a controller is told: by its command line, its ConfigMap, and the annotations of an Ingress.

Source: ingress-nginx pkg/flags/flags.go, internal/ingress/controller/config/config.go (``NewDefault``), and
docs/user-guide/nginx-configuration/{configmap,annotations}.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from pktsim.cluster.objects import ConfigMap, Ingress, Pod
from pktsim.errors import ObjectError, UnsupportedFeature

from . import values
from .values import Reader, boolean, conditions, number, read, seconds, size

PREFIX = "nginx.ingress.kubernetes.io/"
#: A pod with this annotation, or with the controller's own image, is one.
APP_ANNOTATION, APP = "pktsim.io/app", "ingress-controller"
IMAGE = "ingress-nginx/controller"
#: In the controller's image v1.15.1 (NGINX_BASE).
NGINX_VERSION = "1.27.1"
#: Seconds from a change of an object until the controller goes by it.
WATCH_DELAY_ANNOTATION = "pktsim.io/watch-delay"


@dataclass(frozen=True, slots=True)
class LocationSettings:
    """What may differ from Ingress to Ingress.

    Attributes:
        body_bytes: Largest request body; 0 for any.
        buffer_bytes: Largest header of an answer (``proxy_buffer_size``).
        next_upstream: When another endpoint is tried.
        tries: How many endpoints at most; 0 for no limit but one for each.
        next_upstream_timeout_s: How long it may go on with that; 0 for any time.
        service_upstream: Connect to the cluster IP instead of to endpoints.
        upstream_vhost: ``Host`` towards endpoints; the client's if empty.
        use_regex: Whether paths are regular expressions, for the whole host, whatever the case of letters.
        rewrite_target: What the path becomes, with ``$1`` for what a group of it found.
        app_root: Where requests for ``/`` are sent.
        redirect: Status and address of a redirect instead of an answer.
        backend_tls: Whether endpoints are spoken to through TLS.
    """

    connect_timeout_s: int = 5
    read_timeout_s: int = 60
    send_timeout_s: int = 60
    body_bytes: int = 1 << 20
    buffer_bytes: int = 4 << 10
    next_upstream: frozenset[str] = frozenset({"error", "timeout"})
    tries: int = 3
    next_upstream_timeout_s: int = 0
    ssl_redirect: bool = True
    force_ssl_redirect: bool = False
    preserve_trailing_slash: bool = False
    service_upstream: bool = False
    ssl_passthrough: bool = False
    upstream_vhost: str = ""
    use_regex: bool = False
    rewrite_target: str = ""
    app_root: str = ""
    redirect: tuple[int, str] = (0, "")
    backend_tls: bool = False
    access_log: bool = True


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole controller's, from its ConfigMap.

    Attributes:
        location: What Ingresses get that do not say otherwise.
    """

    keep_alive_s: int = 75
    keep_alive_requests: int = 1000
    client_header_timeout_s: int = 60
    client_body_timeout_s: int = 60
    upstream_keepalive_connections: int = 320
    upstream_keepalive_timeout_s: int = 60
    upstream_keepalive_requests: int = 10000
    use_proxy_protocol: bool = False
    use_forwarded_headers: bool = False
    compute_full_forwarded_for: bool = False
    generate_request_id: bool = True
    retry_non_idempotent: bool = False
    proxy_add_original_uri_header: bool = False
    underscores_in_headers: bool = False
    http_redirect_code: int = 308
    hsts: bool = True
    hsts_include_subdomains: bool = True
    hsts_max_age: int = 31536000
    hsts_preload: bool = False
    disable_access_log: bool = False
    server_tokens: bool = False
    location: LocationSettings = field(default_factory=LocationSettings)

    @property
    def server(self) -> str:
        """The ``Server`` header; the controller takes it away unless it may say the version."""
        return f"nginx/{NGINX_VERSION}" if self.server_tokens else ""

    @property
    def strict_transport_security(self) -> str:
        """The header's value, empty for none."""
        if not self.hsts:
            return ""
        subdomains = "; includeSubDomains" if self.hsts_include_subdomains else ""
        return f"max-age={self.hsts_max_age}{subdomains}{'; preload' if self.hsts_preload else ''}"


#: In annotations and in the ConfigMap alike.
BOTH: dict[str, tuple[str, Reader]] = {
    "proxy-connect-timeout": ("connect_timeout_s", seconds),
    "proxy-read-timeout": ("read_timeout_s", seconds),
    "proxy-send-timeout": ("send_timeout_s", seconds),
    "proxy-body-size": ("body_bytes", size),
    "proxy-buffer-size": ("buffer_bytes", size),
    "proxy-next-upstream": ("next_upstream", conditions),
    "proxy-next-upstream-tries": ("tries", number),
    "proxy-next-upstream-timeout": ("next_upstream_timeout_s", seconds),
    "ssl-redirect": ("ssl_redirect", boolean),
    "force-ssl-redirect": ("force_ssl_redirect", boolean),
    "preserve-trailing-slash": ("preserve_trailing_slash", boolean),
    "service-upstream": ("service_upstream", boolean),
}
ANNOTATIONS: dict[str, tuple[str, Reader]] = {
    **BOTH,
    "ssl-passthrough": ("ssl_passthrough", boolean),
    "upstream-vhost": ("upstream_vhost", values.text),
    "use-regex": ("use_regex", boolean),
    "rewrite-target": ("rewrite_target", values.text),
    "app-root": ("app_root", values.path),
    "permanent-redirect": ("redirect", values.permanent_redirect),
    "temporal-redirect": ("redirect", values.temporal_redirect),
    "backend-protocol": ("backend_tls", values.backend_protocol),
    "enable-access-log": ("access_log", boolean),
}
CONFIG: dict[str, tuple[str, Reader]] = {
    "keep-alive": ("keep_alive_s", seconds),
    "keep-alive-requests": ("keep_alive_requests", number),
    "client-header-timeout": ("client_header_timeout_s", seconds),
    "client-body-timeout": ("client_body_timeout_s", seconds),
    "upstream-keepalive-connections": ("upstream_keepalive_connections", number),
    "upstream-keepalive-timeout": ("upstream_keepalive_timeout_s", seconds),
    "upstream-keepalive-requests": ("upstream_keepalive_requests", number),
    "use-proxy-protocol": ("use_proxy_protocol", boolean),
    "use-forwarded-headers": ("use_forwarded_headers", boolean),
    "compute-full-forwarded-for": ("compute_full_forwarded_for", boolean),
    "generate-request-id": ("generate_request_id", boolean),
    "retry-non-idempotent": ("retry_non_idempotent", boolean),
    "proxy-add-original-uri-header": ("proxy_add_original_uri_header", boolean),
    "enable-underscores-in-headers": ("underscores_in_headers", boolean),
    "http-redirect-code": ("http_redirect_code", number),
    "hsts": ("hsts", boolean),
    "hsts-include-subdomains": ("hsts_include_subdomains", boolean),
    "hsts-max-age": ("hsts_max_age", number),
    "hsts-preload": ("hsts_preload", boolean),
    "server-tokens": ("server_tokens", boolean),
    "disable-access-log": ("disable_access_log", boolean),
    "disable-http-access-log": ("disable_access_log", boolean),
}
#: What is read nowhere because no packet, status or log line here depends on it.
HARMLESS = frozenset(
    {
        "proxy-buffering", "proxy-buffers-number", "proxy-busy-buffers-size", "proxy-max-temp-file-size",
        "client-body-buffer-size", "annotation-value-word-blocklist", "annotations-risk-level",
        "allow-snippet-annotations", "error-log-level", "error-log-path", "access-log-path", "enable-multi-accept",
        "max-worker-connections", "max-worker-open-files", "worker-shutdown-timeout", "worker-cpu-affinity",
        "server-name-hash-max-size", "server-name-hash-bucket-size", "proxy-headers-hash-max-size",
        "proxy-headers-hash-bucket-size", "variables-hash-max-size", "variables-hash-bucket-size",
        "map-hash-bucket-size", "ssl-session-cache", "ssl-session-cache-size", "ssl-session-timeout",
        "ssl-session-tickets", "ssl-buffer-size", "reuse-port", "strict-validate-path-type",
    }
)  # fmt: skip


def location_settings(ingress: Ingress, default: LocationSettings) -> LocationSettings:
    """The settings of one Ingress: its annotations over the ConfigMap's.

    Raises:
        UnsupportedFeature: An annotation would change what happens and is not modelled.
        ObjectError: A value cannot be read.
    """
    changes: dict[str, Any] = {}
    for key, value in ingress.metadata.annotations.items():
        if not key.startswith(PREFIX):
            continue
        name = key.removeprefix(PREFIX)
        known = ANNOTATIONS.get(name)
        if known is not None:
            changes[known[0]] = read(known[1], value, f"{ingress}, metadata.annotations.{key}")
        elif name not in HARMLESS:
            raise UnsupportedFeature(
                f"annotation {key}: {value}",
                place=str(ingress),
                mend="remove it to see the Ingress without; known are " + ", ".join(sorted(ANNOTATIONS)),
            )
    return replace(default, **changes) if changes else default


def check_ingress(ingress: Ingress) -> None:
    """Refuse what the controller cannot be asked for.

    Raises:
        UnsupportedFeature, ObjectError: As :func:`location_settings`; or a backend is no Service.
    """
    settings = location_settings(ingress, LocationSettings())
    paths = [path for rule in ingress.spec.rules if rule.http is not None for path in rule.http.paths]
    if settings.use_regex or settings.rewrite_target:
        for path in paths:
            try:
                re.compile(path.path)
            except re.error as error:
                raise ObjectError(f"path {path.path!r} is no regular expression: {error}", place=str(ingress)) from None
    backends = [ingress.spec.default_backend, *(path.backend for path in paths)]
    for backend in backends:
        if backend is not None and backend.resource is not None:
            raise UnsupportedFeature(
                f"a backend of kind {backend.resource.kind}",
                place=str(ingress),
                mend="name a service: ingress-nginx passes others over",
            )


def read_settings(found: ConfigMap | None) -> Settings:
    """The settings of a ConfigMap; the defaults without one.

    Raises:
        UnsupportedFeature: A key would change what happens and is not modelled.
        ObjectError: A value cannot be read.
    """
    changes: dict[str, Any] = {}
    location: dict[str, Any] = {}
    for key, value in found.data.items() if found is not None else ():
        place = f"{found}, data.{key}"
        if key in CONFIG:
            changes[CONFIG[key][0]] = read(CONFIG[key][1], value, place)
        elif key in BOTH:
            location[BOTH[key][0]] = read(BOTH[key][1], value, place)
        elif key not in HARMLESS and not (key in ("use-gzip", "enable-brotli", "use-http2") and value == "false"):
            raise UnsupportedFeature(f"ingress-nginx setting {key}", place=str(found), mend="remove it")
    return Settings(**changes, location=LocationSettings(**location))


@dataclass(frozen=True, slots=True)
class Arguments:
    """The controller's command line.

    Attributes:
        controller: ``spec.controller`` of the IngressClasses that are its own.
        ingress_class: The value of the older annotation.
        without_class: Whether Ingresses that name no class are served as well.
        class_by_name: Whether a class of that name is its own whatever its controller.
        configmap, publish_service, default_backend, default_certificate: ``namespace/name``, or empty.
        watch_namespace: Ingresses of other namespaces are passed over; all are served if it is empty.
        publish_addresses: Written into the status instead of the service's.
        update_status: Whether the status of Ingresses is written at all.
    """

    controller: str = "k8s.io/ingress-nginx"
    ingress_class: str = "nginx"
    without_class: bool = False
    class_by_name: bool = False
    configmap: str = ""
    publish_service: str = ""
    default_backend: str = ""
    default_certificate: str = ""
    watch_namespace: str = ""
    publish_addresses: str = ""
    update_status: bool = True
    enable_ssl_passthrough: bool = False
    disable_external_name: bool = False
    http_port: int = 80
    https_port: int = 443
    default_server_port: int = 8181
    watch_delay_ns: int = 0


FLAGS: dict[str, tuple[str, Reader]] = {
    "controller-class": ("controller", values.text),
    "ingress-class": ("ingress_class", values.text),
    "watch-ingress-without-class": ("without_class", boolean),
    "ingress-class-by-name": ("class_by_name", boolean),
    "configmap": ("configmap", values.text),
    "publish-service": ("publish_service", values.text),
    "default-backend-service": ("default_backend", values.text),
    "default-ssl-certificate": ("default_certificate", values.text),
    "watch-namespace": ("watch_namespace", values.text),
    "publish-status-address": ("publish_addresses", values.text),
    "update-status": ("update_status", boolean),
    "enable-ssl-passthrough": ("enable_ssl_passthrough", boolean),
    "disable-svc-external-name": ("disable_external_name", boolean),
    "http-port": ("http_port", number),
    "https-port": ("https_port", number),
    "default-server-port": ("default_server_port", number),
}
REFUSED_FLAGS = frozenset(
    {
        "tcp-services-configmap", "udp-services-configmap", "annotations-prefix", "disable-catch-all",
        "enable-topology-aware-routing", "watch-namespace-selector",
    }
)  # fmt: skip


def is_controller(pod: Pod) -> bool:
    """Whether an ingress controller runs in a pod."""
    app = pod.metadata.annotations.get(APP_ANNOTATION)
    if app is not None:
        return app == APP
    return any(_repository(container.image).endswith(IMAGE) for container in pod.spec.containers)


def _repository(image: str) -> str:
    return image.partition("@")[0].rpartition(":")[0] or image


def read_arguments(pod: Pod) -> Arguments:
    """The command line of the controller in a pod.

    Raises:
        UnsupportedFeature: An option would change what happens and is not modelled.
        ObjectError: A value cannot be read.
    """
    changes: dict[str, Any] = {}
    place = f"{pod}, args"
    for name, value in _options(word for one in pod.spec.containers for word in (*one.command, *one.args)):
        value = value.replace("$(POD_NAMESPACE)", pod.namespace).replace("$(POD_NAME)", pod.name)
        if name in FLAGS:
            changes[FLAGS[name][0]] = read(FLAGS[name][1], value, f"{place}, --{name}")
        elif name in REFUSED_FLAGS and value not in ("", "false"):
            raise UnsupportedFeature(f"ingress-nginx option --{name}", place=place, mend="remove it")
    for key in ("configmap", "publish_service", "default_backend", "default_certificate"):
        if changes.get(key) and "/" not in changes[key]:
            raise ObjectError(f"{changes[key]!r} is not namespace/name", place=place)
    delay = pod.metadata.annotations.get(WATCH_DELAY_ANNOTATION)
    if delay is not None:
        changes["watch_delay_ns"] = read(_duration_ns, delay, f"{pod}, metadata.annotations.{WATCH_DELAY_ANNOTATION}")
    return Arguments(**changes)


def check_pods(pods: Iterable[Pod], configs: Callable[[str, str], ConfigMap | None]) -> None:
    """Refuse what controllers among pods cannot be asked for.

    Args:
        pods: Any pods, also such that would be made of a template.
        configs: Gives a ConfigMap by namespace and name.

    Raises:
        UnsupportedFeature, ObjectError: As :func:`read_arguments` and :func:`read_settings`.
    """
    for pod in pods:
        if is_controller(pod):
            if pod.spec.host_network:
                raise UnsupportedFeature(
                    "an ingress controller with hostNetwork", place=str(pod), mend="put a Service in front of its pods"
                )
            namespace, _, name = read_arguments(pod).configmap.partition("/")
            read_settings(configs(namespace, name))


def _options(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    """``--name=value``, ``--name value`` and ``--switch``."""
    waiting = ""
    for word in words:
        if word.startswith("-"):
            if waiting:
                yield waiting, "true"
            name, equals, value = word.lstrip("-").partition("=")
            waiting = "" if equals else name
            if equals:
                yield name, value
        elif waiting:
            yield waiting, word
            waiting = ""
    if waiting:
        yield waiting, "true"


def _duration_ns(text: str) -> int:
    try:
        return round(float(text.removesuffix("s")) * 1_000_000_000)
    except ValueError:
        raise ValueError(f"{text!r} is not a number of seconds") from None
