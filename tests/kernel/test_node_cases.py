"""What the scripts of the ``…_cases`` beside this say, here; ``tests/live`` runs them on the kernel."""

from __future__ import annotations

import pytest

from tests.kernel import (
    bridge_cases,
    connlimit_cases,
    fragment_cases,
    node_cases,
    option_cases,
    router6_cases,
    sender_cases,
)
from tests.netfilter.case_script import run

SCRIPTS = (
    node_cases.SCRIPTS
    | bridge_cases.SCRIPTS
    | fragment_cases.SCRIPTS
    | connlimit_cases.SCRIPTS
    | option_cases.SCRIPTS
    | router6_cases.SCRIPTS
    | sender_cases.SCRIPTS
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_node_case(name: str) -> None:
    run(SCRIPTS[name]())
