"""The fuzzed world has a rule for everything that the lowering and the engine know, so that it cannot fall behind."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import pytest

from pktsim.netfilter import lower, nft_lower, nft_lower_expressions
from pktsim.netfilter.nft_fields import CT, EXTENSION_HEADERS, FIB_RESULTS, META, TCP_OPTIONS
from pktsim.netfilter.opcodes import Op
from pktsim.netfilter.programs import lower_table
from pktsim.netfilter.ruleset import Family
from tests.fuzz.rules import RULES4, Rules, draw, everything, with_extras
from tests.fuzz.world import make_space

#: (op, a, b, c, d) of a row.
Row = tuple[int, int, int, int, int]


class Seen:
    """What the lowering makes of rules.

    Attributes:
        rows: Of all programs.
        set_kinds: Hash, intervals, boxes.
        state_kinds: What rules and elements keep.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: set[Row] = set()
        self.set_kinds: set[int] = set()
        self.state_kinds: set[int] = set()
        emit, set_kind, state_of = nft_lower.NftBuilder.emit, nft_lower.set_kind, nft_lower.state_of

        def emitted(builder: Any, op: Op, *, invert: int = 0, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> None:
            self.rows.add((op, a, b, c, d))
            emit(builder, op, invert=invert, a=a, b=b, c=c, d=d)

        def kind_of_set(**asked: Any) -> int:
            found = set_kind(**asked)
            self.set_kinds.add(found)
            return found

        def kind_of_state(*asked: Any) -> nft_lower_expressions.State:
            found = state_of(*asked)
            self.state_kinds.add(found[0])
            return found

        monkeypatch.setattr(nft_lower.NftBuilder, "emit", emitted)
        monkeypatch.setattr(nft_lower, "set_kind", kind_of_set)
        monkeypatch.setattr(nft_lower, "state_of", kind_of_state)

    def lower(self, rules: Rules) -> None:
        """All of a namespace's rules."""
        for ruleset in rules.rulesets:
            for table in ruleset.tables:
                image = lower_table(table).image
                assert image is not None
                self.rows.update((op, a, b, c, d) for op, _, a, b, c, d, _, _ in struct.iter_unpack("=8i", image.rows))
        make_space(random.Random(1), Rules((), rules.nft), trace=False)

    def values(self, op: Op, of: Callable[[Row], int] = lambda row: row[1]) -> set[int]:
        """What the rows of an operation say."""
        return {of(row) for row in self.rows if row[0] == op}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Everything at once."""
    found = Seen(monkeypatch)
    found.lower(everything())
    return found


@pytest.mark.slow
def test_every_row_of_a_program_is_met(seen: Seen) -> None:
    assert {row[0] for row in seen.rows} == set(Op)


@pytest.mark.slow
def test_every_kind_of_those_rows_is_met(seen: Seen) -> None:
    assert seen.values(Op.NFT_META) == {key for key, _, _ in META.values()}
    assert seen.values(Op.NFT_CT) == {key for key, _, _ in CT.values()}
    assert seen.values(Op.NFT_CT, lambda row: row[2]) == {-1, 0, 1}
    assert seen.values(Op.NFT_FIB, lambda row: row[2]) == {result for result, _, _ in FIB_RESULTS.values()}
    options = {kind << 1 | 1 for kind, _ in TCP_OPTIONS.values()}
    assert seen.values(Op.NFT_OPTION) == options | {kind << 1 for kind, _ in EXTENSION_HEADERS.values()}
    assert seen.values(Op.NFT_PAYLOAD) == seen.values(Op.NFT_BITS) | {0} == {0, 1, 2}
    assert seen.values(Op.NFT_NUMBER, lambda row: row[1] & 0xFF) == {0, 1, 2, 3}
    assert seen.values(Op.NFT_SHIFT) == {0, 1}
    assert seen.values(Op.NFT_CMP, lambda row: row[2]) == set(range(6))
    assert seen.values(Op.NFT_RANGE, lambda row: row[2]) == {1}
    assert {min(row, 0) for row in seen.values(Op.NFT_LOOKUP, lambda row: row[2])} == {-2, -1, 0}
    assert seen.values(Op.NFT_SET_CT, lambda row: row[3]) == {1, 2, 3}
    assert seen.values(Op.NFT_SET_PAYLOAD, lambda row: row[4] >> 16) == {0, 1, 2}
    assert seen.values(Op.NFT_NAT) == {0, 1, 2, 3}
    assert seen.values(Op.SET_CONNMARK) == {0, 1, 2}
    assert seen.values(Op.CT_ZONE, lambda row: row[2]) == {1, 2, 3}
    assert seen.values(Op.QUEUE) == {0, 1}
    assert seen.values(Op.TTL) == {0, 1, 2}
    assert seen.set_kinds == {0, 1, 2}
    assert seen.state_kinds == set(range(nft_lower_expressions.COUNTER, nft_lower_expressions.QUOTA + 1))


def test_every_match_and_target_is_met() -> None:
    rules = [
        rule
        for ruleset in everything().rulesets
        for table in ruleset.tables
        for chain in table.chains
        for rule in chain.rules
    ]
    matches = {type(match) for rule in rules for match in rule.matches}
    targets = {type(rule.target) for rule in rules}
    assert not set(lower.MATCHES) - matches
    assert not set(lower.TARGETS) - targets


def test_a_ruleset_that_lacks_rows_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Seen(monkeypatch)
    found.lower(Rules((with_extras(RULES4, [], Family.IPV4),), ""))
    assert {Op.DISPATCH, Op.DNAT} < {row[0] for row in found.rows} < set(Op)


@pytest.mark.slow
def test_every_drawn_ruleset_is_legal(seen: Seen) -> None:
    for number in range(12):
        seen.lower(draw(number))


def test_the_same_number_draws_the_same_rules() -> None:
    first = draw(5)
    draw.cache_clear()
    assert draw(5) == first
    assert draw(6) != first
