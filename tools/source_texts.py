"""Texts of the source as templates: string constants and f-strings, with the names of their fields in braces."""

import ast
import re
from collections.abc import Iterator

_WORDS = re.compile(r"[A-Za-z][a-z]+ [A-Za-z(]")


def template(node: ast.expr) -> str | None:
    """Return the text of a constant, an f-string or a sum of them, as `"{path}: no such file"`; None of anything else.

    A field is named after what fills it: `{error.filename}` is {filename}, `{len(paths)}` is {paths}.
    """
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(
            "{%s}" % _field_name(part.value) if isinstance(part, ast.FormattedValue) else str(part.value)  # noqa: UP031
            for part in node.values
            if isinstance(part, ast.FormattedValue | ast.Constant)
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = template(node.left), template(node.right)
        if left is None and right is None:
            return None
        return f"{left if left is not None else _field(node.left)}{right if right is not None else _field(node.right)}"
    return None


def _field(node: ast.expr) -> str:
    return "{%s}" % _field_name(node)  # noqa: UP031


def _field_name(node: ast.expr) -> str:
    """The last name of an expression that says what it is: an attribute, a key, an argument, or the function."""
    name = _last_name(node).strip("_").lower()
    return {"name": "type"}.get(name, name) if "__" in _last_name(node) else name if name.isidentifier() else "value"


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id.strip("_")
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.Subscript):
        key = node.slice
        return key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else _last_name(node.value)
    if isinstance(node, ast.Call):
        inner = [_last_name(argument) for argument in node.args[-1:] if not isinstance(argument, ast.GeneratorExp)]
        called = node.func.attr if isinstance(node.func, ast.Attribute) else _last_name(node.func)
        return _last_name(node.func) if called == "join" or not inner else inner[0] or called
    if isinstance(node, ast.IfExp):
        return _last_name(node.body)
    if isinstance(node, ast.BinOp):
        return _last_name(node.left)
    return "value"


def blanked(text: str) -> str:
    """Return a template without the names of its fields, so that two of them can be compared."""
    return re.sub(r"\{[^{}]*\}", "{}", text)


def prose(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, template) of each text of a module that reads as words: docstrings and keys are left out."""
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)} - {
        id(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant | ast.JoinedStr) or id(node) in documented or id(node) in inner:
            continue
        text = template(node)
        if text is not None and _WORDS.search(blanked(text)):
            yield node.lineno, text
