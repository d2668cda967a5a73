"""A SYN that comes late takes connection tracking back to before the request, and the node resets the connection.

Symptom: on lossy or reordering paths a few connections through node ports end in ``connection reset by peer`` just
after they were made. Cause: the client's SYN was sent twice (the first answer was lost), and the second one arrives
behind the request. Netfilter ignores it, but when the server's SYN-ACK to it passes, it takes its own idea of the
connection for the wrong one: state SYN_RECV, and nothing of the client's was seen beyond the SYN. Unless the client
says more before that, the server's ACK of the request is then INVALID, so it is not translated; to the node it is a
segment to itself that nobody knows, and it is answered by a RST, which the server believes. ``KUBE-FORWARD`` drops
INVALID packets, but this one is not forwarded.
Source: net/netfilter/nf_conntrack_proto_tcp.c, the case TCP_CONNTRACK_IGNORE. Found on Linux 6.18 in this very order.
"""

from pktsim.cluster.cluster import Cluster
from pktsim.kernel.netem import FrameRule
from pktsim.scenario.script import Story, seen, views, world
from pktsim.wire.frame_match import FrameMatch

NODE_PORT = """\
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  clusterIP: 10.96.0.20
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
"""


def tcp(flags: str) -> FrameMatch:
    return FrameMatch(protocol="tcp", flags=flags)


def disturb(cluster: Cluster) -> None:
    """The first answer does not arrive; the second SYN is late, and what the client says to the answer to that one."""
    late = [FrameRule("delay", tcp(flags), nth=(2,), delay_ms=ms) for flags, ms in (("S", 3), (".", 20))]
    cluster.impair("outside", direction="out", script=late)
    cluster.impair("outside", direction="in", script=[FrameRule("drop", tcp("S."), nth=(1,))])


def run(seed: int) -> Story:
    cluster = world(seed, NODE_PORT)
    cluster.draw("web", "a", "a")
    yield cluster
    yield "the first SYN-ACK is lost, the second SYN is late, what follows it reaches the pod later still: reset"
    disturb(cluster)
    slow = [FrameRule("delay", tcp(flags), delay_ms=10) for flags in (".", "P.")]
    cluster.impair("a", direction="in", script=slow)
    error = ""
    try:
        cluster.outside.http_get("http://192.168.1.11:30080/")
    except OSError as caught:
        error = str(caught)
    assert error == "Recv failure: Connection reset by peer"
    order = [view.tcp_flags for view in views(cluster, on="node1/eth0", direction="in", dport=30080)]
    assert order[:4] == [0x02, 0x10, 0x18, 0x02]  # SYN, ACK, request, and the SYN again
    bridge = "10.244.1.254"
    assert seen(cluster, on="default/a/eth0", direction="out", dst=bridge, flags=".")
    assert not seen(cluster, on="outside", direction="in", flags=".")  # the ACK of the request never gets there
    assert seen(cluster, on="default/a/eth0", direction="in", src=bridge, flags="R")
    yield "nf_conntrack_tcp_be_liberal does not ask for windows: the ACK is translated, and all is well"
    cluster.node("node1").sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", 1)
    disturb(cluster)
    assert cluster.outside.http_get("http://192.168.1.11:30080/").text.startswith("a saw ")
