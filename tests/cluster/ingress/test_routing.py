"""Which server, location and endpoints: the model alone, and what annotations and settings make of it."""

from __future__ import annotations

from typing import Any

import pytest

from pktsim.cluster.cluster import Cluster
from pktsim.cluster.ingress.routing import Location, Routes, Server, normal_path
from pktsim.cluster.ingress.settings import LocationSettings, read_arguments
from pktsim.cluster.objects import Pod
from pktsim.errors import ObjectError, UnsupportedFeature
from tests.cluster.ingress.world import get, ingress, rule, service, text, told, world


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a/b", "/a/b"),
        ("/a?b=/c", "/a"),
        ("/a%2Fb", "/a/b"),
        ("/%41", "/A"),
        ("//a///b/", "/a/b/"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/.a/..b", "/.a/..b"),
        ("/", "/"),
        ("/..", None),
        ("/a/../../b", None),
        ("/%zz", None),
        ("/%4", None),
        ("/%00", None),
    ],
)
def test_paths_are_made_normal_before_they_are_compared(target: str, path: str | None) -> None:
    assert normal_path(target) == path


def routes(*locations: tuple[str, bool], host: str = "a.example.com") -> Routes:
    listed = [Location(path, exact, f"{path}{'!' if exact else ''}", LocationSettings()) for path, exact in locations]
    catch_all = Server("_", [Location("/", False, "default", LocationSettings())])
    return Routes({"_": catch_all, host: Server(host, [*listed, Location("/", False, "root", LocationSettings())])}, {})


def test_the_longest_prefix_and_before_it_the_exact_path() -> None:
    found = routes(("/a", False), ("/a/b", False), ("/a", True), ("/c/", False)).servers["a.example.com"]
    wanted = {
        "/a": "/a!", "/a/": "/a", "/a/x": "/a", "/a/b": "/a/b", "/a/b/c": "/a/b", "/a/bc": "/a", "/ab": "root",
        "/c": "/c/", "/c/": "/c/", "/c/d": "/c/", "/cd": "root", "/": "root",
    }  # fmt: skip
    assert {path: found.location(path).backend for path in wanted} == wanted


@pytest.mark.parametrize(
    ("host", "server"),
    [
        ("x.example.com", "*.example.com"),
        ("x-1.example.com", "*.example.com"),
        ("x_1.example.com", "*.example.com"),
        ("x.y.example.com", "_"),
        ("example.com", "_"),
        (".example.com", "_"),
        ("", "_"),
        ("_", "_"),
        ("com", "_"),
    ],
)
def test_a_wildcard_stands_for_one_label(host: str, server: str) -> None:
    assert routes(host="*.example.com").server(host).hostname == server


def rewriting(path: str, target: str, asked: str) -> tuple[int, str]:
    kind = "ImplementationSpecific"
    annotations = {"use-regex": "true", "rewrite-target": target}
    only = ingress("shop", rule("shop.example.com", (path, kind, "web")), annotations=annotations)
    cluster = world(*service("web"), only)
    answer = get(cluster, f"http://shop.example.com{asked}")
    return answer.status, told(answer)["path"] if answer.status == 200 else ""


@pytest.mark.parametrize(
    ("path", "target", "asked", "sent"),
    [
        ("/api(/|$)(.*)", "/$2", "/api/v1/x?y=1", "/v1/x?y=1"),
        ("/api(/|$)(.*)", "/$2", "/api", "/"),
        ("/api(/|$)(.*)", "/$2", "/API/x", "/x"),
        ("/something", "/", "/something/new", "/"),
        ("/(.*)", "/base/$1", "/a%20b", "/base/a%20b"),
        ("/x/(.*)", "/$1?z=1", "/x/a?b=2", "/a?z=1&b=2"),
        ("/x/(.*)", "/$1?z=1?", "/x/a?b=2", "/a?z=1"),
    ],
)
def test_targets_are_rewritten(path: str, target: str, asked: str, sent: str) -> None:
    assert rewriting(path, target, asked) == (200, sent)


def test_what_a_pattern_does_not_match_is_not_found() -> None:
    assert rewriting("/api/v[0-9]+/.*", "/x", "/api/vx/a") == (404, "")


def test_one_pattern_makes_all_paths_of_its_host_patterns() -> None:
    pattern = ingress(
        "pattern",
        rule("a.example.com", ("/v[12]", "ImplementationSpecific", "web")),
        annotations={"use-regex": "true"},
    )
    plain = ingress(
        "plain", rule("a.example.com", ("/foo", "Exact", "rest")), rule("b.example.com", ("/foo", "Exact", "web"))
    )
    cluster = world(*service("web"), *service("rest"), pattern, plain)
    assert told(get(cluster, "http://a.example.com/V1x"))["service"] == "web"
    assert told(get(cluster, "http://a.example.com/FOObar"))["service"] == "rest"
    assert get(cluster, "http://b.example.com/FOO").status == 404


def test_redirects() -> None:
    cluster = world(
        *service("web"),
        ingress(
            "gone", rule("gone.example.com", ("/", "Prefix", "web")), annotations={"permanent-redirect": "http://x/"}
        ),
        ingress(
            "away", rule("away.example.com", ("/", "Prefix", "web")), annotations={"temporal-redirect": "http://y/"}
        ),
        ingress("app", rule("app.example.com", ("/", "Prefix", "web")), annotations={"app-root": "/start"}),
    )
    answers = {host: get(cluster, f"http://{host}.example.com/") for host in ("gone", "away", "app")}
    assert {host: (answer.status, answer.header("location")) for host, answer in answers.items()} == {
        "gone": (301, "http://x/"),
        "away": (302, "http://y/"),
        "app": (302, "http://app.example.com/start"),
    }
    assert told(get(cluster, "http://app.example.com/start"))["path"] == "/start"


def annotated(name: str, value: str) -> None:
    Cluster(1).apply(text([ingress("it", rule("a.example.com", ("/", "Prefix", "web")), annotations={name: value})]))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("proxy-read-timeout", "soon", "nginx.ingress.kubernetes.io/proxy-read-timeout: 'soon' is not a number"),
        ("proxy-body-size", "8x", "'8x' is not a size such as 8k or 1m"),
        ("ssl-redirect", "maybe", "'maybe' is neither true nor false"),
        ("proxy-next-upstream", "error sometimes", "'sometimes' is no condition of proxy_next_upstream"),
        ("app-root", "start", "'start' does not start with '/'"),
    ],
)
def test_a_wrong_annotation_is_told_with_its_place(name: str, value: str, said: str) -> None:
    with pytest.raises(ObjectError) as caught:
        annotated(name, value)
    assert said in str(caught.value)
    assert "Ingress default/it" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("auth-url", "http://x/"), ("canary", "true"), ("affinity", "cookie"), ("backend-protocol", "GRPC")],
)
def test_what_is_not_modelled_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(UnsupportedFeature, match=name):
        annotated(name, value)


def test_annotations_that_change_nothing_here_are_passed_over() -> None:
    annotated("proxy-buffering", "on")


def test_a_pattern_that_is_none_is_refused() -> None:
    only = ingress(
        "it", rule("a.example.com", ("/a(", "ImplementationSpecific", "web")), annotations={"use-regex": "true"}
    )
    with pytest.raises(ObjectError, match="path '/a\\(' is no regular expression"):
        Cluster(1).apply(text([only]))


def test_a_backend_that_is_no_service_is_refused_by_name() -> None:
    bucket = {"resource": {"apiGroup": "k8s.example.com", "kind": "StorageBucket", "name": "static"}}
    with pytest.raises(UnsupportedFeature, match="a backend of kind StorageBucket"):
        Cluster(1).apply(text([ingress("it", defaultBackend=bucket)]))


def test_settings_and_options_are_checked_before_anything_changes() -> None:
    with pytest.raises(UnsupportedFeature, match="setting ssl-ciphers"):
        world(config={"ssl-ciphers": "X"})
    with pytest.raises(ObjectError, match=r"data\.keep-alive: 'long' is not a number"):
        world(config={"keep-alive": "long"})
    with pytest.raises(UnsupportedFeature, match="option --tcp-services-configmap"):
        world(arguments=["--tcp-services-configmap=a/b"])
    with pytest.raises(ObjectError, match="'somewhere' is not namespace/name"):
        world(arguments=["--default-backend-service=somewhere"])
    pod = {"containers": [{"name": "c", "image": "x/ingress-nginx/controller"}], "hostNetwork": True}
    with pytest.raises(UnsupportedFeature, match="an ingress controller with hostNetwork"):
        Cluster(1).apply(text([{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "own"}, "spec": pod}]))
    cluster = world(*service("web"))
    change = {"kind": "ConfigMap", "apiVersion": "v1", "data": {"hsts": "2"}}
    metadata = {"name": "ingress-nginx-controller", "namespace": "ingress-nginx"}
    with pytest.raises(ObjectError, match=r"data\.hsts: '2' is neither true nor false"):
        cluster.apply(text([{**change, "metadata": metadata}]))
    # Another ConfigMap may say what it likes.
    cluster.apply(text([{**change, "metadata": {**metadata, "name": "other"}}]))
    with pytest.raises(UnsupportedFeature, match=r"pktsim\.io/app: nginx"):
        cluster.apply(text(service("x", app="nginx")))


def arguments(*args: str, **annotations: str) -> Any:
    pod = {
        "metadata": {"name": "it", "namespace": "ns", "annotations": annotations},
        "spec": {"containers": [{"name": "c", "command": ["/nginx-ingress-controller"], "args": list(args)}]},
    }
    return read_arguments(Pod.model_validate(pod))


def test_the_command_line_is_read_as_go_reads_it() -> None:
    found = arguments(
        "--configmap=$(POD_NAMESPACE)/conf", "--enable-ssl-passthrough", "-ingress-class", "other", "--v=3",
        "--watch-ingress-without-class=true", "--update-status=false",
    )  # fmt: skip
    assert found.configmap == "ns/conf"
    assert found.ingress_class == "other"
    assert (found.enable_ssl_passthrough, found.without_class, found.update_status) == (True, True, False)
    assert arguments(**{"pktsim.io/watch-delay": "1.5s"}).watch_delay_ns == 1_500_000_000
    with pytest.raises(ObjectError, match="'soon' is not a number of seconds"):
        arguments(**{"pktsim.io/watch-delay": "soon"})


CLASSES = """\
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: mine}
spec: {controller: k8s.io/ingress-nginx}
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: others}
spec: {controller: example.com/other}
"""


@pytest.mark.parametrize(
    ("spec", "annotations", "options", "served"),
    [
        ({"ingressClassName": "mine"}, {}, {}, True),
        ({"ingressClassName": "others"}, {}, {}, False),
        ({"ingressClassName": "absent"}, {}, {}, False),
        ({}, {"kubernetes.io/ingress.class": "nginx"}, {}, True),
        ({}, {"kubernetes.io/ingress.class": "traefik"}, {}, False),
        ({}, {}, {}, True),
        ({}, {}, {"default_class": False}, False),
        ({}, {}, {"default_class": False, "arguments": ["--watch-ingress-without-class=true"]}, True),
        ({"ingressClassName": "mine"}, {}, {"arguments": ["--watch-namespace=elsewhere"]}, False),
    ],
)
def test_whose_an_ingress_is(
    spec: dict[str, Any], annotations: dict[str, str], options: dict[str, Any], served: bool
) -> None:
    cluster = world(*service("web"), **options)
    only = ingress("it", rule("a.example.com", ("/", "Prefix", "web")), **spec)
    only["metadata"]["annotations"] = annotations
    cluster.apply(CLASSES)
    cluster.apply(text([only]))
    assert get(cluster, "http://a.example.com/").status == (200 if served else 404)
    (found,) = cluster.store.list("Ingress")
    assert bool(found.status.load_balancer.ingress) == served  # type: ignore[attr-defined]
