"""How the templates look when they are opened: notes, groups, places."""

import json
import re

import pytest
from PIL import Image

from .template_files import ALL, BUILT_IN, BY_NAME, nodes_of


@pytest.mark.parametrize("path", ALL, **BY_NAME)
def test_every_file_that_a_node_names_can_be_downloaded_and_stands_in_the_note(path):
    (note,) = [node["widgets_values"][0] for node in nodes_of(path) if node["type"] == "MarkdownNote"]
    sizes = {}
    for node in nodes_of(path):
        for file in node["properties"].get("models", ()):
            assert file["name"] in node["widgets_values"]
            before, after = f"[{file['name']}]({file['url']}), ", f" GB, in **models/{file['directory']}**"
            sizes[file["name"]] = float(note.partition(before)[2].partition(after)[0])
    (together,) = re.findall(r"^Downloaded once, (\d+\.\d\d) GB:$", note, flags=re.M)
    assert float(together) == pytest.approx(sum(sizes.values()), abs=0.005 * (len(sizes) + 1))  # each is rounded


@pytest.mark.parametrize("path", [*ALL, *BUILT_IN], **BY_NAME)
def test_a_note_says_where_to_type_and_where_the_edit_is_saved_before_all_else(path):
    nodes = nodes_of(path)
    (note,) = [node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote"]
    (saved,) = [node["widgets_values"][0] for node in nodes if node["type"] == "SaveVideo"]
    steps = [line for line in note.splitlines() if re.match(r"(## )?\d\. ", line)]
    assert note.splitlines()[2 : 2 + len(steps)] == steps  # behind the title
    assert any("type" in step.lower() for step in steps) and any("**Run** (blue" in step for step in steps)
    assert any(f"**output/{saved}_00001_.mp4**" in step for step in steps)


@pytest.mark.parametrize("path", [*ALL, *BUILT_IN], **BY_NAME)
def test_nodes_and_groups_lie_apart_and_nodes_inside_one_group(path):
    document = json.loads(path.read_text())
    boxes = {node["id"]: (*node["pos"], *shown_size(node)) for node in document["nodes"]}
    boxes = {key: (left, top - 30, wide, high + 30) for key, (left, top, wide, high) in boxes.items()}  # with its title
    groups = [tuple(group["bounding"]) for group in document["groups"]]
    for found in (list(boxes.values()), groups):
        pairs = [(one, other) for number, one in enumerate(found) for other in found[:number]]
        assert not [pair for pair in pairs if overlap(*pair)]
    notes = {node["id"] for node in document["nodes"] if node["type"] == "MarkdownNote"}
    assert {key for key, box in boxes.items() if not any(inside(box, group) for group in groups)} == notes


def shown_size(node):
    """Width and height of a node without its title; of a folded one nothing else is drawn."""
    wide, high = node["size"]
    return wide, 0 if node["flags"].get("collapsed") else high


GROWING = {
    "LoadVideo",
    "SaveVideo",
    "FateZero_VideoEdit",
    "FateZero_P2PEdit",
    "FateZero_CompareClips",
    "FateZero_WordHeatMaps",
}
"""Nodes that grow downwards by what they say, by the film of a run, and by the preview of a clip."""
ENDLESS = 100_000


@pytest.mark.parametrize("path", [*ALL, *BUILT_IN], **BY_NAME)
def test_nothing_lies_below_a_node_that_a_film_makes_longer(path):
    nodes = json.loads(path.read_text())["nodes"]
    for long in [node for node in nodes if node["type"] in GROWING and not node["flags"].get("collapsed")]:
        reached = (*long["pos"], long["size"][0], ENDLESS)
        others = [node for node in nodes if node is not long]
        below = [node["type"] for node in others if overlap(reached, (*node["pos"], *shown_size(node)))]
        assert below == [], long["type"]


@pytest.mark.parametrize("path", [*ALL, *BUILT_IN], **BY_NAME)
def test_a_template_opens_as_large_as_a_page_1600_wide_lets_it(path):
    """The page fits it into three quarters of its canvas, 1200 x 650 of 1600 x 900: less than twice as wide as high."""
    groups = [group["bounding"] for group in json.loads(path.read_text())["groups"]]
    left, top = (min(box[axis] for box in groups) for axis in (0, 1))
    right, bottom = (max(box[axis] + box[axis + 2] for box in groups) for axis in (0, 1))
    small = path in BUILT_IN or any(node["type"] == "FateZero_VideoEdit" for node in nodes_of(path))
    assert bottom - top <= (1050 if small else 1200) and right - left <= (2100 if small else 3800)


def overlap(one, other):
    return all(one[axis] < other[axis] + other[axis + 2] and other[axis] < one[axis] + one[axis + 2] for axis in (0, 1))


def inside(box, group):
    return all(
        group[axis] <= box[axis] and box[axis] + box[axis + 2] <= group[axis] + group[axis + 2] for axis in (0, 1)
    )


@pytest.mark.parametrize("path", [*ALL, *BUILT_IN], **BY_NAME)
def test_a_card_is_marked_green_where_nothing_must_be_downloaded_and_there_alone(path):
    with Image.open(path.with_suffix(".jpg"), formats=("WEBP",)) as card:
        assert card.n_frames > 8
        red, green, blue = card.convert("RGB").getpixel((3, card.height - 3))
    assert (green > max(red, blue) + 30) == (path in BUILT_IN)
    assert max(red, green, blue) < 150  # white words are drawn on it
