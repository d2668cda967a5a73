"""All scripts of the ``…_cases`` beside this, by name: for the tests here and for those on the running kernel."""

from __future__ import annotations

from tests.kernel import (
    bridge_cases,
    connlimit_cases,
    fragment_cases,
    node_cases,
    option_cases,
    router6_cases,
    sender_cases,
)

SCRIPTS = (
    node_cases.SCRIPTS
    | bridge_cases.SCRIPTS
    | fragment_cases.SCRIPTS
    | connlimit_cases.SCRIPTS
    | option_cases.SCRIPTS
    | router6_cases.SCRIPTS
    | sender_cases.SCRIPTS
)
