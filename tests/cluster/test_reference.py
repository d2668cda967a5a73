"""Names of objects as kubectl takes them."""

from __future__ import annotations

import pytest

from pktsim.cluster.reference import parse_reference, split_pod_name
from pktsim.errors import ObjectError


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("pod/web-1", ("Pod", "default", "web-1")),
        ("po/shop/web-1", ("Pod", "shop", "web-1")),
        ("svc/web", ("Service", "default", "web")),
        ("Deployment/shop/web", ("Deployment", "shop", "web")),
        ("node/node-a", ("Node", "", "node-a")),
    ],
)
def test_references(text: str, found: tuple[str, str, str]) -> None:
    assert parse_reference(text) == found


@pytest.mark.parametrize("text", ["web-1", "pod/", "pod/a/b/c", "cronjob/x", "pod//web"])
def test_what_names_no_object(text: str) -> None:
    with pytest.raises(ObjectError, match="names no object"):
        parse_reference(text)


def test_names_of_pods() -> None:
    assert split_pod_name("web-1") == ("default", "web-1")
    assert split_pod_name("shop/web-1") == ("shop", "web-1")
