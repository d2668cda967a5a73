"""What the API server says to Ingress, IngressClass and Secret objects."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import yaml

from pktsim.cluster.admission_ingress import with_default_class
from pktsim.cluster.loader import load_objects
from pktsim.cluster.objects import Ingress, IngressClass, Secret
from pktsim.errors import ObjectError

SERVICE = {"service": {"name": "web", "port": {"number": 80}}}


def load(kind: str, version: str, **fields: Any) -> Any:
    document = {"apiVersion": version, "kind": kind, "metadata": {"name": "it"}, **fields}
    (found,) = load_objects(yaml.safe_dump(document) + "\n")
    return found


def ingress(*paths: dict[str, Any], host: str = "", **spec: Any) -> Any:
    rules = [{"host": host, "http": {"paths": list(paths)}}] if paths or host else []
    return load("Ingress", "networking.k8s.io/v1", spec={**({"rules": rules} if rules else {}), **spec})


def path(text: str = "/", kind: str = "Prefix", backend: dict[str, Any] = SERVICE) -> dict[str, Any]:
    return {"path": text, "pathType": kind, "backend": backend}


def test_a_whole_ingress_is_read() -> None:
    found = ingress(
        path(),
        host="*.example.com",
        defaultBackend=SERVICE,
        ingressClassName="nginx",
        tls=[{"hosts": ["*.example.com"], "secretName": "cert"}],
    )
    assert isinstance(found, Ingress)
    assert found.spec.rules[0].http is not None
    assert found.spec.tls[0].secret_name == "cert"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "spec: has neither rules nor defaultBackend"),
        ({"host": "10.0.0.1"}, "spec.rules[0].host: 10.0.0.1 is an address"),
        ({"host": "a.*.com"}, "'*' may only be the whole first label"),
        ({"host": "*"}, "'*' may only be the whole first label"),
        ({"host": "*x.example.com"}, "'*' may only be the whole first label"),
        ({"host": "Shop.example.com"}, "'Shop.example.com' is not a DNS name"),
        ({"host": "shop.example.com:80"}, "is not a DNS name"),
        ({"paths": [path("shop")]}, "spec.rules[0].http.paths[0].path: 'shop' must start with '/'"),
        ({"paths": [path("shop", "ImplementationSpecific")]}, "'shop' must start with '/'"),
        ({"paths": [path("/a//b")]}, "'/a//b' must not contain '//'"),
        ({"paths": [path("/a/../b", "Exact")]}, "must not contain '/../'"),
        ({"paths": [path("/a%2Fb")]}, "must not contain '%2F'"),
        ({"paths": [path("/a/.")]}, "must not end in '/.'"),
        ({"paths": [{"path": "/", "backend": SERVICE}]}, "spec.rules[0].http.paths[0].pathType: is missing"),
        ({"paths": [path(kind="Regex")]}, "'Regex' is none of 'Exact', 'Prefix', 'ImplementationSpecific'"),
        ({"paths": [path(backend={})]}, "backend: needs a service or a resource, and not both"),
        ({"paths": [path(backend={"service": {"name": "web"}})]}, "port: needs a name or a number, and not both"),
        (
            {"paths": [path(backend={"service": {"name": "web", "port": {"name": "x", "number": 1}}})]},
            "port: needs a name or a number, and not both",
        ),
        ({"paths": [path(backend={"service": {"name": "web", "port": {"name": "UP"}}})]}, "is not a port name"),
        ({"paths": [path(backend={"service": {"name": "1web", "port": {"number": 1}}})]}, "starts with a letter"),
        (
            {"paths": [path(backend={"service": {"name": "w", "port": {"number": 70000}}})]},
            "less than or equal to 65535",
        ),
        (
            {"defaultBackend": {"service": {"name": "web"}}},
            "spec.defaultBackend.service.port: needs a name or a number",
        ),
        ({"defaultBackend": SERVICE, "tls": [{"hosts": ["*"]}]}, "spec.tls[0].hosts[0]: '*': '*' may only"),
        ({"defaultBackend": SERVICE, "tls": [{"secretName": "A"}]}, "is not a DNS name"),
        ({"defaultBackend": SERVICE, "ingressClassName": "N_x"}, "spec.ingressClassName: 'N_x' is not a DNS name"),
        ({"defaultBackend": SERVICE, "rule": []}, "unknown field 'rule' (did you mean 'rules'?)"),
    ],
)
def test_a_wrong_ingress_is_refused_in_one_line(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ObjectError) as caught:
        ingress(*fields.pop("paths", ()), host=fields.pop("host", ""), **fields)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Ingress default/it" in str(caught.value)


def test_a_rule_without_paths_is_a_host_alone_but_an_empty_list_is_refused() -> None:
    rule = {"host": "shop.example.com"}
    assert ingress(rules=[rule]).spec.rules[0].http is None
    with pytest.raises(ObjectError, match="paths: is empty"):
        ingress(rules=[{**rule, "http": {"paths": []}}])


def test_a_class_is_named_once() -> None:
    text = """\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: it, annotations: {kubernetes.io/ingress.class: nginx}}
spec: {ingressClassName: nginx, defaultBackend: {service: {name: web, port: {number: 80}}}}
"""
    with pytest.raises(ObjectError, match=r"stands beside spec\.ingressClassName"):
        load_objects(text)


@pytest.mark.parametrize("controller", ["nginx", "Example.com/x", "example.com/", "example.com/a b"])
def test_a_controller_is_a_domain_with_a_path(controller: str) -> None:
    with pytest.raises(ObjectError, match=r"spec\.controller"):
        load("IngressClass", "networking.k8s.io/v1", spec={"controller": controller})


def test_a_tls_secret_holds_both_parts() -> None:
    both = {"tls.crt": "Y2VydA==", "tls.key": "a2V5"}
    found = load("Secret", "v1", type="kubernetes.io/tls", data=both)
    assert isinstance(found, Secret)
    assert found.value("tls.crt") == b"cert"
    assert load("Secret", "v1", type="kubernetes.io/tls", stringData={"tls.crt": "c", "tls.key": "k"}).value(
        "tls.key"
    ) == (b"k")
    with pytest.raises(ObjectError, match=r"data: tls\.key is missing"):
        load("Secret", "v1", type="kubernetes.io/tls", data={"tls.crt": "Y2VydA=="})
    with pytest.raises(ObjectError, match=r"tls\.crt: is not base64"):
        load("Secret", "v1", type="kubernetes.io/tls", data={**both, "tls.crt": "{}"})
    assert load("Secret", "v1", data={"any": base64.b64encode(b"x").decode()}).value("other") is None


def a_class(name: str, *, default: bool, created: str = "") -> IngressClass:
    annotations = {"ingressclass.kubernetes.io/is-default-class": "true"} if default else {}
    metadata: dict[str, Any] = {"name": name, "annotations": annotations}
    if created:
        metadata["creationTimestamp"] = created
    return IngressClass.model_validate({"metadata": metadata, "spec": {"controller": "k8s.io/ingress-nginx"}})


def test_an_ingress_without_a_class_gets_the_default_one() -> None:
    found = ingress(defaultBackend=SERVICE)
    assert with_default_class(found, []).spec.ingress_class_name is None
    assert with_default_class(found, [a_class("a", default=False)]).spec.ingress_class_name is None
    classes = [a_class("b", default=True), a_class("a", default=True)]
    assert with_default_class(found, classes).spec.ingress_class_name == "a"
    classes.append(a_class("c", default=True, created="2024-01-01T00:00:00Z"))
    assert with_default_class(found, classes).spec.ingress_class_name == "c"


def test_an_ingress_that_names_a_class_keeps_it() -> None:
    named = ingress(defaultBackend=SERVICE, ingressClassName="other")
    assert with_default_class(named, [a_class("a", default=True)]) is named
