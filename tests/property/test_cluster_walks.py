"""What holds for every cluster and every request in it."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from pktsim.cluster.cluster import Cluster
from pktsim.cluster.loader import load_objects
from pktsim.wire.frame import FrameView
from tests import tools

EXAMPLES = 2000 if tools.STRICT else 60

NODES = ("node-a", "node-b", "node-c")
CLUSTER_IPS = {"web": "172.30.0.1", "echo": "172.30.0.2"}


@dataclass(frozen=True, slots=True)
class World:
    """Where the pods behind two services are, and who asks which of them."""

    nodes: int
    placed: tuple[int, ...]
    requests: tuple[tuple[str, str], ...]
    seed: int

    def objects(self) -> str:
        parts = [f"apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n" for name in NODES[: self.nodes]]
        parts.append(
            "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n"
            "spec: {clusterIP: 172.30.0.1, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\n"
        )
        parts.append(
            "apiVersion: v1\nkind: Service\nmetadata: {name: echo}\n"
            "spec: {clusterIP: 172.30.0.2, selector: {app: web},"
            " ports: [{port: 7, targetPort: 8081, protocol: UDP}]}\n"
        )
        for number, place in enumerate(self.placed, 1):
            node = NODES[place % self.nodes]
            parts.append(
                f"apiVersion: v1\nkind: Pod\nmetadata: {{name: web-{number}, labels: {{app: web}}}}\n"
                f"spec: {{nodeName: {node}, containers: [{{name: web}}]}}\n"
            )
        for node in NODES[: self.nodes]:
            parts.append(
                f"apiVersion: v1\nkind: Pod\nmetadata: {{name: client-{node}}}\n"
                f"spec: {{nodeName: {node}, containers: [{{name: c}}]}}\n"
            )
        return "---\n".join(parts)

    def sources(self) -> list[str]:
        found = []
        for who, _ in self.requests:
            kind, _, number = who.partition(" ")
            node = NODES[int(number) % self.nodes]
            if kind == "node":
                found.append(node)
            elif kind == "client":
                found.append(f"default/client-{node}")
            else:
                found.append(f"default/web-{int(number) % len(self.placed) + 1}")
        return found


WORLDS = st.builds(
    World,
    st.integers(1, 3),
    st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple),
    st.lists(
        st.tuples(
            st.builds("{} {}".format, st.sampled_from(("node", "client", "web")), st.integers(0, 3)),
            st.sampled_from(("http", "udp", "name")),
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
    st.integers(0, 1 << 16),
)


def play(world: World, cluster: Cluster) -> list[tuple[str, str]]:
    """Make the requests; returns who asked and who answered."""
    cluster.apply(load_objects(world.objects()))
    answers = []
    for source, (_, what) in zip(world.sources(), world.requests, strict=True):
        machine = cluster.machine(source)
        if what == "udp":
            body = machine.udp(CLUSTER_IPS["echo"], 7).decode()
        elif what == "name" and "/" in source:
            body = machine.http_get("http://web/").text
        else:
            body = machine.http_get(f"http://{CLUSTER_IPS['web']}/").text
        answers.append((source, body.partition(" saw ")[0]))
    return answers


@settings(max_examples=EXAMPLES)
@given(WORLDS)
def test_cluster_ips_stay_on_the_clients_own_node_and_the_same_seed_gives_the_same_bytes(world: World) -> None:
    """Two promises about one walk, since walking is what takes the time."""
    cluster = Cluster(seed=world.seed)
    answers = play(world, cluster)
    assert {name for _, name in answers} <= {f"web-{number}" for number in range(1, len(world.placed) + 1)}
    virtual = {bytes((172, 30, 0, last)) for last in (1, 2, 10)}
    allowed = set()
    for source, _ in answers:
        allowed |= {source, cluster.pod(source).pod.spec.node_name if "/" in source else source}
    for frame in cluster.capture:
        view = FrameView(frame.frame)
        if view.protocol < 0:
            continue
        assert not view.bad_checksums() or frame.interface == "lo"
        if {view.saddr, view.daddr} & virtual:
            assert frame.space in allowed
            # On the node it is seen on the client's side only.
            assert frame.interface != "eth0" or "/" in frame.space
    again = Cluster(seed=world.seed)
    assert play(world, again) == answers
    assert _captured(again) == _captured(cluster)


def _captured(cluster: Cluster) -> list[tuple[int, str, str, bytes]]:
    return [(frame.at_ns, frame.where, frame.direction, frame.frame) for frame in cluster.capture]
