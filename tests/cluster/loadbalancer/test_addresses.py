"""Which Service has which balancer and which address."""

from __future__ import annotations

import pytest

from pktsim.cluster.cluster import Cluster
from pktsim.cluster.loadbalancer.addresses import AddressBook, of_mode
from pktsim.cluster.loader import load_objects
from pktsim.cluster.objects import Service
from pktsim.cluster.objects_balancer import pool_networks
from pktsim.cluster.store import ObjectStore
from pktsim.errors import ObjectError

SMALL = """\
apiVersion: pktsim.io/v1
kind: LoadBalancer
metadata: {name: small}
spec: {mode: l2, addresses: 198.51.100.20-198.51.100.21}
"""


def service(name: str, spec: str = "", annotations: str = "", port: int = 80) -> str:
    return f"""\
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default, annotations: {{{annotations}}}}}
spec: {{type: LoadBalancer, selector: {{app: {name}}}, ports: [{{port: {port}}}], {spec}}}
"""


def store_of(*texts: str) -> ObjectStore:
    store = ObjectStore()
    store.apply_all(load_objects("---\n".join(texts)))
    return store


def addresses(*texts: str, default: str = "l2") -> dict[str, str]:
    return {one.service.name: str(one.address) for one in AddressBook(store_of(*texts), default).assign()}


def test_the_first_free_addresses_are_given_in_order_of_names() -> None:
    assert addresses(service("b"), service("a")) == {"a": "198.51.100.1", "b": "198.51.100.2"}


def test_an_address_that_is_asked_for_is_kept_from_the_others() -> None:
    wanted = service("z", "loadBalancerIP: 198.51.100.1")
    assert addresses(service("a"), wanted) == {"z": "198.51.100.1", "a": "198.51.100.2"}


def test_an_address_in_the_status_is_kept() -> None:
    text = service("a") + "status: {loadBalancer: {ingress: [{ip: 192.0.2.99}]}}\n"
    assert addresses(text) == {"a": "192.0.2.99"}


def test_the_status_names_address_and_mode() -> None:
    for mode, ip_mode in (("l2", "VIP"), ("passthrough", "VIP"), ("nat", "Proxy"), ("proxy", "Proxy")):
        store = store_of(service("a"))
        AddressBook(store, mode).assign()
        found = store.get(Service, "a", "default")
        assert found is not None
        (ingress,) = found.status.load_balancer.ingress
        assert (ingress.ip, ingress.ip_mode) == ("198.51.100.1", ip_mode)


def test_a_balancer_with_a_domain_gives_names() -> None:
    balancer = SMALL.replace("mode: l2", "mode: nat, hostname: elb.example")
    store = store_of(balancer, service("a"))
    AddressBook(store, "none").assign()
    found = store.get(Service, "a", "default")
    assert found is not None
    (ingress,) = found.status.load_balancer.ingress
    assert (ingress.ip, ingress.hostname) == ("", "a-default.elb.example")


def test_a_service_that_is_no_load_balancer_any_more_loses_its_address() -> None:
    store = store_of(service("a"))
    book = AddressBook(store, "l2")
    book.assign()
    store.apply_all(load_objects(service("a").replace("type: LoadBalancer", "type: NodePort")))
    assert book.assign() == []
    found = store.get(Service, "a", "default")
    assert found is not None
    assert found.status.load_balancer.ingress == ()


def test_an_address_stays_when_the_service_is_applied_again() -> None:
    store = store_of(service("a"), service("b"))
    book = AddressBook(store, "l2")
    book.assign()
    store.delete("Service", "a", "default")
    store.apply_all(load_objects(service("b")))
    assert [str(one.address) for one in book.assign()] == ["198.51.100.2"]


@pytest.mark.parametrize(
    ("annotations", "spec", "balancer"),
    [
        ("", "", "small"),
        ("pktsim.io/load-balancer: nat", "", "nat"),
        ("pktsim.io/load-balancer: none", "", None),
        ("", "loadBalancerClass: pktsim.io/proxy", "proxy"),
        ("", "loadBalancerClass: pktsim.io/small", "small"),
        ("", "loadBalancerClass: example.com/other", None),
    ],
)
def test_who_serves_a_service(annotations: str, spec: str, balancer: str | None) -> None:
    found = AddressBook(store_of(SMALL, service("a", spec, annotations)), "none").assign()
    assert [one.balancer.name for one in found] == ([balancer] if balancer else [])


def test_a_balancer_with_a_class_takes_only_services_of_that_class() -> None:
    balancer = SMALL.replace("mode: l2", "mode: l2, loadBalancerClass: example.com/own")
    own = service("b", "loadBalancerClass: example.com/own")
    found = AddressBook(store_of(balancer, service("a"), own), "none").assign()
    assert [(one.service.name, one.balancer.name) for one in found] == [("b", "small")]


SHARE = "metallb.io/allow-shared-ip: key"


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (service("a", annotations=SHARE), service("b", annotations=SHARE, port=443), True),
        (service("a", annotations=SHARE), service("b", annotations=SHARE), False),
        (service("a", annotations=SHARE), service("b", port=443), False),
        (
            service("a", "externalTrafficPolicy: Local", SHARE),
            service("b", "externalTrafficPolicy: Local", SHARE, 443),
            False,
        ),
    ],
)
def test_who_may_share_an_address(first: str, second: str, together: bool) -> None:
    found = addresses(first, second)
    assert (found["a"] == found["b"]) is together


def test_what_cannot_be_given_is_said() -> None:
    with pytest.raises(ObjectError, match=r"no address left in 198\.51\.100\.20-198"):
        addresses(SMALL, *(service(name) for name in "abc"))
    with pytest.raises(ObjectError, match=r"9 is the load balancer address of Service default/a too"):
        addresses(*(service(name, "loadBalancerIP: 198.51.100.9") for name in "ab"))
    with pytest.raises(ObjectError, match="there is no load balancer 'mars'"):
        addresses(service("a", annotations="pktsim.io/load-balancer: mars"))
    with pytest.raises(ObjectError, match="there is no load balancer 'mars'"):
        Cluster(1, load_balancer="mars")
    with pytest.raises(ObjectError, match="is not a pool"):
        load_objects(SMALL.replace("198.51.100.20-198.51.100.21", "198.51.100.20-nonsense"))
    with pytest.raises(ObjectError, match="proxyProtocol is for mode proxy"):
        load_objects(SMALL.replace("mode: l2", "mode: nat, proxyProtocol: v1"))
    with pytest.raises(ObjectError, match="there is no load balancer 'x'"):
        of_mode("x")


def test_pools_are_networks_or_ranges() -> None:
    assert sum(network.num_addresses for network in pool_networks("198.51.100.20-198.51.100.30")) == 11
    assert [str(network) for network in pool_networks("198.51.100.0/25")] == ["198.51.100.0/25"]
