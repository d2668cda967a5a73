"""What every ingress controller has to do: host rules, path rules, default backend, class, spreading.

The cases are those of kubernetes-sigs/ingress-controller-conformance, features/*.feature, in our words. Each goes the
whole way: a client outside, a load balancer's address or a node port, the controller's pod, a pod behind a service.
"""

from __future__ import annotations

from collections import Counter

import pytest

from pktsim.cluster.cluster import Cluster
from pktsim.cluster.objects import Ingress
from tests.cluster.ingress.world import backend, get, ingress, log, rule, service, told, world

HOST_RULES = ingress(
    "host-rules",
    rule("*.foo.com", ("/", "Prefix", "wildcard-foo-com")),
    {
        "host": "foo.bar.com",
        "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend("foo-bar-com", "http")}]},
    },
)
PATH_RULES = ingress(
    "path-rules",
    rule("exact-path-rules", ("/foo", "Exact", "foo-exact")),
    rule(
        "prefix-path-rules",
        ("/foo", "Prefix", "foo-prefix"),
        ("/aaa/bbb", "Prefix", "aaa-slash-bbb-prefix"),
        ("/aaa", "Prefix", "aaa-prefix"),
    ),
    rule("mixed-path-rules", ("/foo", "Prefix", "foo-prefix"), ("/foo", "Exact", "foo-exact")),
    rule(
        "trailing-slash-path-rules",
        ("/aaa/bbb/", "Prefix", "aaa-slash-bbb-slash-prefix"),
        ("/foo/", "Exact", "foo-slash-exact"),
    ),
)
SERVICES = (
    "wildcard-foo-com", "foo-bar-com", "foo-exact", "foo-prefix", "aaa-slash-bbb-prefix", "aaa-prefix",
    "aaa-slash-bbb-slash-prefix", "foo-slash-exact",
)  # fmt: skip

#: Name of the case, URL, and the service that has to answer; none: 404.
ROUTES = [
    ("the host of a rule", "http://foo.bar.com/", "foo-bar-com"),
    ("another host of the same domain", "http://subdomain.bar.com/", ""),
    ("one label in place of the wildcard", "http://bar.foo.com/", "wildcard-foo-com"),
    ("two labels in place of the wildcard", "http://baz.bar.foo.com/", ""),
    ("no label in place of the wildcard", "http://foo.com/", ""),
    ("exact: the path", "http://exact-path-rules/foo", "foo-exact"),
    ("exact: a slash more", "http://exact-path-rules/foo/", ""),
    ("exact: other letters' case", "http://exact-path-rules/FOO", ""),
    ("exact: another path", "http://exact-path-rules/bar", ""),
    ("prefix: the path", "http://prefix-path-rules/foo", "foo-prefix"),
    ("prefix: a slash more", "http://prefix-path-rules/foo/", "foo-prefix"),
    ("prefix: other letters' case", "http://prefix-path-rules/FOO", ""),
    ("prefix: the longest of two", "http://prefix-path-rules/aaa/bbb", "aaa-slash-bbb-prefix"),
    ("prefix: below the longest of two", "http://prefix-path-rules/aaa/bbb/ccc", "aaa-slash-bbb-prefix"),
    ("prefix: below the shorter of two", "http://prefix-path-rules/aaa/ccc", "aaa-prefix"),
    ("prefix: of the text, not of the elements", "http://prefix-path-rules/aaaccc", ""),
    ("prefix: with a query", "http://prefix-path-rules/foo?aaa=/aaa", "foo-prefix"),
    ("both kinds of the same path", "http://mixed-path-rules/foo", "foo-exact"),
    ("prefix with a slash: asked without", "http://trailing-slash-path-rules/aaa/bbb", "aaa-slash-bbb-slash-prefix"),
    ("prefix with a slash: asked with", "http://trailing-slash-path-rules/aaa/bbb/", "aaa-slash-bbb-slash-prefix"),
    ("exact with a slash: asked without", "http://trailing-slash-path-rules/foo", ""),
    ("exact with a slash: asked with", "http://trailing-slash-path-rules/foo/", "foo-slash-exact"),
]


@pytest.fixture(scope="module")
def routed() -> Cluster:
    objects = [each for name in SERVICES for each in service(name)]
    return world(*objects, HOST_RULES, PATH_RULES)


@pytest.mark.parametrize("at", ["", "192.168.0.12:30080"], ids=["load balancer", "node port"])
@pytest.mark.parametrize(("name", "url", "wanted"), ROUTES, ids=[name for name, _, _ in ROUTES])
def test_a_request_reaches_its_service(routed: Cluster, name: str, url: str, wanted: str, at: str) -> None:
    answer = get(routed, url, at=at)
    if not wanted:
        assert answer.status == 404
        return
    assert answer.status == 200
    said = told(answer)
    assert said["service"] == wanted
    assert said["host"] == url.split("/")[2]
    assert said["path"] == url.removeprefix(f"http://{said['host']}")


def test_the_status_says_where_it_is_served(routed: Cluster) -> None:
    for found in routed.store.list(Ingress):
        assert [one.ip for one in found.status.load_balancer.ingress] == [routed.ingress_address.partition(":")[0]]


@pytest.fixture(scope="module")
def catching_all() -> Cluster:
    only = ingress("default-backend", defaultBackend=backend("echo-service"))
    return world(*service("echo-service"), only, config={"server-tokens": "true"})


@pytest.mark.parametrize(
    ("method", "host", "path"),
    [
        ("GET", "my-host", ""),
        ("GET", "my-host", "sub-path"),
        ("POST", "some-host", ""),
        ("PUT", "", "resource"),
        ("DELETE", "some-host", "resource"),
        ("PATCH", "my-host", "resource"),
    ],
)
def test_an_ingress_without_rules_gets_everything(catching_all: Cluster, method: str, host: str, path: str) -> None:
    address = catching_all.ingress_address
    body = b"data" if method in ("POST", "PUT", "PATCH") else None
    answer = get(
        catching_all, f"http://{host or address}/{path}", method, body=body, headers=["User-Agent: tester/1.1"]
    )
    assert answer.status == 200
    for name in ("content-length", "content-type", "date", "server"):
        assert answer.header(name)
    said = told(answer)
    assert said["service"] == "echo-service"
    assert (said["method"], said["path"], said["proto"]) == (method, f"/{path}", "HTTP/1.1")
    assert said["headers"]["user-agent"] == "tester/1.1"
    assert said["bytes"] == len(body or b"")


def test_an_ingress_of_an_unknown_class_is_nobodys() -> None:
    wanted = rule("ingress-class", ("/", "Prefix", "ingress-class-prefix"))
    cluster = world(
        *service("ingress-class-prefix"), ingress("test-ingress-class", wanted, ingressClassName="some-invalid-class")
    )
    assert get(cluster, "http://ingress-class/").status == 404
    (found,) = cluster.store.list(Ingress)
    assert found.status.load_balancer.ingress == ()


@pytest.mark.slow
def test_all_of_many_pods_are_used() -> None:
    only = ingress("load-balancing", defaultBackend=backend("echo-service"))
    cluster = world(*service("echo-service"), only)
    cluster.scale("deployment/echo-service", 10)
    answers = [get(cluster, "http://load-balancing/") for _ in range(100)]
    assert {answer.status for answer in answers} == {200}
    # In turn: each as often as any other.
    assert Counter(Counter(told(answer)["pod"] for answer in answers).values()) == {10: 10}
    assert len(log(cluster)) == 100
