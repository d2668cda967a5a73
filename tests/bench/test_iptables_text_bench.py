"""How long the save text of 10,000 Services of 5 endpoints takes to read and to print (about 170,000 rules).

Where nothing is timed there are fewer.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from typing import Any

import pytest

from pktsim.netfilter.iptables_text import parse_save, print_save
from pktsim.netfilter.ruleset import Family

ENDPOINTS = 5

pytestmark = pytest.mark.slow


def _chain(kind: str, key: str) -> str:
    return f"KUBE-{kind}-{base64.b32encode(hashlib.sha256(key.encode()).digest())[:16].decode()}"


@functools.cache
def save_text(services: int) -> str:
    """The nat table as kube-proxy writes it."""
    rules: dict[str, list[str]] = {"KUBE-SERVICES": [], "KUBE-MARK-MASQ": ["-j MARK --set-xmark 0x4000/0x4000"]}
    for number in range(services):
        name, address = f"default/s{number}:http", f"172.16.{number >> 8}.{number & 255}/32"
        service = _chain("SVC", name)
        said = f'-d {address} -p tcp -m comment --comment "{name} cluster IP" -m tcp --dport 80'
        rules["KUBE-SERVICES"].append(f"{said} -j {service}")
        rules[service] = [f"! -s 10.0.0.0/8 {said} -j KUBE-MARK-MASQ"]
        for at in range(ENDPOINTS):
            index = number * ENDPOINTS + at
            endpoint = f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}"
            chain = _chain("SEP", name + endpoint)
            chance = round(2**31 / (ENDPOINTS - at)) / 2**31
            draw = f" -m statistic --mode random --probability {chance:.11f}" if at < ENDPOINTS - 1 else ""
            rules[service].append(f'-m comment --comment "{name} -> {endpoint}:8080"{draw} -j {chain}')
            rules[chain] = [
                f'-s {endpoint}/32 -m comment --comment "{name}" -j KUBE-MARK-MASQ',
                f'-p tcp -m comment --comment "{name}" -m tcp -j DNAT --to-destination {endpoint}:8080',
            ]
    lines = ["*nat", *(f":{chain} ACCEPT [0:0]" for chain in ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"))]
    lines += [f":{chain} - [0:0]" for chain in sorted(rules)]
    lines.append("-A PREROUTING -j KUBE-SERVICES")
    lines += [f"-A {chain} {rule}" for chain in sorted(rules) for rule in rules[chain]]
    return "\n".join([*lines, "COMMIT", ""])


def test_read(benchmark: Any, services: int) -> None:
    text = save_text(services)
    ruleset = benchmark.pedantic(parse_save, args=(text, Family.IPV4), rounds=1)
    assert sum(len(chain.rules) for chain in ruleset.tables[0].chains) == services * (2 + 3 * ENDPOINTS) + 2


def test_print(benchmark: Any, services: int) -> None:
    text = save_text(services)
    ruleset = parse_save(text, Family.IPV4)
    assert benchmark.pedantic(print_save, args=(ruleset,), rounds=1) == text
