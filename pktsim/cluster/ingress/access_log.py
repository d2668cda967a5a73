"""The access log, in the format ``upstreaminfo`` of ingress-nginx, and the part of it that each attempt adds.

Source: ingress-nginx docs/user-guide/nginx-configuration/log-format.md; nginx src/http/ngx_http_upstream.c
(``ngx_http_upstream_addr_variable`` and its neighbours).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pktsim.clock import NS_PER_MS

from .messages import MONTHS, Request, header, moment


@dataclass(slots=True)
class Attempt:
    """One endpoint that was tried.

    Attributes:
        status: What it answered, or what nginx made of its silence; 0 while neither.
        received: Bytes of the answer's body.
    """

    address: str
    began_ns: int
    ended_ns: int | None = None
    status: int = 0
    received: int = 0


@dataclass(slots=True)
class Entry:
    """What is known of a request when it is over."""

    remote: str
    began_ns: int
    request: Request | None = None
    line: str = ""
    length: int = 0
    status: int = 0
    sent: int = 0
    backend: str = ""
    request_id: str = ""
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Who asks for what, in a few words."""
        request = self.request
        asked = f"{request.method} {request.http_host}{request.target}" if request is not None else self.line
        return f"{self.remote} asks {asked}"

    def text(self, now_ns: int) -> str:
        """The line of the log."""
        at = moment(now_ns)
        local = f"{at.day:02}/{MONTHS[at.month - 1]}/{at.year}:{at:%H:%M:%S} +0000"
        headers = self.request.headers if self.request is not None else []
        referer = (header(headers, b"referer") or b"-").decode("latin-1")
        agent = (header(headers, b"user-agent") or b"-").decode("latin-1")
        line = self.request.line if self.request is not None else self.line
        attempts = self.attempts
        addresses = ", ".join(one.address for one in attempts) or "-"
        received = ", ".join(str(one.received) for one in attempts) or "-"
        times = ", ".join(
            _seconds((now_ns if one.ended_ns is None else one.ended_ns) - one.began_ns) for one in attempts
        )
        statuses = ", ".join(str(one.status) if one.status else "-" for one in attempts) or "-"
        return (
            f'{self.remote} - - [{local}] "{line}" {self.status:03} {self.sent} "{referer}" "{agent}" '
            f"{self.length} {_seconds(now_ns - self.began_ns)} [{self.backend}] [] {addresses} {received} "
            f"{times or '-'} {statuses} {self.request_id}"
        )


def _seconds(duration_ns: int) -> str:
    milliseconds = max(duration_ns, 0) // NS_PER_MS
    return f"{milliseconds // 1000}.{milliseconds % 1000:03}"
