"""Types of the wire layer as its users see them; mypy reads this file, nothing runs it.

``warn_unused_ignores`` makes each ``type: ignore`` a test as well: the line must be an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

if TYPE_CHECKING:
    from pktsim.wire.capture import Capture, CapturedFrame, CaptureInterface
    from pktsim.wire.frame import FrameView, TcpFlag, ipv4, tcp, udp
    from pktsim.wire.scapy_io import packet_bytes, read_capture
    from pktsim.wire.summary import summary

    view = FrameView(b"")
    assert_type(view.saddr, bytes)
    assert_type(view.tcp_flags, TcpFlag)
    assert_type(view.quoted, FrameView | None)
    assert_type(summary(b""), str)
    assert_type(ipv4(b"", b"", 6), bytes)
    assert_type(read_capture("x.pcap"), Capture)
    assert_type(Capture().on("node-a/cni0"), list[CapturedFrame])

    ipv4("10.0.0.1", b"", 6)  # type: ignore[arg-type]
    udp(b"", b"", 1, 2, b"", False)  # type: ignore[call-arg]
    tcp(b"", b"", 1, 2, flags=2)  # type: ignore[call-arg]
    summary("00")  # type: ignore[arg-type]
    CaptureInterface("a").name = "b"  # type: ignore[misc]
    view.no_such_field  # type: ignore[attr-defined]  # noqa: B018
    packet_bytes(b"")
