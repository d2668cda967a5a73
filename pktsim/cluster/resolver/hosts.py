"""``/etc/hosts``: how the kubelet writes it for a pod, and how it is searched.

Source: glibc 2.36 nss/nss_files/files-hosts.c; Kubernetes 1.30 pkg/kubelet/kubelet_pods.go,
``managedHostsFileContent``.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..kubedns.dnsname import format_ip, parse_ip
from ..objects import Pod


def pod_hosts_file(pod: Pod, cluster_domain: str = "cluster.local") -> str:
    """Write a pod's ``/etc/hosts``."""
    lines = [
        "# Kubernetes-managed hosts file.",
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::0\tip6-localnet",
        "fe00::0\tip6-mcastprefix",
        "fe00::1\tip6-allnodes",
        "fe00::2\tip6-allrouters",
    ]
    spec = pod.spec
    hostname = spec.hostname or pod.name[:63].rstrip("-.")
    names = hostname
    if spec.subdomain:
        names = f"{hostname}.{spec.subdomain}.{pod.namespace}.svc.{cluster_domain}\t{hostname}"
    lines += [f"{address}\t{names}" for address in pod.addresses]
    if spec.host_aliases:
        lines += ["", "# Entries added by HostAliases."]
        lines += ["\t".join((alias.ip, *alias.hostnames)) for alias in spec.host_aliases]
    return "\n".join(lines) + "\n"


class HostsFile:
    """The lines of the file."""

    def __init__(self, text: str) -> None:
        self._lines: list[tuple[str, tuple[str, ...]]] = []
        for line in text.splitlines():
            words = line.partition("#")[0].split()
            packed = parse_ip(words[0].partition("%")[0]) if words else None
            if packed is not None and len(words) > 1:
                self._lines.append((format_ip(packed), tuple(words[1:])))

    def addresses(self, name: str) -> list[str]:
        """All addresses of a name, in the order of the file."""
        wanted = name.lower()
        return [address for address, names in self._lines if any(one.lower() == wanted for one in names)]

    def names(self, address: str) -> Sequence[str]:
        """The names of an address: those of the first line that has it."""
        packed = parse_ip(address)
        if packed is not None:
            for known, names in self._lines:
                if known == format_ip(packed):
                    return names
        return ()

    def canonical(self, name: str) -> str:
        """The first name of the first line with ``name``."""
        wanted = name.lower()
        for _, names in self._lines:
            if any(one.lower() == wanted for one in names):
                return names[0]
        return name
