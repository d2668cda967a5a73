"""Lowering again: from a program and a table that differs little to the next program, chain by chain.

With tens of thousands of chains a small change then costs what changed, and a few copies of memory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress, count
from operator import is_not

from pktsim._fastpath import jumps_to
from pktsim.netfilter.lower import (
    JUMP_TARGET,
    MAX_JUMP_DEPTH,
    ROW_BYTES,
    Builder,
    Layout,
    Lowered,
    Placed,
    without_collector,
)
from pktsim.netfilter.ruleset import Chain, Jump, Table

_INT32 = struct.Struct("=i")

#: More chains than this, as a share of all, and lowering everything is as quick; more rows out of use, and it is due.
_MANY_CHAINS = 1 / 8
_MUCH_WASTE = 1 / 4


def relower(previous: Lowered, table: Table) -> Lowered | None:
    """Lower a table like ``compile_table``, taking over from another program all chains that are the same.

    A chain that changed is put where it was if it fits, else at the end; so no other chain moves, and its counters keep
    their numbers. Rows and numbers that are out of use stay behind.

    Returns:
        ``None`` if too much has changed for that.

    Raises:
        UnsupportedFeature: A match or target that is not modelled, by name and place.
        RulesetSyntaxError: Jumps that loop, or to a chain that does not exist.
    """
    return relower_step(previous, table, step_between(previous, table))


def relower_step(previous: Lowered, table: Table, step: Step | None) -> Lowered | None:
    """:func:`relower` where it is known already what differs."""
    image = previous.image
    if image is None or step is None or step.large:
        return None
    changed, gone = step.changed, step.gone
    old = image.placed
    ranks = _ranks_after(old, image.ranks, changed)
    if ranks is None:
        return None  # compile_table says what is wrong, if anything is
    with without_collector():
        builder = Builder(
            table.family,
            table.name,
            pool=bytearray(image.pool),
            callables=list(previous.callables),
            places=list(image.places),
            nth_slots=image.nth_slots,
        )
        layout = Layout(
            builder,
            bytearray(image.rows),
            list(previous.sources),
            list(image.dispatch),
            dict(old),
            [],
            replace(image.totals),
        )
        moved: list[Placed] = []
        for name in gone:
            layout.vacate(layout.placed.pop(name))
        for chain in changed:
            before = old.get(chain.name)
            if before is not None:
                for number in before.dispatches:
                    layout.dispatch[number] = (layout.dispatch[number][0], {}, [])
                if layout.put(chain, before.row, before.counter, before):
                    continue
                moved.append(before)
                layout.vacate(before)
            layout.append(chain)
        layout.resolve(range(len(layout.jumps)))
        # Going through all rows is quicker than remembering for every chain who leads there.
        for before in moved:
            for row in jumps_to(layout.rows, before.row):
                _INT32.pack_into(layout.rows, row * ROW_BYTES + JUMP_TARGET, layout.placed[before.chain.name].row)
        if any(jumps_to(layout.rows, old[name].row) for name in gone):
            return None  # somebody still leads there
        if layout.totals.rows < (1 - _MUCH_WASTE) * (len(layout.rows) // ROW_BYTES):
            return None
        return layout.lowered(table, ranks, image.name)


@dataclass(frozen=True, slots=True)
class Step:
    """What tells a table from one that is loaded.

    Attributes:
        changed: Chains that are other than they were, or new.
        gone: Names of chains that are not there any more.
        large: Whether that is so much that lowering everything is as quick.
    """

    changed: tuple[Chain, ...]
    gone: tuple[str, ...]
    large: bool


def step_between(previous: Lowered, table: Table) -> Step | None:
    """Compare a table with one that was lowered; ``None`` if one cannot come of the other."""
    image = previous.image
    if image is None or previous.table.name != table.name or previous.table.family != table.family:
        return None
    changed, gone = _difference(previous.table, image.placed, table)
    return Step(tuple(changed), tuple(gone), len(changed) + len(gone) > max(8, _MANY_CHAINS * len(image.placed)))


def _difference(before: Table, placed: Mapping[str, Placed], table: Table) -> tuple[list[Chain], list[str]]:
    """Chains that changed or are new, and the names of those that are gone."""
    changed: list[Chain] = []
    gone: list[str] = []
    for old, new in unlike(before.chains, table.chains, placed):
        if new is None:
            assert old is not None
            gone.append(old.name)
        elif old is None and new.name in placed:
            break  # chains in another order
        elif old is None or placed[new.name].chain != new:
            changed.append(new)
    else:
        return changed, gone
    names = {chain.name for chain in table.chains}
    return (
        [one for one in table.chains if one.name not in placed or placed[one.name].chain != one],
        [name for name in placed if name not in names],
    )


def unlike(
    before: tuple[Chain, ...], after: tuple[Chain, ...], known: Container[str]
) -> Iterator[tuple[Chain | None, Chain | None]]:
    """Pair the chains of two tables by name where they are not the same objects, in time that hardly shows.

    Args:
        before: Chains as they were.
        after: Chains as they are.
        known: The names of those before.

    Yields:
        (before, after): one is ``None`` for a chain that is new or gone. Where chains come in another order than
        before, the same name comes as gone and as new.
    """
    here = there = 0
    while True:
        alike = _alike(before, here, after, there)
        here, there = here + alike, there + alike
        if here == len(before):
            yield from ((None, chain) for chain in after[there:])
            return
        if there == len(after):
            yield from ((chain, None) for chain in before[here:])
            return
        old, new = before[here], after[there]
        if old.name == new.name:
            yield old, new
            here, there = here + 1, there + 1
        elif new.name in known:
            yield old, None
            here += 1
        else:
            yield None, new
            there += 1


def _alike(before: tuple[Chain, ...], here: int, after: tuple[Chain, ...], there: int) -> int:
    """How many chains from here on are the same objects: found by the interpreter's own loops."""
    length = min(len(before) - here, len(after) - there)
    total = 0
    step = 64
    while total < length:
        step = min(step, length - total)
        differ = map(is_not, before[here + total : here + total + step], after[there + total : there + total + step])
        at = next(compress(count(), differ), None)
        if at is not None:
            return total + at
        total += step
        step *= 8
    return total


def _goals(chain: Chain) -> frozenset[str]:
    return frozenset(rule.target.chain for rule in chain.rules if isinstance(rule.target, Jump))


def _ranks_after(
    old: Mapping[str, Placed], ranks: Mapping[str, int], changed: Sequence[Chain]
) -> dict[str, int] | None:
    """Ranks of all chains if changed ones lead to chains that exist, close no circle, and are not too deep."""
    new = {chain.name: chain for chain in changed}
    goals: dict[str, frozenset[str]] = {}
    wanted: list[str] = []

    def goals_of(name: str) -> frozenset[str]:
        found = goals.get(name)
        if found is None:
            chain = new.get(name)
            found = goals[name] = _goals(chain if chain is not None else old[name].chain)
        return found

    for chain in changed:
        before = old.get(chain.name)
        now = goals_of(chain.name)
        if before is not None and now <= _goals(before.chain):
            continue
        wanted.append(chain.name)
    # A chain's rank is above those of all chains that it leads to: while that holds there is no circle, and nothing is
    # nested deeper than the highest rank. A chain that was there keeps its rank, so its callers are in order too.
    found = dict(ranks)
    for name in wanted:
        if not _rank(name, goals_of, new, old, found, set()):
            return None
    return found


def _rank(
    name: str,
    goals_of: Callable[[str], frozenset[str]],
    new: Mapping[str, Chain],
    old: Mapping[str, Placed],
    ranks: dict[str, int],
    above: set[str],
) -> bool:
    """Give a new chain a rank, or see whether a changed one can keep its own."""
    above.add(name)
    rank = 0
    for goal in goals_of(name):
        if goal in above or (goal not in new and goal not in old):
            return False
        if goal not in ranks and (len(above) > MAX_JUMP_DEPTH or not _rank(goal, goals_of, new, old, ranks, above)):
            return False
        rank = max(rank, ranks[goal] + 1)
    above.discard(name)
    if name in old:
        return rank <= ranks[name]
    ranks[name] = rank
    return rank <= MAX_JUMP_DEPTH
