"""All generators of random conversations, by name."""

from __future__ import annotations

from typing import Final

from tests.live.flow_cases import Teller
from tests.live.fragment_conversations import fragment_conversation
from tests.live.icmp_conversations import icmp_conversation
from tests.live.sctp_conversations import sctp_conversation
from tests.live.stray_packets import stray_packets
from tests.live.tcp_conversations import tcp_conversation

TELLERS: Final[dict[str, Teller]] = {
    made.__name__: made
    for made in (tcp_conversation, sctp_conversation, icmp_conversation, fragment_conversation, stray_packets)
}
