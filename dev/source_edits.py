"""Edits of source text that keep its comments and its format.

What is left of Python code is correct, perhaps with imports that nothing uses and lines that the
formatter would join: run ruff on it.
"""

import ast
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

Function = ast.FunctionDef | ast.AsyncFunctionDef
Element = tuple[int, int, bool]  # where it starts and ends, and whether it has to go

BLOCKS = ("body", "handlers", "cases", "orelse", "finalbody")
COMPOUND = (ast.stmt, ast.ExceptHandler, ast.match_case)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def forget(source: str, names: Iterable[str]) -> str:
    """Drop each thing that mentions one of the names, and what is empty without it.

    A thing is a statement, a function, a class, a parameter, an argument, an operand of `and`, `or`
    or `|`, an element of a list, tuple or set, an entry of a dictionary, or a sentence of a
    docstring. A tuple that is an element itself, or that is returned, is such a thing as a whole.
    A thing mentions a name by an identifier, an attribute, a keyword, or a string that is equal to
    it. A dotted name means a module and all that is imported from it. A name with spaces is a piece
    of a sentence in a docstring.

    What is not defined any more is forgotten too, in the scope that defined it. A function goes
    with its last `return`, and a test with its last `assert`. A comment goes with the statement
    that it stands directly above.
    """
    forgotten, undefined = frozenset(names), frozenset[tuple[int, str]]()
    if not any(name.rpartition(".")[2] in source for name in forgotten):
        return source
    while True:
        pruning = _Pruning(source, forgotten, undefined)
        pruning.block(pruning.tree)
        found = pruning.undefined_names()
        if found <= undefined:
            return pruning.result()
        undefined |= found


def remove_lines(text: str, *words: str) -> str:
    """Remove each line that contains one of the words as a whole word."""
    pattern = "|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in words)
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not re.search(pattern, line))


def feature_layers(pyproject: str) -> list[str]:
    """Return the features in pyproject.toml. Each may import those to its right."""
    return re.findall(r'"([^"]+)"', _layers(pyproject)[2])


def with_feature_layers(pyproject: str, layers: Sequence[str]) -> str:
    """Return the text of pyproject.toml with other features."""
    found, written = _layers(pyproject), ", ".join(f'"{layer}"' for layer in layers)
    return pyproject[: found.start(2)] + written + pyproject[found.end(2) :]


def _layers(pyproject: str) -> re.Match[str]:
    pattern = r'(containers = \["app\.features"\]\nlayers = \[)([^\]]*)'
    if found := re.search(pattern, pyproject):
        return found
    raise ValueError('There are no `layers` after containers = ["app.features"].')


@dataclass
class _Pruning:
    """One pass over the source. It collects the replacements to make.

    A method that prunes a node returns whether the node has to go as a whole.
    """

    source: str
    forgotten: frozenset[str]
    undefined: frozenset[tuple[int, str]]  # the line of a scope, and a name in it
    edits: list[tuple[int, int, str]] = field(default_factory=list)
    dropped: list[ast.AST] = field(default_factory=list)
    scopes: list[ast.AST] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tree = ast.parse(self.source)
        self.lines = io.StringIO(self.source).readlines()  # they end with a newline, as in `ast`
        self.starts = [0, *accumulate(len(line) for line in self.lines)]
        self.bindings = set[tuple[int, str]]()
        self.places = [*_bindings(self.tree, 0)]
        self.bindings = {(line, name) for line, name, _ in self.places}

    def result(self) -> str:
        """Apply the replacements. One that is inside another is not needed."""
        parts, done = [], 0
        for start, end, text in sorted(self.edits, key=lambda edit: (edit[0], -edit[1])):
            if start >= done:
                parts += [self.source[done:start], text]
                done = end
        return "".join(parts) + self.source[done:]

    def undefined_names(self) -> frozenset[tuple[int, str]]:
        gone = self._gone()
        kept = {(line, name) for line, name, node in self.places if id(node) not in gone}
        return frozenset(self.bindings - kept)

    def _gone(self) -> set[int]:
        return {id(node) for root in self.dropped for node in ast.walk(root)}

    # Statements

    def block(self, node: ast.AST) -> bool:
        """Prune the statements in a node. It has to go if its body loses all of them."""
        is_scope = isinstance(node, (ast.Module, *FUNCTIONS))
        self.scopes += [node] if is_scope else []
        is_empty = False
        for name in BLOCKS:
            statements: list[ast.AST] = getattr(node, name, [])
            kept = [one for one in statements if not self._drops(one)]
            is_changed = len(kept) < len(statements)
            is_empty |= is_changed and name in {"body", "handlers", "cases"} and not _code(kept)
            if is_changed and not kept and name in {"orelse", "finalbody"}:
                self._delete_header(statements)
        if is_scope:
            self.scopes.pop()
        if is_empty and isinstance(node, ast.If) and node.orelse and not self._is_elif(node):
            return not self._replace_body(node)
        return is_empty

    def _drops(self, node: ast.AST) -> bool:
        if _is_docstring(node):
            return self._docstring(node)
        if not self._statement(node):
            return False
        self._delete_statement(node)
        return True

    def _statement(self, node: ast.AST) -> bool:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                return self._function(node)
            case ast.ClassDef(name=name, decorator_list=decorators, bases=bases, keywords=keywords):
                return (
                    name in self.forgotten
                    or self._any(decorators)
                    or self._list([*bases, *keywords])
                    or self.block(node)
                )
            case ast.Import() | ast.ImportFrom():
                return self._import(node)
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                return not self.forgotten.isdisjoint(names)
            case ast.Return(value=ast.Tuple() as value):
                return self._element(value)
            case ast.Assign(targets=[target], value=value):
                return self._pair(target, value)
            case ast.With(items=items) | ast.AsyncWith(items=items):
                return self._list(items) or self.block(node)
            case _:
                is_gone = isinstance(node, ast.ExceptHandler) and node.name in self.forgotten
                parts = ast.iter_child_nodes(node)
                is_gone |= self._any([one for one in parts if not isinstance(one, COMPOUND)])
                return is_gone or self.block(node)

    def _function(self, node: Function) -> bool:
        if node.name in self.forgotten or self._any(node.decorator_list, self._decorator):
            return True
        self.scopes.append(node)
        self._parameters(node.args)
        is_gone = node.returns is not None and self._expression(node.returns)
        self.scopes.pop()
        if is_gone or self.block(node):
            return True
        if not self.dropped:
            return False
        gone, last = self._gone(), node.body[-1]
        if isinstance(last, ast.Return) and last.value is not None and id(last) in gone:
            return True
        asserts = [id(one) for one in ast.walk(node) if isinstance(one, ast.Assert)]
        return node.name.startswith("test_") and bool(asserts) and gone.issuperset(asserts)

    def _decorator(self, node: ast.AST) -> bool:
        """Prune a decorator, in which no positional argument can be left out."""
        if not isinstance(node, ast.Call):
            return self._expression(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "parametrize":
            parameters = [part for one in node.args[:1] for part in ast.walk(one)]
            if any(self._mentions(part) for part in parameters):
                return True
        return self._any([node.func, *node.args]) or self._list(node.keywords)

    def _parameters(self, node: ast.arguments) -> None:
        positional = [*node.posonlyargs, *node.args]
        defaults = [None] * (len(positional) - len(node.defaults)) + node.defaults
        parts = [*zip(positional, defaults, strict=True)]
        parts += zip(node.kwonlyargs, node.kw_defaults, strict=True)
        elements = []
        for parameter, default in parts:
            is_gone = self._any([parameter] if default is None else [parameter, default])
            self.dropped += [parameter] if is_gone else []
            end = self._range(default or parameter)[1]
            elements.append((self._range(parameter)[0], end, is_gone))
        if elements and all(is_gone for _, _, is_gone in elements):
            self.edits.append((elements[0][0], elements[-1][1], ""))
        else:
            self._delete_elements(elements)

    def _import(self, node: ast.Import | ast.ImportFrom) -> bool:
        prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        flags = []
        for alias in node.names:
            parts = (prefix + alias.name).split(".")
            dotted = {".".join(parts[:number]) for number in range(2, len(parts) + 1)}
            names = {alias.name, alias.asname, *dotted}
            flags.append(not self.forgotten.isdisjoint(names))
        return self._elements(node.names, flags)

    def _docstring(self, node: ast.AST) -> bool:
        """Drop the sentences that mention a name in backquotes, or one with an underscore."""
        start, end = self._range(node)
        text = self.source[start:end]
        quotes = text[:3] if text.startswith('"""') else text[:1]
        parts = re.split(r"(?<=[.!?])(\s+)", text[len(quotes) : -len(quotes)])
        sentences = [*zip(parts[::2], [*parts[1::2], ""], strict=True)]
        kept = [one for one in sentences if not self._is_sentence_about_forgotten(one[0])]
        if not "".join(sentence for sentence, _ in kept).strip():
            self._delete_statement(node)
            return True
        if len(kept) < len(sentences):
            written = "".join(sentence + gap for sentence, gap in kept)
            is_multiline = (
                text[len(quotes) : -len(quotes)].endswith((" ", "\n")) and "\n" in written
            )
            written = written if is_multiline else written.rstrip()
            self.edits.append((start, end, quotes + written + quotes))
        return False

    def _is_sentence_about_forgotten(self, sentence: str) -> bool:
        code = " ".join([*re.findall(r"`[^`]+`", sentence), *re.findall(r"\w+_\w+", sentence)])
        text = " ".join(sentence.split())
        pieces = {name for name in self.forgotten if " " in name and name in text}
        return bool(pieces) or not self.forgotten.isdisjoint(re.findall(r"\w+", code))

    # Expressions

    def _any(
        self, nodes: Iterable[ast.AST], prune: Callable[[ast.AST], bool] | None = None
    ) -> bool:
        """Prune nodes of which none can be left out. All of them are pruned, also after a hit."""
        flags = [(prune or self._expression)(node) for node in nodes]
        return any(flags)

    def _expression(self, node: ast.AST) -> bool:
        if self._mentions(node):
            return True
        match node:
            case ast.List(elts=elements) | ast.Set(elts=elements) | ast.Tuple(elts=elements):
                flags = [self._element(element) for element in elements]
                return self._elements(elements, flags, is_tuple=isinstance(node, ast.Tuple))
            case ast.Dict():
                return self._dictionary(node)
            case ast.Call(func=function, args=arguments, keywords=keywords):
                return self._expression(function) or self._list([*arguments, *keywords])
            case ast.BoolOp() | ast.BinOp(op=ast.BitOr()):
                return self._operands(_operands_of(node))
            case ast.Compare(left=left, ops=[_], comparators=[right]):
                return self._pair(left, right)
            case ast.Subscript(value=value, slice=ast.Tuple(elts=parts)):
                return self._expression(value) or self._index(value, parts)
            case ast.Yield(value=ast.Tuple() as value):
                return self._element(value)
            case ast.JoinedStr():  # before Python 3.12, the positions inside are not right
                return any(self._mentions(one) for one in ast.walk(node))
            case _:
                return self._any(ast.iter_child_nodes(node))

    def _element(self, node: ast.AST) -> bool:
        """Prune an element. A tuple among others is a record, which needs all its parts."""
        if isinstance(node, ast.Tuple):
            return self._any(node.elts)
        return self._expression(node)

    def _mentions(self, node: ast.AST) -> bool:
        match node:
            case ast.Name(id=name):
                return name in self.forgotten or self._is_undefined(name)
            case ast.arg(arg=name):
                return name in self.forgotten or self._is_lost_fixture(name)
            case ast.Attribute(attr=name) | ast.keyword(arg=name) | ast.Constant(value=str(name)):
                return name in self.forgotten
            case _:
                return False

    def _is_undefined(self, name: str) -> bool:
        for scope in reversed(self.scopes):
            place = (getattr(scope, "lineno", 0), name)
            if place in self.bindings or place in self.undefined:
                return place in self.undefined
        return False

    def _is_lost_fixture(self, name: str) -> bool:
        return (0, name) in self.undefined and any(
            isinstance(node, FUNCTIONS) and node.name == name and "fixture" in ast.dump(decorator)
            for node in self.tree.body
            for decorator in getattr(node, "decorator_list", [])
        )

    def _index(self, value: ast.expr, parts: Sequence[ast.expr]) -> bool:
        """Prune `Literal[…]` and the metadata of `Annotated[…]`. Other types need all parts."""
        kind = value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", "")
        flags = [self._expression(part) for part in parts]
        if kind == "Literal" or (kind == "Annotated" and not flags[0]):
            return self._elements(parts, flags)
        return any(flags)

    def _pair(self, left: ast.expr, right: ast.expr) -> bool:
        """Prune two sides. If both are tuples of one length, they lose the same elements."""
        if not (
            isinstance(left, ast.Tuple)
            and isinstance(right, ast.Tuple)
            and len(left.elts) == len(right.elts)
        ):
            return self._any([left, right])
        pairs = zip(left.elts, right.elts, strict=True)
        flags = [self._any(pair) for pair in pairs]
        if len(flags) > 1 and flags.count(False) == 1:
            self.dropped += [one for one, flag in zip(left.elts, flags, strict=True) if flag]
            for side in (left, right):
                start, end = self._range(side)
                kept_start, kept_end = self._range(side.elts[flags.index(False)])
                self.edits += [(start, kept_start, ""), (kept_end, end, "")]
            return False
        is_left_empty = self._elements(left.elts, flags, is_tuple=True)
        return self._elements(right.elts, flags, is_tuple=True) or is_left_empty

    def _dictionary(self, node: ast.Dict) -> bool:
        elements = []
        for key, value in zip(node.keys, node.values, strict=True):
            start, end = self._range(value)
            start = self.source.rindex("**", 0, start) if key is None else self._range(key)[0]
            is_gone = self._any([value] if key is None else [key, value])
            elements.append((start, end, is_gone))
        return self._delete_elements(elements)

    def _operands(self, operands: Sequence[ast.expr]) -> bool:
        flags = [self._expression(one) for one in operands]
        if all(flags) or not any(flags):
            return all(flags)
        ranges = [self._with_parentheses(*self._range(one)) for one in operands]
        first = flags.index(False)
        if first:
            self.edits.append((ranges[0][0], ranges[first][0], ""))
        for number in range(first + 1, len(flags)):
            if flags[number]:
                self.edits.append((ranges[number - 1][1], ranges[number][1], ""))
        return False

    # Elements that are separated by commas

    def _list(self, nodes: Sequence[ast.AST], *, is_tuple: bool = False) -> bool:
        flags = [self._expression(node) for node in nodes]
        return self._elements(nodes, flags, is_tuple=is_tuple)

    def _elements(
        self, nodes: Sequence[ast.AST], flags: Sequence[bool], *, is_tuple: bool = False
    ) -> bool:
        elements = [(*self._range(node), flag) for node, flag in zip(nodes, flags, strict=True)]
        self.dropped += [node for node, flag in zip(nodes, flags, strict=True) if flag]
        return self._delete_elements(elements, is_tuple=is_tuple)

    def _delete_elements(self, elements: Sequence[Element], *, is_tuple: bool = False) -> bool:
        """Delete elements with their commas, unless all of them have to go."""
        flags = [is_gone for _, _, is_gone in elements]
        if all(flags) or not any(flags):
            return bool(flags) and all(flags)
        ranges = sorted(
            (*self._with_parentheses(start, end), is_gone) for start, end, is_gone in elements
        )
        last_kept = max(end for _, end, is_gone in ranges if not is_gone)
        for start, end, is_gone in ranges:
            comma = self._comma_after(end)
            if is_gone and comma:
                self.edits.append((start, self._end_of_line(comma), ""))
            elif is_gone:  # the last one: the comma before it goes too
                text = "," if is_tuple and flags.count(False) == 1 else ""
                self.edits.append((last_kept, end, text))
            elif is_tuple and flags.count(False) == 1 and end == last_kept and not comma:
                self.edits.append((end, end, ","))
        return False

    def _comma_after(self, offset: int) -> int | None:
        found = re.compile(r"(?:\s|\\\n|#[^\n]*\n)*,").match(self.source, offset)
        return found.end() if found else None

    def _end_of_line(self, offset: int) -> int:
        """Return the end of the white space after an element, and of a comment about it."""
        found = re.compile(r"[ \t]*(?:#[^\n]*)?\n[ \t]*|[ \t]*").match(self.source, offset)
        return found.end() if found else offset

    def _with_parentheses(self, start: int, end: int) -> tuple[int, int]:
        """Return where the parentheses around an element start and end."""
        opening, closing = re.compile(r"\(\s*\Z"), re.compile(r"\s*\)")
        before, after = opening.search(self.source[:start]), closing.match(self.source, end)
        if before is None or after is None:
            return start, end
        return self._with_parentheses(before.start(), after.end())

    # Positions

    def _range(self, node: ast.AST) -> tuple[int, int]:
        if isinstance(node, ast.withitem):
            last = node.optional_vars or node.context_expr
            return self._range(node.context_expr)[0], self._range(last)[1]
        line, column, last, end = (
            getattr(node, name) for name in ("lineno", "col_offset", "end_lineno", "end_col_offset")
        )
        return self._offset(line, column), self._offset(last, end)

    def _offset(self, line: int, column: int) -> int:
        """Return the offset of a position, which counts bytes of UTF-8."""
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:column].decode())

    def _delete_statement(self, node: ast.AST) -> None:
        """Delete the lines of a statement, with the comment that stands directly above it."""
        self.dropped.append(node)
        first, last = _lines_of(node)
        if isinstance(node, ast.If) and node.orelse and self._is_elif(node):
            last = _lines_of(node.body[-1])[1]
        self.edits.append((self.starts[self._with_comment(first) - 1], self.starts[last], ""))

    def _with_comment(self, line: int) -> int:
        """Return the first line of the comment that stands directly above a line."""
        indent = re.match(r"\s*", self.lines[line - 1])
        while line > 1 and self.lines[line - 2].startswith(f"{indent[0] if indent else ''}#"):
            line -= 1
        return line

    def _delete_header(self, statements: Sequence[ast.AST]) -> None:
        """Delete the line `else:` or `finally:` above statements that are all deleted."""
        line = _lines_of(statements[0])[0]
        if self._is_elif(statements[0]):
            return
        first = line - 1
        while not re.match(r"\s*(else|finally)\b", self.lines[first - 1]):
            first -= 1
        self.edits.append((self.starts[first - 1], self.starts[line - 1], ""))

    def _replace_body(self, node: ast.If) -> bool:
        """Write `pass` as the body of an `if` that keeps its `else`."""
        first = self._with_comment(_lines_of(node.body[0])[0])
        last = _lines_of(node.body[-1])[1]
        indent = " " * node.body[0].col_offset
        edit = (self.starts[first - 1], self.starts[last], f"{indent}pass\n")
        self.edits = [one for one in self.edits if one[1] <= edit[0] or one[0] >= edit[1]]
        self.edits.append(edit)
        return True

    def _is_elif(self, node: ast.AST) -> bool:
        return isinstance(node, ast.If) and self.source.startswith("elif", self._range(node)[0])


def _lines_of(node: ast.AST) -> tuple[int, int]:
    """Return the first and the last line of a statement, with its decorators."""
    if isinstance(node, ast.match_case):
        return _lines_of(node.pattern)[0], _lines_of(node.body[-1])[1]
    decorators = getattr(node, "decorator_list", [])
    first, last = (getattr(node, name) for name in ("lineno", "end_lineno"))
    return min([first, *(one.lineno for one in decorators)]), last


def _operands_of(node: ast.BoolOp | ast.BinOp) -> list[ast.expr]:
    return node.values if isinstance(node, ast.BoolOp) else [node.left, node.right]


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _code(statements: Iterable[ast.AST]) -> list[ast.AST]:
    return [one for one in statements if not _is_docstring(one)]


def _bindings(node: ast.AST, scope: int) -> Iterator[tuple[int, str, ast.AST]]:
    """Yield each binding of a name below a node: the line of its scope, the name and the node.

    The names in the body of a class are attributes. They have no scope here.
    """
    for child in ast.iter_child_nodes(node):
        inner = scope
        match child:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield scope, name, child
                inner = child.lineno
            case ast.ClassDef(name=name):
                yield scope, name, child
                inner = -1
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield scope, name, child
            case ast.ExceptHandler(name=str(name)):
                yield scope, name, child
            case ast.alias(name=name, asname=asname):
                yield scope, asname or name.partition(".")[0], child
        yield from _bindings(child, inner)
