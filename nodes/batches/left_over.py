"""Words that a row gives to an edit that does not use them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..checking.graph_texts import EDIT_NODE, source_prompt_of, texts_of
from ..headless.graph import Graph
from ..headless.schemas.overrides import Setting
from ..method.edit_widgets import BLEND_WIDGETS, CUSTOM, of_this_clip


def unused_words(graph: Graph, settings: Iterable[Setting]) -> Iterator[str]:
    """Yield a remark for each list of words of a row that is in no prompt, where the kind of the edit chooses words.

    The edit itself takes such a list for what was left over from another clip, and says nothing.
    """
    nodes = graph.api_format()
    for setting in settings:
        node = graph.nodes[setting.node]
        kind = node.inputs.get("kind", CUSTOM)
        if (
            node.class_type != EDIT_NODE
            or setting.input not in BLEND_WIDGETS
            or kind == CUSTOM
            or not isinstance(kind, str)
        ):
            continue
        inputs = nodes[node.id]["inputs"]
        source, edits = source_prompt_of(nodes, inputs), texts_of(nodes, inputs.get("edit_prompt"))
        if source is None or edits is None or not setting.value.strip():
            continue
        if not of_this_clip({setting.input: setting.value}, source, *edits):
            yield f"Not used: {setting.input}. It is in no prompt; a kind of edit other than custom chooses its own."
