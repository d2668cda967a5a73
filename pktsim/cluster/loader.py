"""Reads kubectl-style YAML (or JSON): many documents, lists, strict fields, errors with file, line and object.

Values are taken as ``kubectl`` takes them: the YAML is turned into what its JSON would be, so a timestamp stays text, a
``null`` is a field that is not there, and a key that stands twice is an error.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from ..errors import ObjectError, UnsupportedFeature
from .admission import check_objects
from .objects import HARMLESS_KINDS, KINDS, REFUSED_KINDS, KubeObject
from .objects_meta import api_name

_Model = TypeVar("_Model", bound=BaseModel)

#: Fields whose values are maps of texts, in which ``null`` is the empty text rather than nothing.
_TEXT_MAPS = frozenset({"labels", "annotations", "selector", "matchLabels", "data", "stringData"})


class _Loader(yaml.CSafeLoader):
    """libyaml's parser without timestamps and base 60 numbers, which JSON has no words for."""


def _resolvers() -> dict[str, list[tuple[str, Any]]]:
    kept: dict[str, list[tuple[str, Any]]] = {}
    for first, rules in yaml.CSafeLoader.yaml_implicit_resolvers.items():
        kept[first] = [rule for rule in rules if rule[0] != "tag:yaml.org,2002:timestamp"]
    return kept


_Loader.yaml_implicit_resolvers = _resolvers()

_NULL, _BOOL, _INT, _FLOAT, _STR, _MERGE = (
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "merge")
)
_TRUE = frozenset({"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"})


def _integer(text: str) -> int | str:
    if ":" in text:
        return text
    digits = text.replace("_", "")
    sign, body = (-1, digits[1:]) if digits[:1] == "-" else (1, digits.lstrip("+"))
    if body[:2] in ("0b", "0B"):
        return sign * int(body[2:], 2)
    if body[:2] in ("0x", "0X"):
        return sign * int(body[2:], 16)
    if len(body) > 1 and body[0] == "0":
        return sign * int(body, 8)
    return sign * int(body)


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document, or one item of a list, before it is an object.

    Attributes:
        data: Its value.
        file: The file it was read from, or ``None``.
        node: Its YAML nodes, which know their lines.
    """

    data: dict[str, Any]
    file: str | None
    node: yaml.MappingNode

    @property
    def kind(self) -> str:
        """``kind``, empty if it has none."""
        kind = self.data.get("kind")
        return kind if isinstance(kind, str) else ""

    @property
    def api_version(self) -> str:
        """``apiVersion``, empty if it has none."""
        version = self.data.get("apiVersion")
        return version if isinstance(version, str) else ""

    @property
    def line(self) -> int:
        """1-based line at which it starts."""
        return int(self.node.start_mark.line) + 1

    @property
    def title(self) -> str:
        """What errors call it: ``Service default/web``."""
        metadata = self.data.get("metadata")
        name = namespace = ""
        if isinstance(metadata, dict):
            name = str(metadata.get("name") or metadata.get("generateName") or "")
            namespace = str(metadata.get("namespace") or "")
        model = KINDS.get(self.kind)
        if model is not None and model.namespaced and name:
            name = f"{namespace or 'default'}/{name}"
        return " ".join(part for part in (self.kind or "document", name) if part)

    def line_of(self, path: Iterable[str | int]) -> int:
        """The line of a field, or of the nearest thing around it that stands in the file."""
        node: Any = self.node
        mark = node.start_mark
        for step in path:
            below = None
            if isinstance(node, yaml.MappingNode):
                keys = {key.value for key, _ in node.value}
                if step not in keys:
                    step = f"{step}".removesuffix("s")  # clusterIP may stand for clusterIPs, podCIDR for podCIDRs
                for key, value in node.value:
                    if key.value == step:
                        below, mark = value, key.start_mark
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                below = node.value[step]
                mark = below.start_mark
            if below is None:
                break
            node = below
        return int(mark.line) + 1

    def error(self, what: str, path: tuple[str | int, ...] = (), mend: str = "") -> ObjectError:
        """An error about a field of this document."""
        place = ", ".join(part for part in (self.title, format_path(path)) if part)
        return ObjectError(what, mend=mend, file=self.file, line=self.line_of(path), place=place)

    def parse(self, model: type[_Model]) -> _Model:
        """Make it an instance of ``model``.

        Raises:
            ObjectError: A field is unknown, missing or has a wrong value; the first one in the file is told.
        """
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            raise self._translate(model, error) from None

    def _translate(self, model: type[BaseModel], error: ValidationError) -> ObjectError:
        found: list[tuple[int, int, ObjectError]] = []
        for number, one in enumerate(error.errors(include_url=False)):
            path = _real_path(self.data, one["loc"])
            kind = one["type"]
            mend = ""
            if kind == "extra_forbidden":
                what = f"unknown field {path[-1]!r}"
                near = difflib.get_close_matches(str(path[-1]), _field_names(model, path[:-1]), n=1)
                mend = f"did you mean {near[0]!r}?" if near else ""
            elif kind == "missing":
                path = (*path, str(one["loc"][-1]))
                what = "is missing"
            elif kind in ("literal_error", "enum"):
                what = f"{one['input']!r} is none of {one['ctx']['expected']}".replace(" or ", ", ")
            elif kind == "value_error":
                what = str(one["ctx"]["error"])
            else:
                what = f"{_show(one['input'])}: {one['msg'][:1].lower()}{one['msg'][1:]}"
            depth = -len(path)
            found.append((depth if kind != "extra_forbidden" else -100, number, self.error(what, path, mend)))
        return min(found, key=lambda entry: entry[:2])[2]


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _real_path(data: Any, location: tuple[int | str, ...]) -> tuple[str | int, ...]:
    """Keep of pydantic's location what stands in the data: it names the members of unions too."""
    path: list[str | int] = []
    for step in location:
        if isinstance(data, dict):
            below = data.get(str(step))
        else:
            below = data[step] if isinstance(data, list) and isinstance(step, int) and step < len(data) else None
        if below is not None:
            path.append(step)
            data = below
    return tuple(path)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a field's type mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (typing.Union, types.UnionType, tuple, list, Annotated):
        for argument in get_args(annotation):
            yield from _models(argument)


def _field_names(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """The API's names of the fields that the part at ``path`` may have."""
    models = [model]
    for step in path:
        if isinstance(step, str):
            models = [
                below
                for one in models
                for name, field in one.model_fields.items()
                if api_name(name) == step
                for below in _models(field.annotation)
            ]
    return [api_name(name) for one in models for name in one.model_fields]


def format_path(path: Iterable[str | int]) -> str:
    """Write a path as ``kubectl`` does: ``spec.ports[0].port``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def _value(node: Any, file: str | None, key: str = "") -> Any:
    """The value of a node as JSON would have it."""
    if isinstance(node, yaml.ScalarNode):
        tag, text = node.tag, node.value
        if tag == _STR:
            return text
        if tag == _INT:
            return _integer(text)
        if tag == _BOOL:
            return text in _TRUE
        if tag == _NULL:
            return None
        if tag == _FLOAT:
            try:
                return float(text.replace("_", ""))
            except ValueError:  # .inf, .nan and base 60
                return text
        raise _yaml_error(node, file, f"tag {tag} has no meaning here")
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, file) for item in node.value]
    result: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if key_node.tag == _MERGE:
            several = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            for one in several:
                value = _value(one, file)
                if not isinstance(value, dict):
                    raise _yaml_error(one, file, "'<<' needs a mapping")
                merged = {**value, **merged}
            continue
        name = key_node.value
        if not isinstance(name, str):
            raise _yaml_error(key_node, file, "a key must be a text")
        if name in result:
            raise _yaml_error(key_node, file, f"key {name!r} stands twice")
        value = _value(value_node, file, name)
        if value is None:
            if key in _TEXT_MAPS:
                result[name] = ""
            continue
        result[name] = value
    return {**merged, **result} if merged else result


def _yaml_error(node: Any, file: str | None, what: str) -> ObjectError:
    mark = node.start_mark
    return ObjectError(what, file=file, line=mark.line + 1, column=mark.column + 1)


def _read(source: str | PathLike[str]) -> tuple[str, str | None]:
    """The text of a source and the file it is from. A text of several lines is itself, anything else names a file."""
    if isinstance(source, str) and ("\n" in source or ": " in source or not source.strip()):
        return source, None
    path = Path(source)
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except OSError as error:
        raise ObjectError(error.strerror or "cannot be read", file=str(path)) from None
    except UnicodeDecodeError:
        raise ObjectError("is not UTF-8 text", file=str(path)) from None


def read_documents(source: str | PathLike[str], *, file: str | None = None) -> list[Document]:
    """Read the documents of a text or a file; ``kind: List`` becomes its items, empty documents vanish.

    Args:
        source: A path, or the text itself if it has more than one line.
        file: What errors call a text.

    Raises:
        ObjectError: It is not YAML, or a document is not a mapping.
    """
    text, path = _read(source)
    file = path if file is None else file
    documents: list[Document] = []
    try:
        for node in yaml.compose_all(text, Loader=_Loader):
            documents.extend(_documents(node, file))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ObjectError(
            f"not YAML: {error.problem or error.context}",
            file=file,
            line=mark.line + 1 if mark else None,
            column=mark.column + 1 if mark else None,
        ) from None
    except yaml.YAMLError as error:
        raise ObjectError(f"not YAML: {error}", file=file) from None
    except RecursionError:
        raise ObjectError("not an object: it is nested too deeply or refers to itself", file=file) from None
    return documents


def _documents(node: Any, file: str | None) -> Iterator[Document]:
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == _NULL):
        return
    if not isinstance(node, yaml.MappingNode):
        raise _yaml_error(node, file, "a document must be a mapping with apiVersion and kind")
    data = _value(node, file)
    if isinstance(data.get("items"), list) and str(data.get("kind", "")).endswith("List"):
        # `kubectl get` prints kind List; the API itself answers with PodList and the like, whose items have no kind.
        item_kind = str(data["kind"]).removesuffix("List")
        for key, value in node.value:
            if key.value == "items":
                for item in value.value:
                    for document in _documents(item, file):
                        if item_kind and not document.kind:
                            document.data.update(kind=item_kind, apiVersion=data.get("apiVersion", ""))
                        yield document
        return
    yield Document(data, file, node)


def parse_object(document: Document) -> KubeObject | None:
    """Make a document an object; ``None`` if its kind has no influence on service networking.

    Raises:
        ObjectError: The API server would refuse it, or it is of an unknown kind.
        UnsupportedFeature: It would change verdicts and is not modelled.
    """
    kind = document.kind
    if not kind:
        raise document.error("kind is missing", mend="write apiVersion and kind of every object")
    if kind in REFUSED_KINDS:
        raise UnsupportedFeature(
            f"kind {kind}",
            mend=REFUSED_KINDS[kind],
            file=document.file,
            line=document.line,
            place=document.title,
        )
    if kind in HARMLESS_KINDS:
        return None
    model = KINDS.get(kind)
    if model is None:
        near = difflib.get_close_matches(kind, [*KINDS, *HARMLESS_KINDS], n=1)
        raise document.error(
            f"unknown kind {kind!r}", ("kind",), f"did you mean {near[0]!r}?" if near else "remove the document"
        )
    if document.api_version not in model.api_versions:
        raise document.error(
            f"apiVersion {document.api_version!r} of a {kind} is not read"
            if document.api_version
            else "apiVersion is missing",
            ("apiVersion",),
            f"write apiVersion: {model.api_versions[0]}",
        )
    metadata = document.data.get("metadata")
    if not isinstance(metadata, dict) or not (metadata.get("name") or metadata.get("generateName")):
        raise document.error("metadata.name is missing", ("metadata",))
    if model.namespaced:
        if not metadata.get("namespace"):
            metadata["namespace"] = "default"
    elif metadata.get("namespace"):
        raise document.error(f"a {kind} lives in no namespace", ("metadata", "namespace"), "remove it")
    if isinstance(metadata.get("name"), str):
        try:
            model.check_name(metadata["name"])
        except ValueError as error:
            raise document.error(str(error), ("metadata", "name")) from None
    return document.parse(model)


def load_objects(source: str | PathLike[str], *, file: str | None = None, check: bool = True) -> list[KubeObject]:
    """Read all objects of a text or a file, in order.

    Args:
        source: A path, or the text itself if it has more than one line.
        file: What errors call a text.
        check: Whether fields are also checked against each other, within an object and between objects, as an API
            server does. Recordings whose objects never saw one are read without.

    Raises:
        ObjectError: The API server would refuse an object, or it is of an unknown kind.
        UnsupportedFeature: An object would change verdicts and is not modelled.
    """
    return parse_objects(read_documents(source, file=file), check=check)


def parse_objects(documents: Iterable[Document], *, check: bool = True) -> list[KubeObject]:
    """Make documents objects; kinds without influence on service networking vanish. See :func:`load_objects`."""
    pairs = [(document, found) for document in documents if (found := parse_object(document)) is not None]
    if check:
        by_key = {id(found): document for document, found in pairs}
        for found, path, what, mend in check_objects([found for _, found in pairs]):
            raise by_key[id(found)].error(what, path, mend)
    return [found for _, found in pairs]
