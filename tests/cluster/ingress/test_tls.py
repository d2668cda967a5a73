"""TLS: certificates by name, redirects, what is handed on undecrypted, and captures that Wireshark can read."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from pktsim.cluster.cluster import Cluster
from pktsim.cluster.ingress.certificates import fake_certificate
from pktsim.errors import ObjectError
from pktsim.scenario.script import views
from tests import tools
from tests.cluster.ingress.authority import Authority, authority
from tests.cluster.ingress.test_proxy import said
from tests.cluster.ingress.world import ingress, log, rule, service, text, told, world
from tests.tshark import check_capture

SHOP = "https://shop.example.com/"


def secured(*more: dict[str, Any], annotations: dict[str, str] | None = None, **options: Any) -> Cluster:
    """Two hosts with certificates, and one without."""
    return world(
        authority().secret("shop", "shop.example.com"),
        authority().secret("wild", "*.wild.example.com"),
        *service("web"),
        ingress(
            "shop",
            rule("shop.example.com", ("/", "Prefix", "web")),
            rule("*.wild.example.com", ("/", "Prefix", "web")),
            annotations=annotations or {},
            tls=[
                {"hosts": ["shop.example.com"], "secretName": "shop"},
                {"hosts": ["*.wild.example.com"], "secretName": "wild"},
            ],
        ),
        ingress("plain", rule("plain.example.com", ("/", "Prefix", "web"))),
        *more,
        **options,
    )


def address(cluster: Cluster, port: int = 443) -> str:
    return f"{cluster.ingress_address.partition(':')[0]}:{port}"


def get(cluster: Cluster, url: str, **options: Any) -> Any:
    options.setdefault("connect_to", cluster.ingress_address.partition(":")[0])
    if not options.get("insecure"):
        options.setdefault("ca", authority().pem)
    return cluster.outside.http_get(url, **options)


def test_each_name_gets_its_certificate() -> None:
    cluster = secured()
    headers = told(get(cluster, SHOP))["headers"]
    assert (headers["x-forwarded-proto"], headers["x-forwarded-port"], headers["x-scheme"]) == ("https", "443", "https")
    assert get(cluster, "https://a.wild.example.com/").status == 200
    with pytest.raises(OSError, match="SSL certificate problem: self-signed certificate"):
        get(cluster, "https://plain.example.com/")
    answer = get(cluster, "https://plain.example.com/", insecure=True)
    assert answer.status == 200
    assert answer.header("strict-transport-security") == "max-age=31536000; includeSubDomains"
    assert get(cluster, "https://nobody.example.com/", insecure=True).status == 404


def test_a_client_believes_only_whom_it_is_told_to() -> None:
    cluster = secured()
    with pytest.raises(OSError, match="SSL certificate problem: unable to get local issuer certificate"):
        get(cluster, SHOP, ca=Authority("Another").pem)
    with pytest.raises(OSError, match="SSL certificate problem"):
        get(cluster, SHOP, ca="")
    # One that is believed, and is for another name.
    for url in (f"https://{address(cluster)}/", "https://plain.example.com/"):
        with pytest.raises(OSError, match="no alternative certificate subject name matches target host name"):
            get(cluster, url, ca=fake_certificate()[0].decode())


def test_a_host_with_a_certificate_sends_plain_requests_to_it() -> None:
    cluster = secured()
    answer = get(cluster, "http://shop.example.com/a/?b=c/")
    assert (answer.status, answer.header("location")) == (308, "https://shop.example.com/a/?b=c")
    assert answer.body.startswith(b"<html>\r\n<head><title>308 Permanent Redirect</title>")
    assert get(cluster, "http://plain.example.com/").status == 200
    followed = get(cluster, "http://shop.example.com/a", redirects=3)
    assert (followed.status, followed.url) == (200, "https://shop.example.com/a")
    assert told(followed)["headers"]["x-forwarded-proto"] == "https"
    lax = secured(annotations={"ssl-redirect": "false"})
    assert get(lax, "http://shop.example.com/").status == 200
    strict = secured(annotations={"ssl-redirect": "false", "force-ssl-redirect": "true"})
    assert get(strict, "http://a.wild.example.com/").status == 308


def test_a_secret_that_is_missing_or_wrong_means_the_fake_certificate() -> None:
    wrong = authority().secret("wrong", "other.example.com")
    broken = {**authority().secret("broken", "x"), "data": {"tls.crt": "bm8=", "tls.key": "bm8="}}
    names = ("missing", "wrong", "broken")
    rules = [rule(f"{name}.example.com", ("/", "Prefix", "web")) for name in names]
    tls = [{"hosts": [f"{name}.example.com"], "secretName": name} for name in names]
    cluster = world(*service("web"), wrong, broken, ingress("bad", *rules, tls=tls))
    for name in names:
        with pytest.raises(OSError, match="SSL"):
            get(cluster, f"https://{name}.example.com/")
        assert get(cluster, f"https://{name}.example.com/", insecure=True).status == 200
        assert get(cluster, f"http://{name}.example.com/").status == 308
    cluster.apply(text([authority().secret("missing", "missing.example.com")]))
    assert get(cluster, "https://missing.example.com/").status == 200


def test_plain_http_on_the_port_for_tls() -> None:
    cluster = secured()
    host, _, port = address(cluster).partition(":")
    connection = cluster.outside.connect(host, int(port))
    connection.send(b"GET / HTTP/1.1\r\nHost: shop.example.com\r\n\r\n")
    answer = said(connection)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"<center>The plain HTTP request was sent to HTTPS port</center>" in answer
    assert answer.endswith(b"<FIN>")


def test_a_session_keeps_its_encrypted_connection() -> None:
    cluster = secured()
    host = address(cluster).partition(":")[0]
    with cluster.outside.http_session(connect_to=host, ca=authority().pem) as session:
        for number in range(3):
            assert told(session.get(f"{SHOP}{number}"))["path"] == f"/{number}"
    assert len(views(cluster, on="outside/eth0", direction="out", dport=443, flags="S")) == 1
    assert len(log(cluster)) == 3


def test_endpoints_can_be_spoken_to_through_tls() -> None:
    pods = service("safe", port_name="https")
    template = pods[0]["spec"]["template"]
    template["metadata"]["annotations"]["pktsim.io/tls"] = "shop"
    template["spec"]["containers"][0]["ports"] = [{"containerPort": 3000, "name": "https"}]
    only = ingress("safe", rule("safe.example.com", ("/", "Prefix", "safe")), annotations={"backend-protocol": "HTTPS"})
    cluster = secured(*pods, only)
    assert told(get(cluster, "http://safe.example.com/"))["service"] == "safe"
    assert not [view for view in views(cluster, dport=3000) if b"GET / HTTP" in view.data]
    cluster.delete("secret/shop")
    with pytest.raises(ObjectError, match="Pod default/safe-2: no certificate in Secret shop"):
        cluster.scale("deployment/safe", 2)


def test_passed_through_by_name_undecrypted() -> None:
    pods = service("safe")
    template = pods[0]["spec"]["template"]
    template["metadata"]["annotations"]["pktsim.io/tls"] = "safe"
    template["spec"]["containers"][0]["ports"] = [{"containerPort": 3000, "name": "https"}]
    only = ingress("safe", rule("safe.example.com", ("/", "Prefix", "safe")), annotations={"ssl-passthrough": "true"})
    secret = authority().secret("safe", "safe.example.com")
    cluster = secured(secret, *pods, only, arguments=["--enable-ssl-passthrough"])
    answer = told(get(cluster, "https://safe.example.com/"))
    assert answer["service"] == "safe"
    assert "x-forwarded-for" not in answer["headers"]  # nobody on the way has seen the request
    virtual = cluster.store.get("Service", "safe", "default").spec.cluster_ip  # type: ignore[union-attr]
    assert views(cluster, on="ingress-nginx/ingress-nginx-controller-1/eth0", direction="out", dst=virtual, dport=8080)
    assert not log(cluster)
    # Others are decrypted as ever.
    assert told(get(cluster, SHOP))["headers"]["x-forwarded-port"] == "443"
    # Without the option the annotation does nothing.
    assert get(secured(secret, *pods, only), "https://safe.example.com/", insecure=True).status == 502


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_proxy_protocol_says_who_the_client_is(version: str) -> None:
    balancer = {
        "apiVersion": "pktsim.io/v1",
        "kind": "LoadBalancer",
        "metadata": {"name": "front"},
        "spec": {"mode": "proxy", "proxyProtocol": version},
    }
    cluster = Cluster(2, seed=7)
    cluster.apply(text([balancer]))
    cluster.install_ingress(config={"use-proxy-protocol": "true"}, annotations={"pktsim.io/load-balancer": "front"})
    cluster.apply(text([*service("web"), ingress("shop", rule("shop.example.com", ("/", "Prefix", "web")))]))
    host = cluster.ingress_address.partition(":")[0]
    headers = told(cluster.outside.http_get("http://shop.example.com/", connect_to=host))["headers"]
    assert (headers["x-real-ip"], headers["x-forwarded-for"]) == ("203.0.113.9", "203.0.113.9")
    assert headers["x-forwarded-port"] == "80"
    assert log(cluster)[0].startswith("203.0.113.9 - - [")
    secure = told(cluster.outside.http_get(SHOP, connect_to=host, insecure=True))["headers"]
    assert (secure["x-real-ip"], secure["x-forwarded-proto"]) == ("203.0.113.9", "https")
    # A client without the header gets nothing.
    node = cluster.nodes[0].address
    port = cluster.store.get("Service", "ingress-nginx-controller", "ingress-nginx").spec.ports[0].node_port  # type: ignore[union-attr]
    connection = cluster.outside.connect(node, port)
    connection.send(b"GET / HTTP/1.1\r\nHost: shop.example.com\r\n\r\n")
    with contextlib.suppress(ConnectionResetError):
        assert connection.receive(2) == b""


def test_conformance_host_rules_with_tls() -> None:
    """host_rules.feature of the conformance suite: the certificate is the host's, and so is the service."""
    only = ingress(
        "host-rules",
        rule("*.foo.com", ("/", "Prefix", "wildcard-foo-com")),
        rule("foo.bar.com", ("/", "Prefix", "foo-bar-com")),
        tls=[{"hosts": ["foo.bar.com"], "secretName": "conformance-tls"}],
    )
    secret = authority().secret("conformance-tls", "foo.bar.com")
    cluster = world(secret, *service("wildcard-foo-com"), *service("foo-bar-com"), only)
    for url in ("https://foo.bar.com/", "http://foo.bar.com/"):  # the suite's client follows redirects
        answer = told(get(cluster, url, redirects=1))
        assert (answer["service"], answer["host"]) == ("foo-bar-com", "foo.bar.com")
    # TLS is on for the Ingress: its other host is redirected too, to the default certificate.
    assert get(cluster, "http://bar.foo.com/").status == 308
    answer = told(get(cluster, "http://bar.foo.com/", redirects=1, insecure=True))
    assert (answer["service"], answer["host"]) == ("wildcard-foo-com", "bar.foo.com")
    assert get(cluster, "http://baz.bar.foo.com/").status == 404


@pytest.mark.slow
def test_wireshark_reads_what_was_said(tmp_path: Path) -> None:
    tools.need("tshark")
    cluster = secured()
    get(cluster, SHOP + "secret-path")
    path = tmp_path / "tls.pcapng"
    cluster.capture.write(path)
    check_capture(path)
    shown = tools.run("tshark", "-r", str(path), "-Y", "tls and http", "-T", "fields", "-e", "http.request.uri",
                      "-e", "http.response.code")  # fmt: skip
    assert "/secret-path" in shown
    assert "200" in shown.split()
    # Nobody reads it in the bytes themselves.
    assert b"secret-path" not in b"".join(frame.frame for frame in cluster.capture.select(space="outside"))


def test_keys_go_to_a_file_and_into_captures_once(tmp_path: Path) -> None:
    keys = tmp_path / "keys.log"
    cluster = Cluster(1, keylog=keys)
    cluster.install_ingress()
    answer = cluster.outside.http_get(SHOP, connect_to=cluster.ingress_address.partition(":")[0], insecure=True)
    assert answer.status == 404
    lines = keys.read_text().splitlines()
    labels = {line.split()[0] for line in lines if not line.startswith("#")}
    assert {"CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"} <= labels
    found = cluster.capture.to_wire().tls_secrets.decode().splitlines()
    assert len(found) == len(set(found)) == len(labels)


def test_a_capture_without_tls_has_no_secrets() -> None:
    cluster = Cluster(1)
    assert cluster.capture.to_wire().tls_secrets == b""
