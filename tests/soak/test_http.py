"""The soak in small, and that it would see what is wrong."""

from __future__ import annotations

import pytest

from pktsim.kernel.netem import Netem
from tests.soak.http import THROUGH, Outcome, Plan, soak

BAD = Netem(loss=0.02, duplicate=0.01, reorder=0.25, delay_ms=1)


@pytest.mark.slow
@pytest.mark.parametrize("through", sorted(THROUGH))
def test_every_request_is_answered_and_nothing_is_left(through: str) -> None:
    outcome = soak(THROUGH[through](Plan(requests=150, netem=BAD)))
    assert not outcome.wrong, outcome
    assert outcome.answered + outcome.errors.total() == 150
    assert outcome.answered > 140
    assert any("retransmission" in text for text in outcome.experts)  # or nothing was lost


@pytest.mark.slow
def test_corrupt_frames_do_not_reach_programs() -> None:
    """The capture would have bad checksums, as they were: so tshark is not asked."""
    outcome = soak(Plan(requests=60, netem=Netem(corrupt=0.05, delay_ms=1), capture=False))
    assert not outcome.wrong, outcome
    assert outcome.answered > 50


def test_a_link_that_loses_all_ends_in_errors_of_the_right_kind() -> None:
    outcome = soak(Plan(requests=4, clients=4, netem=Netem(loss=1), timeout_s=3, capture=False))
    assert not outcome.wrong, outcome
    assert outcome.answered == 0
    assert outcome.errors.total() == 4


def small(plan: Plan) -> Outcome:
    plan.requests, plan.clients, plan.netem = 2, 1, Netem()
    return soak(plan)


def test_the_wrong_answer_is_seen() -> None:
    assert "HTTP 200" in small(Plan(body="nobody saw {local}\n", capture=False)).wrong[0]


def test_a_refused_connection_is_no_right_error() -> None:
    (wrong, _) = small(Plan(url="http://127.0.0.1:81/", capture=False)).wrong
    assert "Couldn't connect" in wrong


def test_a_reset_that_nothing_explains_is_seen() -> None:
    wrong = small(Plan(url="http://127.0.0.1:81/", interface="lo")).wrong
    assert any("a reset at" in text for text in wrong)
