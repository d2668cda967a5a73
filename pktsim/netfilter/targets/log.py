"""``-j LOG`` (net/netfilter/xt_LOG.c)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from pktsim.netfilter.option import BadValue, Context, Extension, Given, Option, leading_number, quoted
from pktsim.netfilter.ruleset import Target

#: syslog's warning.
DEFAULT_LEVEL = 4

#: ``sizeof(struct xt_log_info.prefix)`` less the final NUL.
LONGEST_PREFIX = 29


class LogFlag(enum.IntFlag):
    """``XT_LOG_*`` (include/uapi/linux/netfilter/xt_LOG.h)."""

    TCPSEQ = 0x01
    TCPOPT = 0x02
    IPOPT = 0x04
    UID = 0x08
    MACDECODE = 0x20


@dataclass(frozen=True, slots=True)
class LogTarget(Target):
    """``level`` is syslog's: 4 is warning, the default. ``flags`` are ``LogFlag``s."""

    extension: ClassVar[str] = "LOG"

    prefix: str = ""
    level: int = DEFAULT_LEVEL
    flags: int = 0

    def options_text(self) -> str:
        text = f" --log-prefix {quoted(self.prefix)}" if self.prefix else ""
        if self.level != DEFAULT_LEVEL:
            text += f" --log-level {self.level}"
        return text + "".join(f" --{name}" for name, flag in _FLAGS.items() if self.flags & flag)


_FLAGS = {
    "log-tcp-sequence": LogFlag.TCPSEQ,
    "log-tcp-options": LogFlag.TCPOPT,
    "log-ip-options": LogFlag.IPOPT,
    "log-uid": LogFlag.UID,
    "log-macdecode": LogFlag.MACDECODE,
}
_LEVELS = {
    "alert": 1,
    "crit": 2,
    "debug": 7,
    "emerg": 0,
    "error": 3,
    "info": 6,
    "notice": 5,
    "panic": 0,
    "warning": 4,
}


def _read_level(text: str, _context: Context) -> int:
    found = leading_number(text)
    if found is not None and not found[1] and found[0] <= 7:
        return found[0]
    level = _LEVELS.get(text)
    if level is None:
        raise BadValue(f"unknown log level {text!r}", f"write 0-7 or one of {', '.join(_LEVELS)}")
    return level


def _read_prefix(text: str, _context: Context) -> str:
    if not text:
        raise BadValue("no prefix given", "drop --log-prefix")
    if "\n" in text:
        raise BadValue("a newline cannot be in a log prefix")
    # A longer one is cut, and the tool says so on its standard error.
    return text.encode("utf-8", "surrogateescape")[:LONGEST_PREFIX].decode("utf-8", "surrogateescape")


def _build(given: Given) -> LogTarget:
    flags = 0
    for name, flag in _FLAGS.items():
        if name in given:
            flags |= flag
    return LogTarget(given.get("log-prefix", ""), given.get("log-level", DEFAULT_LEVEL), flags)


EXTENSIONS = (
    Extension(
        "LOG",
        _build,
        (
            Option("log-level", _read_level),
            Option("log-prefix", _read_prefix),
            *(Option(name) for name in _FLAGS),
        ),
    ),
)
