"""Every exception pktsim raises on purpose.

A leaf: imports nothing of ours. A dropped packet is not an exception (see ``DropReason`` in
:mod:`pktsim.netfilter.opcodes`); these are for input that cannot be used. Each one prints as one line: where, what is
wrong, how to mend it.
"""

from __future__ import annotations


class PktsimError(Exception):
    """The root of all of them. ``str(error)`` is the one line shown to the user.

    Args:
        what: What is wrong, without a full stop.
        mend: What to do about it, without a full stop; empty when there is nothing better to say than ``what``.
        file: The file it was found in, if any.
        line: 1-based line within ``file``, if known.
        column: 1-based column within ``line``, if known.
        place: Where within the file in the file's own terms (``Service default/web, spec.ports[0].port``).
    """

    def __init__(
        self,
        what: str,
        *,
        mend: str = "",
        file: str | None = None,
        line: int | None = None,
        column: int | None = None,
        place: str = "",
    ) -> None:
        super().__init__(what)
        self.what = what
        self.mend = mend
        self.file = file
        self.line = line
        self.column = column
        self.place = place

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        text = ": ".join(part for part in (where, self.place, self.what) if part)
        text = " ".join(text.split())  # one line, whatever a library's message held
        return f"{text} ({self.mend})" if self.mend else text


class RulesetSyntaxError(PktsimError):
    """Rule text that the real tool would not accept, or that names something that does not exist.

    Attributes:
        token: The word at which reading stopped.
    """

    def __init__(
        self,
        what: str,
        *,
        token: str = "",
        mend: str = "",
        file: str | None = None,
        line: int | None = None,
        column: int | None = None,
    ) -> None:
        super().__init__(what, mend=mend, file=file, line=line, column=column)
        self.token = token


class UnsupportedFeature(PktsimError):
    """Something real that would change a verdict and is not modelled; refused by name rather than skipped.

    Attributes:
        feature: Its own name (``match connbytes``, ``Service.spec.foo``, ``plugin etcd``).
    """

    def __init__(
        self,
        feature: str,
        *,
        mend: str = "",
        file: str | None = None,
        line: int | None = None,
        column: int | None = None,
        place: str = "",
    ) -> None:
        super().__init__(f"{feature} is not modelled", mend=mend, file=file, line=line, column=column, place=place)
        self.feature = feature


class ObjectError(PktsimError):
    """A Kubernetes object or configuration document that the API server, or the reader of that file, would refuse."""


class IngressUnreachable(ObjectError):
    """A host of an Ingress is asked for, and no ingress controller can be reached from outside."""


class TopologyError(PktsimError):
    """A world that cannot be wired: an unknown node, two owners of one address, a route through nowhere."""


class FrameError(PktsimError):
    """Bytes that are not the packet they should be.

    Attributes:
        field: The header field, in Wireshark's or the RFC's name.
        offset: Byte offset within the frame.
    """

    def __init__(self, what: str, *, field: str = "", offset: int | None = None, mend: str = "") -> None:
        super().__init__(what, mend=mend, place=f"{field} at byte {offset}" if offset is not None else field)
        self.field = field
        self.offset = offset


class CaptureError(PktsimError):
    """A capture file that cannot be read or written."""


class ScenarioError(PktsimError):
    """A scenario document or script that cannot be run."""


class RecordingError(PktsimError):
    """A recording below a ``verify`` path that does not have its layout's form."""
