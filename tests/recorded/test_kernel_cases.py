"""What a Linux kernel did with given rules and packets: hand-made cases and random ones, replayed on ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from pktsim.kernel.case_recording import read_cases, verify_case
from tests.recorded import archives

CASES = "netfilter-cases"
RANDOM = "netfilter-random"
#: Cases that need what is not modelled yet, and what that is.
NOT_MODELLED: dict[str, str] = {}
#: Random cases are many and short: so many to a test.
_TOGETHER = 50


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archives.unpack(CASES, tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module")
def random_cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archives.unpack(RANDOM, tmp_path_factory.mktemp("random"))


@pytest.mark.parametrize("name", [name.removesuffix(".json") for name in archives.names(CASES)])
def test_a_case_by_hand(cases: Path, name: str) -> None:
    (case,) = read_cases(cases / f"{name}.json")
    difference = verify_case(case)
    if name in NOT_MODELLED:
        assert f"{NOT_MODELLED[name]} is not modelled" in difference
    else:
        assert difference == ""


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_random_cases(random_cases: Path, part: int) -> None:
    several = list(read_cases(random_cases / "cases.jsonl.gz"))
    assert len(several) == 6 * _TOGETHER
    chosen = several[part * _TOGETHER : (part + 1) * _TOGETHER]
    assert {case["name"]: found for case in chosen if (found := verify_case(case))} == {}
