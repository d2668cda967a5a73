"""Scenarios that go with several kube-proxies hold for each of them; others say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from pktsim.cluster.kubeproxy.versions import NEWEST, OLDEST
from pktsim.errors import ScenarioError
from pktsim.scenario.library import shipped
from pktsim.scenario.loader import load_scenario
from pktsim.scenario.runner import run_scenario

VERSIONS = [f"1.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1)]
SEVERAL = ("statsd-black-hole", "deleted-udp-service", "itp-local-stale-entry", "demo")


@pytest.mark.slow
@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("version", ["1.30", "1.31", "1.32", "1.36", "1.37", "1.38"])
def test_scenario_holds(name: str, version: str) -> None:
    result = run_scenario(load_scenario(shipped(name)), kube_proxy_version=version)
    assert [text for step in result.steps for text in step.unmet] == []
    proxy = result.cluster.nodes[0].proxy
    assert proxy is not None
    assert str(proxy.release) == version


def test_a_script_for_one_kube_proxy_says_so() -> None:
    with pytest.raises(ScenarioError, match="goes with one kube-proxy only"):
        run_scenario(load_scenario(shipped("hairpin")), kube_proxy_version="1.38")


def test_a_scenario_can_choose(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("kind: Scenario\nmetadata: {name: s}\nspec: {cluster: {nodes: 1, kubeProxyVersion: '1.35'}}\n")
    proxy = run_scenario(load_scenario(path)).cluster.nodes[0].proxy
    assert proxy is not None
    assert str(proxy.release) == "1.35"
