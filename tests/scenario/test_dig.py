"""``pktsim dig``: what it prints, how it ends, and that the queries it tells of are those on the wire."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pktsim import Cluster, cli
from pktsim.cluster.dig_report import dig_from
from pktsim.cluster.exchanges import dns_exchanges
from pktsim.errors import PktsimError, TopologyError, UnsupportedFeature
from pktsim.scenario.library import shipped

OBJECTS = shipped("book").read_text().partition("kind: Scenario")[0].rstrip().removesuffix("---")
MUSL = """\
---
apiVersion: v1
kind: Pod
metadata: {name: alpine, annotations: {pktsim.io/libc: musl}}
spec: {nodeName: node-a, containers: [{name: c}]}
"""
UPSTREAM = ("www.example.com. 300 A 198.51.100.7",)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shop.yaml"
    path.write_text(OBJECTS + MUSL)
    return path


def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["pktsim", "dig", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    status = ended.value.code
    assert isinstance(status, int)
    return status, out, err


def loaded() -> Cluster:
    return Cluster.load(OBJECTS + MUSL, upstream=UPSTREAM)


def test_the_answer_is_digs_and_the_resolver_is_a_comment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    status, out, err = call(capsys, monkeypatch, file, "web", "--from", "default/client")
    assert (status, err) == (0, "")
    records = [line for line in out.splitlines() if line and not line.startswith(";")]
    assert records == ["web.default.svc.cluster.local. 30 IN\tA\t172.30.0.1"]
    assert ";; SERVER: 172.30.0.10#53(172.30.0.10) (UDP)\n" in out
    assert ";; RESOLVER of default/client (glibc): search default.svc.cluster.local" in out
    assert ";; getaddrinfo(web): 172.30.0.1 (2 queries)\n" in out


@pytest.mark.parametrize(
    ("words", "status", "part"),
    [
        pytest.param(["web"], 0, "status: NOERROR", id="there is one"),
        pytest.param(["web", "AAAA"], 1, "ANSWER: 0, AUTHORITY: 1", id="no record of that type"),
        pytest.param(["nothing"], 1, "status: NXDOMAIN", id="no such name"),
        pytest.param(["10.1.1.1"], 0, "10-1-1-1.web.default.svc.cluster.local.", id="an address is asked for its name"),
        pytest.param(["_x._tcp.web", "srv"], 1, "IN\tSRV", id="a type that getaddrinfo does not ask for"),
        pytest.param(
            ["a.example", "--upstream", "a.example. 60 A 192.0.2.1"], 0, "a.example.\t\t60\tIN\tA\t192.0.2.1",
            id="beyond the cluster",
        ),
    ],
)  # fmt: skip
def test_exit_status_says_whether_there_is_such_a_record(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    file: Path,
    words: list[str],
    status: int,
    part: str,
) -> None:
    ended, out, err = call(capsys, monkeypatch, file, *words)
    assert (ended, err) == (status, "")
    assert part in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["web", "BOGUS"], "record type BOGUS"),
        (["web", "--from", "nobody"], "there is no pod 'nobody'"),
        (["a..b"], "'a..b' is not a legal name"),
        (["a" * 64], "is not a legal name"),
        (["x", "--upstream", "x A"], "'x A' is not a record"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, file: Path, words: list[str], message: str
) -> None:
    status, out, err = call(capsys, monkeypatch, file, *words)
    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith("pktsim: ")
    assert err.count("\n") == 1


def test_trace_tells_the_way_of_the_query(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    status, out, _ = call(capsys, monkeypatch, file, "web", "--trace")
    assert status == 0
    assert "NAT: destination 172.30.0.10:53 -> 10.1.2.53:53" in out
    status, out, _ = call(capsys, monkeypatch, file, "web", "--trace", "--json")
    data = json.loads(out)
    assert {passage["node"] for passage in data["trace"]["passages"]} >= {"node-a", "node-b"}
    assert data["resolver"]["addresses"] == ["172.30.0.1"]
    assert [query["rrtype"] for query in data["resolver"]["queries"]] == ["A", "AAAA"]


def test_help_has_an_example(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, _ = call(capsys, monkeypatch, "--help")
    assert status == 0
    assert "Example: pktsim dig" in " ".join(out.split())


def test_the_search_list_is_told_query_by_query() -> None:
    report = dig_from(loaded(), "www.example.com", source="default/client")
    suffixes = ("default.svc.cluster.local.", "svc.cluster.local.", "cluster.local.", "")
    assert [query.question for query in report.resolver_queries] == [
        f"www.example.com.{suffix} {rrtype}" for suffix in suffixes for rrtype in ("A", "AAAA")
    ]
    assert [query.outcome for query in report.resolver_queries] == ["NXDOMAIN"] * 6 + ["NOERROR 1", "NOERROR 0"]
    assert [len(query.answered_by) for query in report.resolver_queries] == [1] * 6 + [2, 2]
    assert report.resolver_queries[-1].answered_by == ("kube-system/coredns", "outside")
    assert report.found
    dotted = dig_from(loaded(), "www.example.com.", source="default/client")
    assert [query.question for query in dotted.resolver_queries] == ["www.example.com. A", "www.example.com. AAAA"]


def test_musl_is_told_of_a_pod_that_has_it() -> None:
    report = dig_from(loaded(), "nothing", source="default/alpine")
    assert report.libc == "musl"
    assert report.resolved is not None
    assert report.resolved.error == "Name does not resolve"
    assert not report.found


def test_a_dead_server_is_told_as_time_outs() -> None:
    cluster = loaded()
    cluster.node("node-a").iptables("-A FORWARD -p udp --dport 53 -j DROP")
    report = dig_from(cluster, "web", source="default/client")
    assert (report.answer.exit, report.found) == (9, False)
    assert {query.outcome for query in (*report.resolver_queries, *report.dig_queries)} == {"timeout"}
    assert report.resolved is not None
    assert report.resolved.error == "Temporary failure in name resolution"


def test_an_answer_too_long_is_fetched_over_tcp() -> None:
    many = [f"many.example.com. 300 A 198.51.100.{number}" for number in range(1, 61)]
    cluster = Cluster.load(OBJECTS, upstream=many)
    assert len(cluster.pod("client").resolve("many.example.com.")) == 60
    queries = dns_exchanges(cluster.capture.frames, "default/client")
    # glibc 2.36 asks anew each time that its buffer turns out too small for so many addresses.
    assert [(query.rrtype, query.tcp, query.outcome) for query in queries] == 3 * [
        ("A", False, "NOERROR 0 truncated"),
        ("AAAA", False, "NOERROR 0"),
        ("A", True, "NOERROR 60"),
        ("AAAA", True, "NOERROR 0"),
    ]


def test_errors_of_the_function() -> None:
    with pytest.raises(TopologyError, match="no pod to ask from"):
        dig_from(Cluster(nodes=1), "web")
    with pytest.raises(UnsupportedFeature):
        dig_from(loaded(), "web", "BOGUS")
    with pytest.raises(PktsimError, match="not a legal name"):
        dig_from(loaded(), ".web")
