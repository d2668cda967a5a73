"""Many frames in one call give what they give one by one."""

from __future__ import annotations

import struct
from array import array

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from pktsim.kernel.kernel import Kernel
from pktsim.netfilter.opcodes import Event, Upcall

MAC = "02:00:00:00:00:01"
NOW_NS = 1_000_000_000


def node() -> Kernel:
    kernel = Kernel(forward=True)
    kernel.interface("eth0", "10.0.0.1/24", mac=MAC)
    kernel.interface("eth1", "10.1.0.1/24", mac="02:00:00:00:00:02")
    kernel.neighbour("10.1.0.9", "02:00:00:00:01:09", "eth1")
    return kernel


def datagram(port: int, *, to: str = "10.1.0.9", ttl: int = 64, size: int = 20) -> bytes:
    layers = Ether(src="02:00:00:00:00:09", dst=MAC) / IP(src="10.0.0.9", dst=to, ttl=ttl) / UDP(sport=port, dport=53)
    return bytes(layers / bytes(size))


def test_a_batch_is_its_frames_one_by_one() -> None:
    frames = (
        [
            datagram(1),
            datagram(2, ttl=1),  # Python is to tell the sender
            datagram(3, size=600),
            datagram(4, to="10.1.0.77"),  # waits for a neighbour
            datagram(5)[:20],  # no IP header
            datagram(6, size=1300),
            datagram(7, to="10.0.0.1"),  # for the node itself
            datagram(8),
        ]
        * 50
    )
    single = node()
    ifindex = single.netns.devices.named("eth0").ifindex
    events = [event for frame in frames for event in single.netns.datapath.receive(ifindex, frame, NOW_NS)]
    ends = array("I")
    for frame in frames:
        ends.append(len(frame) + (ends[-1] if ends else 0))
    records, octets, handed = node().netns.datapath.receive_batch(ifindex, b"".join(frames), ends, NOW_NS)

    told = list(struct.iter_unpack("=4i", records))
    assert [(kind, reason) for kind, reason, _, _ in told] == [(event[0], event[2]) for event in events]
    cut = [octets[at : at + size] for kind, _, at, size in told if kind in (Event.RX, Event.TX)]
    assert cut == [event[3] for event in events if event[0] in (Event.RX, Event.TX)]
    upcalls = [event for event in events if event[0] == Event.UPCALL and event[3] is not None]
    assert {event[2] for event in upcalls} == {Upcall.ICMP_ERROR, Upcall.NEIGHBOUR_MISS, Upcall.DELIVER}
    assert [(*one[:3], one[3].data, *one[4:]) for one in handed] == [
        (*one[:3], one[3].data, *one[4:]) for one in upcalls
    ]
