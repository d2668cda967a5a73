"""NodeLocal DNSCache and policy: answers that are not tracked are not ESTABLISHED either.

Symptom: with NodeLocal DNSCache some network policies or host firewalls break DNS. Cause: the cache listens on
169.254.20.10 of its node, and its packets carry NOTRACK (table raw), which saves entries and avoids the insert race;
but their state is UNTRACKED, so a rule that lets only ESTABLISHED packets back to a pod drops every answer. Mend:
accept by address and port, as NodeLocal DNSCache does for its own, or UNTRACKED. Processes of the node itself need the
rule in OUTPUT too: without it each query of theirs leaves an [UNREPLIED] entry behind.
Seen on Linux 6.18, all of it; the cache's own sendto fails with EPERM where the policy drops its answer.
Source: kubernetes #98758; projectcalico/calico#3795; kubernetes/dns#319 and cmd/node-cache/app/cache_app.go.
"""

from __future__ import annotations

from pktsim.cluster import programs
from pktsim.netfilter.ruleset import Family
from pktsim.scenario.dns_script import asks, dns_world, told
from pktsim.scenario.script import Story

CACHE = "169.254.20.10"
CLIENT = f"""\
apiVersion: v1
kind: Pod
metadata: {{name: cached}}
spec:
  nodeName: node1
  dnsPolicy: None
  dnsConfig: {{nameservers: [{CACHE}], searches: [default.svc.cluster.local]}}
  containers: [{{name: c}}]
status: {{podIP: 10.244.1.12}}
"""
COREFILE = """\
cluster.local:53 {
    errors
    cache 30
    forward . 10.96.0.10 {
        force_tcp
    }
}
"""
NAME = "web.default.svc.cluster.local."
FOUND = [f"{NAME} A udp NOERROR 1", f"{NAME} AAAA udp NOERROR 0"]
NOTRACK = f"{CACHE}/32 -p udp -m udp {{}} 53 -j NOTRACK"
RETURNING = "OUTPUT -d 10.244.1.12 -p udp -m conntrack --ctstate"


def run(seed: int) -> Story:
    """The cache at work, a policy in its way, and a client on the node itself."""
    cluster = dns_world(seed, CLIENT)
    yield cluster
    node = cluster.node("node1")
    node.netns.address_add("lo", f"{CACHE}/32")
    programs.serve_dns(node.netns, COREFILE, cluster.store, Family.IPV4, bind=[CACHE])
    node.iptables("-t raw -A PREROUTING -d " + NOTRACK.format("--dport"))
    node.iptables("-t raw -A OUTPUT -s " + NOTRACK.format("--sport"))

    def entries(address: str) -> list[str]:
        return [entry.text() for entry in node.conntrack() if f"dst={address} " in entry.text()]

    yield "the pod asks the cache, which leaves no entry; the cache asks kube-dns over TCP, which does"
    assert told(asks(cluster, "cached", "web")) == FOUND
    assert not entries(CACHE)
    assert all(" ESTABLISHED " in text or " TIME_WAIT " in text for text in entries("10.96.0.10"))
    assert entries("10.96.0.10")

    yield "a policy lets only ESTABLISHED packets back to the pod: its queries time out"
    node.iptables(f"-A {RETURNING} RELATED,ESTABLISHED -j ACCEPT")
    node.iptables("-A OUTPUT -d 10.244.1.12 -j DROP")
    assert {one.outcome for one in asks(cluster, "cached", "web")} == {"timeout"}

    yield "accepting UNTRACKED packets mends it"
    node.iptables(f"-I {RETURNING} UNTRACKED -j ACCEPT")
    assert told(asks(cluster, "cached", "web")) == FOUND

    yield "a process on the node leaves an entry that never sees its reply"
    resolving = programs.ResolverFiles(f"nameserver {CACHE}\n")
    node.files, usual = resolving, node.files
    assert node.resolve(NAME) == ["10.96.0.20"]
    assert entries(CACHE)
    assert all("[UNREPLIED]" in text for text in entries(CACHE))

    yield "with the same rule in OUTPUT it leaves none"
    cluster.run(31)
    assert not entries(CACHE)
    node.iptables("-t raw -A OUTPUT -d " + NOTRACK.format("--dport"))
    assert node.resolve(NAME) == ["10.96.0.20"]
    assert not entries(CACHE)
    node.files = usual
