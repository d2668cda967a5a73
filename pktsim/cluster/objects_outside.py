"""Outside: a document of our own that says what lies beyond the cluster's router.

It stands among the objects, so that a file says everything of its world, whoever reads it (``run``, ``trace``, Python).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeVar

from pydantic import ValidationError

from pktsim.errors import TopologyError

from .objects_meta import Bool, CIDRText, DNSLabel, IPText, KubeModel, KubeObject

PKTSIM_API = "pktsim.io/v1"
#: The router that is the nodes' way out, and the networks that are there from the beginning.
ROUTER_NAME, OUTSIDE_NETWORK_NAME, NODE_NETWORK_NAME = "router", "outside", "nodes"


class NetworkPlan(KubeModel):
    """A network behind a router, which has its first free address."""

    name: DNSLabel
    cidr: CIDRText
    router: DNSLabel = ROUTER_NAME


class RouterPlan(KubeModel):
    """A router with one leg in ``network`` and, if ``inside`` says so, a network of its own name behind it.

    Attributes:
        address: In ``network``; a free one if empty.
        nat: It masquerades what leaves by that leg, and its other networks are not known beyond it.
    """

    name: DNSLabel
    network: DNSLabel = OUTSIDE_NETWORK_NAME
    address: IPText | Literal[""] = ""
    inside: CIDRText | None = None
    nat: Bool = False


class HostPlan(KubeModel):
    """A host. ``address`` is a free one if empty."""

    name: DNSLabel
    network: DNSLabel = OUTSIDE_NETWORK_NAME
    address: IPText | Literal[""] = ""


_Plan = TypeVar("_Plan", HostPlan, NetworkPlan, RouterPlan)


def plan_of(model: type[_Plan], **values: Any) -> _Plan:
    """A plan made of what a caller of Python says.

    Raises:
        TopologyError: A value is not what it has to be.
    """
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{first['loc'][0]} {first['input']!r}: {first['msg'].removeprefix('Value error, ')}"
        raise TopologyError(what, place=str(values["name"])) from None


class OutsideSpec(KubeModel):
    """What there is, in the order in which it is built: routers, networks, hosts."""

    routers: tuple[RouterPlan, ...] = ()
    networks: tuple[NetworkPlan, ...] = ()
    hosts: tuple[HostPlan, ...] = ()


class Outside(KubeObject):
    """The world beyond the nodes' router."""

    namespaced: ClassVar[bool] = False
    api_versions: ClassVar[tuple[str, ...]] = (PKTSIM_API,)

    spec: OutsideSpec = OutsideSpec()
