"""The rules that a wiring brings to a node: which of the pods' packets leave with the node's address.

Each as the real agent writes it, in ``iptables-restore`` form; they were read off recorded clusters.
"""

from __future__ import annotations

from ipaddress import IPv4Network

#: ip-masq-agent's default nonMasqueradeCIDRs, link-local first.
NOT_MASQUERADED = ("169.254.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")

_NAT = """\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
"""


def ip_masq_agent() -> str:
    """Everything but private addresses is masqueraded; the port is kept where it is free."""
    to_chain = (
        '-A POSTROUTING -m comment --comment "ip-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination '
        'traffic to our custom IP-MASQ-AGENT chain" -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT'
    )
    local = (
        f'-A IP-MASQ-AGENT -d {cidr} -m comment --comment "ip-masq-agent: local traffic is not subject to MASQUERADE" '
        "-j RETURN"
        for cidr in NOT_MASQUERADED
    )
    last = (
        '-A IP-MASQ-AGENT -m comment --comment "ip-masq-agent: outbound traffic is subject to MASQUERADE (must be last '
        'in chain)" -j MASQUERADE'
    )
    return f"{_NAT}:IP-MASQ-AGENT - [0:0]\n" + "\n".join([to_chain, *local, last, "COMMIT"]) + "\n"


def flannel(pods: IPv4Network, node: IPv4Network) -> str:
    """flannel's: between pods nothing; pods to the world, and the world to other nodes' pods, are masqueraded.

    Args:
        pods: The network of all pods.
        node: That of this node's.
    """
    said = '-m comment --comment "flanneld masq"'
    rules = (
        f"-A POSTROUTING {said} -j FLANNEL-POSTRTG",
        f"-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {said} -j RETURN",
        f"-A FLANNEL-POSTRTG -s {node} -d {pods} {said} -j RETURN",
        f"-A FLANNEL-POSTRTG -s {pods} -d {node} {said} -j RETURN",
        f"-A FLANNEL-POSTRTG ! -s {pods} -d {node} {said} -j RETURN",
        f"-A FLANNEL-POSTRTG -s {pods} ! -d 224.0.0.0/4 {said} -j MASQUERADE --random-fully",
        f"-A FLANNEL-POSTRTG ! -s {pods} -d {pods} {said} -j MASQUERADE --random-fully",
        "COMMIT",
    )
    forward = '-m comment --comment "flanneld forward"'
    filter_rules = (
        "*filter",
        ":INPUT ACCEPT [0:0]",
        ":FORWARD ACCEPT [0:0]",
        ":OUTPUT ACCEPT [0:0]",
        ":FLANNEL-FWD - [0:0]",
        f"-A FORWARD {forward} -j FLANNEL-FWD",
        f"-A FLANNEL-FWD -s {pods} {forward} -j ACCEPT",
        f"-A FLANNEL-FWD -d {pods} {forward} -j ACCEPT",
        "COMMIT",
    )
    return "\n".join(filter_rules) + f"\n{_NAT}:FLANNEL-POSTRTG - [0:0]\n" + "\n".join(rules) + "\n"


def calico(pods: IPv4Network) -> str:
    """Calico's ``natOutgoing``, with addresses where it has ipsets."""
    return (
        f"{_NAT}:cali-POSTROUTING - [0:0]\n:cali-nat-outgoing - [0:0]\n"
        "-A POSTROUTING -j cali-POSTROUTING\n-A cali-POSTROUTING -j cali-nat-outgoing\n"
        f"-A cali-nat-outgoing -s {pods} ! -d {pods} -j MASQUERADE --random-fully\nCOMMIT\n"
    )
