"""Messages by the descriptors of the contract: a new field is tried as soon as it is there."""

from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from manager.ids import new_id
from tests.wire.caller import METHODS

IDS = [str(new_id()) for _ in range(4)]
TEXTS = st.one_of(
    st.sampled_from(["", *IDS, IDS[0].upper(), IDS[0][:5], "host", "\0", "%s", "'", "a" * 300]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)
WHOLE = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_ENUM: (-(2**31), 2**31 - 1),
}


def one_value(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Any value that the field can carry; now and then one that means something."""
    if field.message_type is not None:
        return messages(field.message_type)
    if field.type == FieldDescriptor.TYPE_STRING:
        return TEXTS
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=60)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return st.floats()
    least, most = WHOLE[field.type]
    return st.one_of(st.integers(0, 8), st.sampled_from([1000, least, most]), st.integers(least, most))


def any_value(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """As `one_value`, or several."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return st.dictionaries(TEXTS, TEXTS, max_size=3)
    return st.lists(one_value(field), max_size=3) if field.is_repeated else one_value(field)


@cache
def messages(kind: Descriptor) -> st.SearchStrategy[Message]:
    """Messages of that kind, each field given or not; those that name an instance mostly name one that may be there."""
    optional = {field.name: any_value(field) for field in kind.fields}
    required = {name: st.sampled_from(IDS) for name in ("instance_id", "parent_id", "child_id") if name in optional}
    return st.builds(
        lambda given, named, meant: GetMessageClass(kind)(**(given | named if meant else given)),
        st.fixed_dictionaries({}, optional=optional),
        st.fixed_dictionaries({}, optional=required),
        st.booleans(),
    )


@cache
def documents(kind: Descriptor) -> st.SearchStrategy[Any]:
    """JSON for messages of that kind: mostly of the right form, with anything at all where a value should be."""
    fields = {
        name: st.one_of(_right(field), ANYTHING) for field in kind.fields for name in (field.name, field.json_name)
    }
    return st.one_of(st.fixed_dictionaries({}, optional=fields), ANYTHING)


ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.sampled_from([*IDS, "\ud800", "\0", "NaN", "-Infinity", "1e999", "9" * 5000, "CHROME_BROWSER", "=", "AQ=="]),
        st.text(max_size=20),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=10), inner, max_size=3)),
    max_leaves=8,
)


def _right(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return st.dictionaries(TEXTS, TEXTS, max_size=3)
    if field.message_type is not None:
        one: st.SearchStrategy[Any] = st.deferred(lambda: documents(field.message_type))
    elif field.enum_type is not None:
        one = st.sampled_from([*field.enum_type.values_by_name, 0, 1, 99])
    elif field.type == FieldDescriptor.TYPE_STRING:
        one = TEXTS
    else:
        one = st.one_of(st.integers(0, 2000), st.integers(0, 2000).map(str))
    return st.lists(one, max_size=3) if field.is_repeated else one


REQUESTS = st.sampled_from([each for each in METHODS if not each.server_streaming]).flatmap(
    lambda method: st.tuples(st.just(method), messages(method.input_type))
)
