"""The harness reproduces what was recorded: recorded cases, run again on the running kernel, give the same results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from pktsim.kernel.case import StepResult
from pktsim.kernel.case_recording import compare_step, read_cases
from pktsim.wire.addr import ip_from_text
from pktsim.wire.frame import ETH_P_IP, ETH_P_IPV6, ethernet, ipv4, ipv6, udp
from tests.live.case_rules import Dice
from tests.live.case_strategies import tell
from tests.live.kernel_case import NondeterministicError, Workbench, merge, reusable
from tests.recorded import archives

pytestmark = pytest.mark.slow

CASES = "netfilter-cases"
#: Of IPv6, the kernel's own reports move counters whenever they like; nftables' counters are not in results.
_LEFT_OUT = ("v6-", "nft-")
_NAMES = [name.removesuffix(".json") for name in archives.names(CASES) if not name.startswith(_LEFT_OUT)]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archives.unpack(CASES, tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module")
def bench(_live_machine: None) -> Iterator[Workbench]:
    with Workbench() as made:
        yield made


def as_step(came: Mapping[str, Any]) -> StepResult:
    return StepResult(
        [(one["interface"], bytes.fromhex(one["frame"])) for one in came["emitted"]],
        came.get("delivered", 0),
        came.get("sockets", []),
        came.get("error", ""),
        {name: (pair[0], pair[1]) for name, pair in came.get("rules", {}).items()},
        came.get("conntrack", []),
    )


@pytest.mark.parametrize("name", _NAMES[::5])
def test_a_recording_is_reproduced(bench: Workbench, cases: Path, name: str) -> None:
    (case,) = read_cases(cases / f"{name}.json")
    result = bench.result(case)
    for recorded, came in zip(case["result"]["steps"], result["steps"], strict=True):
        assert compare_step(recorded, as_step(came)) == ""


def test_a_used_node_is_as_good_as_a_new_one(bench: Workbench) -> None:
    drawn = (tell(bytes([0, 255, 0, 0]), _rules(number), _steps(number)) for number in range(64))
    stories = list(islice((story for story in drawn if reusable(story.case)), 8))
    assert len(stories) == 8
    used = [bench.result(story.case) for story in (*stories, *stories)][8:]
    for story, result in zip(stories, used, strict=True):
        with Workbench() as fresh:
            merged = merge([result, fresh.result(story.case)])
        assert len(merged["steps"]) == len(story.case["steps"])


def test_a_node_that_never_comes_to_rest_is_given_up(bench: Workbench) -> None:
    """What is for a group comes back to its sender, to be copied again with one hop less, for ever."""
    rules = "*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j TEE --gateway fd00::9\nCOMMIT\n"
    ends = ip_from_text("fd00::2"), ip_from_text("ff02::1")
    packet = ipv6(*ends, 17, udp(*ends, 53, 443, b""))
    frame = ethernet(bytes.fromhex("333300000001"), bytes.fromhex("020000000102"), ETH_P_IPV6, packet)
    case = {
        "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "addresses": ["fd00::1/64"]}],
        "neighbours": [{"address": "fd00::9", "interface": "eth0", "mac": "02:00:00:00:01:02"}],
        "ipv6": True,
        "ip6tables": rules,
        "steps": [{"receive": {"interface": "eth0", "frame": frame.hex()}}],
    }
    with pytest.raises(AssertionError, match="without end"):
        bench.result(case)


def _rules(number: int) -> tuple[bytes, ...]:
    return tuple(bytes((number * 37 + rule * 11 + at * at * 7) % 256 for at in range(24)) for rule in range(12))


def _steps(number: int) -> tuple[bytes, ...]:
    return tuple(bytes((number * 29 + step * 17 + at * 13) % 256 for at in range(16)) for step in range(6))


def test_dice_that_are_used_up_say_the_first() -> None:
    dice = Dice(b"\x05")
    assert [dice.below(4), dice.below(4)] == [1, 0]
    assert Dice(b"").pick("abc") == "a"


def _frame(sport: int, identification: int, data: bytes = b"") -> str:
    ends = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
    packet = ipv4(*ends, 17, udp(*ends, sport, 53, data), identification=identification)
    return ethernet(bytes(6), bytes(6), ETH_P_IP, packet).hex()


FRAME = _frame(4242, 0x1234, b"ab")


def _result(**changes: Any) -> dict[str, Any]:
    step: dict[str, Any] = {"emitted": [{"interface": "eth0", "frame": FRAME}], "rules": {"filter/OUTPUT/1": [1, 28]}}
    return {"steps": [step | changes], "final": {}}


def test_what_differs_between_runs_is_named() -> None:
    other = _frame(4660, 0x5678, b"ab")
    (step,) = merge([_result(), _result(emitted=[{"interface": "eth0", "frame": other}])])["steps"]
    assert step["emitted"][0]["random"] == ["ip.id", "udp.sport"]


def test_an_entry_says_null_where_runs_differ() -> None:
    def entry(port: int) -> list[dict[str, Any]]:
        return [{"orig": {"sport": 1}, "reply": {"sport": 53, "dport": port}, "status": ["CONFIRMED"]}]

    (step,) = merge([_result(conntrack=entry(1)), _result(conntrack=entry(2))])["steps"]
    assert step["conntrack"] == [{"orig": {"sport": 1}, "reply": {"sport": 53, "dport": None}, "status": ["CONFIRMED"]}]


@pytest.mark.parametrize(
    "changes",
    [
        {"emitted": []},
        {"emitted": [{"interface": "pod0", "frame": FRAME}]},
        {"emitted": [{"interface": "eth0", "frame": _frame(4242, 0x1234, b"cd")}]},
        {"rules": {"filter/OUTPUT/2": [1, 28]}},
        {"error": "EPERM"},
    ],
)
def test_runs_that_take_another_way_cannot_be_merged(changes: dict[str, Any]) -> None:
    with pytest.raises(NondeterministicError):
        merge([_result(), _result(**changes)])
