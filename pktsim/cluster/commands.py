"""The commands of a recorded action: what curl, dig and the recordings' own ``client`` were told.

A command line here is the arguments joined by blanks, without quotes, as ``action.yaml`` has it. An option that is
not known is refused by name: it could change what goes over the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from pktsim.errors import RecordingError, UnsupportedFeature


@dataclass(frozen=True, slots=True)
class Curl:
    """``curl -s -S``: HTTP/1.1 over one connection."""

    url: str
    local_port: int = 0
    max_time_s: float = 0.0
    headers: tuple[str, ...] = ()
    data_bytes: int | None = None
    output: str = ""
    write_out: str = ""

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports it fixes."""
        parts = urlsplit(self.url)
        return (self.local_port, parts.port or 80)


@dataclass(frozen=True, slots=True)
class Dig:
    """``dig`` of BIND 9.18, with EDNS and without a cookie."""

    name: str
    rrtype: str = "A"
    tcp: bool = False
    search: bool = False
    tries: int = 3
    timeout_s: float = 5.0
    cookie: bool = True

    @property
    def ports(self) -> tuple[int, ...]:
        return (53,)


@dataclass(frozen=True, slots=True)
class Client:
    """The recording's own small program: ``client tcp|udp|ping DST [PORT]``.

    Attributes:
        df: ``True``: path MTU discovery always, ``False``: never, ``None``: the socket's default.
        reset: Close with a RST instead of a FIN.
        ttl: 0 for the default.
    """

    kind: str
    destination: str
    port: int = 0
    sport: int = 0
    size_bytes: int = 0
    count: int = 1
    ttl: int = 0
    df: bool | None = None
    reset: bool = False
    wait_s: float = 1.5

    @property
    def ports(self) -> tuple[int, ...]:
        return (self.sport, self.port)


Command = Curl | Dig | Client


def parse_command(line: str, *, file: str | None = None) -> Command:
    """Read a command line.

    Raises:
        UnsupportedFeature: Another program, or an option that is not modelled.
        RecordingError: A known option with something wrong behind it.
    """
    words = line.split()
    reader = _READERS.get(words[0]) if words else None
    if reader is None:
        raise UnsupportedFeature(f"command {words[0] if words else line!r}", mend="curl, dig or client", file=file)
    try:
        return reader(iter(words[1:]))
    except UnsupportedFeature as error:
        raise UnsupportedFeature(f"{words[0]} option {error.feature}", file=file, place=line) from None
    except StopIteration:
        raise RecordingError("its last option lacks a value", file=file, place=line) from None
    except ValueError as error:
        raise RecordingError(f"cannot read the command: {error}", file=file, place=line) from None


def _curl(words: Iterator[str]) -> Curl:
    found = Curl("")
    pending = next(words, None)
    while pending is not None:
        word, pending = pending, None
        if word in ("-s", "-S", "-sS"):
            pass
        elif word == "-m":
            found = replace(found, max_time_s=float(next(words)))
        elif word == "--local-port":
            found = replace(found, local_port=int(next(words)))
        elif word in ("-o", "--output"):
            found = replace(found, output=next(words))
        elif word == "--data-binary":
            # The recordings name their files after the size: @200000-bytes.
            size = next(words)
            if not size.startswith("@") or not size.endswith("-bytes"):
                raise ValueError(f"--data-binary {size}: only @N-bytes")
            found = replace(found, data_bytes=int(size[1:].removesuffix("-bytes")))
        elif word in ("-H", "-w"):
            # The only values with blanks in them; they end where the next option or the URL begins.
            parts = [next(words)]
            while (pending := next(words, None)) is not None and not pending.startswith(("-", "http://")):
                parts.append(pending)
            text = " ".join(parts)
            found = replace(found, headers=(*found.headers, text)) if word == "-H" else replace(found, write_out=text)
        elif word.startswith("http://") and not found.url:
            found = replace(found, url=word)
        else:
            raise UnsupportedFeature(word)
        pending = pending if pending is not None else next(words, None)
    if not found.url:
        raise ValueError("no http:// URL")
    return found


def _dig(words: Iterator[str]) -> Dig:
    found = Dig("")
    for word in words:
        option, _, value = word.partition("=")
        if word in ("+tcp", "+notcp"):
            found = replace(found, tcp=word == "+tcp")
        elif word in ("+search", "+nosearch"):
            found = replace(found, search=word == "+search")
        elif word in ("+cookie", "+nocookie"):
            found = replace(found, cookie=word == "+cookie")
        elif option == "+tries":
            found = replace(found, tries=int(value))
        elif option == "+time":
            found = replace(found, timeout_s=float(value))
        elif word.startswith(("+", "-", "@")):
            raise UnsupportedFeature(word)
        elif not found.name:
            found = replace(found, name=word)
        else:
            found = replace(found, rrtype=word.upper())
    if not found.name:
        raise ValueError("no name")
    return found


def _client(words: Iterator[str]) -> Client:
    kind = next(words)
    if kind not in ("tcp", "udp", "ping"):
        raise ValueError(f"{kind}: tcp, udp or ping")
    found = Client(kind, next(words))
    for word in words:
        if word == "--sport":
            found = replace(found, sport=int(next(words)))
        elif word == "--size":
            found = replace(found, size_bytes=int(next(words)))
        elif word == "--count":
            found = replace(found, count=int(next(words)))
        elif word == "--ttl":
            found = replace(found, ttl=int(next(words)))
        elif word == "--wait":
            found = replace(found, wait_s=float(next(words)))
        elif word in ("--df", "--no-df"):
            found = replace(found, df=word == "--df")
        elif word == "--reset":
            found = replace(found, reset=True)
        elif word.startswith("-") or found.port:
            raise UnsupportedFeature(word)
        else:
            found = replace(found, port=int(word))
    if kind != "ping" and not found.port:
        raise ValueError("no port")
    return found


_READERS: dict[str, Callable[[Iterator[str]], Command]] = {"curl": _curl, "dig": _dig, "client": _client}
