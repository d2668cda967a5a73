"""nft text: what is printed reads back to the same, whatever the rules."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pktsim.netfilter.nft_print import Printer
from pktsim.netfilter.nft_text import parse_ruleset
from tests.live.nft_strategies import nft_text

_RULES = st.lists(st.binary(min_size=24, max_size=24), max_size=12)


def _ifindex(name: str) -> int:
    return int(name == "lo")


def _ifname(ifindex: int) -> str:
    return "lo" if ifindex == 1 else ""


@settings(max_examples=40, deadline=None)
@given(_RULES)
def test_what_is_printed_reads_back(rules: list[bytes]) -> None:
    ruleset = parse_ruleset(nft_text(rules), ifindex=_ifindex)
    text = Printer(_ifname).ruleset(ruleset)
    again = parse_ruleset(text, ifindex=_ifindex)
    assert Printer(_ifname).ruleset(again) == text
    assert parse_ruleset(Printer(_ifname).ruleset(again), ifindex=_ifindex) == again
