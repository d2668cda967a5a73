"""``/etc/resolv.conf``: how the kubelet writes it for a pod, and how the C libraries read it.

Source: glibc 2.36 resolv/res_init.c; musl 1.2.3 src/network/resolvconf.c; Kubernetes 1.30
pkg/kubelet/network/dns/dns.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pktsim.errors import ObjectError

from ..objects import Pod

#: glibc's bounds (resolv.h): name servers, dots, seconds and attempts.
_MAX_SERVERS = 3
_MAX_NDOTS = 15
_MAX_TIMEOUT_S = 30
_MAX_ATTEMPTS = 5
#: musl's.
_MUSL_MAX_TIMEOUT_S = 60
_MUSL_MAX_ATTEMPTS = 10
_MUSL_SEARCH_BYTES = 256
#: Options without a number that glibc knows.
_FLAGS = frozenset(
    {"rotate", "edns0", "single-request", "single-request-reopen", "no-tld-query", "no-reload", "use-vc", "trust-ad",
     "no-aaaa"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ResolverConfig:
    """What a library knows after reading the file.

    Attributes:
        servers: Whom to ask, at most three.
        search: Suffixes to try, in order.
        ndots: A name with fewer dots is tried with the suffixes first.
        timeout_s: Seconds to wait for an answer.
        attempts: How often all servers are tried.
        flags: Options without a number.
    """

    servers: tuple[str, ...] = ("127.0.0.1",)
    search: tuple[str, ...] = ()
    ndots: int = 1
    timeout_s: int = 5
    attempts: int = 2
    flags: frozenset[str] = frozenset()


def _number(text: str) -> int:
    """``atoi``: the digits at the beginning."""
    digits = ""
    for char in text.strip():
        if not char.isdigit():
            break
        digits += char
    return int(digits or "0")


def parse_glibc(text: str, hostname: str = "") -> ResolverConfig:
    """Read the file as glibc does. Without ``search`` and ``domain`` the suffix is the domain of ``hostname``."""
    servers: list[str] = []
    search: tuple[str, ...] | None = None
    ndots, timeout_s, attempts = 1, 5, 2
    flags: set[str] = set()
    for line in text.splitlines():
        if line[:1] in ("#", ";"):
            continue
        words = line.split()
        if len(words) < 2 or line[:1].isspace():
            continue
        if words[0] == "nameserver":
            if len(servers) < _MAX_SERVERS:
                servers.append(words[1].partition("%")[0])
        elif words[0] == "domain":
            search = (words[1],)
        elif words[0] == "search":
            search = tuple(words[1:])
        elif words[0] == "options":
            for option in words[1:]:
                if option.startswith("ndots:"):
                    ndots = min(_number(option[6:]), _MAX_NDOTS)
                elif option.startswith("timeout:"):
                    timeout_s = min(_number(option[8:]), _MAX_TIMEOUT_S)
                elif option.startswith("attempts:"):
                    attempts = min(_number(option[9:]), _MAX_ATTEMPTS)
                elif option in _FLAGS:
                    flags.add(option)
    if search is None:
        _, _, domain = hostname.partition(".")
        search = (domain,) if domain else ()
    return ResolverConfig(tuple(servers) or ("127.0.0.1",), search, ndots, timeout_s, attempts, frozenset(flags))


def parse_musl(text: str) -> ResolverConfig:
    """Read the file as musl does."""
    servers: list[str] = []
    search = ""
    ndots, timeout_s, attempts = 1, 5, 2
    for line in text.splitlines():
        if line.startswith("options") and line[7:8].isspace():
            for name in ("ndots:", "attempts:", "timeout:"):
                at = line.find(name)
                if at < 0 or not line[at + len(name) : at + len(name) + 1].isdigit():
                    continue
                number = _number(line[at + len(name) :])
                if name == "ndots:":
                    ndots = min(number, _MAX_NDOTS)
                elif name == "attempts:":
                    attempts = min(number, _MUSL_MAX_ATTEMPTS)
                else:
                    timeout_s = min(number, _MUSL_MAX_TIMEOUT_S)
        elif line.startswith("nameserver") and line[10:11].isspace():
            words = line[10:].split()
            if words and len(servers) < _MAX_SERVERS:
                servers.append(words[0].partition("%")[0])
        elif line.startswith(("domain", "search")) and line[6:7].isspace():
            text_of = line[6:].strip()
            # What does not fit its buffer leaves the list as it was.
            if len(text_of) < _MUSL_SEARCH_BYTES:
                search = text_of
    return ResolverConfig(tuple(servers) or ("127.0.0.1",), tuple(search.split()), ndots, timeout_s, attempts)


#: What the kubelet allows in a pod (pkg/apis/core/validation, ``MaxDNSSearchPaths`` and so on).
_KUBELET_SERVERS = 3
_KUBELET_SEARCHES = 32
_KUBELET_SEARCH_CHARACTERS = 2048
_CLUSTER_OPTIONS = ("ndots:5",)


@dataclass(frozen=True, slots=True)
class KubeletDns:
    """The kubelet's settings for DNS.

    Attributes:
        cluster_dns: ``clusterDNS``: the addresses of kube-dns.
        cluster_domain: ``clusterDomain``.
        host_resolv_conf: The file of ``resolvConf``, usually the node's own.
    """

    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    host_resolv_conf: str = ""


@dataclass(slots=True)
class _Dns:
    servers: list[str] = field(default_factory=list)
    searches: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The file (pkg/kubelet/cri and containerd write it in this form)."""
        lines = []
        if self.searches:
            lines.append(f"search {' '.join(self.searches)}\n")
        lines += [f"nameserver {server}\n" for server in self.servers]
        if self.options:
            lines.append(f"options {' '.join(self.options)}\n")
        return "".join(lines)


def pod_resolv_conf(pod: Pod, kubelet: KubeletDns) -> str:
    """Write a pod's ``/etc/resolv.conf`` from its ``dnsPolicy`` and ``dnsConfig``.

    Raises:
        ObjectError: The policy is ``None`` and there is no name server in ``dnsConfig``.
    """
    policy = pod.spec.dns_policy
    if policy == "ClusterFirst" and pod.spec.host_network:
        policy = "Default"
    elif policy == "ClusterFirstWithHostNet":
        policy = "ClusterFirst"
    if policy == "ClusterFirst" and not kubelet.cluster_dns:
        policy = "Default"  # the kubelet says so in an event (MissingClusterDNS)
    host = _parse_host(kubelet.host_resolv_conf)
    if policy == "None":
        dns = _Dns()
        if pod.spec.dns_config is None or not pod.spec.dns_config.nameservers:
            raise ObjectError(
                "spec.dnsConfig.nameservers is missing", place=str(pod), mend="dnsPolicy None needs at least one"
            )
    elif policy == "Default":
        dns = host
    else:
        domain = kubelet.cluster_domain
        own = [f"{pod.namespace}.svc.{domain}", f"svc.{domain}", domain] if domain else []
        dns = _Dns(list(kubelet.cluster_dns), [*own, *host.searches], list(_CLUSTER_OPTIONS))
    config = pod.spec.dns_config
    if config is not None:
        dns = _Dns(
            _unique([*dns.servers, *config.nameservers]),
            _unique([*dns.searches, *config.searches]),
            _merged(dns.options, [one.name if not one.value else f"{one.name}:{one.value}" for one in config.options]),
        )
    return _within_limits(dns).text()


def _parse_host(text: str) -> _Dns:
    """The node's own file as the kubelet reads it: the last ``search`` and ``options`` count, ``domain`` does not."""
    dns = _Dns()
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words:
            continue
        if words[0] == "nameserver" and len(words) > 1:
            dns.servers.append(words[1])
        elif words[0] == "search":
            dns.searches = [word if word == "." else word.removesuffix(".") for word in words[1:]]
        elif words[0] == "options":
            dns.options = _merged(dns.options, words[1:])
    return dns


def _unique(items: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(items))


def _merged(existing: Sequence[str], more: Sequence[str]) -> list[str]:
    """Options by name; later ones replace earlier ones. Go's maps give them any order, so here they are sorted."""
    by_name = {option.partition(":")[0]: option for option in [*existing, *more]}
    return [by_name[name] for name in sorted(by_name)] if more else list(existing)


def _within_limits(dns: _Dns) -> _Dns:
    searches: list[str] = []
    for search in dns.searches[:_KUBELET_SEARCHES]:
        if sum(map(len, searches)) + len(searches) + len(search) > _KUBELET_SEARCH_CHARACTERS:
            break
        searches.append(search)
    return _Dns(dns.servers[:_KUBELET_SERVERS], searches, dns.options)
