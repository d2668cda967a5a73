"""Cases with something wrong in them, somewhere: each runs, or is refused in one line."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pktsim.errors import PktsimError
from pktsim.kernel.case_report import ExplainedCase
from tests.kernel.node_cases import SCRIPTS

pytestmark = pytest.mark.slow

NAMES = ("path_mtu_of_a_socket", "path_mtu6", "fragments_with_half_a_header", "untracked_error")
CASES = [json.loads(json.dumps(SCRIPTS[name]().case)) for name in NAMES]
CASES[0]["steps"].append({"send_socket": {"listener": "service", "dst": ["10.1.0.9", 9], "data": "00"}})
CASES[0]["steps"].append({"advance": 1})
CASES[0]["ip_rules"] = [{"priority": 7, "fwmark": 1, "table": 9}]
CASES[0]["routes"] = [{"dst": "10.9.0.0/16", "via": "10.2.0.9", "dev": "out", "table": 9}]
CASES[0]["ipsets"] = "create some hash:ip\nadd some 10.0.0.1\n"

#: What does not belong somewhere.
STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ("10.0.0.1/33", "::1", "fe80::1/64", "in", "lo", "default", "45" + "00" * 19, "60" + "00" * 39, "ff" * 14)
    ),
    st.builds(list),
    st.builds(dict),
    st.builds(lambda: [{}]),
)


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(one for key, each in below for one in places(each, (*path, key)))]


@given(data=st.data())
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_wrong_is_one_line(data: st.DataObject) -> None:
    case = copy.deepcopy(data.draw(st.sampled_from(CASES)))
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(places(case)[1:] or [("name",)]))
        parent = case
        for key in path[:-1]:
            parent = parent[key]
        how = data.draw(st.sampled_from(("replace", "remove", "rename", "edit")))
        old = parent.get(path[-1]) if isinstance(parent, dict) else parent[path[-1]]
        if how == "remove" and isinstance(parent, (dict, list)):
            parent.pop(path[-1], None) if isinstance(parent, dict) else parent.pop(path[-1])  # type: ignore[arg-type]
        elif how == "rename" and isinstance(parent, dict):
            parent[f"{path[-1]}x"] = parent.pop(path[-1], None)
        elif how == "edit" and isinstance(old, str) and old:
            at = data.draw(st.integers(0, len(old) - 1))
            parent[path[-1]] = old[:at] + data.draw(st.text(max_size=2)) + old[at + 1 :]
        else:
            parent[path[-1]] = data.draw(STRANGE)
    refused = ""
    try:
        explained = ExplainedCase(case)
    except PktsimError as error:
        refused = str(error)
    if refused:
        assert "\n" not in refused
        return
    list(explained.lines(trace=True))
    json.dumps(explained.result())
