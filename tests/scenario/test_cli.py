"""The command line: what it prints, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pktsim import cli
from pktsim.scenario.library import shipped

BOOK = shipped("book")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("objects") / "shop.yaml"
    path.write_text(BOOK.read_text().partition("kind: Scenario")[0])
    return path


def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["pktsim", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    status = ended.value.code
    assert isinstance(status, int)
    return status, out, err


def test_demo_prints_the_walk_and_writes_captures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    status, out, err = call(capsys, monkeypatch, "demo", "-o", tmp_path)
    assert (status, err) == (0, "")
    assert "web is 172.30.0.1" in out
    assert "-A KUBE-SERVICES -d 172.30.0.1/32 -p tcp" in out
    assert "OUTPUT (" in out
    assert (tmp_path / "demo.pcapng").stat().st_size > 10_000
    assert (tmp_path / "demo" / "node-a_cni0.pcap").exists()


def test_run_says_what_was_not_as_expected(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert call(capsys, monkeypatch, "run", BOOK)[0] == 0
    spoilt = tmp_path / "spoilt.yaml"
    spoilt.write_text(BOOK.read_text().replace("addresses: 172.30.0.1", "addresses: 172.30.0.2"))
    status, out, _ = call(capsys, monkeypatch, "run", spoilt)
    assert status == 1
    assert "not as expected: the addresses are 172.30.0.1, not 172.30.0.2" in out
    status, out, _ = call(capsys, monkeypatch, "run", spoilt, "--json")
    assert status == 1
    data = json.loads(out)
    assert data["met"] is False
    assert data["steps"][0]["unmet"] == ["the addresses are 172.30.0.1, not 172.30.0.2"]


def test_run_of_a_script(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, objects: Path
) -> None:
    script = tmp_path / "walk.py"
    script.write_text(
        '"""A script."""\nimport pktsim\n\ndef run(seed):\n'
        f"    cluster = pktsim.Cluster.load({str(objects)!r}, seed=seed)\n"
        '    assert cluster.pod("client").http_get("http://web/").status == 200\n    return cluster\n'
    )
    status, out, _ = call(capsys, monkeypatch, "run", script, "-o", tmp_path / "out")
    assert status == 0
    assert out.startswith("walk: A script.")
    assert (tmp_path / "out" / "walk.pcapng").exists()


def test_run_with_a_bad_link(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, objects: Path
) -> None:
    steps = """---
kind: Scenario
metadata: {name: bad-link}
spec:
  steps:
  - impair: {on: default/client, direction: in, loss: {p: 0.0, r: 1.0}, script: [
      {do: drop, match: {protocol: tcp, flags: S.}, nth: [1]}]}
  - from: default/client
    http: http://172.30.0.1/
    expect: {within: 2, frames: [{on: default/client/eth0, direction: out, flags: S, count: 2}]}
  - link: {default/client: down}
  - from: default/client
    http: http://172.30.0.1/
    expect:
      error: Failed to connect to 172.30.0.1 port 80 after 3*
      frames: [{on: default/client/eth0, direction: out, count: 0}]
  - link: {default/client: up}
  - {from: default/client, http: http://172.30.0.1/}
"""
    file = tmp_path / "bad.yaml"
    file.write_text(objects.read_text().rstrip().removesuffix("---") + steps)
    status, out, _ = call(capsys, monkeypatch, "run", file)
    assert "1. impair default/client/eth0 (in): loss gemodel p 0% r 100% 1-h 100% 1-k 0% 1 scripted" in out
    assert "3. link default/client down" in out
    assert status == 0, out
    file.write_text(file.read_text().replace("nth: [1]", "nht: [1]"))
    status, _, err = call(capsys, monkeypatch, "run", file)
    assert status == 2
    assert "spec.steps[0].impair.script[0].nht" in err


def test_rules_are_what_the_save_tool_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, objects: Path
) -> None:
    status, out, _ = call(capsys, monkeypatch, "rules", objects, "--node", "node-b")
    assert status == 0
    assert out.startswith("*filter\n:INPUT ACCEPT [0:0]\n")
    assert "-A KUBE-SVC-LOLE4ISW44XBNF3G" in out


def test_trace(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, objects: Path) -> None:
    status, out, _ = call(capsys, monkeypatch, "trace", objects, "--from", "default/client", "--to", "web:80")
    assert status == 0
    assert "NAT: destination 172.30.0.1:80 -> 10.1." in out
    status, out, _ = call(capsys, monkeypatch, "trace", objects, "--from", "node-a", "--to", "172.30.0.1:81", "--json")
    assert status == 1
    assert json.loads(out)["delivered"] is False


def test_trace_from_a_host_outside_in_another_wiring(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, objects: Path, tmp_path: Path
) -> None:
    path = tmp_path / "more.yaml"
    path.write_text(
        objects.read_text().removesuffix("---\n")
        + """\
---
apiVersion: v1
kind: Service
metadata: {name: front}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: pktsim.io/v1
kind: Outside
metadata: {name: people}
spec: {hosts: [{name: alice}]}
"""
    )
    words = ("trace", path, "--from", "alice", "--to", "198.51.100.1")
    status, out, _ = call(capsys, monkeypatch, *words, "--wiring", "vxlan", "--load-balancer", "passthrough")
    assert (status, "203.0.113.10" in out) == (0, True)
    status, out, _ = call(capsys, monkeypatch, *words, "--load-balancer", "none")
    assert status == 1
    for option in ("--wiring", "--load-balancer"):
        status, _, err = call(capsys, monkeypatch, *words, option, "mars")
        assert (status, err.count("\n")) == (2, 1)


def test_trace_of_captured_packets_and_real_rules(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, objects: Path
) -> None:
    call(capsys, monkeypatch, "demo", "-o", tmp_path)
    saved = tmp_path / "node-a.rules"
    saved.write_text(call(capsys, monkeypatch, "rules", objects, "--node", "node-a")[1])
    packets = tmp_path / "demo" / "default_client_eth0.pcap"
    words = ["trace", objects, "--from", "default/client", "--packets", packets, "--rules", f"node-a={saved}"]
    status, out, _ = call(capsys, monkeypatch, *words)
    assert status == 0
    assert "-j DNAT --to-destination 10.1.2.53:53" in out
    sets = tmp_path / "node-a.sets"
    sets.write_text("create some hash:ip family inet hashsize 1024 maxelem 65536 bucketsize 12\nadd some 10.1.2.53\n")
    saved.write_text(saved.read_text() + "*raw\n-A PREROUTING -m set --match-set some dst\nCOMMIT\n")
    status, _, err = call(capsys, monkeypatch, *words)
    assert (status, "Set some doesn't exist" in err) == (2, True)
    assert call(capsys, monkeypatch, *words, "--ipsets", f"node-a={sets}")[0] == 0


def test_verify_counts_and_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("objects.yaml", "config.yaml", "host.yaml", "ruleset.nft"):
        (tmp_path / name).write_text("")
    status, out, _ = call(capsys, monkeypatch, "verify", tmp_path)
    assert status == 1
    assert out.splitlines()[0] == f"not modelled: {tmp_path}"
    assert out.splitlines()[-1] == "0 of 1 agree"
    status, out, _ = call(capsys, monkeypatch, "verify", tmp_path, "--json")
    assert json.loads(out)["of"] == 1


@pytest.mark.parametrize(
    ("words", "files", "message"),
    [
        (["rules", "x.yaml"], {"x.yaml": "kind: Service\nmetadata: {name: a\n"}, "x.yaml:3:1: not YAML"),
        (
            ["rules", "x.yaml"],
            {"x.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{prot: 80}]}\n"},
            "x.yaml:4: Service default/a, spec.ports[0]",
        ),
        (["rules", "nothing.yaml"], {}, "nothing.yaml: No such file or directory"),
        (
            ["trace", "{objects}", "--from", "node-a", "--to", "web", "--rules", "node-a=r.txt"],
            {"r.txt": "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp --frobnicate 3 -j DROP\nCOMMIT\n"},
            "r.txt:3:",
        ),
        (
            ["trace", "{objects}", "--from", "node-a", "--to", "web", "--rules", "node-a=r.txt"],
            {"r.txt": "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m ipvs --ipvs -j DROP\nCOMMIT\n"},
            "r.txt:3:20: table filter, chain INPUT, rule 1: match ipvs is not modelled",
        ),
        (
            ["trace", "{objects}", "--from", "node-a", "--to", "web", "--ipsets", "node-a=s.txt"],
            {"s.txt": "create s hash:ip\nadd s 10.0.0.300\n"},
            "s.txt:2:7: cannot parse '10.0.0.300'",
        ),
        (
            ["trace", "{objects}", "--from", "node-a", "--packets", "cut.pcap"],
            {"cut.pcap": "\N{LATIN SMALL LETTER O WITH STROKE}"},
            "cut.pcap: neither a pcap nor a pcapng file",
        ),
        (["trace", "{objects}", "--from", "nobody", "--to", "web"], {}, "there is no pod 'nobody'"),
        (["trace", "{objects}", "--from", "node-a"], {}, "trace needs --to HOST[:PORT] or --packets FILE"),
        (
            ["run", "x.yaml"],
            {"x.yaml": "apiVersion: v1\nkind: Node\nmetadata: {name: a}\n"},
            "no document of kind",
        ),
        (["run", "x.txt"], {"x.txt": ""}, "x.txt: not a scenario (give a .yaml file or a .py script)"),
        (["run", "x.yaml"], {"x.yaml": "kind: Scenario\nspec: {steps: [{jump: high}]}\n"}, "x.yaml:2: Scenario"),
        (
            ["run", "x.yaml"],
            {"x.yaml": "kind: Scenario\nmetadata: {name: x}\nspec: {steps: [{from: a/b, ping: 10.0.0.1}]}\n"},
            "x.yaml: step 1: there is no pod 'a/b'",
        ),
        (["run", "x.py"], {"x.py": "def run(seed:\n"}, "x.py:1: "),
        (["verify", "nowhere"], {}, "nowhere: no such file or directory"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    objects: Path,
    words: list[str],
    files: dict[str, str],
    message: str,
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    status, out, err = call(capsys, monkeypatch, *(word.format(objects=objects) for word in words))
    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith("pktsim: ")
    assert err.count("\n") == 1


def test_a_truncated_capture(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, objects: Path
) -> None:
    call(capsys, monkeypatch, "demo", "-o", tmp_path)
    whole = (tmp_path / "demo.pcapng").read_bytes()
    cut = tmp_path / "cut.pcapng"
    cut.write_bytes(whole[:-7])
    status, out, err = call(capsys, monkeypatch, "trace", objects, "--from", "node-a", "--packets", cut)
    assert (status, out) == (2, "")
    assert err.startswith(f"pktsim: {cut}: ends within block")


@pytest.mark.parametrize("verb", ["demo", "run", "trace", "rules", "verify"])
def test_help_has_an_example(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    status, out, _ = call(capsys, monkeypatch, verb, "--help")
    assert status == 0
    assert f"Example: pktsim {verb}" in " ".join(out.split())


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, pktsim.cli; print(sorted({'scapy', 'pydantic', 'yaml', 'rich'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() in ("[]", "['rich']")


def test_trace_of_a_url_through_an_ingress(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    objects = tmp_path / "shop.yaml"
    objects.write_text(shipped("demo").read_text().partition("---\nkind: Scenario")[0])
    words = ("trace", objects, "--from", "outside", "--to", "http://shop.example.com/")
    status, out, _ = call(capsys, monkeypatch, *words, "--ingress")
    assert status == 0
    assert "backend default-web-80: the turn of 10.1." in out
    assert "-> HTTP 200: web-" in out
    status, _, err = call(capsys, monkeypatch, *words)
    assert status == 2
    assert err == "pktsim: no ingress controller can be reached from outside (--ingress installs one)\n"
