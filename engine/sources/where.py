"""A row condition in one line of text, such as `kind == 'purchase' and qty > 0`, made into a mask over a table.

Responsible for the little language: COLUMN OP LITERAL, joined by `and`; OP is one of == != < <= > >= in. It is read
as a syntax tree and translated node by node, so nothing that is written there can run. Not for reading files
(files.py). Invariant: a comparison with a null is false, as in SQL. Pure; any thread.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..contract.errors import InputError

__all__ = ["Where", "parse"]

_OPERATORS: dict[type[ast.cmpop], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Eq: ("==", pc.equal),
    ast.NotEq: ("!=", pc.not_equal),
    ast.Lt: ("<", pc.less),
    ast.LtE: ("<=", pc.less_equal),
    ast.Gt: (">", pc.greater),
    ast.GtE: (">=", pc.greater_equal),
    ast.In: ("in", lambda column, values: pc.is_in(column, value_set=values)),
}
_WANTED = "wanted COLUMN OP LITERAL joined by `and`, OP one of " + " ".join(o for o, _ in _OPERATORS.values())


@dataclass(frozen=True)
class Clause:
    """One comparison: `operand` is a number, string or bool, or for `in` a tuple of them."""

    column: str
    operator: type[ast.cmpop]
    operand: Any

    def __str__(self) -> str:
        return f"{self.column} {_OPERATORS[self.operator][0]} {self.operand!r}"

    def mask(self, table: pa.Table) -> Any:
        column = table[self.column]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        compare = _OPERATORS[self.operator][1]
        try:
            operand = pa.array(self.operand) if isinstance(self.operand, tuple) else pa.scalar(self.operand)
            if pa.types.is_temporal(column.type):  # times are written as strings
                operand = operand.cast(column.type)
            return compare(column, operand)
        except (pa.ArrowException, OverflowError) as error:
            raise InputError(f"where: got {self}, but column {self.column!r} has type {column.type}") from error


@dataclass(frozen=True)
class Where:
    """A parsed condition. `str()` of it is canonical: the same for the same condition however it was spaced and
    quoted."""

    clauses: tuple[Clause, ...]

    @property
    def columns(self) -> list[str]:
        return sorted({c.column for c in self.clauses})

    def __str__(self) -> str:
        return " and ".join(str(c) for c in self.clauses)

    def mask(self, table: pa.Table) -> Any:
        """bool[N] without nulls for the N rows of `table`. InputError if a literal does not compare with its column."""
        mask = self.clauses[0].mask(table)
        for clause in self.clauses[1:]:
            mask = pc.and_kleene(mask, clause.mask(table))
        return pc.fill_null(mask, False)


def parse(text: str) -> Where:
    """Read `text`. InputError says what was wanted and what came."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"where: got {text!r}, {_WANTED}") from error
    conjunction = isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And)
    parts = tree.values if conjunction and isinstance(tree, ast.BoolOp) else [tree]
    return Where(tuple(_clause(part) for part in parts))


def _clause(node: ast.expr) -> Clause:
    if not isinstance(node, ast.Compare) or len(node.ops) != 1 or not isinstance(node.left, ast.Name):
        raise InputError(f"where: got {ast.unparse(node)!r}, {_WANTED}")
    operator, right = type(node.ops[0]), node.comparators[0]
    several = isinstance(right, ast.Tuple | ast.List | ast.Set)
    if operator not in _OPERATORS or several != (operator is ast.In):
        raise InputError(f"where: got {ast.unparse(node)!r}, {_WANTED}")
    try:
        operand = ast.literal_eval(right)
    except (ValueError, TypeError) as error:
        raise InputError(f"where: got {ast.unparse(right)!r}, wanted a number, string or boolean") from error
    values = tuple(operand) if several else (operand,)
    if not values or not all(isinstance(v, int | float | str) for v in values):
        raise InputError(f"where: got {ast.unparse(right)!r}, wanted a number, string or boolean")
    if several:
        return Clause(node.left.id, operator, tuple(sorted(values, key=lambda v: (type(v).__name__, v))))
    return Clause(node.left.id, operator, operand)
