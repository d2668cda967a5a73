"""Thousands of HTTP requests over bad links: each is answered rightly or fails with the right error, nothing is left.

    python -m tests.soak.http                                                10,000 through a ClusterIP, 2% lost
    python -m tests.soak.http --through nodeport                             ... from outside, through node ports
    python -m tests.soak.http --through ingress                              ... through the ingress controller
    python -m tests.soak.http --requests 500 --loss 0.05 --duplicate 0.01 --seed 3
    python -m tests.soak.http --world shop.yaml --from default/client --url http://web/ --on default/client

It ends with status 1 and what was wrong, or says how many requests were answered in how long. In the end no connection
and no conntrack entry may be left once all time-outs are over, and tshark, over what the client's interface saw, may
complain only of what loss and reordering explain.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from pktsim.clock import NS_PER_S
from pktsim.cluster import programs
from pktsim.cluster.apps.http_client import EXIT_OPERATION_TIMEDOUT, HttpClient, HttpResult
from pktsim.cluster.cluster import Cluster
from pktsim.cluster.machines import Machine
from pktsim.kernel import task
from pktsim.kernel.netem import Netem
from pktsim.wire.frame import IPPROTO_TCP, FrameView, TcpFlag
from pktsim.wire.summary import summary
from tests.tshark import check_capture

#: What Wireshark says of segments that were lost, late or doubled, and of what ends see of that.
LOSS_EXPLAINS = (
    "retransmission",
    "Duplicate ACK",
    "out-of-order",
    "Previous segment",
    "ACKed segment that wasn't captured",
    "D-SACK",
    "TCP keep-alive",
    "DNS query retransmission",
    "DNS response retransmission",
    "DNS response missing",
    # see _unexplained
    r"Connection reset \(RST\)",
    "A new tcp session is started with the same ports",
)
_RESET = "Connection reset by peer"
#: Longer than every time-out of TCP and conntrack that a finished connection leaves behind.
_AFTERWARDS_S = 700
#: Entries of half-open or dead connections live as long as conntrack's longest time-out for data without an answer.
_CONNTRACK_SETTINGS = {"net.netfilter.nf_conntrack_tcp_timeout_established": 300}

WORLD = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  clusterIP: 172.30.0.1
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {containers: [{name: shell}]}
"""


@dataclass
class Plan:
    """What is asked of whom, over what.

    Attributes:
        world: Objects of the cluster, a file or text.
        source: Who asks.
        url: What for.
        connect_to: Where to, instead of what the URL says.
        headers: Sent along: ``Host: …``.
        prepare: What else the cluster needs.
        on: Whose links are bad.
        netem: How bad, in each direction.
        clients: How many ask at the same time.
        timeout_s: After which a client gives up.
        body: What an answer must look like; ``{local}`` stands for the client's own address and port.
        interface: Of the one who asks: what is captured.
        capture: Whether tshark is asked.
    """

    world: str = WORLD
    source: str = "default/client"
    url: str = "http://web/"
    connect_to: str = ""
    headers: tuple[str, ...] = ()
    prepare: Callable[[Cluster], None] = lambda cluster: None
    on: tuple[str, ...] = ("default/client",)
    netem: Netem = field(default_factory=lambda: Netem(loss=0.02, reorder=0.25, delay_ms=1))
    requests: int = 10_000
    clients: int = 8
    timeout_s: float = 120.0
    body: str = r"web-[a-z0-9-]+ saw {local}\n"
    seed: int = 1
    interface: str = "eth0"
    capture: bool = True


def nodeport(plan: Plan) -> Plan:
    """From outside to a node, which hands on to any."""
    plan.source, plan.url, plan.on = "outside", "http://192.168.0.11:30080/", ("outside",)
    plan.body = r"web-[a-z0-9-]+ saw \S+:\d+\n"
    return plan


CONTROLLER = "ingress-nginx/ingress-nginx-controller-1"
INGRESS = """
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop}
spec:
  rules:
  - host: shop.example.com
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
"""


def ingress(plan: Plan) -> Plan:
    """From outside to the controller's node port, and from the controller to pods: both over bad links."""

    def prepare(cluster: Cluster) -> None:
        cluster.install_ingress(node_ports=(30081, 30443))
        cluster.apply(INGRESS)

    plan.prepare = prepare
    plan.source, plan.on = "outside", ("outside", CONTROLLER)
    plan.url, plan.connect_to = "http://shop.example.com/", "192.168.0.11:30081"
    plan.body = r"web-[a-z0-9-]+ saw \S+:\d+\n"
    return plan


THROUGH: dict[str, Callable[[Plan], Plan]] = {
    "clusterip": lambda plan: plan,
    "nodeport": nodeport,
    "ingress": ingress,
}


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        errors: How often each error was met, in curl's words.
        wrong: What must not be, in words.
        experts: What Wireshark remarked on, and how often.
        took_s: Of real time, for the requests alone.
    """

    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    experts: Counter[str] = field(default_factory=Counter)
    simulated_s: float = 0.0
    took_s: float = 0.0
    frames: int = 0

    def __str__(self) -> str:
        lines = [
            f"{self.answered} answered in {self.simulated_s:.0f} simulated seconds; {self.frames} frames captured; "
            f"{(self.answered + self.errors.total()) / self.took_s:.0f} requests per second"
        ]
        lines += [f"{count} x {error}" for error, count in self.errors.most_common()]
        lines += [f"tshark: {count} x {text}" for text, count in self.experts.most_common()]
        return "\n".join([*lines, *self.wrong])


def soak(plan: Plan) -> Outcome:
    """Run a plan."""
    cluster = Cluster.load(plan.world, seed=plan.seed)
    plan.prepare(cluster)
    outcome = Outcome()
    source = cluster.machine(plan.source)
    for node in cluster.nodes:
        for name, value in _CONNTRACK_SETTINGS.items():
            node.sysctl(name, value)
    for name in plan.on:
        cluster.impair(name, **{entry.name: getattr(plan.netem, entry.name) for entry in fields(Netem)})
    cluster.capture.clear()
    seen_at = f"{source.netns.name}/{plan.interface}"
    cluster.capture.narrow(lambda space, interface: plan.capture and f"{space}/{interface}" == seen_at)
    began_s = time.perf_counter()
    with cluster.explainer.paused():
        _ask(cluster, source, plan, outcome)
        outcome.took_s = time.perf_counter() - began_s
        outcome.simulated_s = cluster.clock.now_ns / NS_PER_S
        cluster.run(_AFTERWARDS_S)
    _check_what_is_left(cluster, outcome)
    outcome.frames = len(cluster.capture)
    if plan.capture:
        outcome.wrong += _unexplained(cluster, outcome)
        _check_capture(cluster, outcome)
    return outcome


def _ask(cluster: Cluster, source: Machine, plan: Plan, outcome: Outcome) -> None:
    left = iter(range(plan.requests))
    busy = plan.clients

    async def client() -> None:
        nonlocal busy
        for number in left:
            http = HttpClient(
                source.netns.sockets,
                lambda name: programs.resolve(source.netns, name, source.files),
                max_time_ns=round(plan.timeout_s * NS_PER_S),
                connect_to=plan.connect_to,
            )
            _judge(await http.get(plan.url, headers=plan.headers), number, plan, outcome)
        busy -= 1

    tasks = [task.spawn(cluster.clock, client(), f"client {number}") for number in range(plan.clients)]
    limit_ns = cluster.clock.now_ns + round((plan.timeout_s + 60) * plan.requests * NS_PER_S)
    cluster.clock.run_while(lambda: busy > 0, limit_ns)
    for one in tasks:
        if not one.done:
            outcome.wrong.append(f"{one.name} hangs")
            one.cancel()


def _judge(result: HttpResult, number: int, plan: Plan, outcome: Outcome) -> None:
    """An answer must be the right one, an error one that a bad link explains."""
    if not result.exit_code:
        local = re.escape(f"{result.local[0]}:{result.local[1]}") if result.local else ""
        text = result.body.decode("utf-8", "replace")
        if result.status != 200 or not re.fullmatch(plan.body.format(local=local), text):
            outcome.wrong.append(f"request {number}: HTTP {result.status}, {text!r}")
        outcome.answered += 1
        return
    error = re.sub(r"\d+", "N", result.error)
    outcome.errors[f"curl: ({result.exit_code}) {error}"] += 1
    gave_up = result.exit_code == EXIT_OPERATION_TIMEDOUT or "Could not resolve host" in result.error
    if not gave_up and not (plan.capture and _RESET in result.error):
        outcome.wrong.append(f"request {number}: {result.error}")


def _check_what_is_left(cluster: Cluster, outcome: Outcome) -> None:
    for name, space in cluster.network.spaces.items():
        table = space.sockets.tcp_table
        for state, key in table:
            if state.name != "LISTEN":
                outcome.wrong.append(f"{name} still has a connection in {state.name}: {key}")
    for node in cluster.nodes:
        for entry in node.conntrack():
            outcome.wrong.append(f"{node.name} still tracks {entry.text(extended=True)}")


def _unexplained(cluster: Cluster, outcome: Outcome) -> list[str]:
    """Resets of connections that were not over, and new connections in the place of such.

    A late duplicate of an ACK finds nobody any more once both sides have closed, and is answered by a RST; or finds
    TIME_WAIT, which answers it by an ACK, and that one finds nobody. Both ends' FINs have passed by then. Or a SYN that
    was sent twice came late, and with the answer to it took a node's connection tracking back to before the request:
    what acknowledges that is INVALID, not translated, and reset by the node (scenario late-syn). And there are fewer
    ports than requests.
    """
    wrong = []
    closed: dict[tuple[object, ...], set[str]] = {}
    began: dict[tuple[object, ...], int] = {}
    answers: Counter[tuple[object, ...]] = Counter()
    died = 0
    for frame in cluster.capture:
        view = FrameView(frame.frame)
        if view.protocol != IPPROTO_TCP:
            continue
        ends = tuple(sorted([(view.saddr, view.sport), (view.daddr, view.dport)]))
        known = closed.setdefault(ends, set())
        if view.tcp_flags & (TcpFlag.SYN | TcpFlag.ACK) == TcpFlag.SYN and began.get(ends) != view.tcp_seq:
            if ends in began and len(known) < 2:
                wrong.append(f"a connection at {frame.at_ns} ns in the place of one that is not over")
            began[ends] = view.tcp_seq
            answers[ends] = 0
            known.clear()
        answers[ends] += view.tcp_flags & (TcpFlag.SYN | TcpFlag.ACK) == TcpFlag.SYN | TcpFlag.ACK
        if view.tcp_flags & TcpFlag.FIN:
            known.add(frame.direction)
        if view.tcp_flags & TcpFlag.RST and len(known) < 2:
            if answers[ends] < 2:
                wrong.append(f"a reset at {frame.at_ns} ns: {summary(frame.frame)}")
            elif not known:
                died += 1
                known.update(("in", "out"))
    resets = sum(count for error, count in outcome.errors.items() if _RESET in error)
    if resets > died:
        wrong.append(f"{resets} connections were reset, {died} of them for a reason")
    return wrong


def _check_capture(cluster: Cluster, outcome: Outcome) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "soak.pcap"
        cluster.capture.write(path)
        try:
            for text, count in check_capture(path, allow=LOSS_EXPLAINS, together=True).experts.items():
                outcome.experts[text.partition(". Original")[0]] += count
        except AssertionError as error:
            outcome.wrong.append(str(error))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.http", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--through", choices=sorted(THROUGH), default="clusterip")
    parser.add_argument("--world", type=Path, help="objects, instead of the built-in ones")
    parser.add_argument("--from", dest="source", help="who asks")
    parser.add_argument("--url")
    parser.add_argument("--connect-to", default="", help="HOST:PORT, instead of what the URL says")
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--on", action="append", help="whose links are bad")
    parser.add_argument("--body", help="regular expression for answers; {local} is the client's address and port")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--timeout", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-capture", action="store_true", help="do not ask tshark")
    for name, value in {"loss": 0.02, "reorder": 0.25, "duplicate": 0.0, "corrupt": 0.0, "delay-ms": 1.0}.items():
        parser.add_argument(f"--{name}", type=float, default=value)
    given = parser.parse_args(arguments)
    plan = THROUGH[given.through](Plan(seed=given.seed, requests=given.requests, clients=given.clients))
    plan.timeout_s, plan.capture = given.timeout, not given.no_capture
    plan.netem = Netem(
        loss=given.loss,
        reorder=given.reorder,
        duplicate=given.duplicate,
        corrupt=given.corrupt,
        delay_ms=given.delay_ms,
    )
    if given.world:
        plan.world = str(given.world)
    plan.source = given.source or plan.source
    plan.url = given.url or plan.url
    plan.connect_to = given.connect_to or plan.connect_to
    plan.on = tuple(given.on or plan.on)
    plan.body = given.body or plan.body
    plan.headers += tuple(given.header)
    outcome = soak(plan)
    print(outcome)
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
