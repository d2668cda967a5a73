"""nft text: what is printed reads back to the same, whatever the rules."""

from __future__ import annotations

from hypothesis import event, given, settings
from hypothesis import strategies as st

from pktsim.errors import RulesetSyntaxError
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
    """Some listings nft itself does not read back, or lists otherwise then: test_nft_text of tests/live has both do it.

    One is ``reject with icmpx port-unreachable`` behind what only one family has, which is listed as ``reject``; then
    what only one family has is read first, and it is ``reject with icmp port-unreachable``.
    """
    text = Printer(_ifname).ruleset(parse_ruleset(nft_text(rules), ifindex=_ifindex))
    try:
        again = parse_ruleset(text, ifindex=_ifindex)
    except RulesetSyntaxError as error:
        event(f"not read back: {error.what}")
        return
    listed = Printer(_ifname).ruleset(again)
    event("listed otherwise" if listed != text else "listed alike")
    assert parse_ruleset(listed, ifindex=_ifindex) == again
