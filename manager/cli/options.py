"""Options that many verbs share, written once as a frozen value, and given to typer one by one."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints

Verb = Callable[..., Any]


def expanded(verb: Verb) -> Verb:
    """The verb as typer reads it: in the place of a parameter whose type is a dataclass come that class's fields.

    Each field is a whole option: `Annotated[type, typer.Option(...)]` and a default.
    """
    hints = get_type_hints(verb, include_extras=True)
    values: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    signature = inspect.signature(verb)
    own = [
        each.replace(annotation=hints[each.name]) for each in signature.parameters.values() if each.name not in values
    ]
    shared = [each for kind in values.values() for each in options_of(kind)]

    @wraps(verb)
    def called(**given: Any) -> Any:
        made = {
            name: kind(**{each.name: given.pop(each.name) for each in options_of(kind)})
            for name, kind in values.items()
        }
        return verb(**given, **made)

    called.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in (*own, *shared)}
    return called


def options_of(kind: Any) -> list[inspect.Parameter]:
    """A parameter for each field of the class."""
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if each.default is MISSING else each.default,
            annotation=hints[each.name],
        )
        for each in fields(kind)
    ]
