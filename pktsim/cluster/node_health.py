"""The ports on which kube-proxy answers health checks on a node: ``/healthz``, and one per Service that needs it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pktsim.kernel.netns import Netns

from .apps.http_server import HttpRequest, HttpResponse, HttpServer
from .kubeproxy.healthcheck import HEALTHZ_PORT, HealthResponse
from .kubeproxy.proxier import KubeProxy

_REASONS = {200: "OK", 503: "Service Unavailable"}
_CONTENT_TYPE = "Content-Type"


class NodeHealthPorts:
    """Listens where kube-proxy says that it does.

    Args:
        netns: The node's.
        proxy: Its kube-proxy.
    """

    def __init__(self, netns: Netns, proxy: KubeProxy) -> None:
        self._netns = netns
        self._proxy = proxy
        self._servers: dict[int, HttpServer] = {}
        self._listen(HEALTHZ_PORT, proxy.healthz)

    def sync(self) -> None:
        """Open ports that are new, close those that are gone."""
        wanted = {port for _, port in self._proxy.listening()} | {HEALTHZ_PORT}
        for port in sorted(self._servers.keys() - wanted):
            self._servers.pop(port).stop()
        for port in sorted(wanted - self._servers.keys()):
            self._listen(port, partial(self._proxy.health_check, port))

    def stop(self) -> None:
        """kube-proxy has ended."""
        for server in self._servers.values():
            server.stop()
        self._servers.clear()

    def _listen(self, port: int, answer: Callable[[], HealthResponse | None]) -> None:
        def handle(request: HttpRequest) -> HttpResponse:
            found = answer() or HealthResponse(503, (), "")
            kind = next((value for key, value in found.headers if key == _CONTENT_TYPE), "text/plain")
            others = tuple(pair for pair in found.headers if pair[0] != _CONTENT_TYPE)
            return HttpResponse(found.body.encode(), found.status, _REASONS[found.status], kind, others)

        name = f"{self._netns.name}/kube-proxy"
        server = HttpServer(self._netns.sockets, name, port, handler=handle, server="", version="1.1")
        server.start()
        self._servers[port] = server
