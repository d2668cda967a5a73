"""Rules that the real kube-proxy wrote in nftables mode: read, printed to the byte, and loaded into a kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from pktsim.kernel.kernel import Kernel
from pktsim.netfilter.nft_print import Printer
from pktsim.netfilter.nft_text import parse_ruleset
from tests.recorded import archives

ARCHIVE = "kube-proxy-nftables"
RULESETS = archives.names(ARCHIVE)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archives.unpack(ARCHIVE, tmp_path_factory.mktemp("nftables"))


@pytest.mark.parametrize("name", RULESETS)
def test_what_kube_proxy_wrote_prints_as_nft_printed_it(recordings: Path, name: str) -> None:
    text = (recordings / name / "ruleset.nft").read_text(encoding="utf-8")
    assert Printer().ruleset(parse_ruleset(text, file=name)) == text


@pytest.mark.parametrize("name", RULESETS)
def test_it_loads_and_is_listed_again(recordings: Path, name: str) -> None:
    text = (recordings / name / "ruleset.nft").read_text(encoding="utf-8")
    kernel = Kernel()
    kernel.nft(text)
    assert kernel.nft_list_ruleset() == text
