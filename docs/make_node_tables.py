"""Write the tables of the node pages from the nodes' schemas: `python docs/make_node_tables.py`, from the checkout.

Names, labels, order, defaults and ranges come from the schemas and the locales. The advice in a table's last column is
written by hand in the page and kept; a new input or output begins with its tooltip.
"""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "web" / "docs"
LOCALES = ROOT / "locales"
LONGEST_NAME = 13
"""Letters of a name that fit into a line of ComfyUI's narrow help panel; longer ones may be broken at underscores."""
LONGEST_VALUE = 30
"""Letters of a default text that a table shows."""
BEGIN, END = "<!-- table: made by docs/make_node_tables.py from the schema; the last column is kept -->", "<!-- end -->"


@dataclass(frozen=True)
class Words:
    """Words of a language that tables use."""

    inputs: tuple[str, str, str]
    outputs: tuple[str, str]
    headings: tuple[str, str]
    to: str
    comma: str
    on: str
    off: str
    empty: str
    text: str
    link: str
    optional: str


LANGUAGES = {
    "en": Words(
        inputs=("input", "default, and choices", "what it does, and advice"),
        outputs=("output", "what it is"),
        headings=("Inputs", "Outputs"),
        to="to",
        comma=", ",
        on="on",
        off="off",
        empty="empty",
        text="a text",
        link="a link",
        optional="a link, optional",
    ),
    "zh": Words(
        inputs=("输入", "默认值和取值", "作用和建议"),
        outputs=("输出", "含义"),
        headings=("输入", "输出"),
        to="到",
        comma="，",
        on="开",
        off="关",
        empty="空",
        text="文本",
        link="连接",
        optional="连接，可选",
    ),
}


def page_path(node_id: str, language: str) -> Path:
    """Return where ComfyUI looks for a page; English is what it falls back to."""
    return PAGES / f"{node_id}.md" if language == "en" else PAGES / node_id / f"{language}.md"


def with_tables(page: str, schema: Any, texts: Mapping[str, Any], language: str) -> str:  # noqa: ANN401 - an io.Schema
    """Return a page with its two tables written anew.

    texts: the node's entry of the language's locale
    """
    words = LANGUAGES[language]
    inputs, outputs = texts.get("inputs", {}), texts.get("outputs", {})
    taken = [
        (_name(socket.id, inputs[socket.id], language), _value(socket, words), inputs[socket.id].get("tooltip", ""))
        for socket in schema.inputs
    ]
    given = []
    for place, socket in enumerate(schema.outputs):
        own = outputs.get(str(place), {})
        given.append((_name(socket.display_name or socket.get_io_type(), own, language), own.get("tooltip", "")))
    page = _with_table(page, words.headings[0], words.inputs, taken)
    return _with_table(page, words.headings[1], words.outputs, given)


def _name(name: str, texts: Mapping[str, str], language: str) -> str:
    """Return a table's first cell: the name of errors and workflows, and the label of a translated interface."""
    code = f"<code>{name.replace('_', '_<wbr>')}</code>" if len(name) > LONGEST_NAME else f"`{name}`"
    label = texts.get("name", "") if language != "en" else ""
    return f"{code} {label}".strip()


def _value(socket: Any, words: Words) -> str:  # noqa: ANN401 - an io.Input
    """Return the default of an input, and what it may be."""
    kind, default = socket.get_io_type(), getattr(socket, "default", None)
    if default is None or getattr(socket, "force_input", False):
        return words.optional if socket.optional else words.link
    if kind == "BOOLEAN":
        return words.on if default else words.off
    if kind == "COMBO":
        options = [default, *(option for option in socket.options if option != default)]
        return words.comma.join(f"`{option}`" for option in options)
    if kind in ("INT", "FLOAT"):
        shown, least, most = (f"{n:.9g}" if isinstance(n, float) else str(n) for n in (default, socket.min, socket.max))
        return f"`{shown}`{words.comma}{least} {words.to} {most}"
    if default == "":
        return words.empty
    return f"`{default}`" if len(default) <= LONGEST_VALUE and "\n" not in default else words.text


def _with_table(page: str, heading: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a section's table in the place of the one that is there; the last cell of a row that stays is kept."""
    before, after = page.split(f"\n## {heading}\n", 1)
    section, *rest = re.split(r"(?=\n## )", after, maxsplit=1)
    if not rows:
        return page
    there = re.search(rf"(?:{re.escape(BEGIN)}\n+)?(?:\|.*\n)+(?:\n+{re.escape(END)}\n)?\n*", section)
    lines = [] if there is None else [line for line in there[0].splitlines() if line.startswith("|")]
    advice = {cells[0]: cells[-1] for cells in map(_cells, lines[2:])}
    table = [head, ["---"] * len(head), *((*row[:-1], advice.get(row[0], row[-1])) for row in rows)]
    block = "\n".join([BEGIN, "", *map(_line, table), "", END, ""])
    section = f"\n{block}{section}" if there is None else section[: there.start()] + block + section[there.end() :]
    return f"{before}\n## {heading}\n{section}{''.join(rest)}"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def _line(cells: Sequence[str]) -> str:
    if set(cells) == {"---"}:
        return f"|{'|'.join(cells)}|"
    return f"| {' | '.join(cells)} |"


def written_pages() -> dict[Path, str]:
    """Return each page as it should be."""
    pages = {}
    for language in LANGUAGES:
        locale = json.loads((LOCALES / language / "nodeDefs.json").read_text("utf-8"))
        for schema in runpy.run_path(str(ROOT / "docs" / "make_locale.py"))["schemas"]():
            path = page_path(schema.node_id, language)
            pages[path] = with_tables(path.read_text("utf-8"), schema, locale[schema.node_id], language)
    return pages


if __name__ == "__main__":
    for path, text in written_pages().items():
        path.write_text(text, "utf-8")
