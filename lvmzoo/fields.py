"""What the fields of a config dataclass mean, read from the comments beside them: said once, shown everywhere."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize
from dataclasses import dataclass
from typing import Any

__all__ = ["Field", "describe_fields"]


@dataclass(frozen=True)
class Field:
    """One field of a config: its name, type and default, and its meaning."""

    name: str
    type: str  # as written in the source
    default: Any  # dataclasses.MISSING where the user must say
    meaning: str  # the comment in the field's line; "" where there is none


def describe_fields(config: Any) -> tuple[Field, ...]:
    """Return the fields of a dataclass (the class) in order, inherited ones included."""
    meanings: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        if dataclasses.is_dataclass(cls):
            meanings |= _comments(cls)
    return tuple(
        Field(
            field.name,
            field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type)),
            field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default,
            meanings.get(field.name, ""),
        )
        for field in dataclasses.fields(config)
    )


def _comments(cls: Any) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except OSError:  # no source: a dataclass made by a program
        return {}
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        node.target.id: " ".join(
            comments[line] for line in range(node.lineno, (node.end_lineno or node.lineno) + 1) if line in comments
        )
        for node in body.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
