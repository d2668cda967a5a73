"""An Ingress told: both connections, and between them what the controller says that it did."""

from __future__ import annotations

from tests.cluster.ingress.world import ingress, rule, service, text, world


def test_a_url_is_traced_through_the_controller() -> None:
    cluster = world(*service("web"), ingress("shop", rule("*.example.com", ("/", "Prefix", "web"))))
    walk = cluster.trace_to("outside", "http://shop.example.com/cart")
    assert walk.delivered
    assert walk.title == "outside -> http://shop.example.com/cart at 198.51.100.1:80"
    (note,) = walk.notes
    assert note.summary == "10.1.1.254 asks GET shop.example.com/cart"
    pod = cluster.pod("web-1").address
    assert note.lines == (
        "server *.example.com, location prefix / (Ingress default/shop)",
        f"backend default-web-8080: the turn of {pod}:3000, 1 of 1",
    )
    lines = list(walk.lines())
    at = lines.index("    server *.example.com, location prefix / (Ingress default/shop)")
    assert any("> 198.51.100.1.80: Flags [S]" in line for line in lines[:at])
    assert any(f"> {pod}.3000: Flags [S]" in line for line in lines[at:])
    assert walk.as_data()["notes"][0]["said"] == list(note.lines)


def test_what_fails_is_told_too() -> None:
    cluster = world(*service("web", replicas=2), ingress("shop", rule("shop.example.com", ("/a", "Exact", "web"))))
    for number in (1, 2):
        cluster.pod(f"web-{number}").stop()
    walk = cluster.trace_to("outside", "http://shop.example.com/a")
    assert walk.outcome.startswith("HTTP 502: ")
    assert len(walk.notes) == 3
    assert " failed (502): the turn of " in walk.notes[1].lines[1]
    walk = cluster.trace_to("outside", "http://shop.example.com/b")
    assert walk.notes[0].lines[0] == "server shop.example.com, location prefix / (Ingress default/shop)"
    cluster.scale("deployment/web", 0)
    assert cluster.trace_to("outside", "http://shop.example.com/a").notes[0].lines[1].endswith("no endpoints: 503")


def test_another_place_to_connect_to() -> None:
    cluster = world(*service("web"), ingress("shop", rule("shop.example.com", ("/", "Prefix", "web"))))
    walk = cluster.trace_to("outside", "http://shop.example.com/", connect_to="192.168.0.12:30080")
    assert walk.delivered
    assert "192.168.0.12:30080" in walk.title


def test_a_controller_is_found_by_its_image_and_behind_any_service() -> None:
    labels = {"app": "own"}
    args = ["/nginx-ingress-controller", "--watch-ingress-without-class", "--controller-class=k8s.io/ingress-nginx"]
    container = {
        "name": "controller",
        "image": "registry.example.com/ingress-nginx/controller:v1.15.1@sha256:00",
        "args": args,
        "ports": [{"name": "web", "containerPort": 80}],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "own", "labels": labels},
        "spec": {"containers": [container]},
    }
    front = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "front"},
        "spec": {"type": "NodePort", "selector": labels, "ports": [{"port": 8000, "targetPort": "web"}]},
    }
    cluster = world(*service("web"))
    cluster.delete("deployment/ingress-nginx/ingress-nginx-controller")
    cluster.apply(text([pod, front, ingress("shop", rule("shop.example.com", ("/", "Prefix", "web")))]))
    assert cluster.pod("own").ingress is not None
    assert cluster.ingress_address == "192.168.0.11:30000"
    walk = cluster.trace_to("outside", "http://shop.example.com/")
    assert walk.delivered
    # Without a service to publish, an Ingress is where the nodes are.
    (status,) = cluster.store.list("Ingress")
    node = cluster.node(cluster.pod("own").pod.spec.node_name)
    assert [one.ip for one in status.status.load_balancer.ingress] == [node.address]  # type: ignore[attr-defined]
