"""What a case may hold: every field by name, its form, and what it refers to.

A case is checked as a whole before anything of it is built, so that what is wrong is one line that says where.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from ipaddress import ip_address, ip_interface
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from pktsim.errors import FrameError, ObjectError
from pktsim.wire.addr import mac_from_text

_MIN_FRAME, _MAX_PACKET = 14, 65535
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
_IPV4_HEADER, _IPV6_HEADER = 20, 40


def _mac(text: str) -> str:
    try:
        mac_from_text(text)
    except FrameError as error:
        raise ValueError(f"{text!r} is no MAC address") from error
    return text


def _address(text: str) -> str:
    ip_address(text)
    return text


def _interface_address(text: str) -> str:
    ip_interface(text)
    return text


def _bytes(text: str) -> bytes:
    strange = next((letter for letter in text if letter not in _HEX_DIGITS), "")
    if strange:
        raise ValueError(f"{strange!r} is no hexadecimal digit")
    if len(text) % 2:
        raise ValueError(f"{len(text)} hexadecimal digits are no whole bytes")
    return bytes.fromhex(text)


def _hex(text: str) -> str:
    _bytes(text)
    return text


def _frame(text: str) -> str:
    size = len(_bytes(text))
    if not _MIN_FRAME <= size <= _MAX_PACKET + _MIN_FRAME:
        raise ValueError(f"{size} bytes are no frame: an Ethernet header has {_MIN_FRAME}")
    return text


def _packet(text: str) -> str:
    data = _bytes(text)
    version = data[0] >> 4 if data else 0
    if version not in (4, 6) or len(data) < (_IPV4_HEADER if version == 4 else _IPV6_HEADER):
        raise ValueError("it does not begin with an IPv4 or IPv6 header")
    if len(data) > _MAX_PACKET:
        raise ValueError(f"{len(data)} bytes are too many for an IP packet")
    return text


_Mac = Annotated[str, AfterValidator(_mac)]
_Address = Annotated[str, AfterValidator(_address)]
_Name = Annotated[str, Field(min_length=1, max_length=15, pattern=r"^[^\s/:]+$")]
_Port = Annotated[int, Field(ge=0, le=65535)]
_U32 = Annotated[int, Field(ge=0, lt=1 << 32)]
_Data = Annotated[str, AfterValidator(_hex)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Interface(_Part):
    name: _Name
    mac: _Mac
    addresses: list[Annotated[str, AfterValidator(_interface_address)]] = []
    mtu: Annotated[int, Field(ge=68, le=65535)] = 1500
    kind: Literal["veth", "bridge", "dummy"] = "veth"
    master: str = ""
    hairpin: bool = False


class _Route(_Part):
    dst: str
    via: _Address | None = None
    dev: str | None = None
    src: _Address | None = None
    table: int | str | None = None
    metric: _U32 | None = None
    scope: str | int | None = None
    onlink: bool = False
    type: Literal["unicast", "local", "broadcast", "blackhole", "unreachable", "prohibit", "throw"] | None = None


class _Rule(_Part):
    priority: _U32
    table: int | str
    fwmark: int | str | None = None
    source: str | None = Field(None, alias="from")
    to: str | None = None
    iif: str | None = None
    family: Literal[4, 6] | None = None


class _Neighbour(_Part):
    address: _Address
    mac: _Mac
    interface: str


class _Listener(_Part):
    proto: Literal["udp", "tcp"]
    address: _Address
    port: _Port
    name: str


class _Source(_Part):
    step: Annotated[int, Field(ge=0)]
    frame: Annotated[int, Field(ge=0)]
    field: str


class _Take(_Part):
    field: str
    source: _Source = Field(alias="from")
    add: int = 0


class _Receive(_Part):
    interface: str
    frame: Annotated[str, AfterValidator(_frame)]
    take: list[_Take] = []
    text: str = ""


class _SendLocal(_Part):
    packet: Annotated[str, AfterValidator(_packet)]
    mark: _U32 = 0
    uid: _U32 = 0
    gid: _U32 = 0
    text: str = ""


class _SendSocket(_Part):
    listener: str
    dst: tuple[_Address, _Port] = Field(strict=False)
    data: _Data
    text: str = ""


class _Step(_Part):
    receive: _Receive | None = None
    send_local: _SendLocal | None = None
    send_socket: _SendSocket | None = None
    advance: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None
    iptables: str | None = None
    noflush: bool = False
    text: str = ""

    @model_validator(mode="after")
    def _one_verb(self) -> _Step:
        verbs = ("receive", "send_local", "send_socket", "advance", "iptables")
        given = [verb for verb in verbs if getattr(self, verb) is not None]
        if len(given) != 1:
            raise ValueError(f"a step is one of {', '.join(verbs)}: {' and '.join(given) or 'none of them'} is given")
        return self


class _Case(_Part):
    interfaces: list[_Interface]
    steps: list[_Step]
    name: str = ""
    description: str = ""
    routes: list[_Route] = []
    ip_rules: list[_Rule] = []
    neighbours: list[_Neighbour] = []
    sysctls: dict[str, str | int] = {}
    iptables: str | None = None
    ip6tables: str | None = None
    nft: str | None = None
    ipsets: str | None = None
    ipv6: bool = False
    listeners: list[_Listener] = []
    # what recordings hold beside
    result: Any = None
    random: Any = None
    difference: Any = None
    iptables_backend: str | None = None

    def dangling(self) -> tuple[tuple[str | int, ...], str] | None:
        """The first reference to something that is not there: where, and what is wrong."""
        interfaces = {one.name for one in self.interfaces}
        bridges = {one.name for one in self.interfaces if one.kind == "bridge"}
        sockets = {one.name: one for one in self.listeners}
        known = f"the case has {', '.join(sorted(interfaces)) or 'none'}"
        for index, interface in enumerate(self.interfaces):
            if interface.master and interface.master not in bridges:
                return ("interfaces", index, "master"), f"{interface.master!r} is no bridge of the case"
        for index, entry in enumerate(self.neighbours):
            if entry.interface not in interfaces | {"lo"}:
                return ("neighbours", index, "interface"), f"there is no interface {entry.interface!r}: {known}"
        for index, step in enumerate(self.steps):
            if step.receive is not None:
                if step.receive.interface not in interfaces:
                    where = ("steps", index, "receive", "interface")
                    return where, f"there is no interface {step.receive.interface!r}: {known}"
                for number, take in enumerate(step.receive.take):
                    if take.source.step >= index:
                        return ("steps", index, "receive", "take", number, "from", "step"), "it is no earlier step"
            if step.send_socket is not None:
                place = ("steps", index, "send_socket", "listener")
                listener = sockets.get(step.send_socket.listener)
                if listener is None:
                    return place, f"there is no listener {step.send_socket.listener!r}"
                if listener.proto != "udp":
                    return place, f"{listener.name!r} is no UDP socket"
        return None


def check_case(case: Mapping[str, Any]) -> None:
    """Look whether a case is of the format.

    Raises:
        ObjectError: It is not; says what is wrong first, and where.
    """
    name = str(case.get("name", "") or "case")
    try:
        found = _Case.model_validate(case).dangling()
    except ValidationError as error:
        raise _explained(error, name) from None
    if found is not None:
        raise ObjectError(found[1], place=f"{name}, {_path(found[0])}")


def _explained(error: ValidationError, name: str) -> ObjectError:
    # an unknown field is often the reason why another one is missing
    first = min(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    path = tuple(part for part in first["loc"] if not str(part).startswith(("function-", "constrained-")))
    what, mend = first["msg"][:1].lower() + first["msg"][1:], ""
    if first["type"] == "extra_forbidden":
        what = f"unknown field {path[-1]!r}"
        near = difflib.get_close_matches(str(path[-1]), _fields(path[:-1]), n=1)
        mend = f"did you mean {near[0]!r}?" if near else ""
    elif first["type"] == "missing":
        what = "is missing"
    elif first["type"] == "model_type":
        what = "it is no object"
    elif first["type"] == "value_error":
        what = str(first["ctx"]["error"])
    return ObjectError(what, mend=mend, place=", ".join(part for part in (name, _path(path)) if part))


def _fields(path: tuple[int | str, ...]) -> list[str]:
    """The names that there are at a place."""
    model: type[BaseModel] = _Case
    for part in path:
        if isinstance(part, str):
            field = next((one for key, one in model.model_fields.items() if part in (key, one.alias)), None)
            found = _model_in(field.annotation) if field is not None else None
            if found is None:
                return []
            model = found
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = _model_in(part)
        if found is not None:
            return found
    return None


def _path(path: tuple[int | str, ...]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
