"""The command line. Exit status 0: it ran, the answer is yes; 1: it ran, the answer is no; 2: unusable input.

Everything heavy is imported by the verb that needs it, so that ``--help`` is there at once.
"""

from __future__ import annotations

import enum
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pktsim.errors import PktsimError

if TYPE_CHECKING:
    from pktsim.scenario.runner import Result

YES, NO, BAD_INPUT = 0, 1, 2

app = typer.Typer(
    name="pktsim",
    help="Kubernetes service networking, packet by packet: emulated node kernels, kube-proxy and kube-dns.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Seed = Annotated[int, typer.Option(help="Where all chance comes from: same seed, same bytes.")]
OutDirectory = Annotated[
    Path | None, typer.Option("-o", "--out", help="Write captures into this directory (made if missing).")
]
KubeProxyVersion = Annotated[str, typer.Option("--kube-proxy-version", help="Which kube-proxy: 1.30 to 1.38.")]


class Mode(enum.StrEnum):
    """kube-proxy's modes."""

    iptables = "iptables"


def main() -> NoReturn:
    """Run the command line: what a user did wrong is one line and exit status 2."""
    try:
        app()
    except PktsimError as error:
        print(f"pktsim: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except BrokenPipeError:
        # The reader has seen enough (`pktsim … | head`). Python would complain again when it flushes at exit.
        sys.stdout = None
        sys.exit(YES)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(YES)


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, sort_keys=False))


@app.command(epilog="Example: pktsim demo -o out && wireshark out/demo.pcapng")
def demo(
    out: OutDirectory = None, seed: Seed = 7, kube_proxy_version: KubeProxyVersion = "", as_json: Json = False
) -> None:
    """The tour: two nodes, a service answered by name, the walk of its packets rule by rule, and captures."""
    from pktsim.scenario.library import shipped
    from pktsim.scenario.loader import load_scenario
    from pktsim.scenario.runner import run_scenario

    result = run_scenario(load_scenario(shipped("demo")), seed=seed, kube_proxy_version=kube_proxy_version)
    _report(result, out, as_json)


@app.command(epilog="Example: pktsim run pktsim/scenario/library/book.yaml -o out")
def run(
    file: Annotated[
        str,
        typer.Argument(
            help="A scenario: .yaml (objects, then a kind: Scenario), a .py script, or the name of a shipped one.",
            show_default=False,
        ),
    ] = "",
    out: OutDirectory = None,
    listing: Annotated[bool, typer.Option("--list", help="List the shipped scenarios instead.")] = False,
    seed: Annotated[int | None, typer.Option(help="Instead of the scenario's own seed.")] = None,
    kube_proxy_version: KubeProxyVersion = "",
    as_json: Json = False,
) -> None:
    """Run a scenario; exit status 1 if one of its expectations is not met."""
    from pktsim.scenario.library import names, shipped
    from pktsim.scenario.loader import about, load_scenario
    from pktsim.scenario.runner import run_scenario

    if listing:
        known = {name: about(shipped(name)) for name in names()}
        if as_json:
            _print_json(known)
        else:
            width = max(map(len, known))
            print("".join(f"{name:<{width}}  {text}\n" for name, text in known.items()), end="")
        return
    if not file:
        raise PktsimError("run needs a scenario: a file, or a name that pktsim run --list shows")
    path = shipped(file) if file in names() and not Path(file).is_file() else Path(file)
    _report(run_scenario(load_scenario(path), seed=seed, kube_proxy_version=kube_proxy_version), out, as_json)


def _report(result: Result, out: Path | None, as_json: bool) -> NoReturn:
    from pktsim.scenario.report import print_result, result_as_data

    written = result.write_captures(out) if out is not None else []
    if as_json:
        _print_json({**result_as_data(result), "written": [str(path) for path in written]})
    else:
        print_result(result, written)
    raise typer.Exit(YES if result.met else NO)


def _by_node(option: str, words: list[str] | None) -> list[tuple[str, str]]:
    """NODE=FILE, taken apart."""
    found: list[tuple[str, str]] = []
    for word in words or ():
        node, equals, path = word.partition("=")
        if not equals:
            raise PktsimError(f"{option} {word}: write NODE=FILE")
        found.append((node, path))
    return found


@app.command(epilog="Example: pktsim trace shop.yaml --from default/client --to web:80")
def trace(
    file: Annotated[Path, typer.Argument(help="Kubernetes objects, as kubectl get -o yaml prints them.")],
    source: Annotated[
        str, typer.Option("--from", help="A pod (namespace/name), a node, outside, or a machine of a kind: Outside.")
    ],
    to: Annotated[
        str, typer.Option("--to", help="An address or a service name, with :PORT (default 80); or a URL.")
    ] = "",
    connect_to: Annotated[
        str, typer.Option(help="HOST[:PORT] to connect to for a URL, if not where an Ingress has its host.")
    ] = "",
    ingress: Annotated[bool, typer.Option("--ingress", help="Install an ingress controller first.")] = False,
    packets: Annotated[Path | None, typer.Option(help="Send the packets of this pcap or pcapng file instead.")] = None,
    protocol: Annotated[str, typer.Option(help="tcp, udp or icmp.")] = "tcp",
    rules: Annotated[
        list[str] | None,
        typer.Option(help="NODE=FILE: a real iptables-save dump instead of emulated rules."),
    ] = None,
    ipsets: Annotated[list[str] | None, typer.Option(help="NODE=FILE: what ipset save printed there.")] = None,
    wiring: Annotated[str, typer.Option(help="host-gw, host-gw-no-brnf, vxlan or point-to-point.")] = "host-gw",
    load_balancer: Annotated[
        str, typer.Option(help="l2, ecmp, passthrough, nat, proxy or none, for Services that do not say.")
    ] = "l2",
    kube_proxy_version: KubeProxyVersion = "1.30",
    seed: Seed = 7,
    as_json: Json = False,
) -> None:
    """One packet or connection, explained: hook by hook, chain by chain, rule by rule."""
    from pktsim.cluster.cluster import Cluster
    from pktsim.errors import IngressUnreachable
    from pktsim.scenario.report import print_trace, trace_as_data
    from pktsim.wire.scapy_io import ip_packets

    cluster = Cluster.load(
        file, seed=seed, kube_proxy_version=kube_proxy_version, wiring=wiring, load_balancer=load_balancer
    )
    if ingress:
        cluster.install_ingress()
    for node, path in _by_node("--ipsets", ipsets):
        cluster.node(node).load_ipsets(path)
    for node, path in _by_node("--rules", rules):
        cluster.node(node).load_iptables(path)
    if packets is not None:
        walk = cluster.trace_packets(source, ip_packets(packets))
    elif to:
        try:
            walk = cluster.trace_to(source, to, protocol=protocol, connect_to=connect_to)
        except IngressUnreachable as error:
            raise IngressUnreachable(error.what, mend="--ingress installs one") from None
    else:
        raise PktsimError("trace needs --to HOST[:PORT] or --packets FILE")
    if as_json:
        _print_json(trace_as_data(walk))
    else:
        print_trace(walk)
    raise typer.Exit(YES if walk.delivered else NO)


@app.command(epilog="Example: pktsim rules shop.yaml --node node-a")
def rules(
    file: Annotated[Path, typer.Argument(help="Kubernetes objects, as kubectl get -o yaml prints them.")],
    node: Annotated[str, typer.Option(help="Whose rules; the first node's if it is not given.")] = "",
    mode: Annotated[Mode, typer.Option(help="kube-proxy's mode.")] = Mode.iptables,
    kube_proxy_version: KubeProxyVersion = "1.30",
    counters: Annotated[bool, typer.Option("--counters", help="With packet and byte counters.")] = False,
) -> None:
    """What kube-proxy writes on a node, as iptables-save prints it."""
    from pktsim.cluster.cluster import Cluster

    # An address that no object names is nothing that kube-proxy would know of.
    cluster = Cluster.load(file, load_balancer="none", kube_proxy_version=kube_proxy_version)
    chosen = cluster.node(node) if node else cluster.nodes[0]
    print(chosen.iptables_save(counters=counters), end="")


@app.command(epilog="Example: pktsim dig shop.yaml web --from default/client")
def dig(
    file: Annotated[Path, typer.Argument(help="Kubernetes objects, as kubectl get -o yaml prints them.")],
    name: Annotated[str, typer.Argument(help="As that pod would write it; an address is asked for its name.")],
    rrtype: Annotated[str, typer.Argument(metavar="TYPE", help="A if it is not given; PTR for an address.")] = "",
    source: Annotated[
        str, typer.Option("--from", help="A pod (namespace/name), a node, or outside; the first pod if not given.")
    ] = "",
    upstream: Annotated[
        list[str] | None,
        typer.Option("--upstream", help="A record of the world beyond the cluster: 'NAME TTL TYPE DATA'."),
    ] = None,
    explain: Annotated[bool, typer.Option("--trace", help="Tell the way of dig's packets, hop by hop.")] = False,
    seed: Seed = 7,
    as_json: Json = False,
) -> None:
    """What kube-dns answers, as dig prints it, and what the pod's resolver sends to get there.

    Exit status 1 if there is no such record.
    """
    from pktsim.cluster.cluster import Cluster
    from pktsim.cluster.dig_report import dig_from
    from pktsim.scenario.report import print_trace, trace_as_data

    report = dig_from(Cluster.load(file, seed=seed, upstream=upstream or ()), name, rrtype, source)
    if as_json:
        _print_json({**report.as_data(), **({"trace": trace_as_data(report.walk)} if explain else {})})
    else:
        if explain:
            print_trace(report.walk)
        print("\n".join(report.lines()))
    raise typer.Exit(YES if report.found else NO)


@app.command(epilog="Example: pktsim node case.json --trace")
def node(
    case: Annotated[Path, typer.Argument(help="A case: a node, its rules, a list of steps (.json).")],
    trace: Annotated[bool, typer.Option("--trace", help="Say what the node did to each packet, rule by rule.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """One kernel alone: what comes of a case's frames, its connections and counters."""
    from pktsim.kernel.case_recording import read_cases
    from pktsim.kernel.case_report import ExplainedCase
    from pktsim.rng import SeededChoices

    for each in read_cases(case):
        try:
            explained = ExplainedCase(each, SeededChoices(seed))
        except PktsimError as error:
            error.file = f"{case}: {error.file}" if error.file else str(case)
            raise
        if as_json:
            walks = {"trace": explained.walks} if trace else {}
            _print_json({"name": each.get("name", ""), "result": explained.result(), **walks})
        else:
            print("\n".join(explained.lines(trace=trace)))


@app.command(epilog="Example: pktsim verify recordings/cluster/book")
def verify(
    paths: Annotated[list[Path], typer.Argument(help="Recordings, or directories above them.")],
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only what disagrees, and the count.")] = False,
) -> None:
    """Replay recordings of the real thing, show the first difference of each that disagrees, count those that agree."""
    from pktsim.cluster import verification

    agreed, outcomes = 0, []
    for outcome in verification.verify(paths):
        outcomes.append(outcome)
        agreed += outcome.agrees
        if as_json:
            continue
        name = f"{outcome.path}{' ' + outcome.place if outcome.place else ''}"
        if not outcome.agrees:
            word = "differs" if outcome.modelled else "not modelled"
            print(f"{word}: {name}\n    " + outcome.difference.replace("\n", "\n    "))
        elif not quiet:
            print(f"agrees: {name}")
    if as_json:
        fields = ("kind", "place", "difference", "modelled", "agrees")
        data = [
            {"path": str(outcome.path), **{name: getattr(outcome, name) for name in fields}} for outcome in outcomes
        ]
        _print_json({"agree": agreed, "of": len(outcomes), "recordings": data})
    else:
        print(f"{agreed} of {len(outcomes)} agree")
    raise typer.Exit(YES if agreed == len(outcomes) else NO)


@app.command(epilog="Example: pktsim fidelity --json | jq '.[] | select(.status == \"approximated\")'")
def fidelity(
    everything: Annotated[bool, typer.Option("--all", help="The fields of objects by name too.")] = False,
    as_json: Json = False,
) -> None:
    """What is modelled, what is approximated and how, what is passed over, what is refused."""
    from pktsim import fidelity_report

    entries = fidelity_report.ledger()
    if as_json:
        _print_json(fidelity_report.as_data(entries))
    else:
        fidelity_report.print_ledger(entries, everything=everything)
