"""Rule text of real nodes: what was loaded reads to what the save tool printed afterwards, to the byte."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pktsim.netfilter.iptables_text import parse_save, print_save, restore
from pktsim.netfilter.ruleset import Family
from tests.recorded import archives

CASES = "netfilter-cases"
STARTS = "kube-proxy-iptables"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archives.unpack(CASES, tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archives.unpack(STARTS, tmp_path_factory.mktemp("starts"))


def _zeroed(text: str) -> str:
    return re.sub(r"\[\d+:\d+\]", "[0:0]", text)


@pytest.mark.parametrize("name", archives.names(CASES))
def test_a_node_saves_what_it_was_given(cases: Path, name: str) -> None:
    case: dict[str, Any] = json.loads((cases / name).read_text())
    for key, family in (("iptables", Family.IPV4), ("ip6tables", Family.IPV6)):
        saved = case["result"]["final"].get(key)
        if not case.get(key) or saved is None:
            continue
        ruleset = parse_save(case[key], family)
        for step in case["steps"]:
            if key in step:
                ruleset = restore(ruleset, step[key], noflush=bool(step.get("noflush")))
        order = re.findall(r"^\*(\w+)", saved, re.MULTILINE)
        assert _zeroed(print_save(ruleset, counters=True, tables=order)) == _zeroed(saved)
        again = parse_save(saved, family)
        assert again == ruleset
        assert print_save(again, counters=True, tables=order) == saved


@pytest.mark.parametrize("name", archives.names(STARTS))
def test_kube_proxys_rules_print_as_they_were_read(starts: Path, name: str) -> None:
    for file, family in (("iptables-save.txt", Family.IPV4), ("ip6tables-save.txt", Family.IPV6)):
        text = (starts / name / file).read_text()
        assert print_save(parse_save(text, family)) == text
