"""``-m set`` and ``-j SET`` on ``netfilter.ipset``'s sets; importing this registers them with the lowering.

Source: net/netfilter/xt_set.c.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pktsim.netfilter.ipset import PacketContext, Query
from pktsim.netfilter.lower import Builder, Pending
from pktsim.netfilter.lower_extensions import match, target
from pktsim.netfilter.matches.set import SetMatch
from pktsim.netfilter.opcodes import Op
from pktsim.netfilter.targets.set import SetElement, SetTarget

_U32 = 0xFFFFFFFF
#: ``UINT_MAX / MSEC_PER_SEC``: longer time-outs are cut down to it.
_MAX_TIMEOUT_S = _U32 // 1000


class SetUser:
    """What a rule does with sets."""

    @staticmethod
    def context(datapath: Any) -> PacketContext:
        return PacketContext(datapath.now_ns, datapath.context.interface_name)


class SetTest(SetUser):
    """``set_match_v4``."""

    def __init__(self, match: SetMatch) -> None:
        self._name = match.name
        self._sides = tuple(side.value for side in match.sides)
        self._query = Query(
            match.return_nomatch, match.update_counters, match.update_subcounters, match.packets, match.bytes
        )

    def __call__(self, datapath: Any, packet: Any, _hook: int) -> bool:
        sets = datapath.context.sets
        return sets.test(self._name, self._sides, packet, self.context(datapath), self._query) is not None


class SetChange(SetUser):
    """``set_target_v3``: add, delete, and take a mark and a priority from what is found."""

    def __init__(self, target: SetTarget) -> None:
        self._target = target

    def __call__(self, datapath: Any, packet: Any, _hook: int) -> bool:
        target, context, sets = self._target, self.context(datapath), datapath.context.sets
        if target.add is not None:
            timeout_s = None if target.timeout_s is None else min(target.timeout_s, _MAX_TIMEOUT_S)
            sets.add(target.add.name, _sides(target.add), packet, context, timeout_s, exist=target.exist)
        if target.delete is not None:
            sets.delete(target.delete.name, _sides(target.delete), packet, context)
        if target.map is not None:
            found = sets.test(target.map.name, _sides(target.map), packet, context)
            if found is not None:
                info = found.skbinfo
                if target.map_mark:
                    packet.mark = (packet.mark & ~info.mark_mask & _U32) ^ info.mark
                if target.map_prio:
                    packet.priority = info.priority
        return True


def _sides(where: SetElement) -> tuple[str, ...]:
    return tuple(side.value for side in where.sides)


@match(SetMatch)
def _set(match: SetMatch, builder: Builder) -> Iterable[Pending]:
    return (Pending(Op.PYTHON, match.inverted, builder.call(SetTest(match))),)


@target(SetTarget)
def _change(target: SetTarget, builder: Builder) -> Iterable[Pending]:
    return (Pending(Op.PYTHON_TARGET, a=builder.call(SetChange(target))),)
