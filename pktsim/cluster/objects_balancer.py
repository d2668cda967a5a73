"""LoadBalancer: a document of our own that says what gives Services of type LoadBalancer their addresses."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, summarize_address_range
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from .objects_meta import KubeModel, KubeObject
from .objects_outside import PKTSIM_API

Mode = Literal["l2", "ecmp", "passthrough", "nat", "proxy"]
MODES: tuple[Mode, ...] = ("l2", "ecmp", "passthrough", "nat", "proxy")

#: Which balancer a Service has: a LoadBalancer's name, a mode, or ``none``.
BALANCER_ANNOTATION = "pktsim.io/load-balancer"
#: ``loadBalancerClass`` of a Service for the balancer NAME is this and the name.
CLASS_PREFIX = "pktsim.io/"
#: Services with one key here may share an address (MetalLB's annotation, old name and new).
SHARING_ANNOTATIONS = ("metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip")

#: RFC 5737, and where the recorded clusters have their load balancer addresses.
DEFAULT_POOL = "198.51.100.0/24"


def pool_networks(text: str) -> list[IPv4Network]:
    """Read ``198.51.100.0/24`` or ``198.51.100.20-198.51.100.30``.

    Raises:
        ValueError: It is neither.
    """
    first, dash, last = text.partition("-")
    try:
        if not dash:
            return [IPv4Network(text)]
        return list(summarize_address_range(IPv4Address(first.strip()), IPv4Address(last.strip())))
    except ValueError as error:
        raise ValueError(f"{text!r} is not a pool ({error}): write 198.51.100.0/24 or FIRST-LAST") from None


def _pool_text(text: str) -> str:
    pool_networks(text)
    return text


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


PoolText = Annotated[str, AfterValidator(_pool_text)]
Seconds = Annotated[float, Field(gt=0)]


class HealthCheckPlan(KubeModel):
    """How nodes are probed.

    Attributes:
        interval: Seconds from one probe to the next.
        timeout: Seconds after which a probe has failed.
        healthy: Successes in a row that make a node a target again.
        unhealthy: Failures in a row after which it is one no more.
    """

    interval: Seconds = 5.0
    timeout: Seconds = 2.0
    healthy: int = Field(default=2, ge=1)
    unhealthy: int = Field(default=2, ge=1)


class LoadBalancerSpec(KubeModel):
    """``LoadBalancer.spec``.

    Attributes:
        mode: ``l2``: one node answers ARP for the address, as with MetalLB; ``ecmp``: the router has a route through
            every node, as with BGP; ``passthrough``: a balancer hands packets to nodes as they are, and answers go
            straight back; ``nat``: a balancer translates both addresses; ``proxy``: a balancer ends the client's
            connection and opens its own.
        addresses: Its pools.
        load_balancer_class: Services with this class are its own, beside those with ``pktsim.io/NAME``.
        detection: Seconds until a lost node is noticed (``l2``: 5, ``ecmp``: 90, BGP's hold time); the other modes
            probe.
        hash_policy: ``ecmp``: the router's ``net.ipv4.fib_multipath_hash_policy``, 0 (addresses) or 1 (ports too).
        health_check: ``passthrough``, ``nat``, ``proxy``.
        proxy_protocol: ``proxy``: the header that tells the server who the client is.
        hostname: A domain; then a Service's status has a name in it instead of an address, as with AWS.
        ip_mode: What ``status.loadBalancer`` says; follows from the mode if it is not given.
    """

    mode: Mode = "l2"
    addresses: Annotated[tuple[PoolText, ...], BeforeValidator(_several)] = (DEFAULT_POOL,)
    load_balancer_class: str = ""
    detection: float | None = Field(default=None, ge=0)
    hash_policy: Literal[0, 1] = 1
    health_check: HealthCheckPlan = HealthCheckPlan()
    proxy_protocol: Literal["none", "v1", "v2"] = "none"
    hostname: str = ""
    ip_mode: Literal["VIP", "Proxy"] | None = None

    @model_validator(mode="after")
    def _header_needs_proxy(self) -> LoadBalancerSpec:
        if self.proxy_protocol != "none" and self.mode != "proxy":
            raise ValueError(f"proxyProtocol is for mode proxy, not {self.mode}")
        return self

    @property
    def detection_s(self) -> float:
        """Seconds until a lost node is noticed without probes."""
        if self.detection is not None:
            return self.detection
        # memberlist's probes and suspicion in a small cluster; bgp's default hold time (RFC 4271 section 4.2, MetalLB)
        return 90.0 if self.mode == "ecmp" else 5.0

    @property
    def said_ip_mode(self) -> Literal["VIP", "Proxy"]:
        """``ipMode``: ``Proxy`` where packets reach nodes with the node's own address (KEP-1860)."""
        return self.ip_mode or ("Proxy" if self.mode in ("nat", "proxy") else "VIP")


class LoadBalancer(KubeObject):
    """What gives Services addresses, and brings packets to them onto nodes."""

    namespaced: ClassVar[bool] = False
    api_versions: ClassVar[tuple[str, ...]] = (PKTSIM_API,)

    spec: LoadBalancerSpec = LoadBalancerSpec()
