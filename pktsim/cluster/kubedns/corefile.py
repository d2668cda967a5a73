"""Reads a Corefile: server blocks, and in each the plugins with their options, with the lines they stand on.

What the options mean is each plugin's business. What is refused here is what would change which text is read at all:
``import``, snippets and environment variables.

Source: coredns/caddy, caddyfile/lexer.go and parse.go; coredns v1.13.1, core/dnsserver/register.go,
plugin/normalize.go.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pktsim.errors import ObjectError, UnsupportedFeature

from . import dnsname

#: The port of a server block that names none.
DEFAULT_PORT = 53
_TRANSPORTS = ("tls", "quic", "grpc", "https")
_ENVIRONMENT = re.compile(r"\{\$[^}]*\}|\{%[^}]*%\}")


@dataclass(frozen=True, slots=True)
class Token:
    """A word and the line it stands on."""

    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Property:
    """A line within a plugin's block: its first word and the others."""

    name: str
    args: tuple[str, ...]
    line: int
    file: str | None

    def error(self, what: str, mend: str = "") -> ObjectError:
        """An error about this line."""
        return ObjectError(what, mend=mend, file=self.file, line=self.line, place=self.name)

    def unsupported(self, feature: str, mend: str = "") -> UnsupportedFeature:
        """A refusal of this line."""
        return UnsupportedFeature(feature, mend=mend, file=self.file, line=self.line)

    def arguments(self, least: int, most: int | None = None) -> tuple[str, ...]:
        """The arguments, of which there must be so many.

        Raises:
            ObjectError: There are more or fewer.
        """
        most = least if most is None else most
        if not least <= len(self.args) <= most:
            wanted = str(least) if least == most else f"{least} to {most}" if most < 1 << 30 else f"at least {least}"
            raise self.error(f"takes {wanted} argument(s), not {len(self.args)}")
        return self.args

    def number(self, text: str, least: int = 0, most: int | None = None) -> int:
        """A decimal number within bounds.

        Raises:
            ObjectError: It is none.
        """
        if not re.fullmatch(r"[+-]?[0-9]+", text):
            raise self.error(f"{text!r} is not a number")
        number = int(text)
        if number < least or (most is not None and number > most):
            raise self.error(
                f"{number} must be {f'between {least} and {most}' if most is not None else f'at least {least}'}"
            )
        return number

    def duration(self, text: str) -> int:
        """A duration in nanoseconds, as Go writes them (``1h15m30.9s``).

        Raises:
            ObjectError: It is none.
        """
        nanoseconds = parse_duration(text)
        if nanoseconds is None:
            raise self.error(f"{text!r} is not a duration", "write it like 5s or 100ms")
        return nanoseconds


@dataclass(frozen=True, slots=True)
class Directive(Property):
    """A plugin in a server block: the words on its line, and the lines of its block."""

    body: tuple[Property, ...] = ()

    def no_body(self) -> None:
        """Insist that there is no block.

        Raises:
            ObjectError: There is one.
        """
        for line in self.body:
            raise line.error(f"{self.name} takes no block")


@dataclass(frozen=True, slots=True)
class ServerBlock:
    """One server block.

    Attributes:
        zones: The zones, complete and in lower case; reverse zones written as CIDR have been expanded.
        ports: The port of each zone.
        directives: Its plugins in the order of the file, which is not the order they work in.
    """

    zones: tuple[str, ...]
    ports: tuple[int, ...]
    directives: tuple[Directive, ...]
    line: int
    file: str | None


@dataclass(frozen=True, slots=True)
class Corefile:
    """A whole configuration."""

    blocks: tuple[ServerBlock, ...]
    file: str | None = None

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports that servers listen on, each over UDP and TCP."""
        return tuple(sorted({port for block in self.blocks for port in block.ports}))


_UNITS = {
    "ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "m": 60 * 1_000_000_000,
    "h": 3_600 * 1_000_000_000,
}  # fmt: skip
_DURATION_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")


def parse_duration(text: str) -> int | None:
    """Read a duration as Go's ``time.ParseDuration``; nanoseconds, or ``None``."""
    sign, rest = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    total, at = 0.0, 0
    while at < len(rest):
        match = _DURATION_PART.match(rest, at)
        if match is None:
            return None
        total += float(match[1]) * _UNITS[match[2]]
        at = match.end()
    return sign * round(total) if at else None


def _tokens(text: str, file: str | None) -> Iterator[Token]:
    """The words of a file. Quotes group, ``\\"`` within them is a quote, ``#`` at the start of a word ends the line."""
    line = 1
    at, end = 0, len(text)
    while at < end:
        char = text[at]
        if char == "\n":
            line += 1
            at += 1
        elif char.isspace():
            at += 1
        elif char == "#":
            at = text.find("\n", at)
            at = end if at < 0 else at
        elif char == '"':
            begin = line
            at += 1
            word = []
            while at < end and text[at] != '"':
                if text[at] == "\\" and text[at + 1 : at + 2] == '"':
                    at += 1
                elif text[at] == "\n":
                    line += 1
                word.append(text[at])
                at += 1
            at += 1
            yield Token("".join(word), begin)
        else:
            begin = at
            while at < end and not text[at].isspace():
                at += 1
            word_text = text[begin:at]
            if _ENVIRONMENT.search(word_text):
                raise UnsupportedFeature(
                    f"environment variable {word_text}", mend="write its value", file=file, line=line
                )
            yield Token(word_text, line)


def _lines(tokens: list[Token]) -> list[list[Token]]:
    """Words by the line they stand on."""
    lines: list[list[Token]] = []
    for token in tokens:
        if lines and lines[-1][0].line == token.line:
            lines[-1].append(token)
        else:
            lines.append([token])
    return lines


def parse_corefile(text: str, file: str | None = None) -> Corefile:
    """Read a Corefile.

    Args:
        text: Its contents.
        file: What errors call it.

    Raises:
        ObjectError: CoreDNS would not start with it.
        UnsupportedFeature: It uses ``import``, snippets, environment variables or a transport other than plain DNS.
    """
    lines = _lines(list(_tokens(text, file)))
    blocks: list[ServerBlock] = []
    at = 0
    seen: dict[tuple[str, int], int] = {}
    while at < len(lines):
        block, at = _server_block(lines, at, file)
        for zone, port in zip(block.zones, block.ports, strict=True):
            if (zone, port) in seen:
                raise ObjectError(
                    f"cannot serve {zone}:{port}: it is already defined in line {seen[zone, port]}",
                    file=file,
                    line=block.line,
                )
            seen[zone, port] = block.line
        blocks.append(block)
    if not blocks:
        raise ObjectError("the Corefile has no server block", file=file, mend="write one like .:53 { ... }")
    return Corefile(tuple(blocks), file)


def _server_block(lines: list[list[Token]], at: int, file: str | None) -> tuple[ServerBlock, int]:
    first = lines[at][0]
    if first.text == "import":
        raise UnsupportedFeature("import", mend="write the file's contents here", file=file, line=first.line)
    if first.text.startswith("("):
        raise UnsupportedFeature("snippet", mend="write it out where it is imported", file=file, line=first.line)
    keys: list[Token] = []
    opened = False
    while at < len(lines) and not opened:
        for number, token in enumerate(lines[at]):
            if token.text == "{":
                if number != len(lines[at]) - 1:
                    raise ObjectError("nothing may follow '{' on its line", file=file, line=token.line)
                opened = True
                break
            keys.extend(Token(word, token.line) for word in token.text.split(",") if word)
        at += 1
        # Addresses go on in the next line only after a comma (caddyfile/parse.go, ``addresses``).
        if not opened and not lines[at - 1][-1].text.endswith(","):
            break
    if not keys:
        raise ObjectError("a server block needs a zone", file=file, line=first.line)
    directives: list[Directive] = []
    closed = not opened
    while at < len(lines):
        line = lines[at]
        if line[0].text == "}" and opened:
            if len(line) > 1:
                raise ObjectError("nothing may follow '}' on its line", file=file, line=line[0].line)
            closed = True
            at += 1
            break
        directive, at = _directive(lines, at, file)
        directives.append(directive)
    if not closed:
        raise ObjectError("the server block is not closed", mend="add '}'", file=file, line=first.line)
    zones: list[str] = []
    ports: list[int] = []
    for key in keys:
        for zone, port in _zones_of_key(key, file):
            zones.append(zone)
            ports.append(port)
    return ServerBlock(tuple(zones), tuple(ports), tuple(directives), first.line, file), at


def _directive(lines: list[list[Token]], at: int, file: str | None) -> tuple[Directive, int]:
    line = lines[at]
    name = line[0]
    if name.text == "import":
        raise UnsupportedFeature("import", mend="write what it imports here", file=file, line=name.line)
    at += 1
    body: list[Property] = []
    words = [token.text for token in line[1:]]
    if words and words[-1] == "{":
        words.pop()
        while True:
            if at == len(lines):
                raise ObjectError(f"the block of {name.text} is not closed", file=file, line=name.line, mend="add '}'")
            inner = lines[at]
            at += 1
            if inner[0].text == "}":
                break
            texts = [token.text for token in inner]
            closing = texts[-1] == "}"
            if closing:
                texts.pop()
            if "{" in texts:
                raise ObjectError("a block within a plugin's block has no meaning", file=file, line=inner[0].line)
            body.append(Property(texts[0], tuple(texts[1:]), inner[0].line, file))
            if closing:
                break
    elif words and words[0] == "{" and words[-1] == "}":
        raise ObjectError("write each option of a block on a line of its own", file=file, line=name.line)
    return Directive(name.text, tuple(words), name.line, file, tuple(body)), at


def _zones_of_key(key: Token, file: str | None) -> list[tuple[str, int]]:
    text = key.text
    scheme, separator, rest = text.partition("://")
    if separator:
        if scheme in _TRANSPORTS:
            raise UnsupportedFeature(f"transport {scheme}", mend="serve plain DNS", file=file, line=key.line)
        text = rest if scheme == "dns" else text
    try:
        zones, port = split_host_port(text)
    except ValueError as error:
        raise ObjectError(str(error), file=file, line=key.line) from None
    return [(zone, DEFAULT_PORT if port is None else port) for zone in zones]


def split_host_port(text: str) -> tuple[list[str], int | None]:
    """Read a zone with an optional port; a CIDR prefix becomes its reverse zones.

    Returns:
        The zones, normalized, and the port.

    Raises:
        ValueError: It is neither a name nor a prefix.
    """
    host, separator, last = text.rpartition(":")
    port = None
    if separator:
        if not last:
            raise ValueError(f"expecting data after last colon: {text!r}")
        if re.fullmatch(r"[+-]?[0-9]+", last):
            port = int(last)
            text = host
    if len(text) > 255:
        raise ValueError(f"specified zone is too long: {len(text)} > 255")
    if not text and port is not None:
        text = "."
    if not text or not dnsname.is_name(text):
        raise ValueError(f"zone is not a valid domain name: {text}")
    zones = reverse_zones(text)
    return ([dnsname.normalize(text)] if zones is None else zones), port


def reverse_zones(prefix: str) -> list[str] | None:
    """The reverse zones of a CIDR prefix, split at the labels' boundaries; ``None`` if it is no prefix."""
    if "/" not in prefix:
        return None
    try:
        network = ipaddress.ip_network(prefix, strict=False)
    except ValueError:
        return None
    step = 8 if network.version == 4 else 4
    length = -(-network.prefixlen // step) * step
    zones = []
    for part in network.subnets(new_prefix=length):
        pointer = dnsname.fqdn(part.network_address.reverse_pointer)
        labels = dnsname.starts(pointer)
        zones.append(pointer[labels[(network.max_prefixlen - length) // step] :])
    return zones


def zones_from(args: tuple[str, ...], block: ServerBlock) -> list[str]:
    """The zones a plugin is for: those it names, else those of its block (``OriginsFromArgsOrServerBlock``)."""
    if not args:
        return list(block.zones)
    zones: list[str] = []
    for text in args:
        try:
            zones.extend(split_host_port(text.removeprefix("dns://"))[0])
        except ValueError:
            continue  # CoreDNS passes over them silently too
    return zones
