"""The engine's C enums and Python's IntEnums are the same numbers under the same names."""

from __future__ import annotations

import enum
import re
from pathlib import Path

import pytest

import pktsim
from pktsim.netfilter import opcodes

INCLUDES = Path(pktsim.__file__).parent / "includes"
#: ``cdef enum:  # Hook: HOOK_``: the Python name and the prefix of the C names.
HEAD = re.compile(r"^cdef enum:\s*#\s*(?P<name>\w+):\s*(?P<prefix>\w+_)\s*$")
MEMBER = re.compile(r"^    (?P<name>\w+)\s*=\s*(?P<value>-?(?:0x[0-9a-fA-F]+|\d+))\s*(?:#.*)?$")


def c_enums(text: str) -> dict[str, dict[str, int]]:
    """Each headed enum's members by Python's name for them.

    Raises:
        ValueError: A line in such an enum is not a member with a plain number.
    """
    enums: dict[str, dict[str, int]] = {}
    members: dict[str, int] | None = None
    prefix = ""
    for line in text.splitlines():
        if head := HEAD.match(line):
            members = enums.setdefault(head["name"], {})
            prefix = head["prefix"]
        elif not line.startswith(" "):
            members = None
        elif members is not None and line.strip() and not line.strip().startswith("#"):
            member = MEMBER.match(line)
            if member is None or not member["name"].startswith(prefix):
                raise ValueError(f"not a member of {prefix}: {line}")
            name = member["name"].removeprefix(prefix)
            if name in members:
                raise ValueError(f"twice in {prefix}: {line}")
            members[name] = int(member["value"], 0)
    return enums


C_ENUMS = c_enums((INCLUDES / "consts.pxi").read_text())
PYTHON_ENUMS = {
    name: kind
    for name, kind in vars(opcodes).items()
    if isinstance(kind, type) and issubclass(kind, enum.IntEnum | enum.IntFlag) and kind.__module__ == opcodes.__name__
}
#: Anonymous enums of types.pxi that hold kernel numbers: Python's name for them and the C prefix. The engine has more
#: members than Python needs to know.
KERNEL_ENUMS = {"CtInfo": "CTINFO_", "CtStatus": "S_"}


@pytest.mark.parametrize("name", sorted(C_ENUMS))
def test_members_agree(name: str) -> None:
    assert name in PYTHON_ENUMS, f"netfilter/opcodes.py has no {name}"
    assert C_ENUMS[name] == {member.name: member.value for member in PYTHON_ENUMS[name]}


@pytest.mark.parametrize("name", sorted(KERNEL_ENUMS))
def test_kernel_numbers_agree(name: str) -> None:
    prefix = KERNEL_ENUMS[name]
    pattern = rf"^    {prefix}(\w+)\s*=\s*(\d+)"
    members = {found[1]: int(found[2]) for found in re.finditer(pattern, (INCLUDES / "types.pxi").read_text(), re.M)}
    known = {member.name: member.value for member in PYTHON_ENUMS[name]}
    both = members.keys() & known.keys()
    assert len(both) >= len(known) - 1
    assert {key: members[key] for key in both} == {key: known[key] for key in both}


def test_no_enum_is_left_out() -> None:
    # CtStateBit is a mask inside a row's operand, built in Python and tested bit by bit in the engine.
    assert PYTHON_ENUMS.keys() - C_ENUMS.keys() - KERNEL_ENUMS.keys() <= {"CtStateBit"}


@pytest.mark.parametrize("name", sorted(PYTHON_ENUMS))
def test_no_number_has_two_names(name: str) -> None:
    assert len(PYTHON_ENUMS[name].__members__) == len(set(PYTHON_ENUMS[name].__members__.values()))


def test_the_reader_refuses_what_it_cannot_read() -> None:
    with pytest.raises(ValueError, match="not a member"):
        c_enums("cdef enum:  # Hook: HOOK_\n    HOOK_A = 1 << 2\n")
    with pytest.raises(ValueError, match="twice"):
        c_enums("cdef enum:  # Hook: HOOK_\n    HOOK_A = 1\n    HOOK_A = 1\n")
