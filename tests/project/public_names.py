"""What the public signatures of `fatezero_ext` name, found by walking them."""

import ast
import collections.abc
import inspect
import sys
import typing

PACKAGE = "fatezero_ext"


def ours(value):
    """Whether a class is of this package."""
    return inspect.isclass(value) and value.__module__.split(".")[0] == PACKAGE


def public_callables(value):
    """A function itself; of a class its public methods and properties."""
    if inspect.isfunction(value):
        yield value
    if not inspect.isclass(value):
        return
    for name, member in vars(value).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if inspect.isfunction(function) and (not name.startswith("_") or name == "__call__"):
            yield function


def annotations(value):
    """Annotation texts with the names that they are read with."""
    for function in public_callables(value):
        yield from ((text, function.__globals__) for text in function.__annotations__.values())
    if inspect.isclass(value):
        space = vars(sys.modules[value.__module__])
        for name, text in vars(value).get("__annotations__", {}).items():
            if not name.startswith("_"):
                yield getattr(text, "__forward_arg__", text), space


def named_types(value):
    """Classes and aliases of this package that a public object names, by name."""
    found = {}
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        pending = [arg for arg in typing.get_args(value)]
        while pending:
            arg = pending.pop()
            pending += arg if isinstance(arg, list) else typing.get_args(arg)
            if ours(arg):
                found[arg.__name__] = arg
        return found
    for text, space in annotations(value):
        for node in ast.walk(ast.parse(text, mode="eval")):
            named = space.get(node.id) if isinstance(node, ast.Name) else None
            if ours(named) or is_alias(named) and not standard(node.id, named):
                found[node.id] = named
    return found


def is_alias(value):
    """Whether a value is a type made of others, such as Callable[[StepDone], None]."""
    return bool(typing.get_args(value))


def standard(name, value):
    return any(getattr(module, name, None) is value for module in (typing, collections.abc))


def all_named(start):
    """Everything that public objects name, and what that names in turn; start: names to objects."""
    known, pending = dict(start), list(start)
    while pending:
        for name, value in named_types(known[pending.pop()]).items():
            if name not in known:
                known[name] = value
                pending.append(name)
    return known
