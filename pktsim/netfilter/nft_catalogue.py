"""What of nft's language is known, for the fidelity ledger: read from the tables by which it is parsed and lowered."""

from __future__ import annotations

from typing import Final

from pktsim.netfilter.nft_expressions import REFUSED_EXPRESSIONS
from pktsim.netfilter.nft_fields import (
    CT,
    EXTENSION_HEADERS,
    FIB_RESULTS,
    META,
    META_REFUSED,
    PROTOCOLS,
    RT,
    TCP_OPTIONS,
)
from pktsim.netfilter.nft_lower import WRITABLE_FIELDS
from pktsim.netfilter.nft_statements import REFUSED_STATEMENTS

_REFUSED_RT: Final = ("mtu",)

#: Expressions that are modelled, in nft's words.
EXPRESSIONS: Final = (
    *(f"{protocol.name}: {', '.join(protocol.fields)}" for protocol in PROTOCOLS.values()),
    *(f"{header}: {', '.join(fields)}" for header, (_, fields) in EXTENSION_HEADERS.items()),
    *(f"tcp option {option}: {', '.join(('exists', *fields))}" for option, (_, fields) in TCP_OPTIONS.items()),
    f"meta {', '.join(META)}",
    f"ct {', '.join(CT)}",
    f"fib {', '.join(FIB_RESULTS)}",
    f"rt {', '.join(key for key in RT if key not in _REFUSED_RT)}",
    "numgen, jhash, symhash",
    "@ll, @nh, @th: whole bytes",
    "concatenations, ranges, prefixes, sets, maps, & | ^ << >> with constants",
)
#: Statements that are modelled.
STATEMENTS: Final = (
    "accept, drop, continue, return, jump, goto, vmap",
    "counter, limit, quota, and named ones",
    "reject, log, notrack",
    "snat, dnat, masquerade, redirect",
    "meta mark set, ct mark set, ct zone set, tcp option maxseg size set",
    "add, update, delete @set",
    *(f"{protocol} {', '.join(sorted(fields))} set" for protocol, fields in WRITABLE_FIELDS.items()),
)
#: What nft knows and we refuse by name.
REFUSED: Final = (
    *(f"expression {name}" for name in sorted(REFUSED_EXPRESSIONS)),
    *(f"expression meta {key}" for key in sorted(META_REFUSED)),
    *(f"expression rt {key}" for key in _REFUSED_RT),
    *(f"statement {name}" for name in sorted(REFUSED_STATEMENTS)),
    "statement ct count",
    "match of << and >>",
    "match of ^ with several values",
)
