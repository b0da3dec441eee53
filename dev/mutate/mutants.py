"""The mutants of a module: its source with one change in one function.

The changes that say most about the tests come first: a guard that never refuses, an error that is
not raised, a condition that is never met. Changes that any test would notice come last.
"""

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
Change = tuple[int, ast.expr | ast.stmt, str]  # the rank, what is replaced, and by what

_SAME = "\0"  # stands for the text that is replaced
_NEVER, _ALWAYS = f"({_SAME}) and False", f"({_SAME}) or True"
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_JUMPS = (ast.Raise, ast.Return, ast.Continue, ast.Break)
_LOGGING = ("logger.", "log.", "logging.", "super().__init__")
_COMPARISONS = {
    ast.Lt: ">=",
    ast.LtE: ">",
    ast.Gt: "<=",
    ast.GtE: "<",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}


@dataclass(frozen=True)
class Mutant:
    function: str  # the path of the module, and the qualified name
    line: int
    before: str
    after: str
    number: int  # from 1, of the same change in the same function
    source: str  # of the whole module, mutated
    digest: str  # of the function

    @property
    def path(self) -> str:
        return self.function.partition("::")[0]

    @property
    def key(self) -> str:
        change = f"{self.function}: {self.before} → {self.after}"
        return change if self.number == 1 else f"{change}, number {self.number}"

    @property
    def result(self) -> str:
        """The key of its result, which is forgotten when the function changes."""
        return f"{self.digest} {self.key}"


class Module:
    """A file with Python code, and its functions by their qualified names."""

    def __init__(self, root: Path, path: str) -> None:
        self.text = (root / path).read_text(encoding="utf-8")
        self._lines = self.text.encode().split(b"\n")  # the columns of a node are bytes
        tree = ast.parse(self.text)
        self.functions = {f"{path}::{name}": node for name, node in _functions(tree, "")}

    def lines_of(self, function: str) -> set[int]:
        """Return the lines of its statements, without those of functions inside it."""
        nodes = _own_nodes(self.functions[function])
        return {node.lineno for node in nodes if isinstance(node, ast.stmt)}

    def mutants(self, limit: int) -> Iterator[Mutant]:
        """Yield at most `limit` mutants of each function, the most telling ones first."""
        for name, function in self.functions.items():
            made = Counter[tuple[str, str]]()
            digest = hashlib.sha256(self._cut(function)[1]).hexdigest()[:16]
            ranked = sorted(_changes(function), key=itemgetter(0))
            # In `return a and b`, the expression is found twice: as the returned value, and as a
            # condition. Each change of it is made once.
            changes = dict.fromkeys((node, template) for _, node, template in ranked)
            for node, template in list(changes)[:limit]:
                start, old, end = self._cut(node)
                new = template.replace(_SAME, old.decode())
                source = (start + new.encode() + end).decode()
                before, after = (" ".join(text.split()) for text in (old.decode(), new))
                made[before, after] += 1
                number = made[before, after]
                yield Mutant(name, node.lineno, before, after, number, source, digest)

    def _cut(self, node: ast.expr | ast.stmt) -> tuple[bytes, bytes, bytes]:
        """Return the text before the node, that of the node, and the text after it."""
        assert node.end_lineno is not None
        first, last = self._lines[node.lineno - 1], self._lines[node.end_lineno - 1]
        start = [*self._lines[: node.lineno - 1], first[: node.col_offset]]
        end = [last[node.end_col_offset :], *self._lines[node.end_lineno :]]
        whole = b"\n".join(self._lines)
        before, after = b"\n".join(start), b"\n".join(end)
        return before, whole[len(before) : len(whole) - len(after)], after


def _functions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for node in ast.iter_child_nodes(tree):
        name = f"{prefix}{node.name}" if isinstance(node, _SCOPES) else prefix.rstrip(".")
        if isinstance(node, Function):
            yield name, node
        yield from _functions(node, f"{name}." if name else "")


def _own_nodes(function: Function) -> Iterator[ast.AST]:
    """Yield the nodes of the body, in the order of the text.

    Functions and classes inside it, assertions, annotations and f-strings are left out. Python 3.11
    does not know where the parts of an f-string are.
    """
    nodes: list[ast.AST] = list(reversed(function.body))
    while nodes:
        node = nodes.pop()
        if isinstance(node, (*_SCOPES, ast.Assert, ast.JoinedStr)):
            continue
        yield node
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.AnnAssign):
            children.remove(node.annotation)
        nodes.extend(reversed(children))


def _changes(function: Function) -> Iterator[Change]:
    is_predicate = isinstance(function.returns, ast.Name) and function.returns.id == "bool"
    for node in _own_nodes(function):
        match node:
            case ast.If(test=test, body=[*_, last], orelse=[]) if isinstance(last, _JUMPS):
                yield (0 if isinstance(last, ast.Raise) else 1), test, _NEVER
            case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
                if not isinstance(test, ast.Constant):
                    yield 3, test, _NEVER
            case ast.comprehension(ifs=[test, *_]):
                yield 3, test, _ALWAYS
            case ast.Return(value=ast.expr() as value):
                yield from _other_result(value, is_predicate)
            case ast.BoolOp():
                yield 4, node, _without_the_last_operand(node)
            case ast.Compare(left=left, ops=[operator], comparators=[right]):
                opposite = _COMPARISONS[type(operator)]
                yield 4, node, f"{ast.unparse(left)} {opposite} {ast.unparse(right)}"
            case ast.stmt() if function.name != "__init__" or isinstance(node, ast.Raise):
                yield from _without(node)


def _other_result(value: ast.expr, is_predicate: bool) -> Iterator[Change]:
    match value:
        case ast.Constant(value=bool()):
            yield 2, value, str(not value.value)
        case ast.BoolOp():
            yield 1, value, _without_the_last_operand(value)
        case _ if is_predicate:
            yield 1, value, _ALWAYS
        case _ if not isinstance(value, ast.Constant):
            yield 6, value, "None"


def _without(statement: ast.stmt) -> Iterator[Change]:
    match statement:
        case ast.Raise():
            yield 2, statement, "pass"
        case ast.Expr(value=ast.Await() | ast.Call() as call):
            if not ast.unparse(call).startswith(_LOGGING):
                yield 5, statement, "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.AugAssign():
            yield 7, statement, "pass"


def _without_the_last_operand(node: ast.BoolOp) -> str:
    operator = " and " if isinstance(node.op, ast.And) else " or "
    return f"({operator.join(ast.unparse(value) for value in node.values[:-1])})"
