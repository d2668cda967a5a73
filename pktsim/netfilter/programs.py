"""Lowered tables, shared: equal tables have one program, on whichever node they are loaded."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

from pktsim.netfilter.lower import Lowered, compile_table
from pktsim.netfilter.relower import Step, relower_step, step_between
from pktsim.netfilter.ruleset import Chain, Table


class _TableKey:
    """Equal tables, cheaply hashed: hashing every rule would cost as much as lowering it.

    What tables differ in are nearly always the names of chains (kube-proxy names them after what is in them) or how
    many rules are in them; where many tables have one hash, each look-up compares with all of them.
    """

    __slots__ = ("_hash", "table")

    def __init__(self, table: Table) -> None:
        self.table = table
        self._hash = hash((table.name, table.family, tuple((chain.name, len(chain.rules)) for chain in table.chains)))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _TableKey) and (self.table is other.table or self.table == other.table)


@dataclass(frozen=True, slots=True, eq=False)
class _StepKey:
    """Equal steps from one program: comparing these is cheaper than comparing large tables."""

    image: object
    changed: tuple[Chain, ...]
    gone: tuple[str, ...]

    def __hash__(self) -> int:
        return hash((self.image, tuple(chain.name for chain in self.changed), self.gone))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _StepKey)
            and self.image is other.image
            and self.gone == other.gone
            and self.changed == other.changed
        )


#: The one that was asked for last is the last one.
_SHARED: dict[Hashable, Lowered] = {}
#: How many programs are kept in case that somebody asks for them, and of how many bytes in all.
_SHARED_MAX = 64
_SHARED_BYTES = 64 << 20
#: Tables of more chains are lowered again sooner than compared.
_FEW_CHAINS = 1024


def lower_table(table: Table, previous: Lowered | None = None) -> Lowered:
    """``compile_table``, but equal tables (counters aside) share one program.

    Args:
        table: The table.
        previous: What was loaded in its place: where it differs little, only the difference is lowered.
    """
    if previous is not None and previous.table is table:
        return previous
    step = step_between(previous, table) if previous is not None else None
    if previous is not None and step is not None and not step.changed and not step.gone:
        return replace(previous, table=table)
    keys = _keys(table, previous, step)
    known = [_SHARED.pop(key, None) for key in keys]
    lowered = next((one for one in known if one is not None), None)
    if lowered is None:
        lowered = (relower_step(previous, table, step) if previous is not None else None) or compile_table(table)
    for key in keys:
        _SHARED[key] = lowered
    size = sum(map(_size, _SHARED.values()))
    while len(_SHARED) > _SHARED_MAX or (size > _SHARED_BYTES and len(_SHARED) > len(keys)):
        size -= _size(_SHARED.pop(next(iter(_SHARED))))
    return lowered if lowered.table is table else replace(lowered, table=table)


def _keys(table: Table, previous: Lowered | None, step: Step | None) -> list[Hashable]:
    keys: list[Hashable] = []
    small = step is not None and not step.large
    if previous is not None and previous.image is not None and step is not None and small:
        keys.append(_StepKey(previous.image.name, step.changed, step.gone))
    if not small or len(table.chains) <= _FEW_CHAINS:
        keys.append(_TableKey(table))
    return keys


def _size(lowered: Lowered) -> int:
    return len(lowered.image.rows) if lowered.image is not None else 0
