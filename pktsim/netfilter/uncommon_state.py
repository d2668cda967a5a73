"""Matches that ask for what is kept beside the packet: rates, quotas, the clock, labels, devices, sockets, policies;
importing this registers them with the lowering. See ``uncommon_matches`` for how the engine calls them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from pktsim.fidelity import approximated
from pktsim.netfilter import bpf
from pktsim.netfilter.hashlimit import Hashlimit
from pktsim.netfilter.lower import Builder, Pending, PythonMatch
from pktsim.netfilter.lower_extensions import match
from pktsim.netfilter.match_socket import socket_question
from pktsim.netfilter.matches.bpf import BpfMatch
from pktsim.netfilter.matches.cgroup import CgroupMatch
from pktsim.netfilter.matches.connlabel import ConnlabelMatch
from pktsim.netfilter.matches.cpu import CpuMatch
from pktsim.netfilter.matches.devgroup import DevgroupMatch
from pktsim.netfilter.matches.hashlimit import HashlimitMatch
from pktsim.netfilter.matches.nfacct import NfacctMatch
from pktsim.netfilter.matches.policy import PolicyMatch
from pktsim.netfilter.matches.quota import QuotaMatch
from pktsim.netfilter.matches.realm import RealmMatch
from pktsim.netfilter.matches.time import TimeMatch
from pktsim.netfilter.opcodes import NO_SOCKET, Hook, Op

approximated(
    "netfilter.placeless",
    "there is one processor, number 0, no IPsec policy, and no device, route or socket is in a group, realm or net_cls "
    "class of its own: all are in number 0, as on a machine where nobody has configured any",
    source="net/netfilter/xt_cpu.c, xt_policy.c, xt_devgroup.c, xt_realm.c, xt_cgroup.c",
)
approximated(
    "netfilter.nfacct",
    "the accounting object that a rule names is there, without a quota; Linux refuses the rule until it is made",
    source="net/netfilter/xt_nfacct.c",
)

NS_PER_S = 1_000_000_000
_DAY_S = 24 * 60 * 60


def _python(builder: Builder, function: PythonMatch, *, inverted: bool = False) -> Iterable[Pending]:
    return (Pending(Op.PYTHON, inverted, builder.call(function)),)


@match(HashlimitMatch)
def _hashlimit(match: HashlimitMatch, builder: Builder) -> Iterable[Pending]:
    return _python(builder, Hashlimit(match))


class _Quota:
    """net/netfilter/xt_quota.c: loading the table anew fills it up again."""

    __slots__ = ("_quota",)

    def __init__(self, quota: int) -> None:
        self._quota = quota

    def prepare(self, context: Any) -> None:
        context.quotas[self] = self._quota

    def __call__(self, datapath: Any, packet: Any, _hook: int) -> bool:
        quotas: dict[object, int] = datapath.context.quotas
        left, size = quotas[self], len(packet.data)
        quotas[self] = left - size if left >= size else 0
        return left >= size


@match(QuotaMatch)
def _quota(match: QuotaMatch, builder: Builder) -> Iterable[Pending]:
    return _python(builder, _Quota(match.quota), inverted=match.inverted)


@match(TimeMatch)
def _time(match: TimeMatch, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_time.c; the kernel's time zone is UTC here."""
    start, stop = match.daytime_start_s, match.daytime_stop_s

    def test(datapath: Any, _packet: Any, _hook: int) -> bool:
        stamp: int = datapath.context.epoch_s + datapath.now_ns // NS_PER_S
        if not match.date_start_s <= stamp <= match.date_stop_s:
            return False
        time_of_day = stamp % _DAY_S
        if start < stop:
            if not start <= time_of_day <= stop:
                return False
        else:
            if stop < time_of_day < start:
                return False
            if match.contiguous and time_of_day <= stop:
                stamp -= _DAY_S
        day = datetime.fromtimestamp(stamp, UTC)
        return bool(match.weekdays >> day.isoweekday() & 1 and match.monthdays >> day.day & 1)

    return _python(builder, test)


class Connlabel:
    """net/netfilter/xt_connlabel.c. While a rule asks for labels, connections have room for them."""

    __slots__ = ("_match",)

    def __init__(self, match: ConnlabelMatch) -> None:
        self._match = match

    def __call__(self, _datapath: Any, packet: Any, _hook: int) -> bool:
        """Whether the connection has the label, or has it now."""
        entry = packet.conntrack
        if entry is None or entry["labels"] is None:
            return False
        bit = self._match.label
        if entry["labels"][bit >> 5] >> (bit & 31) & 1:
            return True
        if self._match.set:
            packet.label_set(bit)
        return self._match.set


@match(ConnlabelMatch)
def _connlabel(match: ConnlabelMatch, builder: Builder) -> Iterable[Pending]:
    builder.needs_conntrack = True
    return _python(builder, Connlabel(match), inverted=match.inverted)


@match(PolicyMatch)
def _policy(match: PolicyMatch, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_policy.c: no packet came, and none goes, by IPsec."""

    def test(_datapath: Any, _packet: Any, _hook: int) -> bool:
        return not match.ipsec

    return _python(builder, test)


@match(CpuMatch)
def _cpu(match: CpuMatch, builder: Builder) -> Iterable[Pending]:
    return _python(builder, lambda _datapath, _packet, _hook: match.cpu == 0, inverted=match.inverted)


@match(RealmMatch)
def _realm(match: RealmMatch, builder: Builder) -> Iterable[Pending]:
    return _python(builder, lambda _datapath, _packet, _hook: match.value == 0, inverted=match.inverted)


@match(DevgroupMatch)
def _devgroup(match: DevgroupMatch, builder: Builder) -> Iterable[Pending]:
    asked = ((match.src, match.src_inverted), (match.dst, match.dst_inverted))
    answer = all((group[0] & group[1] == 0) != inverted for group, inverted in asked if group is not None)
    return _python(builder, lambda _datapath, _packet, _hook: answer)


@match(CgroupMatch)
def _cgroup(match: CgroupMatch, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_cgroup.c. A packet that comes in has its socket only where the early look-up has found it."""
    answer = (match.class_id == 0) != match.inverted

    def test(datapath: Any, packet: Any, hook: int) -> bool:
        if hook == Hook.INPUT:
            asked = None if packet.looped or packet.protocol not in (6, 17) else socket_question(packet)
            found = None if asked is None else datapath.context.find_socket(*asked, packet.in_ifindex)
            return answer and found is not None and found.full and found.connected
        return answer and packet.local and packet.uid != NO_SOCKET

    return _python(builder, test)


@match(NfacctMatch)
def _nfacct(match: NfacctMatch, builder: Builder) -> Iterable[Pending]:
    def test(datapath: Any, packet: Any, _hook: int) -> bool:
        counted = datapath.context.accounts.setdefault(match.name, [0, 0])
        counted[0] += 1
        counted[1] += len(packet.data)
        return True

    return _python(builder, test)


@match(BpfMatch)
def _bpf(match: BpfMatch, builder: Builder) -> Iterable[Pending]:
    """net/netfilter/xt_bpf.c."""
    if unknown := bpf.unknown_load(match.program):
        raise builder.refuse(f"match bpf with {unknown}")

    def test(_datapath: Any, packet: Any, _hook: int) -> bool:
        return bpf.run(match.program, packet) != 0

    return _python(builder, test)
