"""The typed face of the engine.

One :class:`Datapath` is the packet path of one network namespace. It never imports anything of ours: it is told its
interfaces, routes, neighbours, settings and programs, and answers with event tuples (see ``netfilter.opcodes.Event``).
Addresses are network-order bytes (4 or 16), families are ``AF_INET`` 2 and ``AF_INET6`` 10, times integer nanoseconds.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Self, TypeAlias, final

#: What has a buffer of the element type said.
Buffer: TypeAlias = bytes | bytearray | memoryview | array[Any]

#: (RX|TX, pkt_id, ifindex, frame) | (UPCALL, pkt_id, reason, Packet, a, b, c) | (DROP, pkt_id, reason, ifindex)
Event = tuple[Any, ...]

@final
class Program:
    """One lowered table: immutable, shared between namespaces that loaded equal tables."""

    def __new__(
        cls,
        rows: bytes,  # int32[n_rows, 8], see netfilter.opcodes.Op
        pool: bytes,
        entries: Sequence[int],  # first row per hook (5), -1 where the table has no chain
        n_counters: int,
        callables: Sequence[Callable[..., bool]] = (),
        places: Sequence[str] = (),  # Choices places of the random matches
        # (kind, key -> rows, all rows)
        dispatch: Sequence[tuple[int, Mapping[bytes, Sequence[int]], Sequence[int]]] = (),
        *,
        n_sets: int = 0,  # of an nft table, see netfilter.nft_lower
        n_states: int = 0,
        n_chains: int = 0,
    ) -> Self: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def n_counters(self) -> int: ...
    @property
    def n_sets(self) -> int: ...
    @property
    def n_states(self) -> int: ...
    @property
    def n_chains(self) -> int: ...
    def check_sets(self, sets: Sequence[NftSet]) -> None:
        """The rows that use sets do so with keys and data of the right sizes (``ValueError``)."""

#: What a stateful expression has counted: a, b and when (ns); see includes/types.pxi.
_Value = tuple[int, int, int]

@final
class NftSet:
    """A set or map of one nft table in one namespace."""

    def __new__(
        cls,
        kind: int,  # 0 hash, 1 intervals, 2 concatenations with intervals
        field_sizes: Sequence[int],  # bytes of each field of the key
        data_size: int,  # bytes of what elements lead to; 0: a set
        timeout_ns: int = 0,
        size: int = 0,  # 0: any number of elements
        states: Sequence[tuple[int, int, int, int, int, int]] = (),
    ) -> Self: ...
    @property
    def key_size(self) -> int: ...
    @property
    def data_size(self) -> int: ...
    def __len__(self) -> int: ...
    def add(
        self,
        low: bytes | None,  # None: the catch-all element
        high: bytes | None = None,
        data: bytes = b"",
        timeout_ns: int = 0,
        expires_ns: int = 0,  # a time; 0: never
        states: Sequence[_Value] = (),
    ) -> None: ...
    def delete(self, low: bytes | None) -> bool: ...
    def clear(self) -> None: ...
    def build(self) -> None:
        """Put intervals in order after elements have come or gone."""
    def elements(self, now_ns: int) -> list[tuple[bytes | None, bytes | None, bytes, int, int, tuple[_Value, ...]]]: ...
    def find(self, key: bytes, now_ns: int) -> bytes | None: ...

@final
class NftStates:
    """What an nft table's stateful expressions and objects keep: (kind, invert, a, b, c, d, last_ns) of each."""

    def __new__(cls, states: Sequence[tuple[int, int, int, int, int, int, int]] = ()) -> Self: ...
    def __len__(self) -> int: ...
    def values(self) -> list[_Value]: ...

def jumps_to(rows: bytes | bytearray, target: int) -> list[int]:
    """The numbers of the rows, ``int32[n, 8]`` in all, that jump to row ``target``."""

@final
class Packet:
    """A packet that left the engine in an upcall. Holds its place in the path, so that it can be resumed there.

    Using one that was resumed, output or discarded raises ``ValueError``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses: packets come from a :class:`Datapath`."""

    mark: int
    priority: int
    fragment_max: int  # the largest fragment it was gathered from, 0 if it was not
    ip_options: int  # what forwarding has to do to its IPv4 options (``kernel.ip_options.Todo``)
    linear: bool  # the fragments it was gathered from are no more, or are of no use
    ignore_df: bool  # conntrack gathered it from fragments: it is cut where it is too long
    @property
    def bridge_routed(self) -> bool:
        """Whether br_netfilter has routed it, since PREROUTING changed its destination, before it went up."""
    @property
    def options_read(self) -> bool:
        """Whether the stack has looked at its IPv4 options: neither who sends nor br_netfilter does."""
    @property
    def translated(self) -> bool:
        """NAT has changed its source or its destination, or may have."""
    @property
    def pkt_id(self) -> int: ...
    @property
    def data(self) -> bytes:
        """From the network header on (for ARP and other ethertypes too)."""
    @property
    def frame(self) -> bytes:
        """From the link-layer header on, if there is one in front."""
    @property
    def ethertype(self) -> int: ...
    @property
    def family(self) -> int: ...
    @property
    def protocol(self) -> int: ...
    @property
    def transport_offset(self) -> int:
        """From the network header; 0 where there is no transport header."""
    @property
    def in_ifindex(self) -> int: ...
    @property
    def out_ifindex(self) -> int: ...
    @property
    def phys_in_ifindex(self) -> int:
        """The bridge port it came in by, or 0."""
    @property
    def phys_out_ifindex(self) -> int: ...
    @property
    def device_ifindex(self) -> int:
        """The device it is at."""
    @property
    def hook(self) -> int: ...
    @property
    def local(self) -> bool:
        """Whether this namespace's own socket sent it."""
    @property
    def looped(self) -> bool:
        """Whether it came back through lo."""
    @property
    def bridged(self) -> bool:
        """Whether br_netfilter called the hook it is in."""
    @property
    def checksum_partial(self) -> bool:
        """Whether the kernel's own packet would not have its transport checksum yet."""
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def broadcast(self) -> bool:
        """Whether its link-layer or network destination is broadcast or multicast."""
    @property
    def pkt_type(self) -> int:
        """``PACKET_HOST`` 0, ``BROADCAST`` 1, ``MULTICAST`` 2, ``OTHERHOST`` 3."""
    @property
    def route_type(self) -> int:
        """``RouteType`` of its route, 0 before routing."""
    @property
    def route_ifindex(self) -> int: ...
    @property
    def next_hop(self) -> bytes: ...
    @property
    def fragments_keep_df(self) -> bool:
        """Whether the fragments that it was gathered from had DF, and those it is cut into shall have it."""
    @fragments_keep_df.setter
    def fragments_keep_df(self, value: bool) -> None: ...
    @property
    def ctinfo(self) -> int: ...
    @property
    def conntrack_id(self) -> int: ...
    @property
    def conntrack(self) -> dict[str, Any] | None:
        """Its entry's dictionary, or None."""
    @property
    def template_zone(self) -> tuple[int, int] | None:
        """The zone and its ``ZoneDirection`` that ``-j CT`` gave it, before conntrack has seen it."""
    def header_rewritten(self) -> None:
        """A target has changed its IPv6 header, and the checksum that conntrack kept of all of it is not told."""
    @property
    def checksum_verified(self) -> bool:
        """Connection tracking has found its transport checksum right (``skb->csum_valid``), whatever became of it."""

    @property
    def checksum_stale(self) -> bool:
        """Whether that has happened after conntrack had looked at its checksum."""
    def label_set(self, bit: int) -> None:
        """Give its connection a label; one that has no room for labels stays without."""
    def morph(self, head: Packet) -> None:
        """``skb_morph``: become a packet that waits at the same place, but for number, device and sender.

        ``head`` has gone on then.
        """
    def set_data(self, data: bytes) -> None:
        """Replace everything from the network header on (reassembly, Python targets)."""

@final
class Datapath:
    def __new__(cls, name: str, choose: Callable[[str, int, int], int]) -> Self:
        """A namespace without interfaces.

        Args:
            name: For the places that ``choose`` is asked at.
            choose: ``choose(place, kind, n)``: kind 0 wants a number below n, kind 1 a bool with probability n / 2**31.
        """

    @property
    def name(self) -> str: ...
    @property
    def now_ns(self) -> int:
        """The time that the last call said."""
    context: Any  # what uncommon matches are given to keep their state in; the engine does not look at it
    continuing: bool  # whether what an arrival set off is still being worked off, so that its bounds hold on
    capture: bool  # whether RX events, and frames in TX events of devices without a wire, are made
    # configuration
    def link_set(
        self,
        ifindex: int,
        name: str,
        kind: int,
        mac: bytes,
        mtu: int,
        *,
        up: bool = True,
        route_mtu: int = 0,
        master: int = 0,
        hairpin: bool = False,
        noarp: bool = False,
    ) -> None: ...
    def link_del(self, ifindex: int) -> None: ...
    def routes_set(
        self,
        family: int,
        table: int,
        routes: Sequence[tuple[Any, ...]],
    ) -> None:
        """Replace a routing table.

        Each route is (dst, prefix length, RouteType, scope, gateway or b"", ifindex, preferred source or b"", mtu or 0,
        metric). One next hop of several has three more: its weight, which it is, and how many there are; they stand
        one behind the other.

        The local table (255) is one of them: the local and broadcast routes that follow from the addresses.
        """
    def rules_set(self, family: int, rules: Sequence[tuple[int, int, int, bytes, int, bytes, int, int, int]]) -> None:
        """Replace the policy rules: (priority, fwmark, mask, src, its length, dst, its length, iif, table)."""
    def addresses_set(self, family: int, addresses: Sequence[tuple[int, bytes, int, int]]) -> None:
        """All addresses in the order in which they were added: (ifindex, address, prefix length, scope)."""
    def all_routers_set(self, ifindex: int, scopes: int) -> None:
        """Bit n: the device has joined the IPv6 group of all routers of scope n."""
    def is_anycast(self, address: bytes, ifindex: int = 0) -> bool:
        """``ipv6_anycast_destination`` of what is sent to an IPv6 address, by a device if that is not 0."""
    def custom_local_routes_set(self, value: bool) -> None:
        """Whether somebody has added an IPv4 local route: then source addresses are looked up in full."""
    def neighbour_set(self, ifindex: int, address: bytes, mac: bytes, neighbour_class: int) -> None: ...
    def neighbour_del(self, ifindex: int, address: bytes) -> None: ...
    def path_mtus_set(self, known: list[tuple[bytes, int, bool, int]]) -> None:
        """Replace what is known of paths: (address, MTU, locked, last jiffy it is good for)."""
    def fdb_set(self, bridge: int, mac: bytes, port: int, *, static: bool) -> None: ...
    def fdb(self, bridge: int) -> list[tuple[bytes, int, bool, int]]:
        """(MAC, port ifindex, static, learnt or refreshed at ns)."""
    def fdb_flush(self, bridge: int, *, port: int = 0, static: bool = False) -> None: ...
    def sysctl_set(self, key: int, value: int, ifindex: int = 0) -> None: ...
    def sysctl_get(self, key: int) -> int: ...
    def table_set(self, family: int, table: int, program: Program | None, counters: bytes = b"") -> None:
        """Load, replace or unload a table; counters are uint64[n_counters, 2], zero where not given."""
    def nft_set(
        self,
        tables: Sequence[tuple[Any, ...]],
        hooks: Mapping[Any, Sequence[tuple[int, int, int, int, int]]],
        nat_chains: Mapping[Any, Sequence[tuple[int, int, int, int, int]]],
    ) -> None:
        """Put nft's tables in force, with the order of everything at each hook (see netfilter.nft_runtime)."""
    def table_counters(self, family: int, table: int) -> bytes: ...
    def conntrack_enable(self, family: int, on: bool) -> None:
        """Whether some loaded rule needs connection tracking; without it neither conntrack nor nat is on the path."""
    def defragment_enable(self, family: int, on: bool) -> None:
        """Whether fragments are gathered before PREROUTING and OUTPUT see them: for conntrack, or ``-m socket``."""
    def labels_enable(self, on: bool) -> None:
        """Whether connections made from now on have room for labels."""
    def hold_set(self, hook: int, step: int, on: bool) -> None:
        """Hold packets (Upcall.HELD) before ``step`` (opcodes.Step) of ``hook``."""
    # packets
    def receive(self, ifindex: int, frame: bytes, now_ns: int) -> list[Event]: ...
    def receive_batch(
        self, ifindex: int, data: Buffer, ends: Buffer, now_ns: int, gap_ns: int = 0
    ) -> tuple[bytes, bytes, list[Event]]:
        """Frames that arrive one after the other in one call without the GIL.

        Args:
            ifindex: Where they arrive.
            data: The frames, one behind the other.
            ends: ``uint32[n]``: where each ends in ``data``.
            now_ns: When the first arrives.
            gap_ns: Between two of them.

        Returns:
            ``int32[m, 4]`` records in order (event kind, ifindex or reason, offset, length), the bytes that offsets
            point into, and the upcalls' events, which have packets to be dealt with.
        """
    def send_local(
        self,
        packet: bytes,
        now_ns: int,
        *,
        mark: int = 0,
        ifindex: int = 0,
        uid: int = 0,
        gid: int = 0,
        priority: int = 0,
        related: Packet | None = None,
        checksum_partial: bool = False,
        onlink: bool = False,
    ) -> list[Event]:
        """Send an IP packet of a local socket: route, OUTPUT, POSTROUTING, neighbour, device.

        The packet is complete, checksums included. ``ifindex`` is a socket's bound device. ``related`` is the packet
        that this one answers: it takes over its connection (``nf_ct_attach``, for REJECT's resets).
        ``checksum_partial``: the kernel would leave the transport checksum to the device, which shows where the packet
        is quoted on the way. ``onlink``: the destination is a neighbour on ``ifindex``, whatever the routes say.
        """
    def transmit(self, ifindex: int, frame: bytes, now_ns: int) -> list[Event]:
        """Give a device an Ethernet frame to send (ARP and the like), beneath the network layer."""
    def resume(self, packet: Packet, now_ns: int) -> list[Event]:
        """Let a packet go on where it left: after NEIGHBOUR_MISS, DEFRAGMENT, HELD."""
    def output(self, packet: Packet, data: Sequence[bytes], now_ns: int) -> list[Event]:
        """Send fragments of a packet that left in a FRAGMENT upcall, each from the link layer on."""
    def discard(self, packet: Packet, reason: int) -> None:
        """The handler of an upcall lets the packet die: count why (``DropReason``)."""
    def drop_count(self, reason: int) -> None:
        """Count a packet that had left the engine already and was dropped then (``DropReason``)."""
    def release(self, packet: Packet) -> None:
        """What the upcall asked for has been done, and the packet with its hold on a connection is no more."""
    def route_input(self, daddr: bytes, saddr: bytes, ifindex: int) -> tuple[int, int]:
        """``ip_route_input`` of what is no IP packet: ``RouteType`` and device; 0 for a martian, or without a route."""
    def address_type(self, address: bytes, ifindex: int = 0) -> int:
        """``RouteType`` of an address as inet_addr_type sees it: by the local table alone."""
    def route(
        self,
        daddr: bytes,
        *,
        saddr: bytes = b"",
        ifindex: int = 0,
        mark: int = 0,
        iif: int = 0,
    ) -> tuple[int, int, bytes, bytes, int]:
        """Look up: (RouteType or 0 for none, out ifindex, next hop, preferred source, mtu)."""
    # connection tracking
    def conntrack_list(self, now_ns: int) -> list[dict[str, Any]]:
        """Live entries in the order in which they were confirmed; see netfilter.conntrack.Entry for the keys."""
    def conntrack_insert(self, entry: dict[str, Any], now_ns: int) -> int: ...
    def conntrack_delete(self, entry_id: int) -> bool: ...
    def conntrack_tuple(self, packet: Packet) -> tuple[int, tuple[bytes, bytes, int, int]] | None:
        """The protocol and tuple that a packet has by its headers, connection or not; None if it has none."""
    def conntrack_find(
        self, family: int, proto: int, value: tuple[bytes, bytes, int, int], zone: int, zone_dir: int
    ) -> dict[str, Any] | None:
        """The live entry that has a tuple, in either direction.

        Raises:
            ValueError: The addresses are not of the family.
        """
    def conntrack_closing(self, packet: Packet) -> None:
        """Close the TCP connection of a packet that was answered with a reset."""
    def conntrack_flush(self) -> None: ...
    def conntrack_stats(self) -> dict[str, int]: ...
    # explanation
    def trace_set(self, on: bool) -> None: ...
    def take_trace(self) -> tuple[bytes, bytes]:
        """Records since the last call: int32[n, 6] (see netfilter.opcodes.TraceKind) and the auxiliary bytes."""
    def drop_counts(self) -> dict[int, int]:
        """Packets dropped so far by DropReason."""
    def upcall_counts(self) -> dict[int, int]: ...

def checksum(data: bytes, initial: int = 0) -> int:
    """RFC 1071 one's complement sum of ``data``, folded and inverted; ``initial`` is a partial sum to start from."""

def checksum_adjust(old_checksum: int, old: bytes, new: bytes) -> int:
    """The checksum after ``old`` bytes (even length) were replaced by ``new`` (RFC 1624)."""
