"""A scenario: objects, steps, expectations.

In a file it is the last document, ``kind: Scenario``, after the objects of its cluster::

    kind: Scenario
    metadata: {name: book}
    spec:
      about: A pod asks for http://web/
      steps:
      - from: default/client
        http: http://web/
        expect: {status: 200, body: "web-1 saw *"}
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field, model_validator

from pktsim.cluster.ingress.install import Installation
from pktsim.cluster.kubeproxy.versions import DEFAULT_RELEASE
from pktsim.cluster.objects import KubeObject
from pktsim.cluster.objects_meta import CIDRText, IPText, KubeModel
from pktsim.cluster.objects_outside import OutsideSpec
from pktsim.cluster.wiring import UPLINK
from pktsim.kernel.netem import Netem
from pktsim.kernel.network import LinkDirection


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str | int) and not isinstance(value, bool) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_several)]


class FrameExpectation(KubeModel):
    """Frames that must, or must not, be seen during a step.

    What is not said matches everything. ``on`` is an interface (``node-b/eth0``), a space (``node-b``) or empty: all.
    """

    on: str = ""
    direction: Literal["in", "out", ""] = ""
    protocol: Literal["tcp", "udp", "icmp", "arp", ""] = ""
    src: str = ""
    dst: str = ""
    sport: int | None = None
    dport: int | None = None
    flags: str | None = None
    ttl: int | None = None
    text: str = ""
    count: int | None = Field(default=None, ge=0)


class Expectation(KubeModel):
    """What must come of a step. Texts may hold ``*``; of several, one must fit.

    Attributes:
        status: HTTP status.
        body: Body of the answer, without the newline at its end.
        addresses: What a name resolves to, in any order.
        error: The error that the step ends with, in errno's or the resolver's words; steps without it must succeed.
        endpoint: The pod that answered, where the answer says so.
        within: The step takes at most so many seconds.
        frames: What is or is not on the wires.
        conntrack: For each node, texts each of which some entry must hold; ``!`` before it: none may.
    """

    status: int | None = None
    body: Texts = ()
    addresses: Annotated[tuple[str, ...] | None, BeforeValidator(_several)] = None
    error: Texts = ()
    endpoint: Texts = ()
    within: float | None = None
    frames: tuple[FrameExpectation, ...] = ()
    conntrack: dict[str, Texts] = Field(default={})


@dataclass(frozen=True, slots=True, kw_only=True)
class ImpairedLink(Netem):
    """A link and how bad it is; the other settings are those of :class:`~pktsim.kernel.netem.Netem`.

    Attributes:
        on: The machine whose link it is; the rest as in :meth:`Cluster.impair`.
    """

    on: str
    interface: str = UPLINK
    peer: str = ""
    direction: LinkDirection = "both"

    def __str__(self) -> str:
        towards = f" with {self.peer}" if self.peer else ""
        way = "" if self.direction == "both" else f" ({self.direction})"
        return f"{self.on}/{self.interface}{towards}{way}: {Netem.__str__(self)}"


class IngressSettings(KubeModel):
    """An ingress controller to install: see :class:`~pktsim.cluster.ingress.install.Installation`."""

    service: Literal["LoadBalancer", "NodePort", "ClusterIP"] = "LoadBalancer"
    workload: Literal["Deployment", "DaemonSet"] = "Deployment"
    replicas: int = Field(default=1, ge=1)
    node_ports: tuple[int, int] = (0, 0)
    traffic_policy: Literal["Cluster", "Local"] = "Cluster"
    load_balancer_ip: str = ""
    config: dict[str, str] = Field(default={})
    arguments: Texts = ()
    watch_delay: float = Field(default=0.0, ge=0)

    def installation(self) -> Installation:
        """The installation that these are the settings of."""
        return Installation(
            service=self.service,
            kind=self.workload,
            replicas=self.replicas,
            node_ports=self.node_ports,
            traffic_policy=self.traffic_policy,
            load_balancer_ip=self.load_balancer_ip,
            config=self.config,
            arguments=self.arguments,
            watch_delay=self.watch_delay,
        )


_VERBS = ("http", "resolve", "ping", "udp", "tcp", "wait", "apply", "delete", "scale", "impair", "link",
          "fail_node", "recover_node", "drain", "kill")  # fmt: skip


class Step(KubeModel):
    """One thing done. Exactly one of the verbs is given.

    Attributes:
        source: A pod (``namespace/name``), a node, ``outside`` or another machine there.
        http: A URL to get.
        resolve: A name, looked up as the pod's resolver does.
        ping: An address.
        udp: ``HOST:PORT`` to send one datagram to and wait for the answer.
        tcp: ``HOST:PORT`` to connect to and close again.
        wait: Simulated seconds.
        apply: Objects to add or replace.
        delete: ``kind/name`` or ``kind/namespace/name``.
        scale: Workload (``deployment/web``) to number of replicas.
        impair: A link to make bad, or good again.
        link: Machines (``node-a``) to ``up`` or ``down``: their links are plugged in or unplugged.
        fail_node: A node that loses its power; ``grace`` seconds later the control plane holds it for NotReady (40).
        recover_node: A node that starts again.
        drain: A node that is emptied, its pods with ``grace`` seconds each (0), also those that nothing replaces.
        kill: A pod whose programs are killed; they start again after ``grace`` seconds (1).
        grace: For those.
        count: How often.
        sport: The source port to use.
        timeout: Seconds after which to give up.
        method: Of the HTTP request; so are the following.
        headers: ``Name: value`` each.
        body: A body to send.
        connect_to: ``HOST[:PORT]`` to connect to instead of what the URL says.
        redirects: How many to follow.
        insecure: Whether any certificate is accepted.
    """

    name: str = ""
    source: str = Field(default="", validation_alias=AliasChoices("from", "source"))
    http: str | None = None
    resolve: str | None = None
    ping: str | None = None
    udp: str | None = None
    tcp: str | None = None
    wait: float | None = Field(default=None, ge=0)
    apply: tuple[dict[str, Any], ...] | None = None
    delete: str | None = None
    scale: dict[str, int] | None = None
    impair: ImpairedLink | None = None
    link: dict[str, Literal["up", "down"]] | None = None
    fail_node: str | None = None
    recover_node: str | None = None
    drain: str | None = None
    kill: str | None = None
    grace: float | None = Field(default=None, ge=0)
    count: int = Field(default=1, ge=1)
    sport: int = Field(default=0, ge=0, le=65535)
    timeout: float = Field(default=5.0, gt=0)
    method: str = "GET"
    headers: Texts = ()
    body: str | None = None
    connect_to: str = ""
    redirects: int = Field(default=0, ge=0)
    insecure: bool = False
    expect: Expectation = Expectation()

    @property
    def verb(self) -> str:
        """Which of the verbs it is."""
        return next(verb for verb in _VERBS if getattr(self, verb) is not None)

    @property
    def title(self) -> str:
        """What is done, in words."""
        if self.name:
            return self.name
        if self.link is not None:
            return "link " + ", ".join(f"{machine} {state}" for machine, state in self.link.items())
        return f"{self.verb} {getattr(self, self.verb)}"

    @model_validator(mode="after")
    def _one_verb(self) -> Step:
        given = [verb for verb in _VERBS if getattr(self, verb) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a step has one verb of {', '.join(_VERBS)}; this one has {' and '.join(given) or 'none'}"
            )
        if given[0] in ("http", "resolve", "ping", "udp", "tcp") and not self.source:
            raise ValueError(f"{given[0]} needs from: a pod, a node or outside")
        return self


class ClusterSettings(KubeModel):
    """What the objects do not say of the cluster."""

    nodes: int = Field(default=0, ge=0)
    pod_cidr: CIDRText = "10.1.0.0/16"
    service_cidr: CIDRText = "172.30.0.0/16"
    dns: IPText = "172.30.0.10"
    wiring: str = "host-gw"
    load_balancer: str = "l2"
    kube_proxy_version: str = str(DEFAULT_RELEASE)


class ScenarioSpec(KubeModel):
    """``Scenario.spec``.

    Attributes:
        outside: Hosts, routers and networks beyond the nodes' router; the same can be said in a document of its own, of
            ``kind: Outside``.
        endpoints: Which pods the next connections to a service draw.
    """

    about: str = ""
    seed: int = 0
    cluster: ClusterSettings = ClusterSettings()
    ingress: IngressSettings | None = None
    outside: OutsideSpec = OutsideSpec()
    endpoints: dict[str, Texts] = Field(default={})
    steps: tuple[Step, ...] = ()


class ScenarioDocument(KubeObject):
    """The document as it stands in the file."""

    namespaced = False
    api_versions = ("pktsim.io/v1", "")

    spec: ScenarioSpec


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario ready to run.

    Attributes:
        script: A Python file instead of steps.
    """

    name: str
    objects: tuple[KubeObject, ...] = ()
    spec: ScenarioSpec = field(default_factory=ScenarioSpec)
    file: Path | None = None
    script: Path | None = None
