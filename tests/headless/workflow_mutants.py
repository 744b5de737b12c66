"""Damaged workflow files: each is a sound one with a few things changed, by the number of its seed.

A mutant is the same on every machine: `random.Random(seed)` decides all. Half change the parsed JSON, knowing what a
workflow is made of; the others change its bytes.
"""

from __future__ import annotations

import copy
import json
import random

from .ui_documents import BOX, box, node, subgraph

NUMBERS = [0, -1, 1, 2, 4, 1.5, -0.0, 1e308, float("nan"), float("inf"), 10**30, -10, -20, 2**64]
TEXTS = [
    *["", " ", "0", "-1", "8", "nan", "1e9", "x", "x" * 300, "é" * 200, "x" * 5000],
    *["../../etc/passwd", "/dev/zero", "a/b/../c", "%width%" * 60],
    *["\x00", "\x1b[2J", "\x9b", "\r\n", "\u202e", "\ud800"],
    *["(" * 400, "a, " * 3000, "red: nan", "car: 0.9-0.1"],
    *["Reroute", "PrimitiveNode", "Note", "SetNode", "GetNode", "SaveVideo", "FateZero_P2PEdit", "LoadImage", BOX],
]
LISTS = [[], {}, [[]], [1], [1, 2], ["8", 0], ["8", -1], [8, 0, 0], [None], {"a": 1}, {"__value__": [1]}]
NASTY = [None, True, False, *NUMBERS, *TEXTS, *LISTS]
"""Values to put where others are."""
KEYS = [
    *["id", "type", "mode", "inputs", "outputs", "widgets_values", "properties", "proxyWidgets", "title", "name"],
    *["link", "links", "widget", "nodes", "definitions", "subgraphs", "origin_id", "target_id"],
    *["class_type", "_meta", "prompt", "__value__"],
]
"""Keys to put where others are."""


DRAWN = frozenset("pos size flags order slot_index groups config extra shape localized_name".split())
"""Keys whose values no reader looks at."""
MARKS = [bytes([mark]) for mark in b'{}[],":-']
"""What JSON is structured by."""


FILES = {
    "1": {"class_type": "LoadVideo", "inputs": {"file": "red_circle_on_grass.mp4"}},
    "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
    "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    "4": {"class_type": "LoadImage", "inputs": {"image": "2_shape_edit.jpg"}},
    "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "pictures/%year%"}},
    "6": {"class_type": "LoadImageMask", "inputs": {"image": "2_shape_edit.jpg", "channel": "red"}},
    "7": {"class_type": "InvertMask", "inputs": {"mask": ["6", 0]}},
    "8": {"class_type": "MaskToImage", "inputs": {"mask": ["7", 0]}},
    "9": {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}},
}
"""A document that names files."""


def sources(examples, api_formats):
    """Sound documents to damage: the examples in both formats, some with subgraphs, one that names files."""
    boxed = [_boxed(document, listed) for document in examples[:1] for listed in (False, True)]
    return [*examples, *api_formats, *boxed, _nested(examples[0]), FILES]


def _boxed(document, listed):
    """The first example with its Prompt-to-Prompt Edit in a subgraph whose prompt is promoted."""
    document = copy.deepcopy(document)
    edit = next(raw for raw in document["nodes"] if raw["type"] == "FateZero_P2PEdit")
    position = document["nodes"].index(edit)
    inner = copy.deepcopy(edit)
    names = [socket["name"] for socket in inner["inputs"]] + ["edit_prompt"]
    inner["inputs"].append({"name": "edit_prompt", "type": "STRING", "widget": {"name": "edit_prompt"}})
    for slot, socket in enumerate(inner["inputs"]):
        socket["link"] = slot + 1
    links = [(slot + 1, -10, slot, inner["id"], slot) for slot in range(len(names))]
    links += [(50 + slot, inner["id"], slot, -20, slot) for slot in range(len(inner["outputs"]))]
    outside = [
        *edit["inputs"],
        {"name": "edit_prompt", "type": "STRING", "widget": {"name": "edit_prompt"}, "link": None},
    ]
    properties = {"proxyWidgets": [[str(inner["id"]), "edit_prompt"], ["-1", "edit_prompt"]]} if listed else {}
    document["nodes"][position] = edit | {
        "type": BOX,
        "inputs": outside,
        "properties": properties,
        "widgets_values": ["a green circle on the grass"],
    }
    document["definitions"] = {"subgraphs": [subgraph([inner], links, names, name="My edit")]}
    return document


def _nested(document):
    """The first example beside page-only nodes and boxes in boxes."""
    document = copy.deepcopy(document)
    inner = subgraph(
        [
            node(1, "PrimitiveNode", (3, "fixed")),
            node(2, "Reroute", (), [("", 1)]),
            node(3, "PrimitiveInt", (1, "fixed"), [("value", 2, "widget")]),
        ],
        [(1, 1, 0, 2, 0), (2, 2, 0, 3, 0), (3, 3, 0, -20, 0)],
        ["a"],
        id="inner",
    )
    outer = subgraph([box(3, (4,), type="inner", proxies=[("1", "value")])], [(1, 3, 0, -20, 0)], ["a"])
    more = [
        box(90, (5,), proxies=[("3", "1: value")]),
        node(91, "PreviewAny", (), [("source", 900)], ()),
        node(92, "SetNode", ("a",), [("*", 901)]),
        node(93, "GetNode", ("a",)),
        node(94, "PreviewAny", (), [("source", 902)], ()),
        node(95, "Label (rgthree)", None),
        node(96, "PrimitiveInt", (5, "randomize")),
    ]
    document["nodes"] += more
    document["links"] += [[900, 90, 0, 91, 0, "*"], [901, 96, 0, 92, 0, "*"], [902, 93, 0, 94, 0, "*"]]
    document["definitions"] = {"subgraphs": [inner, outer]}
    return document


def mutant(documents, seed):
    """The bytes of mutant number `seed`."""
    chance = random.Random(seed)
    document = chance.choice(documents)
    if seed % 2:
        changed = copy.deepcopy(document)
        try:
            for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
                changed = _changed(changed, chance)
            return json.dumps(changed).encode("utf-8", "surrogatepass")
        except RecursionError:  # one deep value inside another, deeper than Python can write
            return b'{"1":' * 5000
    content = bytearray(json.dumps(document, ensure_ascii=chance.random() < 0.5).encode())
    for _ in range(chance.choice([1, 1, 2, 5, 30])):
        _change_bytes(content, chance)
    return bytes(content)


def _places(value, found):
    """All (container, key) pairs in a document, without those that only say how it is drawn."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        if key in DRAWN:
            continue
        found.append((value, key))
        if isinstance(value[key], (dict, list)):
            _places(value[key], found)
    return found


def _changed(document, chance):
    places = _places(document, [])
    if not places:
        return chance.choice(NASTY)
    where, key = chance.choice(places)
    kind = chance.randrange(9)
    if kind <= 2:
        where[key] = copy.deepcopy(chance.choice(NASTY))
    elif kind == 3:
        del where[key]
    elif kind == 4:
        other, name = chance.choice(places)
        where[key] = (
            copy.deepcopy(other[name]) if name in other or isinstance(other, list) and name < len(other) else None
        )
    elif kind == 5 and isinstance(where, list):
        where.insert(key, copy.deepcopy(where[key]))
    elif kind == 5:
        where[chance.choice(KEYS)] = copy.deepcopy(chance.choice(NASTY))
    elif kind == 6 and isinstance(where, dict):
        where[_misspelt(key, chance)] = where.pop(key)
    elif kind == 7 and isinstance(where[key], str):
        where[key] = _misspelt(where[key], chance)
    else:
        where[key] = _deep(chance)
    return document


def _misspelt(text, chance):
    if not text:
        return "x"
    at = chance.randrange(len(text))
    return chance.choice(
        [text[:at] + text[at + 1 :], text[:at] + "x" + text[at:], text.upper(), text + "\x1b[0m", text * 50]
    )


def _deep(chance):
    value = chance.choice(NASTY)
    for _ in range(chance.choice([3, 50, 150])):
        value = [value] if chance.random() < 0.5 else {chance.choice(KEYS): value}
    return value


def _change_bytes(content, chance):
    if not content:
        content += b"{"
    at, length = chance.randrange(len(content)), chance.choice([1, 1, 2, 8, 200])
    kind = chance.randrange(6)
    if kind == 0:
        content[at] = chance.randrange(256)
    elif kind == 1:
        del content[at : at + length]
    elif kind == 2:
        content[at:at] = content[at : at + length]
    elif kind == 3:
        content[at:at] = chance.choice(
            [b"{", b"}", b"[", b"]", b",", b'"', b":", b"\\u0000", b"\\ud800", b"9" * 50, b"\xff", b"-"]
        )
    elif kind == 4:
        del content[at:]
    else:
        start = chance.randrange(len(content))
        content[at:at] = content[start : start + length]
