"""Links of a cluster's machines: bad ones, unplugged ones."""

from __future__ import annotations

import pytest

from pktsim.cluster.cluster import Cluster
from pktsim.errors import TopologyError
from pktsim.kernel.netem import FrameRule
from pktsim.scenario.script import seen, world
from pktsim.wire.frame_match import FrameMatch

SYN_ACK = FrameMatch(protocol="tcp", flags="S.")


def endpoint(cluster: Cluster, timeout: float = 5.0) -> str:
    address = cluster.pod("client").resolve("web")[0]
    return cluster.pod("client").http_get(f"http://{address}/", timeout=timeout).text.partition(" saw ")[0]


def test_pod_whose_link_loses_the_syn_ack_asks_again() -> None:
    cluster = world()
    cluster.impair("client", direction="in", script=[FrameRule("drop", SYN_ACK, nth=(1,))])
    began_ns = cluster.clock.now_ns
    assert endpoint(cluster) in "ab"
    assert 1.0 < (cluster.clock.now_ns - began_ns) / 1e9 < 1.2
    syns = [frame.at_ns for frame in seen(cluster, on="default/client/eth0", direction="out", flags="S")]
    assert len(syns) == 2
    # The node has sent each answer; the pod has not got the first.
    sent = len(seen(cluster, on="node1/veth-client", direction="out", flags="S."))
    assert sent == len(seen(cluster, on="default/client/eth0", flags="S.")) + 1


def test_link_is_good_again_when_nothing_is_said() -> None:
    cluster = world()
    cluster.impair("client", loss=1)
    with pytest.raises(TimeoutError):
        cluster.pod("client").http_get("http://10.96.0.20/", timeout=0.5)
    cluster.impair("client")
    assert cluster.pod("client").http_get("http://10.96.0.20/").status == 200


def test_only_what_goes_between_two_nodes_is_hit() -> None:
    cluster = world()
    cluster.impair("node1", peer="node2", loss=1)
    cluster.draw("web", "a", "b")
    (there,) = {pod.pod.spec.node_name for pod in cluster.pods if pod.name in ("default/b",)}
    assert there == "node2"
    assert cluster.pod("client").ping(cluster.outside.address).ok
    with pytest.raises(TimeoutError):
        cluster.pod("client").ping(cluster.pod("b").address)
    with pytest.raises(TimeoutError):
        cluster.node("node2").ping(cluster.node("node1").address)


def test_unplugged_node_is_out_of_reach_until_it_is_plugged_in() -> None:
    cluster = world()
    client, target = cluster.pod("client"), cluster.pod("b").address
    assert client.ping(target).ok
    cluster.link("node2", up=False)
    with pytest.raises(TimeoutError):
        client.ping(target, timeout=0.5)
    cluster.run(60)
    # The neighbour entry is stale by now: it is used once more, then asked for in vain and forgotten ...
    with pytest.raises(TimeoutError):
        client.ping(target, timeout=10)
    # ... and who needs it then is told when it has been asked for three times.
    assert str(client.ping(target, timeout=5)).startswith("ICMP type 3 code 1")
    cluster.link("node2", up=True)
    assert client.ping(target).ok


@pytest.mark.parametrize(
    ("machine", "settings", "complaint"),
    [
        ("nobody", {}, "there is no pod 'nobody'"),
        ("client", {"interface": "eth7"}, "eth7"),
        ("node1", {"interface": "cni0", "loss": 0.1}, "has no wire"),
        ("client", {"peer": "nobody"}, "there is no pod 'nobody'"),
        ("client", {"direction": "up"}, "'up' is no direction"),
        ("client", {"reorder": 0.5}, "reordering without a delay"),
    ],
)
def test_what_cannot_be_is_refused(machine: str, settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(TopologyError, match=complaint):
        world().impair(machine, **settings)  # type: ignore[arg-type]
