"""The ports on which kube-proxy answers on a node: ``/healthz`` and ``/livez``, and one per Service that needs it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pktsim.kernel.netns import Netns

from .addresses import IPAddress
from .apps.http_server import HttpRequest, HttpResponse, HttpServer
from .kubeproxy.healthcheck import HealthResponse
from .kubeproxy.proxier import KubeProxy

_REASONS = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}
_CONTENT_TYPE = "Content-Type"

#: What to answer a request for a path with; ``None``: the service is gone, and Go's server says nothing of its own.
Answer = Callable[[str], HealthResponse | None]


class NodeHealthPorts:
    """Listens where kube-proxy says that it does.

    Args:
        netns: The node's.
        proxy: Its kube-proxy.
    """

    def __init__(self, netns: Netns, proxy: KubeProxy) -> None:
        self._netns = netns
        self._proxy = proxy
        self._servers: dict[tuple[IPAddress, int], HttpServer] = {}
        self._healthz = proxy.config.healthz_address
        self._listen(self._healthz, proxy.healthz)

    def sync(self) -> None:
        """Open ports that are new, close those that are gone."""
        wanted = {*self._proxy.listening(), self._healthz}
        for place in sorted(self._servers.keys() - wanted, key=str):
            self._servers.pop(place).stop()
        for place in sorted(wanted - self._servers.keys(), key=str):
            self._listen(place, partial(self._health_check, place[1]))

    def stop(self) -> None:
        """kube-proxy has ended."""
        for server in self._servers.values():
            server.stop()
        self._servers.clear()

    def _health_check(self, port: int, path: str) -> HealthResponse | None:
        """A service's port is answered alike on every path."""
        return self._proxy.health_check(port)

    def _listen(self, place: tuple[IPAddress, int], answer: Answer) -> None:
        address, port = place
        if address.version != 4 and not address.is_unspecified:
            return  # nodes have no IPv6 addresses

        def handle(request: HttpRequest) -> HttpResponse:
            found = answer(request.target.partition("?")[0]) or HealthResponse(200, (), "")
            kind = next((value for key, value in found.headers if key == _CONTENT_TYPE), "text/plain")
            others = tuple(pair for pair in found.headers if pair[0] != _CONTENT_TYPE)
            return HttpResponse(found.body.encode(), found.status, _REASONS[found.status], kind, others)

        server = HttpServer(
            self._netns.sockets,
            f"{self._netns.name}/kube-proxy",
            port,
            "" if address.is_unspecified else str(address),
            handler=handle,
            server="",
            version="1.1",
            go=True,
        )
        server.start()
        self._servers[place] = server
