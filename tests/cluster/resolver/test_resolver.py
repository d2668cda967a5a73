"""Resolvers on the sockets of a pod, and the files that the kubelet writes for them."""

from __future__ import annotations

import pytest

from pktsim.clock import NS_PER_S
from pktsim.cluster.kubedns import wire
from pktsim.cluster.loader import load_objects
from pktsim.cluster.objects import Pod
from pktsim.cluster.resolver import ResolutionError, pod_resolver
from pktsim.cluster.resolver.addrselect import sort_addresses
from pktsim.cluster.resolver.client import Libc
from pktsim.cluster.resolver.conf import KubeletDns, parse_glibc, parse_musl, pod_resolv_conf
from pktsim.cluster.resolver.hosts import HostsFile, pod_hosts_file
from pktsim.cluster.resolver.interface import GaiError, numeric_address
from pktsim.errors import ObjectError
from pktsim.kernel.task import run
from pktsim.rng import ScriptedChoices
from tests.cluster.dns_world import COREFILE, RESOLV_CONF, DnsWorld, dns_world


def resolve(world: DnsWorld, name: str, libc: Libc = "glibc") -> list[str]:
    return run(world.world.clock, pod_resolver(world.client.sockets, RESOLV_CONF, libc=libc)(name))


def questions(world: DnsWorld) -> list[tuple[str, int]]:
    messages = [wire.unpack(octets) for octets in world.datagrams("client")]
    return [(message.question[0].name, message.question[0].type) for message in messages]


@pytest.mark.parametrize("libc", ["glibc", "musl"])
def test_a_short_name_is_found_by_the_first_suffix(libc: Libc) -> None:
    world = dns_world()
    assert resolve(world, "web", libc) == ["10.96.10.1"]
    assert questions(world) == [("web.default.svc.cluster.local.", 1), ("web.default.svc.cluster.local.", 28)]
    ports = {seen.packet.payload[:2] for seen in world.world.log if seen.host == "client"}
    assert len(ports) == 1


@pytest.mark.parametrize("pipelined", [0, 1])
def test_whether_the_answer_is_back_before_the_second_question_leaves_can_be_chosen(pipelined: int) -> None:
    world = dns_world(choices=ScriptedChoices({"client/resolver.pipelined": [pipelined]}))
    assert resolve(world, "web") == ["10.96.10.1"]
    order = [seen.host for seen in world.world.log]
    assert order == [["client", "dns"] * 2, ["client", "client", "dns", "dns"]][pipelined]


@pytest.mark.parametrize("libc", ["glibc", "musl"])
def test_a_name_that_does_not_exist_walks_the_whole_list(libc: Libc) -> None:
    world = dns_world(COREFILE.replace("    forward . 192.0.2.53\n", ""))
    with pytest.raises(ResolutionError) as caught:
        resolve(world, "nope", libc)
    assert caught.value.error in (GaiError.NONAME, GaiError.AGAIN)
    suffixes = ["default.svc.cluster.local.", "svc.cluster.local.", "cluster.local.", ""]
    assert list(dict.fromkeys(name for name, _ in questions(world))) == [f"nope.{suffix}" for suffix in suffixes]


@pytest.mark.parametrize(("libc", "seconds"), [("glibc", 20.0), ("musl", 5.0)])
def test_silence_is_given_up(libc: Libc, seconds: float) -> None:
    world = dns_world()
    world.world.wire.fate = lambda number, packet: []
    began_ns = world.world.clock.now_ns
    with pytest.raises(ResolutionError):
        resolve(world, "web", libc)
    assert (world.world.clock.now_ns - began_ns) / NS_PER_S == pytest.approx(seconds, abs=0.1)


def test_hosts_come_first() -> None:
    world = dns_world()
    assert resolve(world, "localhost") == ["::1", "127.0.0.1"]
    assert world.world.log == []


@pytest.mark.parametrize(
    ("text", "address"),
    [("10.96.10.1", "10.96.10.1"), ("10.1", "10.0.0.1"), ("0x7f.1", "127.0.0.1"), ("fd00::1", "fd00::1"),
     ("10.1.2.300", None), ("010.0.0.1", "8.0.0.1"), ("web", None), ("1.2.3.4.5", None), ("", None)],
)  # fmt: skip
def test_numeric_addresses(text: str, address: str | None) -> None:
    assert numeric_address(text) == address


def test_files_are_read_with_the_bounds_of_the_library() -> None:
    text = (
        "nameserver 1.1.1.1\n" * 5
        + "search a b\noptions ndots:99 timeout:99 attempts:99 rotate\n; nameserver 9.9.9.9\n"
    )
    glibc = parse_glibc(text)
    assert (len(glibc.servers), glibc.search, glibc.ndots, glibc.timeout_s, glibc.attempts) == (
        3,
        ("a", "b"),
        15,
        30,
        5,
    )
    assert glibc.flags == {"rotate"}
    musl = parse_musl(text)
    assert (len(musl.servers), musl.search, musl.ndots, musl.timeout_s, musl.attempts) == (3, ("a", "b"), 15, 60, 10)
    assert parse_glibc("").servers == parse_musl("").servers == ("127.0.0.1",)
    assert parse_glibc("", "web.example.com").search == ("example.com",)


KUBELET = KubeletDns(("10.96.0.10",), "cluster.local", "nameserver 192.0.2.1\nsearch corp.example\noptions edns0\n")
CLUSTER = (
    "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example\n"
    "nameserver 10.96.0.10\noptions ndots:5\n"
)
HOST = "search corp.example\nnameserver 192.0.2.1\noptions edns0\n"
POLICIES = {
    "the default": ("", CLUSTER),
    "Default": ("dnsPolicy: Default", HOST),
    "on the host's network": ("hostNetwork: true", HOST),
    "on the host's network, with the cluster's": ("{hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet}", CLUSTER),
    "None": ("{dnsPolicy: None, dnsConfig: {nameservers: [9.9.9.9]}}", "nameserver 9.9.9.9\n"),
    "with more": (
        "dnsConfig: {nameservers: [9.9.9.9], searches: [x.test, cluster.local], "
        "options: [{name: ndots, value: '2'}, {name: edns0}]}",
        "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example x.test\n"
        "nameserver 10.96.0.10\nnameserver 9.9.9.9\noptions edns0 ndots:2\n",
    ),
}  # fmt: skip


def pod(spec: str) -> Pod:
    text = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: web-0, namespace: shop}}\nspec: {spec or '{}'}\n"
    if spec and not spec.startswith("{"):
        text = text.replace(f"spec: {spec}", f"spec:\n  {spec}")
    (found,) = load_objects(text, check=False)
    assert isinstance(found, Pod)
    return found


@pytest.mark.parametrize("what", POLICIES)
def test_what_the_kubelet_writes(what: str) -> None:
    spec, expected = POLICIES[what]
    assert pod_resolv_conf(pod(spec), KUBELET) == expected


def test_no_name_server_at_all_is_an_error() -> None:
    with pytest.raises(ObjectError, match="dnsPolicy None needs at least one"):
        pod_resolv_conf(pod("dnsPolicy: None"), KUBELET)


def test_the_hosts_file_of_a_pod_has_its_names() -> None:
    spec = "{subdomain: web, hostAliases: [{ip: 192.0.2.7, hostnames: [old.test, older.test]}]}"
    found = pod(spec).model_copy(update={"status": pod(spec).status.model_copy(update={})})
    hosts = HostsFile(pod_hosts_file(found))
    assert hosts.addresses("OLDER.test") == ["192.0.2.7"]
    assert hosts.canonical("older.test") == "old.test"
    assert hosts.addresses("localhost") == ["127.0.0.1", "::1"]
    assert hosts.names("::1")[0] == "localhost"


def test_addresses_that_cannot_be_reached_come_last() -> None:
    sources = {"10.0.0.1": "10.0.0.9", "2001:db8::1": None, "fd00::1": "fd00::9"}
    assert sort_addresses(list(sources), sources.get) == ["fd00::1", "10.0.0.1", "2001:db8::1"]
