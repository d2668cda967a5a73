"""The case format: a case agrees with what it says came of it, and no longer if any of that is changed."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import pytest

from pktsim.errors import ObjectError, PktsimError, RecordingError
from pktsim.kernel.case import CaseRun, StepResult, read_field, write_fields
from pktsim.kernel.case_recording import compare_step, mask_fields, read_cases, verify_case
from pktsim.kernel.case_report import ExplainedCase
from pktsim.wire.addr import ip_from_text, mac_from_text
from pktsim.wire.frame import ETH_P_IP, ETH_P_IPV6, FrameView, ethernet, icmp, icmpv6, ipv4, ipv6, udp

NODE_MAC, HOST_MAC, POD_MAC = "02:00:00:00:00:01", "02:00:00:00:01:fe", "02:00:00:00:02:0a"
HOST, VIP, POD = "203.0.113.9", "10.96.0.10", "10.244.1.2"
RULES = """\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:SVC - [0:0]
-A PREROUTING -d 10.96.0.10/32 -j SVC
-A SVC -p udp -m udp --dport 53 -j DNAT --to-destination 10.244.1.2:5353
COMMIT
"""


def receive(interface: str, packet: bytes, *, source: str = HOST_MAC) -> dict[str, Any]:
    target = NODE_MAC if interface == "eth0" else "02:00:00:00:00:0a"
    frame = ethernet(mac_from_text(target), mac_from_text(source), ETH_P_IP, packet)
    return {"receive": {"interface": interface, "frame": frame.hex()}}


def datagram(source: str, sport: int, target: str, dport: int, data: bytes = b"who?") -> bytes:
    ends = ip_from_text(source), ip_from_text(target)
    return ipv4(*ends, 17, udp(*ends, sport, dport, data), identification=7)


def a_case(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "name": "made up",
        "interfaces": [
            {"name": "eth0", "mac": NODE_MAC, "addresses": ["10.0.0.1/24"]},
            {"name": "pod0", "mac": "02:00:00:00:00:0a", "addresses": ["10.244.1.1/32"]},
        ],
        "routes": [
            {"dst": "default", "via": "10.0.0.254", "dev": "eth0"},
            {"dst": "10.244.1.2/32", "dev": "pod0", "scope": "link"},
        ],
        "neighbours": [
            {"address": "10.0.0.254", "mac": HOST_MAC, "interface": "eth0"},
            {"address": POD, "mac": POD_MAC, "interface": "pod0"},
        ],
        "iptables": RULES,
        "steps": list(steps),
    } | more


@pytest.fixture
def recorded() -> dict[str, Any]:
    """A case with the result that we get, as a recording has it."""
    case = a_case(
        receive("eth0", datagram(HOST, 4000, VIP, 53)),
        receive("pod0", datagram(POD, 5353, HOST, 4000), source=POD_MAC),
        receive("eth0", datagram(HOST, 4000, "10.0.0.1", 9)),
        {"send_local": {"packet": datagram("10.0.0.1", 4000, "10.0.0.1", 53).hex()}},
    )
    result = ExplainedCase(case).result()
    for emitted in result["steps"][2]["emitted"]:
        emitted |= {"random": ["ip.id"], "frame": mask_fields(bytes.fromhex(emitted["frame"]), ["ip.id"]).hex()}
    return case | {"result": json.loads(json.dumps(result))}


def test_a_case_agrees_with_its_own_result(recorded: dict[str, Any]) -> None:
    emitted = [len(step["emitted"]) for step in recorded["result"]["steps"]]
    assert emitted == [1, 1, 1, 0]
    assert verify_case(recorded) == ""


def _first_frame(result: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = result["steps"][0]["emitted"][0]
    return found


def _another_ttl(result: dict[str, Any]) -> None:
    emitted = _first_frame(result)
    emitted["frame"] = write_fields(bytes.fromhex(emitted["frame"]), {"ip.ttl": 62}).hex()


def _a_wrong_checksum(result: dict[str, Any]) -> None:
    emitted = _first_frame(result)
    emitted["frame"] = emitted["frame"][:-2] + "00"


def _another_interface(result: dict[str, Any]) -> None:
    _first_frame(result)["interface"] = "eth0"


def _one_frame_more(result: dict[str, Any]) -> None:
    result["steps"][3]["emitted"] = [_first_frame(result)]


def _one_frame_less(result: dict[str, Any]) -> None:
    result["steps"][1]["emitted"] = []


def _another_counter(result: dict[str, Any]) -> None:
    result["steps"][0]["rules"]["nat/SVC/1"] = [1, 33]


def _a_counter_that_did_not_move(result: dict[str, Any]) -> None:
    del result["steps"][0]["rules"]["nat/PREROUTING/1"]


def _another_state(result: dict[str, Any]) -> None:
    result["steps"][0]["conntrack"][0]["status"].append("ASSURED")


def _another_timeout(result: dict[str, Any]) -> None:
    result["steps"][1]["conntrack"][0]["timeout"] = 120


def _another_reply(result: dict[str, Any]) -> None:
    result["steps"][0]["conntrack"][0]["reply"]["sport"] = 5354


def _nothing_delivered(result: dict[str, Any]) -> None:
    del result["steps"][2]["delivered"]


def _an_error(result: dict[str, Any]) -> None:
    result["steps"][3]["error"] = "EPERM"


def _an_entry_less_in_the_end(result: dict[str, Any]) -> None:
    result["final"]["conntrack"].pop()


def _other_rules_in_the_end(result: dict[str, Any]) -> None:
    result["final"]["iptables"] = result["final"]["iptables"].replace("5353", "5354")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_another_ttl, "step 0 (receive eth0): frame 0 on pod0 differs"),
        (_a_wrong_checksum, "frame 0 on pod0 differs"),
        (_another_interface, "frame 0 leaves by eth0 in the recording, ours by pod0"),
        (_one_frame_more, "step 3 (send_local): 1 frames emitted in the recording, ours 0"),
        (_one_frame_less, "step 1 (receive pod0): 0 frames emitted in the recording, ours 1"),
        (_another_counter, "rule nat/SVC/1 counted [1, 33] in the recording, ours [1, 32]"),
        (_a_counter_that_did_not_move, "rule nat/PREROUTING/1 counted [0, 0] in the recording"),
        (_another_state, "status"),
        (_another_timeout, "timeout 120 recorded, ours 30"),
        (_another_reply, "reply"),
        (_nothing_delivered, "0 packets delivered in the recording, ours 1"),
        (_an_error, "error EPERM recorded, ours none"),
        (_an_entry_less_in_the_end, "final conntrack: only ours"),
        (_other_rules_in_the_end, "iptables line"),
    ],
    ids=lambda value: getattr(value, "__name__", "").strip("_") or None,
)
def test_a_changed_result_disagrees(
    recorded: dict[str, Any], change: Callable[[dict[str, Any]], None], says: str
) -> None:
    changed = copy.deepcopy(recorded)
    change(changed["result"])
    assert says in verify_case(changed)


def test_what_is_named_random_alone_may_differ(recorded: dict[str, Any]) -> None:
    error = recorded["result"]["steps"][2]["emitted"][0]
    del error["random"]
    assert "differs" in verify_case(recorded)
    error["random"] = ["ip.id"]
    error["frame"] = write_fields(bytes.fromhex(error["frame"]), {"ip.ttl": 63}).hex()
    assert "differs" in verify_case(recorded)


def test_a_null_in_an_entry_is_anything(recorded: dict[str, Any]) -> None:
    recorded["result"]["steps"][0]["conntrack"][0]["reply"]["dport"] = None
    recorded["result"]["steps"][0]["conntrack"][0]["status"] = None
    assert verify_case(recorded) == ""


def test_a_null_leaves_the_other_entries_theirs() -> None:
    def entries(*idents: int | None) -> list[dict[str, Any]]:
        return [{"orig": {"src": HOST, "dst": POD, "proto": 1, "id": ident}} for ident in idents]

    assert compare_step({"conntrack": entries(None, 1)}, StepResult(conntrack=entries(1, 7))) == ""
    assert "only in the recording" in compare_step({"conntrack": entries(None, 1)}, StepResult(conntrack=entries(6, 7)))


def test_masked_checksums_that_are_named_are_zero() -> None:
    inner = ipv4(ip_from_text(HOST), ip_from_text(POD), 17, bytes(8), identification=0x1234)
    error = ipv4(ip_from_text(POD), ip_from_text(HOST), 1, icmp(3, 3, 0, inner))
    frame = ethernet(mac_from_text(NODE_MAC), mac_from_text(POD_MAC), ETH_P_IP, error)
    masked = mask_fields(frame, ["inner.ip.csum", "inner.ip.id"])
    assert (read_field(masked, "inner.ip.id"), read_field(masked, "inner.ip.csum")) == (0, 0)
    assert FrameView(masked).bad_checksums() == FrameView(frame).bad_checksums() == ()


@pytest.mark.parametrize(("given", "agree"), [(frozenset(), True), ({5}, True), ({7}, False), ({9}, False)])
def test_the_label_of_a_quoted_packet_is_any_if_the_case_has_not_given_it(given: Set[int], agree: bool) -> None:
    def error(label: int) -> bytes:
        host, quoted = ip_from_text("fd00::1"), ip_from_text("fd00::2")
        about = ipv6(quoted, host, 17, udp(quoted, host, 1, 2, b"x"), flow_label=label)
        return ethernet(bytes(6), bytes(6), ETH_P_IPV6, ipv6(host, quoted, 58, icmpv6(host, quoted, 1, 4, 0, about)))

    found = compare_step(
        {"emitted": [{"interface": "eth0", "frame": error(7).hex()}]}, StepResult([("eth0", error(9))]), given
    )
    assert (found == "") is agree


def test_fields_are_taken_from_what_was_emitted() -> None:
    answer = receive("pod0", datagram(POD, 5353, HOST, 1), source=POD_MAC)
    answer["receive"]["take"] = [
        {"field": "udp.dport", "from": {"step": 0, "frame": 0, "field": "udp.sport"}, "add": 0},
    ]
    run = CaseRun(a_case(receive("eth0", datagram(HOST, 4000, VIP, 53)), answer))
    run.run()
    ((interface, frame),) = run.steps[1].emitted
    view = FrameView(frame)
    assert (interface, view.sport, view.dport, view.bad_checksums()) == ("eth0", 53, 4000, ())


def test_nothing_to_take_from_is_said() -> None:
    answer = receive("pod0", datagram(POD, 5353, HOST, 1), source=POD_MAC)
    answer["receive"]["take"] = [{"field": "udp.dport", "from": {"step": 0, "frame": 3, "field": "udp.sport"}}]
    run = CaseRun(a_case(receive("eth0", datagram(HOST, 4000, VIP, 53)), answer))
    with pytest.raises(ObjectError, match="step 0 emitted no frame 3"):
        run.run()


def test_a_field_that_is_not_there_is_said() -> None:
    frame = bytes.fromhex(receive("eth0", datagram(HOST, 1, VIP, 2))["receive"]["frame"])
    with pytest.raises(ObjectError, match=r"no field tcp\.seq"):
        read_field(frame, "tcp.seq")


def test_an_unknown_step_is_said() -> None:
    with pytest.raises(ObjectError, match=r"made up, steps\[0\]\.dance: unknown field 'dance'"):
        CaseRun(a_case({"dance": 1}))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"interfaces": 5}, "made up, interfaces: input should be a valid list"),
        ({"interfaces": [{"name": "eth0"}]}, "made up, interfaces[0].mac: is missing"),
        ({"interfaces": [{"nam": "eth0"}]}, "made up, interfaces[0].nam: unknown field 'nam' (did you mean 'name'?)"),
        ({"interfaces": [7]}, "made up, interfaces[0]: it is no object"),
        ({"listener": []}, "made up, listener: unknown field 'listener' (did you mean 'listeners'?)"),
        (
            {"steps": [{"receive": {"interface": "eth9", "frame": "00" * 14}}]},
            "made up, steps[0].receive.interface: there is no interface 'eth9': the case has eth0, pod0",
        ),
        (
            {"steps": [{"receive": {"interface": "eth0", "frame": "0" * 29}}]},
            "made up, steps[0].receive.frame: 29 hexadecimal digits are no whole bytes",
        ),
        (
            {"steps": [{"receive": {"interface": "eth0", "frame": "xy" * 14}}]},
            "made up, steps[0].receive.frame: 'x' is no hexadecimal digit",
        ),
        (
            {"steps": [{"receive": {"interface": "eth0", "frame": "00"}}]},
            "made up, steps[0].receive.frame: 1 bytes are no frame: an Ethernet header has 14",
        ),
        ({"steps": [{"send_local": {"packet": "99"}}]}, "it does not begin with an IPv4 or IPv6 header"),
        ({"steps": [{"advance": -1}]}, "made up, steps[0].advance: input should be greater than or equal to 0"),
        ({"steps": [{}]}, "made up, steps[0]: a step is one of receive, send_local, "),
        ({"steps": [{"send_socket": {"listener": "a", "dst": ["::1", 1], "data": ""}}]}, "there is no listener 'a'"),
        (
            {"listeners": [{"proto": "udp", "address": "9.9.9.9", "port": 1, "name": "a"}]},
            "made up, listeners[0]: 9.9.9.9:1 cannot be bound (EADDRNOTAVAIL)",
        ),
        ({"iptables": "*filter\n-A INPUT -j NOWHERE\nCOMMIT\n"}, "made up:2:13: "),
        ({"sysctls": {"net.ipv4.nothing": "1"}}, "net.ipv4.nothing"),
        ({"neighbours": [{"address": "10.0.0.x", "mac": HOST_MAC, "interface": "eth0"}]}, "neighbours[0].address: "),
    ],
)
def test_a_case_that_is_not_of_the_format_is_one_line(change: dict[str, Any], line: str) -> None:
    with pytest.raises(PktsimError) as raised:
        ExplainedCase(a_case() | change)
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_tables_can_be_added_to() -> None:
    rule = "*nat\n-A SVC -p udp -m udp --dport 54 -j DNAT --to-destination 10.244.1.2:5454\nCOMMIT\n"
    run = CaseRun(a_case({"iptables": rule, "noflush": True}, receive("eth0", datagram(HOST, 4000, VIP, 54))))
    _, came = run.run()
    assert [name for name, _ in came.emitted] == ["pod0"]
    assert came.rules["nat/SVC/2"] == (1, 32)


def test_what_is_not_modelled_is_named() -> None:
    case = a_case(nft="table bridge t {}", result={"steps": [], "final": {}})
    assert "nft table of family bridge" in verify_case(case)


def test_the_report_explains(recorded: dict[str, Any]) -> None:
    text = "\n".join(ExplainedCase(recorded).lines(trace=True))
    assert "-A SVC -p udp -m udp --dport 53 -j DNAT --to-destination 10.244.1.2:5353" in text
    assert f"pod0 < IP {HOST}.4000 > {POD}.5353" in text
    assert "1 delivered on the node" in text
    plain = "\n".join(ExplainedCase(recorded).lines())
    assert "-A SVC" not in plain


@pytest.mark.parametrize("name", ["cases.jsonl.gz", "cases.jsonl", "case.json"])
def test_cases_are_read_from_files(tmp_path: Path, name: str) -> None:
    path, case = tmp_path / name, a_case()
    lines = [json.dumps(case)] * (2 if "jsonl" in name else 1)
    text = "\n".join(lines)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    assert list(read_cases(path)) == [case] * len(lines)


@pytest.mark.parametrize("text", ["[1]", "{}", "no json", '{"interfaces": []}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "case.json"
    path.write_text(text)
    with pytest.raises(RecordingError):
        list(read_cases(path))


def test_a_connection_is_gone_though_another_zone_has_its_like() -> None:
    raw = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p udp -m length --length 40: -j CT --zone 1\nCOMMIT\n"
    first = receive("eth0", datagram(HOST, 40000, VIP, 53, b"short"))
    other = receive("eth0", datagram(HOST, 40000, VIP, 53, b"long enough for the other zone"))
    run = CaseRun(a_case(first, {"advance": 20}, other, {"advance": 15}, iptables=raw + RULES))
    took = [run.take(step) for step in run.case["steps"]]
    (orig,) = [entry["orig"] for entry in took[0].conntrack]
    assert [entry["orig"] for entry in took[2].conntrack] == [orig]
    assert took[3].conntrack == [{"gone": orig}]
