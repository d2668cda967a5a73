"""Values of annotations, options and the controller's ConfigMap: texts, of which a wrong one is told with its place."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pktsim.errors import ObjectError, UnsupportedFeature

Reader = Callable[[str], Any]

_SIZE = re.compile(r"(\d+)([kKmMgG]?)")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}

#: ``proxy_next_upstream``: what makes nginx try another endpoint (ngx_http_proxy_module.c).
RETRY_CONDITIONS = frozenset(
    {
        "error", "timeout", "invalid_header", "http_500", "http_502", "http_503", "http_504", "http_403", "http_404",
        "http_429", "non_idempotent", "off",
    }
)  # fmt: skip


def boolean(text: str) -> bool:
    """``true`` or ``false``, as Go's ``strconv.ParseBool`` takes them."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def number(text: str) -> int:
    """A number that is not negative."""
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{text!r} is not a number")
    return int(text)


def seconds(text: str) -> int:
    """Seconds: ``5``, or ``5s`` where the ConfigMap takes that too."""
    return number(text.removesuffix("s"))


def size(text: str) -> int:
    """Bytes: ``512``, ``8k``, ``1m``; 0 stands for no limit where it is one."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a size such as 8k or 1m")
    return int(found[1]) * _UNITS[found[2].lower()]


def conditions(text: str) -> frozenset[str]:
    """Words of ``proxy_next_upstream``."""
    words = frozenset(text.split())
    if unknown := words - RETRY_CONDITIONS:
        raise ValueError(f"{sorted(unknown)[0]!r} is no condition of proxy_next_upstream")
    return words


def backend_protocol(text: str) -> bool:
    """Whether ``backend-protocol`` means TLS.

    Raises:
        UnsupportedFeature: It is neither HTTP nor HTTPS.
    """
    if text.upper() not in ("HTTP", "HTTPS"):
        raise UnsupportedFeature(f"backend-protocol {text}", mend="HTTP or HTTPS")
    return text.upper() == "HTTPS"


def path(text: str) -> str:
    """A path from the root on."""
    if not text.startswith("/"):
        raise ValueError(f"{text!r} does not start with '/'")
    return text


def permanent_redirect(text: str) -> tuple[int, str]:
    """Where to send everybody for good."""
    return 301, text


def temporal_redirect(text: str) -> tuple[int, str]:
    """Where to send everybody for now."""
    return 302, text


def text(value: str) -> str:
    """Any text."""
    return value


def read(reader: Reader, value: str, place: str) -> Any:
    """Read a value.

    Raises:
        ObjectError: It cannot be read; told with its place.
    """
    try:
        return reader(value)
    except ValueError as error:
        raise ObjectError(str(error), place=place) from None
