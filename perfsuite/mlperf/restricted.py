"""The small language of the official rule files, read as data: parsed, held to what may occur, never executed.

The official checker's rules are Python expressions and assignments in YAML, which it runs with eval and exec. Here they
become closures over a dict of names; whatever is not on the lists below is refused when a rule file is read.
"""

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

Names = dict[str, Any]
Evaluate = Callable[[Names], Any]

_BINARY = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Div: operator.truediv, ast.Mod: operator.mod,
    ast.FloorDiv: operator.floordiv, ast.BitOr: operator.or_, ast.BitAnd: operator.and_,
}  # fmt: skip
_COMPARE = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: lambda item, where: item in where, ast.NotIn: lambda item, where: item not in where,
}  # fmt: skip
_UNARY = {ast.Not: operator.not_, ast.USub: operator.neg, ast.UAdd: operator.pos}
_FIELDS = {"timestamp", "key", "value", "lineno", "full_string"}
_METHODS = {dict: {"get", "update", "values", "items", "keys"}, list: {"append", "extend"}, str: {"lower", "upper"}}
_LONGEST = 1_000_000


class Refused(ValueError):
    """A rule holds something that this language does not have."""


def expression(code: str) -> Evaluate:
    """The value of an expression, as a function of the names. Raises Refused."""
    return _expression(_parsed(code, "eval").body)


def statements(code: str) -> Callable[[Names], None]:
    """Assignments, calls, if and for, as a function that changes the names. Raises Refused."""
    return _block(_parsed(code, "exec").body)


def _parsed(code: str, mode: str) -> Any:
    try:
        return ast.parse(code.strip(), mode=mode)
    except SyntaxError as error:
        raise Refused(f"not an expression: {code.strip()[:80]}") from error


def _block(nodes: list[ast.stmt]) -> Callable[[Names], None]:
    steps = [_statement(node) for node in nodes]

    def run(names: Names) -> None:
        for step in steps:
            step(names)

    return run


def _statement(node: ast.stmt) -> Callable[[Names], Any]:
    match node:
        case ast.Expr(value):
            return _expression(value)
        case ast.Assign([target], value):
            return _assignment(target, _expression(value))
        case ast.AugAssign(target, op, value):
            load = ast.copy_location(_as_load(target), target)
            return _assignment(target, _binary(op, _expression(load), _expression(value)))
        case ast.If(test, body, orelse):
            check, then, other = _expression(test), _block(body), _block(orelse)
            return lambda names: then(names) if check(names) else other(names)
        case ast.For(ast.Name(name), iterable, body, []):
            over, inside = _expression(iterable), _block(body)

            def loop(names: Names) -> None:
                for item in list(over(names)):
                    names[name] = item
                    inside(names)

            return loop
        case ast.ImportFrom("dataclasses", [ast.alias("replace")]):
            return lambda names: None  # `replace` is among the names already
    raise Refused(f"a rule holds {ast.unparse(node)[:80]!r}")


def _as_load(target: ast.expr) -> ast.expr:
    return ast.parse(ast.unparse(target), mode="eval").body


def _assignment(target: ast.expr, value: Evaluate) -> Callable[[Names], None]:
    match target:
        case ast.Name(name):

            def set_name(names: Names) -> None:
                names[name] = value(names)

            return set_name
        case ast.Subscript(container, key):
            where, at = _expression(container), _expression(key)

            def set_item(names: Names) -> None:
                result = value(names)
                where(names)[at(names)] = result

            return set_item
        case ast.Attribute(thing, name) if name in _FIELDS:
            of = _expression(thing)
            return lambda names: setattr(of(names), name, value(names))
    raise Refused(f"a rule assigns to {ast.unparse(target)[:80]!r}")


def _expression(node: ast.expr) -> Evaluate:
    match node:
        case ast.Constant(value):
            return lambda names: value
        case ast.Name(name):
            return lambda names: names[name]
        case ast.Subscript(container, key):
            where, at = _expression(container), _expression(key)
            return lambda names: where(names)[at(names)]
        case ast.Compare(left, ops, rights):
            return _comparison(_expression(left), [_COMPARE[type(op)] for op in ops], [*map(_expression, rights)])
        case ast.BoolOp(op, values):
            return _all_or_any(isinstance(op, ast.And), [_expression(value) for value in values])
        case ast.BinOp(left, op, right):
            return _binary(op, _expression(left), _expression(right))
        case ast.UnaryOp(op, operand) if type(op) in _UNARY:
            apply, of = _UNARY[type(op)], _expression(operand)
            return lambda names: apply(of(names))
        case ast.IfExp(test, body, orelse):
            check, then, other = _expression(test), _expression(body), _expression(orelse)
            return lambda names: then(names) if check(names) else other(names)
        case ast.List(items) | ast.Tuple(items):
            parts = [_expression(item) for item in items]
            return lambda names: [part(names) for part in parts]
        case ast.Set(items):
            parts = [_expression(item) for item in items]
            return lambda names: {part(names) for part in parts}
        case ast.Dict(keys, values) if None not in keys:
            pairs = [(_expression(k), _expression(v)) for k, v in zip(keys, values, strict=True)]
            return lambda names: {k(names): v(names) for k, v in pairs}
        case ast.Attribute(thing, name) if name in _FIELDS:
            of = _expression(thing)
            return lambda names: getattr(of(names), name)
        case ast.Call(function, arguments, []):
            return _call(function, [_expression(argument) for argument in arguments])
        case ast.Call(function, arguments, keywords):
            return _call_with(function, [*map(_expression, arguments)],
                              {word.arg: _expression(word.value) for word in keywords if word.arg})  # fmt: skip
    raise Refused(f"a rule holds {ast.unparse(node)[:80]!r}")


def _comparison(first: Evaluate, ops: list[Any], rest: list[Evaluate]) -> Evaluate:
    if len(ops) == 1:
        (op,), (right,) = ops, rest
        return lambda names: op(first(names), right(names))

    def chain(names: Names) -> bool:
        left = first(names)
        for op, part in zip(ops, rest, strict=True):
            right = part(names)
            if not op(left, right):
                return False
            left = right
        return True

    return chain


def _all_or_any(every: bool, parts: list[Evaluate]) -> Evaluate:
    def decide(names: Names) -> Any:
        result: Any = every
        for part in parts:
            result = part(names)
            if bool(result) != every:
                break
        return result

    return decide


def _binary(op: ast.operator, left: Evaluate, right: Evaluate) -> Evaluate:
    if isinstance(op, ast.Mult):
        return lambda names: _product(left(names), right(names))
    if isinstance(op, ast.Pow):
        return lambda names: _power(left(names), right(names))
    if type(op) not in _BINARY:
        raise Refused(f"a rule uses the operator {type(op).__name__}")
    apply = _BINARY[type(op)]
    return lambda names: apply(left(names), right(names))


def _product(a: Any, b: Any) -> Any:
    """a * b; text repeated a billion times by a number of the log is refused."""
    for text, times in ((a, b), (b, a)):
        if isinstance(text, str | list) and isinstance(times, int) and len(text) * times > _LONGEST:
            raise OverflowError("repeated too often")
    return a * b


def _power(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int) and abs(b) * max(1, a.bit_length()) > 10_000:
        raise OverflowError("a power of too many digits")
    return a**b


def _call(function: ast.expr, arguments: list[Evaluate]) -> Evaluate:
    match function:
        case ast.Name(name):
            return lambda names: names[name](*[argument(names) for argument in arguments])
        case ast.Attribute(ast.Name("math"), name) if name in ("log2", "ceil", "floor", "isclose"):
            apply = getattr(math, name)
            return lambda names: apply(*[argument(names) for argument in arguments])
        case ast.Attribute(ast.Constant(str(template)), "format") if template.replace("{}", "").isprintable():
            if "{" in template.replace("{}", ""):
                raise Refused(f"a rule formats {template!r}")
            return lambda names: template.format(*[argument(names) for argument in arguments])
        case ast.Attribute(thing, name) if any(name in allowed for allowed in _METHODS.values()):
            of = _expression(thing)

            def method(names: Names) -> Any:
                target = of(names)
                if name not in _METHODS.get(type(target), ()):
                    raise AttributeError(f"{type(target).__name__} has no {name}")
                return getattr(target, name)(*[argument(names) for argument in arguments])

            return method
    raise Refused(f"a rule calls {ast.unparse(function)[:80]!r}")


def _call_with(function: ast.expr, arguments: list[Evaluate], keywords: dict[str, Evaluate]) -> Evaluate:
    match function:
        case ast.Attribute(ast.Name("math"), "isclose"):
            return lambda names: math.isclose(
                *[argument(names) for argument in arguments], **{name: of(names) for name, of in keywords.items()}
            )
    raise Refused(f"a rule calls {ast.unparse(function)[:80]!r} with named arguments")
