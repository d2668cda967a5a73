"""Routes of what the namespace sends itself, and what its protocols ask of routes.

Packets that come in are routed by the engine. Follows net/ipv4/route.c, fib_frontend.c, net/ipv6/route.c of Linux 6.18.
"""

from __future__ import annotations

import errno
from typing import Final

from pktsim.clock import HZ, Clock
from pktsim.kernel.addrconf import is_link_local, is_multicast6, select_source
from pktsim.kernel.icmp6 import IPV6_MIN_MTU
from pktsim.kernel.ip import OutputRoute
from pktsim.kernel.netdev import AF_INET, AF_INET6, LOOPBACK_IFINDEX, NetDevice, Scope, family_of
from pktsim.kernel.path_mtu import PathMtu, PathMtus
from pktsim.kernel.rule_tables import RuleTables
from pktsim.kernel.timer_wheel import TimerWheel
from pktsim.kernel.transport import LOOPBACK4
from pktsim.netfilter.opcodes import RouteType
from pktsim.rng import Choices
from pktsim.wire.addr import ip_to_text, is_multicast

#: ``IP_MAX_MTU``, ``IP6_MAX_MTU``: IPv6's length field does not count the header.
_MAX_MTU: Final = {AF_INET: 0xFFFF, AF_INET6: 0xFFFF + 40}

#: ``-errno`` of routes that refuse (``fib_props``, net/ipv4/fib_semantics.c).
_ROUTE_ERRORS: Final = {
    0: errno.ENETUNREACH,
    RouteType.BLACKHOLE: errno.EINVAL,
    RouteType.UNREACHABLE: errno.EHOSTUNREACH,
    RouteType.PROHIBIT: errno.EACCES,
    RouteType.THROW: errno.ENETUNREACH,
}


class Routing(RuleTables):
    """A namespace that knows its ways: the arguments are those of :class:`~pktsim.kernel.netns.Netns`."""

    def __init__(self, name: str, *, clock: Clock, choices: Choices, wheel: TimerWheel | None = None) -> None:
        super().__init__(name, clock=clock, choices=choices)
        self.wheel = TimerWheel(clock) if wheel is None else wheel
        self.path_mtus = PathMtus(self.datapath, self.wheel)

    def route_output(self, daddr: bytes, *, saddr: bytes = b"", ifindex: int = 0, mark: int = 0) -> OutputRoute:
        """``ip_route_output_key``: the way, and the source address to use.

        Raises:
            OSError: As connect(2) would: ENETUNREACH, EHOSTUNREACH, EACCES, EINVAL, ENODEV.
        """
        family = family_of(daddr)
        any_address = bytes(len(daddr))
        if saddr == any_address:
            saddr = b""
        limited = family == AF_INET and daddr == b"\xff\xff\xff\xff"
        multicast = daddr[0] >> 4 == 14 if family == AF_INET else is_multicast6(daddr)
        if saddr and family == AF_INET:
            if saddr[0] >> 4 == 14 or saddr == b"\xff\xff\xff\xff":
                raise OSError(errno.EINVAL, f"{ip_to_text(saddr)} cannot be a source")
            if not ifindex and not self.is_local(saddr):
                raise OSError(errno.EINVAL, f"{ip_to_text(saddr)} is not an address of {self.name}")
            if not ifindex and (multicast or limited):
                ifindex = self._device_with(saddr)
        if family == AF_INET6 and (multicast or is_link_local(daddr)) and not ifindex and saddr:
            ifindex = self._device_with(saddr) if is_link_local(saddr) else 0
        device = self.devices.find(ifindex) if ifindex else None
        if ifindex and device is None:
            raise OSError(errno.ENODEV, f"{self.name} has no interface {ifindex}")
        if device is not None and not device.up:
            raise OSError(errno.ENETUNREACH, f"{device.name} is down")
        if device is not None and family == AF_INET and (multicast or limited):
            saddr = saddr or self.select_address(device, b"", Scope.LINK)
            return OutputRoute(saddr, ifindex, min(device.mtu, _MAX_MTU[family]), False, limited)
        if daddr == any_address and family == AF_INET:
            daddr = saddr or LOOPBACK4
        route_type, out, _, preferred, mtu = self.datapath.route(daddr, saddr=saddr, ifindex=ifindex, mark=mark)
        if family == AF_INET6 and multicast and device is not None and route_type == 0:
            route_type, out, mtu = RouteType.MULTICAST, ifindex, device.mtu  # ff00::/8 of every device
        if route_type == 0 and device is not None and family == AF_INET:
            # "Apparently, routing tables are wrong. Assume, that the destination is on link."
            saddr = saddr or self.select_address(device, b"", Scope.LINK)
            return OutputRoute(saddr, ifindex, min(device.mtu, _MAX_MTU[family]), False, False)
        error = _ROUTE_ERRORS.get(route_type)
        local = route_type in (RouteType.LOCAL, RouteType.ANYCAST)
        if error is None and not local and self.loopback_on_a_link(saddr, out):
            error = errno.EINVAL
        if error is not None:
            raise OSError(error, f"{self.name}: no way to {ip_to_text(daddr)}")
        if family == AF_INET6 and not saddr:
            saddr = preferred or self.select_address6(self.devices.find(out), daddr)
            if not saddr:
                raise OSError(errno.EADDRNOTAVAIL, f"{self.name} has no address to write to {ip_to_text(daddr)} from")
        mtu = min(mtu, _MAX_MTU[family])
        if not local:
            learnt = self.path_mtus.find(daddr)
            mtu = min(mtu, learnt.mtu) if learnt is not None else mtu
        return OutputRoute(saddr or preferred, out, mtu, local, limited or route_type == RouteType.BROADCAST)

    def way_back(self, daddr: bytes, saddr: bytes, mark: int) -> bool:
        """``ip_route_me_harder`` of an answer that is not from an address of ours: whether there is a route for it."""
        if is_multicast(daddr) or daddr == b"\xff\xff\xff\xff":
            return self.is_local(saddr)
        route_type, out, *_ = self.datapath.route(daddr, saddr=saddr, mark=mark)
        return route_type not in _ROUTE_ERRORS and not self.loopback_on_a_link(saddr, out)

    def loopback_on_a_link(self, saddr: bytes, ifindex: int) -> bool:
        """``__mkroute_output``: an IPv4 loopback address is no source of what leaves by a link."""
        if len(saddr) != 4 or saddr[0] != 127 or ifindex == LOOPBACK_IFINDEX:
            return False
        return not self.sysctls.conf_or(self.devices.get(ifindex).name, "route_localnet")

    def route_source(self, daddr: bytes, *, ifindex: int = 0, mark: int = 0) -> bytes:
        """``icmpv6_rt_has_prefsrc``: the source address that the route to ``daddr`` names; empty if it names none."""
        return bytes(self.datapath.route(daddr, ifindex=ifindex, mark=mark)[3])

    def select_address6(self, device: NetDevice | None, destination: bytes) -> bytes:
        """``ipv6_dev_get_saddr``: a source address for what leaves by ``device``; empty if there is none."""
        only = device is not None and bool(self.sysctls.conf("net.ipv6.conf", device.name, "use_oif_addrs_only"))
        return select_source(self.devices, device, destination, only_out=only)

    def hop_limit(self, ifindex: int) -> int:
        """``ip6_dst_hoplimit``: of packets of our own that leave by a device."""
        device = self.devices.find(ifindex)
        return self.sysctls.conf("net.ipv6.conf", device.name if device is not None else "all", "hop_limit")

    def _device_with(self, address: bytes) -> int:
        for device in self.devices:
            if any(entry.address == address for entry in device.addresses):
                return device.ifindex
        return 0

    def is_local(self, address: bytes) -> bool:
        return self.datapath.address_type(address) == RouteType.LOCAL

    def mtu(self, ifindex: int) -> int:
        """A device's MTU."""
        return self.devices.get(ifindex).mtu

    def specific_destination(self, destination: bytes, source: bytes, ifindex: int) -> bytes:
        """``fib_compute_spec_dst``: our address in the place of the broadcast address that was asked."""
        if self.is_local(destination):
            return destination
        if source[0]:
            _, _, _, preferred, _ = self.datapath.route(source)
            if preferred:
                return bytes(preferred)
        return self.select_address(self.devices.find(ifindex), source, Scope.UNIVERSE if source[0] else Scope.LINK)

    def update_pmtu(self, daddr: bytes, mtu: int, *, mark: int = 0) -> None:
        """``__ip_rt_update_pmtu``: a router said that this much fits towards ``daddr``."""
        if len(daddr) == 4 and self.sysctls.number("net.ipv4.ip_no_pmtu_disc") == 1:
            mtu = 0  # what the message says is not believed, that it came is
        try:
            route = self.route_output(daddr, mark=mark)
        except OSError:
            return
        if route.local or route.mtu < mtu:
            return
        old = self.path_mtus.find(daddr)
        if old is not None and old.locked:
            return
        if len(daddr) == 16:
            # never below what every link must carry (RFC 8201 section 4)
            expires = self.wheel.jiffies + self.sysctls.number("net.ipv6.route.mtu_expires") * HZ
            if IPV6_MIN_MTU <= mtu < route.mtu:
                self.path_mtus.learn(daddr, PathMtu(mtu, False, expires))
            return
        floor = self.sysctls.number("net.ipv4.route.min_pmtu")
        locked = mtu < floor
        if locked:
            mtu = min(route.mtu, floor)
        expires = self.wheel.jiffies + self.sysctls.number("net.ipv4.route.mtu_expires") * HZ
        self.path_mtus.learn(daddr, PathMtu(mtu, locked, expires))

    def redirected(self, daddr: bytes, gateway: bytes, *, router: bytes, ifindex: int) -> None:
        """``__ip_do_redirect``: not obeyed; hosts here keep the next hop that their routes name."""
