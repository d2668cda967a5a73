"""Label selectors as text, as ``kubectl -l`` and the ``labels`` option take them.

Source: k8s.io/apimachinery pkg/labels/selector.go, ``Parse``.
"""

from __future__ import annotations

import re
from typing import Literal

from ..objects_meta import LabelSelectorRequirement

_KEY = r"(?:[A-Za-z0-9.-]+/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?"
_VALUE = r"[A-Za-z0-9_.-]*"
_ONE = re.compile(
    rf"""\s*(?:
        !\s*(?P<absent>{_KEY})
      | (?P<set>{_KEY})\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)
      | (?P<equal>{_KEY})\s*(?P<sign>==|!=|=)\s*(?P<value>{_VALUE})
      | (?P<present>{_KEY})
    )\s*(?:,|$)""",
    re.VERBOSE,
)

_SIGNS: dict[str, Literal["In", "NotIn"]] = {"in": "In", "notin": "NotIn", "=": "In", "==": "In", "!=": "NotIn"}


def parse_selector(text: str) -> tuple[LabelSelectorRequirement, ...]:
    """Read requirements that all have to be met.

    Raises:
        ValueError: It is no selector.
    """
    requirements: list[LabelSelectorRequirement] = []
    at = 0
    while at < len(text) or not requirements:
        match = _ONE.match(text, at)
        if match is None or not text.strip():
            raise ValueError(f"{text!r} is not a label selector")
        at = match.end()
        if match["absent"]:
            requirements.append(LabelSelectorRequirement(key=match["absent"], operator="DoesNotExist"))
        elif match["set"]:
            values = tuple(value.strip() for value in match["values"].split(","))
            requirements.append(LabelSelectorRequirement(key=match["set"], operator=_SIGNS[match["op"]], values=values))
        elif match["equal"]:
            sign = _SIGNS[match["sign"]]
            requirements.append(LabelSelectorRequirement(key=match["equal"], operator=sign, values=(match["value"],)))
        else:
            requirements.append(LabelSelectorRequirement(key=match["present"], operator="Exists"))
    return tuple(requirements)
