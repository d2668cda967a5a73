"""Which frames an expectation is about."""

from __future__ import annotations

from pktsim.kernel.capture import CapturedFrame
from pktsim.scenario.model import FrameExpectation
from pktsim.wire.frame_match import FrameMatch


def frame_fits(wanted: FrameExpectation, frame: CapturedFrame) -> bool:
    """Whether a frame is one of those that an expectation is about."""
    if wanted.on and wanted.on not in (frame.where, frame.space):
        return False
    if wanted.direction and wanted.direction != frame.direction:
        return False
    match = FrameMatch(
        wanted.protocol,
        wanted.src,
        wanted.dst,
        wanted.sport,
        wanted.dport,
        wanted.flags,
        wanted.ttl,
        text=wanted.text,
    )
    return match.fits(frame.frame)
