"""Classic BPF (include/uapi/linux/filter.h) as ``-m bpf`` runs it: on the packet from its network header on.

Source: net/core/filter.c bpf_convert_filter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pktsim.netfilter.matches.bpf import BpfInstruction

_U32 = 0xFFFFFFFF
LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)
IMM, ABS, IND, MEM, LEN, MSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0
_WIDTHS = {0x00: 4, 0x08: 2, 0x10: 1}
_CELLS = 16
#: Loads from here on are not from the packet but about it (``SKF_AD_OFF``), or relative to one of its headers.
_ANCILLARY, _NETWORK, _LINK = -0x1000, -0x100000, -0x200000
_ABOUT: dict[int, Callable[[Any], int]] = {
    0: lambda packet: packet.ethertype,
    4: lambda packet: packet.pkt_type,
    8: lambda packet: packet.device_ifindex,
    20: lambda packet: packet.mark,
}


class _OutOfPacket(Exception):
    """A load beyond the packet's end: the program returns 0."""


def unknown_load(program: Sequence[BpfInstruction]) -> str:
    """What a program asks about the packet that is not modelled, if anything."""
    for code, _, _, k in program:
        offset = _signed(k)
        if code & 0xE7 == LD | ABS and _ANCILLARY <= offset < 0 and offset - _ANCILLARY not in _ABOUT:
            return f"ancillary load {offset - _ANCILLARY}"
    return ""


def _signed(k: int) -> int:
    return k - (1 << 32) if k >> 31 else k


def _load(packet: Any, data: bytes, at: int, width: int) -> int:
    if at < 0:
        if at >= _ANCILLARY:
            return _ABOUT[at - _ANCILLARY](packet)
        data, at = (data, at - _NETWORK) if at >= _NETWORK else (packet.frame, at - _LINK)
    if at < 0 or at + width > len(data):
        raise _OutOfPacket
    return int.from_bytes(data[at : at + width], "big")


def _alu(operation: int, a: int, b: int) -> int:
    if operation in (0x30, 0x90):
        if b == 0:
            raise _OutOfPacket  # dividing by a register that is 0 returns 0
        return a // b if operation == 0x30 else a % b
    if operation in (0x60, 0x70):
        return (a << (b & 31) if operation == 0x60 else a >> (b & 31)) & _U32
    results = {0x00: a + b, 0x10: a - b, 0x20: a * b, 0x40: a | b, 0x50: a & b, 0x80: -a, 0xA0: a ^ b}
    return results[operation] & _U32


def run(program: Sequence[BpfInstruction], packet: Any) -> int:
    """What a program that was checked returns for a packet."""
    try:
        return _run(program, packet)
    except _OutOfPacket:
        return 0


def _run(program: Sequence[BpfInstruction], packet: Any) -> int:
    data: bytes = packet.data
    a = x = at = 0
    cells = [0] * _CELLS
    while True:
        code, jump_true, jump_false, k = program[at]
        at += 1
        kind, mode = code & 7, code & 0xE0
        if kind == LD:
            if mode == ABS:
                a = _load(packet, data, _signed(k), _WIDTHS[code & 0x18])
            elif mode == IND:
                a = _load(packet, data, x + _signed(k), _WIDTHS[code & 0x18])
            else:
                a = k if mode == IMM else cells[k] if mode == MEM else len(data)
        elif kind == LDX:
            if mode == MSH:
                x = (_load(packet, data, k, 1) & 15) * 4
            else:
                x = k if mode == IMM else cells[k] if mode == MEM else len(data)
        elif kind in (ST, STX):
            cells[k] = a if kind == ST else x
        elif kind == ALU:
            a = _alu(code & 0xF0, a, x if code & 8 else k)
        elif kind == JMP:
            operation, b = code & 0xF0, x if code & 8 else k
            if operation == 0:
                at += k
            else:
                holds = {0x10: a == b, 0x20: a > b, 0x30: a >= b, 0x40: a & b != 0}[operation]
                at += jump_true if holds else jump_false
        elif kind == RET:
            return a if code & 0x18 == 0x10 else k
        else:
            a, x = (a, a) if code & 0xF8 == 0 else (x, x)
