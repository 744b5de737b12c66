"""Unknown names in a workflow: misspelt ones are refused, unneeded ones are left out with a remark."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from ..graph import Graph, Link, Node
from ..problems import Problem, refuse, short, shown
from .registry import NearNames, NodeType, NodeTypes, close_names, near_miss

MEANT = 0.75
"""Similarity, 0..1, from which on an unknown input counts as a misspelling of one that has no value."""
PAGE_INPUTS = frozenset({"upload", "choose file to upload", "audioUI", "control_after_generate"})
"""Buttons and the like that the page writes among a node's inputs."""
MISSPELT = 0.85
"""Similarity, 0..1, from which on a class counts as a misspelling of another."""
MOST_KINDS = 500
"""Unknown classes that are compared with the known ones."""
MOST_STRANGE = 20
"""Unknown inputs of a node that are looked at."""
MOST_LISTED = 10
"""Nodes that a remark names."""


def unknown(graph: Graph, needed: Sequence[str], types: NodeTypes) -> Iterator[Problem]:
    """Yield a problem for each needed node of a class that the runner does not have."""
    near: dict[str, str] = {}
    for node in map(graph.nodes.__getitem__, needed):
        kind = node.class_type
        if kind not in types:
            near.setdefault(kind, near_miss(kind, types))
            text = f"the runner does not know nodes of class '{short(kind)}'.{near[kind]}"
            yield Problem(f"{text} Take the node out, or run the workflow in ComfyUI.", node.label)


def left_out(graph: Graph, needed: Sequence[str], types: NodeTypes) -> Mapping[str, Node]:
    """Return by id the nodes that are neither known nor needed for an output: labels, bookmarks, switches of the page.

    Raises InvalidWorkflow for a class that is a known one misspelt: nothing that should have run may be missing.
    """
    needs = frozenset(needed)
    spare = {node.id: node for node in graph.nodes.values() if node.id not in needs and node.class_type not in types}
    kinds = {node.class_type for node in spare.values()}
    misspelt = frozenset(kind for kind in sorted(kinds)[:MOST_KINDS] if is_misspelt(kind, types))
    refuse(unknown(graph, [node.id for node in spare.values() if node.class_type in misspelt], types))
    return spare


def is_misspelt(kind: str, known: Collection[str]) -> bool:
    """Return whether a class is a known one with a letter wrong, missing or too many.

    'Note+', 'ImageBatch2' and 'LoadImages' are other packs' own.
    """
    own = kind[-1:].isdigit() or kind[-1:] == "s"
    if not kind.replace("_", "").isalnum() or own and kind[:-1] in known:
        return False
    return any(abs(len(kind) - len(name)) <= 1 for name in close_names(kind, known, cutoff=MISSPELT))


def left_out_remark(spare: Mapping[str, Node]) -> str:
    """Return the remark about nodes that were left out."""
    labels = [
        node.label if node.title == node.class_type else f"{node.label} ({short(node.class_type)})"
        for node in list(spare.values())[:MOST_LISTED]
    ]
    more = f" and {len(spare) - MOST_LISTED} more" if len(spare) > MOST_LISTED else ""
    return f"Left out, because the runner does not know them and no output needs them: {', '.join(labels)}{more}"


def check_names(node: Node, node_type: NodeType, remarks: list[str], near: NearNames) -> Iterator[Problem]:
    """Yield a problem for each input that the node's class does not have and that must be a mistake.

    These are links, and names like that of an input without a value. Any other value is left out, as ComfyUI does, and
    `remarks` names it.
    """
    known = node_type.inputs
    strange = [name for name in node.inputs if name not in known and name not in PAGE_INPUTS][:MOST_STRANGE]
    missing = [name for name in known if name not in node.inputs]
    for name in strange:
        if isinstance(node.inputs[name], Link) or near.close(name, missing, MEANT):
            meant = near_miss(name, missing)
            listed = ", ".join(known) or "none"
            yield Problem(f"the node has no such input; it has {listed}.{meant} Rename or remove it.", node.label, name)
    if strange and len(remarks) < MOST_LISTED:
        listed = ", ".join(shown(name) for name in strange[:MOST_LISTED])
        remarks.append(f"{node.label}: the node has no input {listed}; left out.")
