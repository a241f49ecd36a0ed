"""The canonical form of one definition: its syntax tree without what no number depends on, and without chosen names.

Left out are docstrings, comments, annotations, layout, the texts of errors and warnings, and what a method declares
beside its data (title, paper, ...). Names of local variables become numbers in order of appearance. Names that lead out
of the definition stand as marks, which `numbered` replaces by numbers of what they mean. A form depends on its own file
alone, so that it is made once.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from benchmark.records.method_version.forms import ClassForms, Form
from benchmark.records.method_version.scopes import Bindings, Function, Imported, Scope
from benchmark.records.method_version.writer import Writer


def definition(
    statements: Sequence[ast.stmt], imports: dict[str, Imported], *, root: bool = False, running: bool = False
) -> Form:
    """The form of a function, of the statements that make a constant, or of one that runs as its file is used.

    `root`: the method itself, whose decorator says which data it is handed. `running`: imports within are alternatives,
    such as those of a `try`, and written down.
    """
    writer = Writer(imports)
    writer.running = running
    for statement in statements:
        if isinstance(statement, Function):
            writer.function(statement, None, root=root)
        else:
            writer.node(statement)
    return writer.form()


def class_forms(node: ast.ClassDef, imports: dict[str, Imported]) -> ClassForms:
    """The forms of a class and its methods."""
    writer = Writer(imports)
    scope = Scope("class", None, Bindings.of(node.body))
    writer.put("class")
    writer.nodes("bases", node.bases)
    for keyword in node.keywords:
        writer.put(f"{keyword.arg}=")
        writer.node(keyword.value)
    writer.nodes("decorators", node.decorator_list)
    writer.scope = scope
    writer.nodes("body", [n for n in node.body if not isinstance(n, Function)])
    methods: dict[str, Form] = {}
    for each in node.body:
        if isinstance(each, Function):
            inner = Writer(imports, scope)
            inner.own_class = (_class_parameter(each), node.name)
            inner.function(each, None)
            # A property and its setter have one name.
            methods[each.name] = _joined(methods[each.name], inner.form()) if each.name in methods else inner.form()
    fields = {n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    names = {*methods, *fields, *scope.own.bound, *_stored(node)}
    return ClassForms(writer.form(), methods, names, fields, [Writer(imports).chain(base) for base in node.bases])


def _class_parameter(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    """The first parameter of a class method."""
    if any(isinstance(d, ast.Name) and d.id == "classmethod" for d in node.decorator_list):
        return next((a.arg for a in (*node.args.posonlyargs, *node.args.args)), None)
    return None


def _joined(first: Form, second: Form) -> Form:
    return Form(first.parts + second.parts, first.texts | second.texts, first.asked | second.asked)


def _stored(node: ast.ClassDef) -> Iterator[str]:
    """Attributes that a method gives to its first parameter."""
    for method in node.body:
        if isinstance(method, Function) and (first := [*method.args.posonlyargs, *method.args.args][:1]):
            for each in ast.walk(method):
                if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store):
                    if isinstance(each.value, ast.Name) and each.value.id == first[0].arg:
                        yield each.attr


def without_effect(node: ast.stmt) -> bool:
    """Whether a statement does nothing: a constant by itself, such as a docstring, or `pass`."""
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
