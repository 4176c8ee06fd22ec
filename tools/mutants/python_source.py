"""Mutants of Python: what a slip of the hand would write.

Left out is what has no effect that a test should look for: texts and log messages, annotations,
assertions (they are for mypy), what is raised (that it is raised counts).
"""

from __future__ import annotations

import ast
import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise

from tools.mutants.mutant import Mutant, told_apart

_COMPARED: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"),
    ast.Is: ("is", "is not"),
    ast.IsNot: (r"is\s+not", "is"),
}
_CALCULATED: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: (r"\+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: (r"\*", "//"),
    ast.FloorDiv: ("//", "*"),
    ast.Div: ("/", "*"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: (r"\|", "&"),
}
_TWINS = {"min": "max", "max": "min", "any": "all", "all": "any"}
_LOGS = {"log", "logger", "warnings"}
_MUTE = {"strict", "frozen", "slots", "kw_only", "daemon", "stacklevel", "timeout", "include_url"}
"""Keyword arguments that change nothing a test should look for."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def mutants_of(path: str, text: str) -> list[Mutant]:
    """All of a file."""
    walk = _Walk(path, text)
    walk.visit(ast.parse(text))
    return told_apart(walk.found)


class _Walk(ast.NodeVisitor):
    def __init__(self, path: str, text: str) -> None:
        self.path, self.text = path, text
        self.found: list[Mutant] = []
        self._lines = text.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))
        self._names: list[str] = []
        self._functions: list[Function] = []
        self._guard = 0
        """How many branches and loops of the function are around."""

    # Where things stand

    def _at(self, line: int, byte: int) -> int:
        """``ast`` counts bytes of UTF-8."""
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:byte].decode())

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._at(node.lineno, node.col_offset)

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._at(node.end_lineno, node.end_col_offset)

    def _mutant(self, kind: str, start: int, end: int, new: str) -> None:
        line = bisect_right(self._starts, start)
        where = ".".join(self._names) or "module"
        around = self._lines[line - 1].strip()
        old = self.text[start:end]
        self.found.append(Mutant(self.path, where, kind, start, old, new, line, around))

    def _replace(self, kind: str, node: ast.expr | ast.stmt, new: str) -> None:
        self._mutant(kind, self._start(node), self._end(node), new)

    def _sign(self, kind: str, left: ast.expr, right: ast.expr, sign: str, new: str) -> None:
        """The sign between two terms."""
        after = self._end(left)
        found = re.search(sign, self.text[after : self._start(right)])
        if found:
            self._mutant(kind, after + found.start(), after + found.end(), new)

    def _source(self, node: ast.expr) -> str:
        return self.text[self._start(node) : self._end(node)]

    # What is passed over, and what is gone into

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def _function(self, node: Function) -> None:
        if node.name in ("__repr__", "__str__"):
            return
        outside, self._guard = self._guard, 0
        self._names.append(node.name)
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        self._functions.append(node)
        for statement in node.body:
            self.visit(statement)
        self._functions.pop()
        self._names.pop()
        self._guard = outside

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._names.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self._names.pop()

    def visit_Assert(self, node: ast.Assert) -> None: ...

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None: ...

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self._within(node.body)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in _MUTE:
            self.visit(node.value)

    def _within(self, statements: list[ast.stmt]) -> None:
        self._guard += 1
        for statement in statements:
            self.visit(statement)
        self._guard -= 1

    # Statements

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant) or _is_log(node.value):
            return
        self._replace("statement dropped", node, "pass")
        self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._replace("statement dropped", node, "pass")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._replace("statement dropped", node, "pass")

    def visit_Break(self, node: ast.Break) -> None:
        self._replace("statement dropped", node, "pass")

    def visit_Delete(self, node: ast.Delete) -> None:
        if not isinstance(node.targets[0], ast.Name):
            self._replace("statement dropped", node, "pass")

    def visit_Assign(self, node: ast.Assign) -> None:
        if self._functions and isinstance(node.targets[0], ast.Attribute | ast.Subscript):
            self._replace("statement dropped", node, "pass")
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._replace("statement dropped", node, "pass")
        self.visit(node.value)

    def visit_Return(self, node: ast.Return) -> None:
        if self._guard:
            self._replace("statement dropped", node, "pass")
        if node.value is None:
            return
        returns = self._functions[-1].returns if self._functions else None
        kind = ast.unparse(returns) if returns is not None else ""
        if kind == "bool" and not isinstance(node.value, ast.Constant):
            self._replace("value", node.value, f"not ({self._source(node.value)})")
        elif kind.startswith(("tuple[", "list[")) and not _is_empty(node.value):
            self._replace("value", node.value, "()" if kind.startswith("tuple") else "[]")
        elif kind.endswith("| None") and not isinstance(node.value, ast.Constant):
            self._replace("value", node.value, "None")
        self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
            return
        self._inverted(node.test)
        self.visit(node.test)
        self._within(node.body)
        self._within(node.orelse)

    def visit_While(self, node: ast.While) -> None:
        self.visit(node.test)
        self._within(node.body)

    def visit_For(self, node: ast.For) -> None:
        self.visit(node.iter)
        self._within(node.body)
        self._within(node.orelse)

    # Expressions

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._inverted(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for condition in node.ifs:
            self._replace("condition dropped", condition, "True")
        self.generic_visit(node)

    def _inverted(self, test: ast.expr) -> None:
        if not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp):
            self._replace("condition inverted", test, f"not ({self._source(test)})")

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in pairwise(node.values):
            self._sign("and, or", left, right, rf"\b{old}\b", new)
        for value in node.values:
            if not isinstance(value, ast.Constant):
                self._replace("condition dropped", value, str(old == "and"))
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        terms = [node.left, *node.comparators]
        for left, right, op in zip(terms, node.comparators, node.ops, strict=False):
            sign, new = _COMPARED[type(op)]
            self._sign("comparison", left, right, sign, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._replace("condition inverted", node, f"({self._source(node.operand)})")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        texts = any(isinstance(side, ast.JoinedStr) or _is_text(side) for side in _sides(node))
        types = isinstance(node.op, ast.BitOr) and not self._functions
        if type(node.op) in _CALCULATED and not texts and not types:
            sign, new = _CALCULATED[type(node.op)]
            self._sign("calculation", node.left, node.right, sign, new)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._replace("constant", node, str(not node.value))
        elif isinstance(node.value, int):
            self._replace("constant", node, str(node.value + 1))

    def visit_Name(self, node: ast.Name) -> None:
        if not self._functions or not isinstance(node.ctx, ast.Load):
            return
        for other in _of_same_type(self._functions[-1], node.id):
            self._replace("wrong variable", node, other)

    def visit_Call(self, node: ast.Call) -> None:
        if _is_log(node):
            return
        if isinstance(node.func, ast.Name) and node.func.id in _TWINS:
            self._replace("value", node.func, _TWINS[node.func.id])
        if isinstance(node.func, ast.Name) and node.func.id in ("cast", "TypeVar"):
            return
        self.generic_visit(node)


def _sides(node: ast.BinOp) -> Iterator[ast.expr]:
    for side in (node.left, node.right):
        if isinstance(side, ast.BinOp):
            yield from _sides(side)
        else:
            yield side


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_empty(node: ast.expr) -> bool:
    return isinstance(node, ast.Tuple | ast.List) and not node.elts


def _is_log(node: ast.expr) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    return isinstance(node.func.value, ast.Name) and node.func.value.id in _LOGS


def _of_same_type(function: Function, name: str) -> Iterator[str]:
    """The next parameter after ``name`` with its type: what it is easily mistaken for."""
    args = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    types = {a.arg: ast.unparse(a.annotation) for a in args if a.annotation is not None}
    alike = [arg for arg in types if arg in types and types[arg] == types.get(name)]
    if len(alike) > 1:
        yield alike[(alike.index(name) + 1) % len(alike)]
