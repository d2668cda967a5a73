"""Which Service has which balancer and which address, and what its status says: decided from the objects alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from pktsim.errors import ObjectError

from ..addresses import parse_ip
from ..objects import LoadBalancer, LoadBalancerIngress, ObjectMeta, Service
from ..objects_balancer import (
    BALANCER_ANNOTATION,
    CLASS_PREFIX,
    MODES,
    SHARING_ANNOTATIONS,
    LoadBalancerSpec,
    pool_networks,
)
from ..objects_services import LoadBalancerStatus, ServiceStatus
from ..store import ObjectStore

NONE = "none"


@dataclass(frozen=True, slots=True)
class Assignment:
    """A Service, its balancer, and its address there."""

    service: Service
    balancer: LoadBalancer
    address: IPv4Address


def of_mode(mode: str) -> LoadBalancer:
    """A balancer that nobody has written a document for; it is called as its mode.

    Raises:
        ObjectError: There is no such mode.
    """
    for known in MODES:
        if mode == known:
            return LoadBalancer(metadata=ObjectMeta(name=known), spec=LoadBalancerSpec(mode=known))
    raise ObjectError(f"there is no load balancer {mode!r}", mend=f"one of {', '.join(MODES)}, or {NONE}")


class AddressBook:
    """Gives addresses to Services of type LoadBalancer.

    Args:
        store: The objects.
        default: The mode of Services that say nothing, while there is no LoadBalancer among the objects.
    """

    def __init__(self, store: ObjectStore, default: str) -> None:
        if default != NONE:
            of_mode(default)
        self._store = store
        self._default = default
        #: By Service: what was given. An address is kept while it may be.
        self._given: dict[tuple[str, str], IPv4Address] = {}

    def balancer_of(self, service: Service) -> LoadBalancer | None:
        """The balancer that a Service of type LoadBalancer asks for; ``None`` if it is somebody else's, or nobody's.

        Raises:
            ObjectError: It names one that does not exist.
        """
        known = {found.name: found for found in self._store.list(LoadBalancer)}
        wanted = service.metadata.annotations.get(BALANCER_ANNOTATION, "")
        class_name = service.spec.load_balancer_class or ""
        if not wanted and class_name:
            for found in known.values():
                if found.spec.load_balancer_class == class_name:
                    return found
            if not class_name.startswith(CLASS_PREFIX):
                return None
            wanted = class_name.removeprefix(CLASS_PREFIX)
        if wanted:
            if wanted == NONE or wanted in known:
                return known.get(wanted)
            try:
                return of_mode(wanted)
            except ObjectError as error:
                names = ", ".join([*known, *MODES])
                raise ObjectError(error.what, place=str(service), mend=f"there are {names}") from None
        free = [found for found in known.values() if not found.spec.load_balancer_class]
        if free:
            return next((found for found in free if found.name == "default"), free[0])
        return None if self._default == NONE else of_mode(self._default)

    def assign(self) -> list[Assignment]:
        """Give every Service its address and say so in its status; those that are none any more lose theirs.

        Raises:
            ObjectError: An address that is asked for is taken, or a pool is used up.
        """
        result: list[Assignment] = []
        services = list(self._store.list(Service))
        for service in services:
            if service.spec.type != "LoadBalancer":
                self._forget(service)
        wanting = [found for found in services if found.spec.type == "LoadBalancer"]
        # Who has an address, or asks for one, goes before those who take any.
        for service in sorted(wanting, key=lambda one: (self._wish(one) is None, one.key)):
            balancer = self.balancer_of(service)
            if balancer is None:
                continue
            address = self._choose(service, balancer, result)
            self._given[service.namespace, service.name] = address
            result.append(Assignment(self._say(service, balancer, address), balancer, address))
        return sorted(result, key=lambda one: one.service.key)

    def _wish(self, service: Service) -> IPv4Address | None:
        """The address that a Service must have: what it asks for, what it was given, or what its status says."""
        if service.spec.load_balancer_ip:
            return _ipv4(service.spec.load_balancer_ip)
        given = self._given.get((service.namespace, service.name))
        if given is not None:
            return given
        texts = (ingress.ip for ingress in service.status.load_balancer.ingress)
        return next((address for text in texts if text and (address := _ipv4(text)) is not None), None)

    def _choose(self, service: Service, balancer: LoadBalancer, others: list[Assignment]) -> IPv4Address:
        wish = self._wish(service)
        holders: dict[IPv4Address, list[Assignment]] = {}
        for other in others:
            holders.setdefault(other.address, []).append(other)
        if wish is not None:
            for other in holders.get(wish, ()):
                if not _may_share(service, balancer, other):
                    raise ObjectError(
                        f"{wish} is the load balancer address of {other.service} too",
                        place=str(service),
                        mend=f"leave it out to get a free one, or give both the annotation {SHARING_ANNOTATIONS[0]}",
                    )
            return wish
        if _sharing_key(service):
            for address, of_it in sorted(holders.items()):
                if all(_may_share(service, balancer, other) for other in of_it):
                    return address
        for address in _pool(balancer):
            if address not in holders:
                return address
        pools = ", ".join(balancer.spec.addresses)
        raise ObjectError(f"no address left in {pools}", place=str(service), mend=f"give {balancer} another pool")

    def _say(self, service: Service, balancer: LoadBalancer, address: IPv4Address) -> Service:
        spec = balancer.spec
        if spec.hostname:
            ingress = LoadBalancerIngress(hostname=f"{service.name}-{service.namespace}.{spec.hostname}")
        else:
            ingress = LoadBalancerIngress(ip=str(address), ip_mode=spec.said_ip_mode)
        status = ServiceStatus(load_balancer=LoadBalancerStatus(ingress=(ingress,)))
        return self._store.apply(service.model_copy(update={"status": status}))

    def _forget(self, service: Service) -> None:
        if self._given.pop((service.namespace, service.name), None) is not None:
            self._store.apply(service.model_copy(update={"status": ServiceStatus()}))


def _ipv4(text: str) -> IPv4Address | None:
    address = parse_ip(text)
    return address if isinstance(address, IPv4Address) else None


def _pool(balancer: LoadBalancer) -> Iterator[IPv4Address]:
    """All addresses of a balancer, in order; those that end a whole /24 are left out, since old devices drop them."""
    for text in balancer.spec.addresses:
        for network in pool_networks(text):
            for offset in range(network.num_addresses):
                address: IPv4Address = network.network_address + offset
                if "-" in text or (address.packed[3] not in (0, 255)):
                    yield address


def _sharing_key(service: Service) -> str:
    annotations = service.metadata.annotations
    return next((annotations[name] for name in SHARING_ANNOTATIONS if annotations.get(name)), "")


def _may_share(service: Service, balancer: LoadBalancer, other: Assignment) -> bool:
    """Whether two Services may have one address: MetalLB's rules (internal/allocator, ``sharingOK``)."""
    key = _sharing_key(service)
    if not key or key != _sharing_key(other.service) or balancer.name != other.balancer.name:
        return False
    ports = {(port.port, port.protocol) for port in service.spec.ports}
    if any((port.port, port.protocol) in ports for port in other.service.spec.ports):
        return False
    both_cluster = not service.external_policy_local and not other.service.external_policy_local
    return both_cluster or service.spec.selector == other.service.spec.selector
