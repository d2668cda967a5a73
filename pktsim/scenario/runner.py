"""Runs scenarios: builds the cluster, takes the steps, checks what must come of them."""

from __future__ import annotations

import inspect
import runpy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from traceback import extract_tb
from typing import Any

from pktsim.clock import NS_PER_S
from pktsim.cluster.cluster import Cluster
from pktsim.cluster.control_plane import Ranges
from pktsim.cluster.loader import load_objects
from pktsim.cluster.objects import Node, ObjectMeta, Outside
from pktsim.cluster.objects_outside import OutsideSpec
from pktsim.cluster.outages import GRACE_S
from pktsim.cluster.tracer import split_target
from pktsim.cluster.walk import Walk
from pktsim.errors import CaptureError, PktsimError, ScenarioError
from pktsim.kernel.capture import CapturedFrame
from pktsim.kernel.netem import Netem
from pktsim.scenario.frames import frame_fits
from pktsim.scenario.model import Expectation, FrameExpectation, Scenario, Step


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of one step.

    Attributes:
        outcome: In words: the answer, or the error.
        unmet: Expectations that were not met, in words.
        walk: What nodes did to the packets.
    """

    title: str
    outcome: str
    unmet: tuple[str, ...]
    walk: Walk
    began_ns: int
    ended_ns: int


@dataclass(slots=True)
class Result:
    """What came of a scenario."""

    name: str
    about: str
    cluster: Cluster
    steps: list[StepResult] = field(default_factory=list)

    @property
    def met(self) -> bool:
        """Whether every expectation was met."""
        return not any(step.unmet for step in self.steps)

    def write_captures(self, directory: Path) -> list[Path]:
        """Write ``NAME.pcapng`` with everything, and beside it one ``.pcap`` for each interface.

        Raises:
            CaptureError: It cannot be written.
        """
        capture = self.cluster.capture
        whole = directory / f"{self.name}.pcapng"
        apart = directory / self.name
        try:
            apart.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CaptureError(error.strerror or "cannot be made", file=str(apart)) from None
        capture.write(whole, comment=self.about)
        return [whole, *capture.write_interfaces(apart)]


@dataclass(slots=True)
class _Outcome:
    """What a step's verb gave."""

    text: str
    error: str = ""
    status: int | None = None
    body: str = ""
    addresses: tuple[str, ...] = ()


def run_scenario(scenario: Scenario, *, seed: int | None = None, kube_proxy_version: str = "") -> Result:
    """Run a scenario.

    Args:
        seed: Instead of its own.
        kube_proxy_version: Instead of the one that it chooses.

    Raises:
        ScenarioError: It asks for something that does not exist.
        PktsimError: Its objects cannot be used.
    """
    if scenario.script is not None:
        return _run_script(scenario.script, scenario.name, 0 if seed is None else seed, kube_proxy_version)
    spec = scenario.spec
    settings = spec.cluster
    ranges = Ranges(IPv4Network(settings.pod_cidr), IPv4Network(settings.service_cidr), IPv4Address(settings.dns))
    nodes = settings.nodes
    if not nodes and not any(isinstance(found, Node) for found in scenario.objects):
        nodes = 2
    cluster = Cluster(
        nodes,
        seed=spec.seed if seed is None else seed,
        ranges=ranges,
        kube_proxy_version=kube_proxy_version or settings.kube_proxy_version,
    )
    if spec.outside != OutsideSpec():
        cluster.apply([Outside(metadata=ObjectMeta(name=scenario.name), spec=spec.outside)])
    if spec.ingress is not None:
        cluster.apply(spec.ingress.installation().objects())
    cluster.apply(scenario.objects)
    for service, pods in spec.endpoints.items():
        cluster.draw(service, *pods)
    result = Result(scenario.name, spec.about, cluster)
    for number, step in enumerate(spec.steps, 1):
        for turn in range(step.count):
            try:
                result.steps.append(_take(cluster, step, number, turn))
            except (ScenarioError, PktsimError) as error:
                if error.file is None and scenario.file is not None:
                    error.file = str(scenario.file)
                error.place = ", ".join(part for part in (f"step {number}", error.place) if part)
                raise
    return result


def _run_script(path: Path, name: str, seed: int, kube_proxy_version: str) -> Result:
    """A script has a function ``run(seed)``, which returns the cluster it used or tells a story.

    If it goes with several kube-proxies, it has a second argument, ``kube_proxy_version``.
    """
    try:
        found = runpy.run_path(str(path), run_name=f"pktsim_scenario_{name}")
    except SyntaxError as error:
        raise ScenarioError(f"{error.msg}", file=str(path), line=error.lineno) from None
    function: Callable[..., Any] | None = found.get("run")
    if function is None:
        raise ScenarioError("has no function run(seed)", file=str(path))
    about = (found.get("__doc__") or "").strip().partition("\n")[0]
    several = "kube_proxy_version" in inspect.signature(function).parameters
    if kube_proxy_version and not several:
        raise ScenarioError(
            "goes with one kube-proxy only", file=str(path), mend="give run() an argument kube_proxy_version"
        )
    made = function(seed, kube_proxy_version=kube_proxy_version) if kube_proxy_version else function(seed)
    if isinstance(made, Cluster):
        return Result(name, about, made)
    cluster = next(made, None) if isinstance(made, Iterator) else None
    if not isinstance(cluster, Cluster):
        raise ScenarioError("run(seed) has to return a Cluster, or to yield one first", file=str(path))
    result = Result(name, about, cluster)
    _tell(made, path, result)
    return result


def _tell(story: Iterator[Any], path: Path, result: Result) -> None:
    """Take the steps of a story to its end, or to the first that does not go as expected."""
    cluster = result.cluster
    title: str | None = ""
    while title is not None:
        began_ns = cluster.clock.now_ns
        unmet: tuple[str, ...] = ()
        with cluster.record() as recorder:
            try:
                following = next(story, None)
            except (AssertionError, OSError) as error:
                following, unmet = None, (_failure(error, path),)
        if title or unmet:
            outcome = "not as expected" if unmet else "as expected"
            number = len(result.steps) + 1
            walk = recorder.walk("", outcome, delivered=not unmet)
            step = StepResult(f"{number}. {title}".rstrip(), outcome, unmet, walk, began_ns, cluster.clock.now_ns)
            result.steps.append(step)
        title = following


def _failure(error: BaseException, path: Path) -> str:
    """What a script expected, in its own words: the line that failed, and what it says of it."""
    lines = [frame for frame in extract_tb(error.__traceback__) if frame.filename == str(path)]
    text = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
    if not lines:
        return text or type(error).__name__
    source = " ".join((lines[-1].line or "").split())
    return f"line {lines[-1].lineno}: {source}" + (f" ({text})" if text else "")


def _take(cluster: Cluster, step: Step, number: int, turn: int) -> StepResult:
    began_ns = cluster.clock.now_ns
    first_frame = len(cluster.capture.frames)
    with cluster.record() as recorder:
        outcome = _VERBS[step.verb](cluster, step)
    frames = cluster.capture.frames[first_frame:]
    title = step.title
    if step.count > 1:
        title += f" ({turn + 1} of {step.count})"
    unmet = tuple(_unmet(cluster, step.expect, outcome, frames, (cluster.clock.now_ns - began_ns) / NS_PER_S))
    walk = recorder.walk("", outcome.text, delivered=not outcome.error)
    return StepResult(f"{number}. {title}", outcome.text, unmet, walk, began_ns, cluster.clock.now_ns)


# Verbs


def _guarded(call: Callable[[], _Outcome]) -> _Outcome:
    """An error that a program would report is an outcome."""
    try:
        return call()
    except TimeoutError as error:
        return _Outcome("timed out", str(error) or "timed out")
    except OSError as error:
        text = error.strerror or str(error)
        return _Outcome(text, text)


def _http(cluster: Cluster, step: Step) -> _Outcome:
    def call() -> _Outcome:
        answer = cluster.machine(step.source).http_request(
            step.method,
            str(step.http),
            body=None if step.body is None else step.body.encode(),
            sport=step.sport,
            timeout=step.timeout,
            headers=step.headers,
            connect_to=step.connect_to,
            redirects=step.redirects,
            insecure=step.insecure,
        )
        body = answer.text.rstrip("\n")
        return _Outcome(f"HTTP {answer.status}: {body}", status=answer.status, body=body)

    return _guarded(call)


def _resolve(cluster: Cluster, step: Step) -> _Outcome:
    def call() -> _Outcome:
        found = cluster.machine(step.source).resolve(str(step.resolve), timeout=max(step.timeout, 30.0))
        return _Outcome(f"{step.resolve} is {', '.join(found)}", addresses=tuple(found))

    return _guarded(call)


def _ping(cluster: Cluster, step: Step) -> _Outcome:
    def call() -> _Outcome:
        answer = cluster.machine(step.source).ping(str(step.ping), timeout=step.timeout)
        return _Outcome(str(answer), "" if answer.ok else str(answer))

    return _guarded(call)


def _udp(cluster: Cluster, step: Step) -> _Outcome:
    def call() -> _Outcome:
        host, port = split_target(str(step.udp))
        answer = cluster.machine(step.source).udp(host, port, sport=step.sport, timeout=step.timeout)
        body = answer.decode("utf-8", "replace")
        return _Outcome(f"answer: {body}", body=body)

    return _guarded(call)


def _tcp(cluster: Cluster, step: Step) -> _Outcome:
    def call() -> _Outcome:
        host, port = split_target(str(step.tcp))
        cluster.machine(step.source).tcp(host, port, sport=step.sport, timeout=step.timeout)
        return _Outcome("connected")

    return _guarded(call)


def _wait(cluster: Cluster, step: Step) -> _Outcome:
    cluster.run(step.wait or 0.0)
    return _Outcome(f"{step.wait:g} s pass")


def _apply(cluster: Cluster, step: Step) -> _Outcome:
    import yaml

    cluster.apply(load_objects(yaml.safe_dump_all(list(step.apply or ()), sort_keys=False) + "\n"))
    return _Outcome("applied")


def _delete(cluster: Cluster, step: Step) -> _Outcome:
    cluster.delete(str(step.delete))
    return _Outcome(f"{step.delete} is deleted")


def _scale(cluster: Cluster, step: Step) -> _Outcome:
    for reference, replicas in (step.scale or {}).items():
        cluster.scale(reference, replicas)
    return _Outcome("scaled")


def _impair(cluster: Cluster, step: Step) -> _Outcome:
    link = step.impair
    assert link is not None
    settings = {entry.name: getattr(link, entry.name) for entry in fields(Netem)}
    cluster.impair(link.on, interface=link.interface, peer=link.peer, direction=link.direction, **settings)
    return _Outcome(str(link))


def _link(cluster: Cluster, step: Step) -> _Outcome:
    for machine, state in (step.link or {}).items():
        cluster.link(machine, up=state == "up")
    return _Outcome(", ".join(f"the link of {machine} is {state}" for machine, state in (step.link or {}).items()))


def _fail_node(cluster: Cluster, step: Step) -> _Outcome:
    cluster.fail_node(str(step.fail_node), grace=GRACE_S if step.grace is None else step.grace)
    return _Outcome(f"{step.fail_node} has no power")


def _recover_node(cluster: Cluster, step: Step) -> _Outcome:
    cluster.recover_node(str(step.recover_node))
    return _Outcome(f"{step.recover_node} has started")


def _drain(cluster: Cluster, step: Step) -> _Outcome:
    cluster.drain(str(step.drain), grace=step.grace or 0.0, force=True)
    return _Outcome(f"{step.drain} is drained")


def _kill(cluster: Cluster, step: Step) -> _Outcome:
    cluster.kill_pod(str(step.kill), restart=1.0 if step.grace is None else step.grace)
    return _Outcome(f"{step.kill} is killed")


_VERBS: dict[str, Callable[[Cluster, Step], _Outcome]] = {
    "http": _http,
    "resolve": _resolve,
    "ping": _ping,
    "udp": _udp,
    "tcp": _tcp,
    "wait": _wait,
    "apply": _apply,
    "delete": _delete,
    "scale": _scale,
    "impair": _impair,
    "link": _link,
    "fail_node": _fail_node,
    "recover_node": _recover_node,
    "drain": _drain,
    "kill": _kill,
}


# Expectations


def _unmet(
    cluster: Cluster, expect: Expectation, outcome: _Outcome, frames: Sequence[CapturedFrame], took_s: float
) -> Iterable[str]:
    if expect.error:
        if not outcome.error:
            yield f"an error ({' or '.join(expect.error)}) was expected, not: {outcome.text}"
        elif not _fits(outcome.error, expect.error):
            yield f"the error is {outcome.error!r}, not {' or '.join(map(repr, expect.error))}"
    elif outcome.error:
        yield f"it failed: {outcome.error}"
    if expect.status is not None and outcome.status != expect.status:
        yield f"HTTP status {outcome.status}, not {expect.status}"
    if expect.body and not _fits(outcome.body, expect.body):
        yield f"the body is {outcome.body!r}, not {' or '.join(map(repr, expect.body))}"
    if expect.addresses is not None and sorted(outcome.addresses) != sorted(expect.addresses):
        yield f"the addresses are {', '.join(outcome.addresses) or 'none'}, not {', '.join(expect.addresses) or 'none'}"
    if expect.endpoint:
        names = [name.rpartition("/")[2] for name in expect.endpoint]
        if outcome.body.partition(" saw ")[0] not in names:
            yield f"not {' or '.join(names)} answered: {outcome.body!r}"
    if expect.within is not None and took_s > expect.within:
        yield f"it took {took_s:.3f} s, more than {expect.within:g} s"
    for wanted in expect.frames:
        number = sum(frame_fits(wanted, frame) for frame in frames)
        if wanted.count is None and not number:
            yield f"no frame {_words(wanted)}"
        elif wanted.count is not None and number != wanted.count:
            yield f"{number} frames {_words(wanted)}, not {wanted.count}"
    for node, texts in expect.conntrack.items():
        lines = [entry.text(extended=True) for entry in cluster.node(node).conntrack()]
        for text in texts:
            wanted_not, part = text.startswith("!"), text.removeprefix("!").strip()
            if any(part in line for line in lines) == wanted_not:
                yield f"conntrack of {node} has {'an' if wanted_not else 'no'} entry with {part!r}"


def _fits(text: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


def _words(wanted: FrameExpectation) -> str:
    """An expectation in words."""
    named = wanted.model_dump(exclude_defaults=True, exclude={"count", "on", "direction"})
    said = " ".join(f"{name}={value}" for name, value in named.items())
    where = f" on {wanted.on}" if wanted.on else ""
    return f"{said}{where}{' ' + wanted.direction if wanted.direction else ''}".strip()
