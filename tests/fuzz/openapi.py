"""HTTP as OpenAPI describes it, from the descriptors: a new method is described as soon as it is in the contract."""

from collections.abc import Iterator
from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from manager.domain.instance import InstanceType, ServiceType
from manager.pb.version import PROTO_VERSION
from manager.wire.connect import CODES
from tests.fuzz.strategies import WHOLE
from tests.wire.caller import UNARY, path

Schema: TypeAlias = dict[str, Any]

ID, HOST = "instance-id", "host"  # formats of names; whoever has data made gives each a strategy
WIDE = {FieldDescriptor.TYPE_INT64: "int64", FieldDescriptor.TYPE_UINT64: "uint64"}
FORMATS = dict.fromkeys(("instance_id", "instance_ids", "ids", "parent_id", "child_id", "subtree_of"), ID)
FORMATS |= dict.fromkeys(("hostname", "hostnames"), HOST)
TEXT = "text/plain"
# what a client's fault ends in, and a deadline of its own; without a word: another verb or kind of content, too much
TOLD, UNTOLD = (400, 401, 404, 429, 501, 504), (405, 414, 415, 431)


def described() -> Schema:
    """Single calls as POST in JSON, kills last, so that there is somebody to ask about; and pages that end."""
    methods = sorted(UNARY, key=lambda each: "Kill" in each.name)
    kinds = {each.full_name: each for method in UNARY for each in (method.input_type, method.output_type)}
    for each in list(kinds.values()):
        kinds |= {inner.full_name: inner for inner in _within(each)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Instance Manager", "version": PROTO_VERSION},
        "paths": {path(method): {"post": _call(method)} for method in methods} | PAGES,
        "components": {"schemas": {name: _message(each) for name, each in kinds.items()} | {"Refusal": REFUSAL}},
    }


def _within(kind: Descriptor) -> Iterator[Descriptor]:
    """The messages in the fields of one, down to the last; the contract has none that holds itself."""
    for field in kind.fields:
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            yield field.message_type
            yield from _within(field.message_type)


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _call(method: MethodDescriptor) -> Schema:
    return {
        # those of Connect are read alike for every method: they are varied for the first of each service
        "parameters": [VERSION] if method.index else [VERSION, *OF_CONNECT],
        "requestBody": {"content": {"application/json": {"schema": _ref(method.input_type.full_name)}}},
        "responses": _answers({"application/json": {"schema": _ref(method.output_type.full_name)}}),
    }


def _message(kind: Descriptor) -> Schema:
    properties = {field.name: _several(field) for field in kind.fields}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _several(field: FieldDescriptor) -> Schema:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": _one(field.message_type.fields_by_name["value"])}
    return {"type": "array", "items": _one(field)} if field.is_repeated else _one(field)


def _one(field: FieldDescriptor) -> Schema:
    if field.message_type is not None:
        return _ref(field.message_type.full_name)
    if field.enum_type is not None:
        return {"type": "string", "enum": list(field.enum_type.values_by_name)}
    if field.type in WIDE:
        return {"type": "string", "format": WIDE[field.type]}  # as protobuf writes them; it reads numbers, too
    if field.type in WHOLE:
        return dict(zip(("type", "minimum", "maximum"), ("integer", *WHOLE[field.type]), strict=True))
    if field.type == FieldDescriptor.TYPE_STRING and field.name in FORMATS:
        return {"type": "string", "format": FORMATS[field.name]}
    return SIMPLE[field.type]


SIMPLE: dict[int, Schema] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "format": "byte"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_DOUBLE: {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]},
}
REFUSAL: Schema = {
    "type": "object",
    "properties": {
        "code": {"enum": sorted(each.value for each in CODES.values())},
        "message": {"type": "string"},
        "details": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["code"],
    "additionalProperties": False,
}


def _answers(right: Schema) -> Schema:
    refused = {"description": "", "content": {"application/json": {"schema": _ref("Refusal")}, TEXT: {}}}
    untold = {str(each): {"description": ""} for each in UNTOLD}
    return {"200": {"description": "", "content": right}, **untold} | {str(each): refused for each in TOLD}


def _given(where: str, name: str, schema: Schema, *, required: bool = False) -> Schema:
    return {"in": where, "name": name, "schema": schema, "required": required}


def _page(kind: str, *parameters: Schema, schema: Schema | None = None) -> Schema:
    content = {kind: {"schema": schema} if schema else {}}
    return {"get": {"parameters": [*parameters], "responses": _answers(content)}}


COOKIE = _given("cookie", "im_session", {"type": "string"})
VERSION = _given("header", "proto_version", {"enum": [PROTO_VERSION]}, required=True)
OF_CONNECT = [
    _given("header", "connect-protocol-version", {"enum": ["1"]}),
    _given("header", "connect-timeout-ms", {"type": "integer", "minimum": 1000, "maximum": 9_999_999_999}),
]
TARGETS: Schema = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "targets": {"type": "array", "items": {"type": "string"}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        "required": ["targets", "labels"],
        "additionalProperties": False,
    },
}
PAGES: Schema = {
    "/healthz": _page(TEXT),
    "/metrics": _page(TEXT, COOKIE),
    "/sd/prometheus": _page(
        "application/json",
        _given("query", "service_type", {"type": "array", "items": {"enum": [each.name for each in ServiceType]}}),
        _given("query", "type", {"type": "array", "items": {"enum": [each.name for each in InstanceType]}}),
        _given("query", "hostname", {"type": "array", "items": {"type": "string"}}),
        COOKIE,
        schema=TARGETS,
    ),
    "/": _page("text/html"),
    "/events": _page("text/html"),
    "/instances/{id}": _page("text/html", _given("path", "id", {"type": "string"}, required=True)),
}
