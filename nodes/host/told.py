"""Lines that nodes tell, and those of them that a console has shown already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

SENTENCE_ENDS = (".", "!", "?")


def sentences(texts: Iterable[str]) -> list[str]:
    """Make each text lines that end as sentences do; a text of which nothing is left is left out."""
    whole = ("\n".join(_ended(" ".join(line.split())) for line in text.splitlines() if line.strip()) for text in texts)
    return [text for text in whole if text]


def _ended(line: str) -> str:
    return line if line.endswith(SENTENCE_ENDS) else f"{line}."


class ToldLines:
    """The lines that the nodes of a run have told."""

    def __init__(self) -> None:
        self._facts: dict[str, list[str]] = {}  # by node, of what it told last
        self._on_page: dict[str, tuple[list[str], list[str]]] = {}  # by node of the page, remarks and choices

    def new(self, texts: Iterable[str], node_id: str | None) -> list[str]:
        """Return the lines that no node around this one has told: both look at the same clip."""
        lines, inner = [line for text in texts for line in text.split("\n")], node_id or ""
        around = {fact for outer, told in self._facts.items() if inner.startswith(f"{outer}.") for fact in told}
        self._facts[inner] = _facts(lines)
        return [line for line, fact in zip(lines, _facts(lines), strict=True) if fact not in around]

    def on_page(self, node: str, remarks: Sequence[str], choices: Sequence[str]) -> tuple[list[str], list[str]]:
        """Keep and return what a node of the page shows."""
        self._on_page[node] = [*remarks], [*choices]
        return self._on_page[node]

    def joined(self, around: str, remarks: Sequence[str], new: Sequence[str]) -> tuple[list[str], list[str]] | None:
        """Return what a node of the page shows, with the remarks of a node in its place.

        new: lines that no node around has told
        None where it has shown nothing, so that it may be another program's, and where no remark is new.
        """
        shown, further = self._on_page.get(around), [text for text in remarks if text.split("\n")[0] in new]
        if shown is None or not further:
            return None
        return self.on_page(around, list(dict.fromkeys([*shown[0], *further])), shown[1])


def _facts(lines: Sequence[str]) -> list[str]:
    """Return remarks without their advice, which differs from node to node."""
    parts = (line.rpartition(": ") for line in lines)
    return [fact or advice for fact, _, advice in parts]
