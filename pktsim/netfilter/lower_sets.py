"""``-m set`` and ``-j SET`` on ``netfilter.ipset``'s sets; importing this registers them with the lowering.

Source: net/netfilter/xt_set.c.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pktsim.netfilter.lower import Builder, Pending
from pktsim.netfilter.lower_extensions import match, target
from pktsim.netfilter.matches.set import SetMatch
from pktsim.netfilter.opcodes import Op
from pktsim.netfilter.targets.set import SetElement, SetTarget


@match(SetMatch)
def _set(match: SetMatch, builder: Builder) -> Iterable[Pending]:
    if match.packets is not None or match.bytes is not None:
        raise builder.refuse("match set with --packets-* or --bytes-*")
    sides = tuple(side.value for side in match.sides)

    def test(datapath: Any, packet: Any, _hook: int) -> bool:
        state = datapath.context
        found = state.sets.test(match.name, sides, packet, interfaces=state.interface_name, now_ns=datapath.now_ns)
        # an element that is there as "nomatch" is a match only for who asked for that, of sets that know the word
        if match.return_nomatch and state.sets[match.name].knows_nomatch:
            return found is None
        return bool(found)

    return (Pending(Op.PYTHON, match.inverted, builder.call(test)),)


@target(SetTarget)
def _change(target: SetTarget, builder: Builder) -> Iterable[Pending]:
    if target.map is not None:
        raise builder.refuse("target SET --map-set")

    def element(datapath: Any, packet: Any, where: SetElement) -> Any:
        state = datapath.context
        sides = tuple(side.value for side in where.sides)
        return state.sets.element_of(state.sets[where.name], sides, packet, state.interface_name)

    def act(datapath: Any, packet: Any, _hook: int) -> bool:
        sets = datapath.context.sets
        if target.add is not None:
            key = element(datapath, packet, target.add)
            if key is not None:
                added = sets[target.add.name]
                there = added.live(key, datapath.now_ns) is not None
                if not there or target.exist:
                    added.add(key, datapath.now_ns, timeout_s=target.timeout_s)
        if target.delete is not None:
            key = element(datapath, packet, target.delete)
            if key is not None:
                sets[target.delete.name].elements.pop(key, None)
        return True

    return (Pending(Op.PYTHON_TARGET, a=builder.call(act)),)
