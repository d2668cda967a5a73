"""IPv4 recordings of kube-proxy's input as IPv6: the same cluster, address by address."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

FILES: Final = ("objects.yaml", "config.yaml", "host.yaml")
_ADDRESS = re.compile(r"\b(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?:/(\d+))?(?![\d.])")


def mirrored(text: str) -> str:
    """``10.244.1.11/24`` becomes ``fd00:10:244:1::b/64``, networks within networks stay so."""
    text = _ADDRESS.sub(_in_six, text)
    return re.sub(r"\bIPv4\b", "IPv6", text)


def _in_six(found: re.Match[str]) -> str:
    *octets, last, length = found.groups()
    address = f"fd00:{':'.join(octets)}::{int(last):x}"
    if length is None:
        return address
    bits = int(length)
    if bits == 0:
        return "::/0"
    if bits > 24:
        return f"{address}/{128 - 32 + bits}"
    if bits % 8:
        raise ValueError(f"{found[0]} cannot be said in IPv6: its prefix ends within an octet")
    return f"{address.removesuffix('::0')}{'::' if address.endswith('::0') else ''}/{16 + 2 * bits}"


def mirror(directory: Path, target: Path) -> Path:
    """Write a recording's input in IPv6 to ``target``."""
    target.mkdir()
    for name in FILES:
        (target / name).write_text(mirrored((directory / name).read_text()))
    return target
