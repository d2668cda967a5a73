"""``KubeProxyConfiguration``: reading, defaults, and what follows from it for one node and address family.

Source: kube-proxy/config/v1alpha1/types.go, pkg/proxy/apis/config/v1alpha1/defaults.go and
pkg/proxy/apis/config/validation/validation.go of Kubernetes 1.30.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from pktsim.clock import NS_PER_MS, NS_PER_S, NS_PER_US
from pktsim.errors import ObjectError, UnsupportedFeature
from pktsim.netfilter.ruleset import Family

from ..addresses import IPAddress, IPNetwork, parse_cidr, parse_ip
from ..loader import Document, read_documents
from ..objects import ConfigMap
from ..objects_meta import Bool, CIDRText, IPText, KubeModel, LenientModel

#: Port of ``/healthz`` and ``/livez`` (pkg/cluster/ports/ports.go, ``ProxyHealthzPort``).
HEALTHZ_PORT = 10256

_UNITS_NS = {
    "ns": 1,
    "us": NS_PER_US,
    "µs": NS_PER_US,
    "μs": NS_PER_US,
    "ms": NS_PER_MS,
    "s": NS_PER_S,
    "m": 60 * NS_PER_S,
    "h": 3600 * NS_PER_S,
}
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


def parse_duration_ns(value: object) -> object:
    """Read a duration as Go writes it (``1m30s``) into nanoseconds.

    Raises:
        ValueError: It is not one.
    """
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a duration such as 30s or 1m30s")
    text = value
    sign = 1
    if text[:1] in ("+", "-"):
        sign = -1 if text[0] == "-" else 1
        text = text[1:]
    if text == "0":
        return 0
    total = 0
    at = 0
    while at < len(text):
        match = _DURATION_PART.match(text, at)
        if match is None:
            break
        whole, _, fraction = match[1].partition(".")
        unit = _UNITS_NS[match[2]]
        total += int(whole or 0) * unit
        if fraction:
            total += int(fraction) * unit // 10 ** len(fraction)
        at = match.end()
    if not text or at < len(text):
        raise ValueError(f"{value!r} is not a duration such as 30s or 1m30s")
    return sign * total


def _not_negative(value: int) -> int:
    if value < 0:
        raise ValueError("must not be negative")
    return value


#: Nanoseconds, written as a Go duration.
DurationNs = Annotated[int, BeforeValidator(parse_duration_ns), AfterValidator(_not_negative)]


def _or_default(default_ns: int) -> Any:
    """A duration of which none is the default: kube-proxy cannot tell it from one that was not said."""
    return Annotated[DurationNs, AfterValidator(lambda value: value or default_ns)]


if TYPE_CHECKING:
    SyncPeriodNs: TypeAlias = int
    MinSyncPeriodNs: TypeAlias = int
else:
    SyncPeriodNs = _or_default(30 * NS_PER_S)
    MinSyncPeriodNs = _or_default(NS_PER_S)


class KubeProxyIPTablesConfiguration(KubeModel):
    """``iptables``."""

    masquerade_bit: Annotated[int, Field(strict=True, ge=0, le=31)] = 14
    masquerade_all: Bool = False
    localhost_node_ports: Bool = True
    sync_period: SyncPeriodNs = 30 * NS_PER_S
    min_sync_period: MinSyncPeriodNs = NS_PER_S


class KubeProxyNFTablesConfiguration(KubeModel):
    """``nftables``."""

    masquerade_bit: Annotated[int, Field(strict=True, ge=0, le=31)] = 14
    masquerade_all: Bool = False
    sync_period: SyncPeriodNs = 30 * NS_PER_S
    min_sync_period: MinSyncPeriodNs = NS_PER_S


class KubeProxyIPVSConfiguration(KubeModel):
    """``ipvs``."""

    sync_period: SyncPeriodNs = 30 * NS_PER_S
    min_sync_period: DurationNs = 0
    scheduler: str = ""
    exclude_cidrs: tuple[CIDRText, ...] = ()
    strict_arp: Bool = False
    tcp_timeout: DurationNs = 0
    tcp_fin_timeout: DurationNs = 0
    udp_timeout: DurationNs = 0


class KubeProxyConntrackConfiguration(KubeModel):
    """``conntrack``."""

    max_per_core: Annotated[int, Field(strict=True, ge=0)] = 32 * 1024
    min: Annotated[int, Field(strict=True, ge=0)] = 128 * 1024
    tcp_established_timeout: DurationNs = 24 * 3600 * NS_PER_S
    tcp_close_wait_timeout: DurationNs = 3600 * NS_PER_S
    tcp_be_liberal: Bool = False
    udp_timeout: DurationNs = 0
    udp_stream_timeout: DurationNs = 0


class DetectLocalConfiguration(KubeModel):
    """``detectLocal``."""

    bridge_interface: str = ""
    interface_name_prefix: str = ""


DetectLocalMode = Literal["", "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"]


class KubeProxyConfiguration(LenientModel):
    """Everything that kube-proxy can be told."""

    harmless = frozenset(
        {
            "bindAddressHardFail", "clientConnection", "configSyncPeriod", "enableProfiling", "logging",
            "metricsBindAddress", "oomScoreAdj", "portRange", "showHiddenMetricsForVersion", "winkernel",
        }
    )  # fmt: skip

    api_version: str = "kubeproxy.config.k8s.io/v1alpha1"
    kind: str = "KubeProxyConfiguration"
    feature_gates: dict[str, Bool] = Field(default={})
    mode: Literal["", "iptables", "ipvs", "nftables"] = ""
    hostname_override: str = ""
    bind_address: IPText | Literal[""] = ""
    healthz_bind_address: str = ""
    cluster_cidr: str = ""
    detect_local_mode: DetectLocalMode = ""
    detect_local: DetectLocalConfiguration = DetectLocalConfiguration()
    node_port_addresses: tuple[CIDRText, ...] = ()
    iptables: KubeProxyIPTablesConfiguration = KubeProxyIPTablesConfiguration()
    nftables: KubeProxyNFTablesConfiguration = KubeProxyNFTablesConfiguration()
    ipvs: KubeProxyIPVSConfiguration = KubeProxyIPVSConfiguration()
    conntrack: KubeProxyConntrackConfiguration = KubeProxyConntrackConfiguration()

    @property
    def effective_mode(self) -> str:
        """The mode on Linux: iptables where nothing is said."""
        return self.mode or "iptables"

    @property
    def healthz_address(self) -> tuple[IPAddress, int]:
        """Where ``/healthz`` and ``/livez`` are answered: on all addresses of ``bindAddress``'s family by default.

        Raises:
            ValueError: It is no address and port.
        """
        if not self.healthz_bind_address:
            version = parse_ip(self.bind_address).version if self.bind_address else 4
            return parse_ip("0.0.0.0" if version == 4 else "::"), HEALTHZ_PORT
        host, _, port = _with_port(self.healthz_bind_address).rpartition(":")
        if not (port.isascii() and port.isdigit() and 0 < int(port) <= 65535):
            raise ValueError("must be IP:port")
        return parse_ip(host.removeprefix("[").removesuffix("]")), int(port)

    @property
    def cluster_cidrs(self) -> tuple[IPNetwork, ...]:
        """``clusterCIDR`` is a comma separated list."""
        return tuple(parse_cidr(part.strip()) for part in self.cluster_cidr.split(",") if part.strip())


def _with_port(text: str) -> str:
    """``IP:PORT``; a lone address gets the default port (``AppendPortIfNeeded``)."""
    with contextlib.suppress(ValueError):
        return f"[{text}]:{HEALTHZ_PORT}" if parse_ip(text).version == 6 else f"{text}:{HEALTHZ_PORT}"
    return text


def _findings(config: KubeProxyConfiguration) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What kube-proxy refuses at its start."""
    if config.cluster_cidr:
        try:
            cidrs = config.cluster_cidrs
        except ValueError as error:
            yield ("clusterCIDR",), str(error)
        else:
            if len(cidrs) > 2 or (len(cidrs) == 2 and cidrs[0].version == cidrs[1].version):
                yield ("clusterCIDR",), "must be one CIDR block, or one of each family"
    try:
        _ = config.healthz_address
    except ValueError as error:
        yield ("healthzBindAddress",), str(error)
    # Those of the iptables mode are looked at in every mode.
    for name, periods in (("iptables", config.iptables), ("nftables", config.nftables), ("ipvs", config.ipvs)):
        if name in ("iptables", config.mode) and periods.min_sync_period > periods.sync_period:
            yield (name, "minSyncPeriod"), "must not be greater than syncPeriod"
    if config.detect_local_mode == "BridgeInterface" and not config.detect_local.bridge_interface:
        yield ("detectLocalMode",), "BridgeInterface needs detectLocal.bridgeInterface"
    if config.detect_local_mode == "InterfaceNamePrefix" and not config.detect_local.interface_name_prefix:
        yield ("detectLocalMode",), "InterfaceNamePrefix needs detectLocal.interfaceNamePrefix"


def parse_config(document: Document) -> KubeProxyConfiguration:
    """Read a document of kind KubeProxyConfiguration.

    Raises:
        ObjectError: kube-proxy would not start with it.
    """
    if document.kind != "KubeProxyConfiguration":
        raise document.error(f"kind {document.kind!r} is not KubeProxyConfiguration", ("kind",))
    config = document.parse(KubeProxyConfiguration)
    for path, what in _findings(config):
        raise document.error(what, path)
    return config


def load_config(source: str | PathLike[str], *, file: str | None = None) -> KubeProxyConfiguration:
    """Read a configuration file.

    Raises:
        ObjectError: There is not exactly one document, or kube-proxy would not start with it.
    """
    documents = read_documents(source, file=file)
    if len(documents) != 1:
        raise ObjectError(f"has {len(documents)} documents, not one", file=file or str(source).splitlines()[0])
    return parse_config(documents[0])


def config_of(config_map: ConfigMap) -> KubeProxyConfiguration:
    """Read the configuration that kubeadm keeps in the ConfigMap ``kube-system/kube-proxy``.

    Raises:
        ObjectError: It has no ``config.conf``, or kube-proxy would not start with it.
    """
    text = config_map.data.get("config.conf")
    if text is None:
        raise ObjectError("config.conf is missing", place=f"{config_map}, data")
    return load_config(text + "\n", file=f"{config_map} config.conf")


def require_iptables(config: KubeProxyConfiguration) -> None:
    """Refuse modes that are not modelled.

    Raises:
        UnsupportedFeature: The mode is not iptables.
    """
    if config.effective_mode != "iptables":
        raise UnsupportedFeature(f"kube-proxy mode {config.effective_mode}", mend="set mode: iptables")


@dataclass(frozen=True, slots=True)
class LocalDetector:
    """How rules tell traffic of this node's pods: by source network, or by the interface it comes in by."""

    network: IPNetwork | None = None
    interface: str | None = None


def local_detector(
    config: KubeProxyConfiguration, family: Family, pod_cidrs: Sequence[str] = ()
) -> LocalDetector | None:
    """Choose the detector of a family; ``None`` if nothing is known of where pods are (``getLocalDetector``)."""
    mode = config.detect_local_mode or "ClusterCIDR"
    if mode == "BridgeInterface":
        return LocalDetector(interface=config.detect_local.bridge_interface)
    if mode == "InterfaceNamePrefix":
        return LocalDetector(interface=config.detect_local.interface_name_prefix + "+")
    cidrs = config.cluster_cidrs if mode == "ClusterCIDR" else tuple(parse_cidr(text.strip()) for text in pod_cidrs)
    version = 4 if family is Family.IPV4 else 6
    return next((LocalDetector(network=cidr) for cidr in cidrs if cidr.version == version), None)


_ZERO = {Family.IPV4: "0.0.0.0/0", Family.IPV6: "::/0"}


@dataclass(frozen=True, slots=True)
class NodePortAddresses:
    """On which of the node's addresses of one family node ports answer (pkg/proxy/util/nodeport_addresses.go).

    Attributes:
        networks: The blocks; a family that the configuration does not mention has the whole of it.
        match_all: Whether that is every address.
        contains_ipv4_loopback: Whether 127.0.0.0 or the like is within.
    """

    networks: tuple[IPNetwork, ...]
    match_all: bool
    contains_ipv4_loopback: bool

    @classmethod
    def of(cls, config: KubeProxyConfiguration, family: Family) -> NodePortAddresses:
        """Read ``nodePortAddresses`` for one family."""
        version = 4 if family is Family.IPV4 else 6
        texts = [text for text in config.node_port_addresses if parse_cidr(text).version == version]
        networks: list[IPNetwork] = []
        loopback = False
        for text in texts or [_ZERO[family]]:
            network = parse_cidr(text)
            if network.version == 4 and (network.network_address.is_loopback or _LOOPBACK in network):
                loopback = True
            if text == _ZERO[family]:
                return cls((network,), True, loopback)
            networks.append(network)
        return cls(tuple(networks), False, loopback)

    def matching(self, addresses: Sequence[IPAddress]) -> list[IPAddress]:
        """The addresses within, each once."""
        return [one for one in dict.fromkeys(addresses) if any(one in network for network in self.networks)]


_LOOPBACK = parse_ip("127.0.0.0")


def node_ips(config: KubeProxyConfiguration, host_ips: Sequence[IPAddress]) -> dict[Family, IPAddress]:
    """What kube-proxy takes for the node's own address of each family (``detectNodeIPs``)."""
    found: dict[Family, IPAddress] = {Family.IPV4: parse_ip("127.0.0.1"), Family.IPV6: parse_ip("::1")}
    addresses: list[Any] = list(host_ips)
    if config.bind_address and not parse_ip(config.bind_address).is_unspecified:
        addresses.append(parse_ip(config.bind_address))
    for address in addresses:
        found[Family.IPV4 if address.version == 4 else Family.IPV6] = address
    return found


def primary_version(config: KubeProxyConfiguration, host_ips: Sequence[IPAddress]) -> int:
    """The address family (4 or 6) that comes first: that of ``bindAddress``, else of the node's first address."""
    if config.bind_address and not parse_ip(config.bind_address).is_unspecified:
        return parse_ip(config.bind_address).version
    return host_ips[0].version if host_ips else 4


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A setting that kube-proxy writes, by its dotted name."""

    name: str
    value: int


ROUTE_LOCALNET = "net.ipv4.conf.all.route_localnet"
TCP_BE_LIBERAL = "net.netfilter.nf_conntrack_tcp_be_liberal"
CONNTRACK_MAX = "net.netfilter.nf_conntrack_max"


def startup_sysctls(config: KubeProxyConfiguration, cpus: int) -> list[Sysctl]:
    """What kube-proxy writes once, at its start (``setupConntrack``, ``NewProxier``).

    Args:
        config: Its configuration.
        cpus: Processors of the node, on which the size of the conntrack table depends.
    """
    conntrack = config.conntrack
    wanted: list[Sysctl] = []
    if conntrack.max_per_core > 0:
        wanted.append(Sysctl(CONNTRACK_MAX, max(conntrack.max_per_core * cpus, conntrack.min)))
    if conntrack.tcp_established_timeout > 0:
        seconds = conntrack.tcp_established_timeout // NS_PER_S
        wanted.append(Sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", seconds))
    if conntrack.tcp_close_wait_timeout > 0:
        seconds = conntrack.tcp_close_wait_timeout // NS_PER_S
        wanted.append(Sysctl("net.netfilter.nf_conntrack_tcp_timeout_close_wait", seconds))
    if conntrack.tcp_be_liberal:
        wanted.append(Sysctl(TCP_BE_LIBERAL, 1))
    if conntrack.udp_timeout > 0:
        wanted.append(Sysctl("net.netfilter.nf_conntrack_udp_timeout", conntrack.udp_timeout // NS_PER_S))
    if conntrack.udp_stream_timeout > 0:
        wanted.append(Sysctl("net.netfilter.nf_conntrack_udp_timeout_stream", conntrack.udp_stream_timeout // NS_PER_S))
    if config.iptables.localhost_node_ports and NodePortAddresses.of(config, Family.IPV4).contains_ipv4_loopback:
        wanted.append(Sysctl(ROUTE_LOCALNET, 1))
    return wanted
