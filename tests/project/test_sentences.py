"""Docstrings and the texts below constants are sentences of their own: none continues the name that stands above it."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTINUING = frozenset(
    "Above Across As At Between By For From How In Its Likewise Of That Those To Told What When Where Whether Which Who"
    " Whose Why With Without".split()
)
"""First words that need the name above to make sense, as in "What a node shows"."""


def texts(path):
    """Line and text of every docstring, and of every text that stands below a constant or a field."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        body = getattr(node, "body", None)
        for each in body if isinstance(body, list) else ():
            value = each.value if isinstance(each, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield each.lineno, value.value


def test_every_docstring_begins_with_a_noun_or_a_verb():
    offenders = [
        f"{path.relative_to(ROOT)}:{line}: {text.strip().splitlines()[0]}"
        for package in ("fatezero_ext", "nodes")
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, text in texts(path)
        if text.split()[:1] and text.split()[0].rstrip(",.:;") in CONTINUING
    ]
    assert not offenders, f"{len(offenders)} begin with a word that continues a name:\n" + "\n".join(offenders)
