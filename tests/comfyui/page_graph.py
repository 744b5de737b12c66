"""Graphs for the page: a change of the colour edit's, in its language, and files with the one node that does it all."""

import json

from tests.comfyui.http_server import ROOT

WORDS = ["a red circle on the grass", "a blue circle on the grass"]
VALUES = [*WORDS, "auto", 1.0, 3, 0, 0, 3, 8.0]
"""Of Video Edit: 3 frames, 3 steps."""
UNET = "FATEZERO_UNET"
P2P, INVERT, VIDEO_EDIT = "FateZero_P2PEdit", "FateZero_DDIMInvert", "FateZero_VideoEdit"

ADD_NODES = """() => {
    const of = type => app.graph.nodes.find(node => node.type == type);
    const made = (type, place) => {
        const node = LiteGraph.createNode(type);
        node.pos = place;
        app.graph.add(node);
        return node;
    };
    const slot = (node, name) => node.inputs.findIndex(input => input.name == name);
    const link = (from, output, to, name) => from.connect(output, to, slot(to, name));
    const [frames, edit] = [of('FateZero_PrepareFrames'), of('FateZero_P2PEdit')];
    const heat = made('FateZero_WordHeatMaps', [0, 1300]);
    const compare = of('FateZero_CompareClips');
    link(frames, 0, edit, 'images');
    link(of('FateZero_DDIMInvert'), 0, heat, 'controller');
    link(frames, 0, heat, 'images');
    link(frames, 0, compare, 'source');
    link(of('FateZero_KeepSourcePixels'), 0, compare, 'edit_1');
    link(of('VAEDecode'), 0, compare, 'edit_2');
    for (const [node, place] of [[heat, [450, 1300]], [compare, [1200, 1300]]])
        link(node, 0, made('PreviewImage', place), 'images');
}"""
"""Links the frames to Prompt-to-Prompt Edit, adds Word Heat Maps, and previews behind it and Compare Clips."""


def _node(number, kind, box, inputs, outputs, values=()):
    """A node of a file; inputs: (name, type, link); outputs: (type, links)."""
    return {
        "id": number, "type": kind, "pos": box[:2], "size": box[2:], "flags": {}, "order": number, "mode": 0,
        "inputs": [
            {"name": name, "type": of, "link": link} | ({"widget": {"name": name}} if of == "STRING" else {})
            for name, of, link in inputs
        ],
        "outputs": [{"name": of, "type": of, "links": links} for of, links in outputs],
        "widgets_values": list(values), "properties": {},
    }  # fmt: skip


def whole_edit():
    """The one node with the built-in model and its clip; one prompt comes from another node, one is its own."""
    sockets = [("model", UNET, 1), ("clip", "CLIP", 2), ("vae", "VAE", 3), ("video", "VIDEO", 4)]
    sockets += [("images", "IMAGE", None), ("source_prompt", "STRING", 5)]
    results = [("VIDEO", []), ("IMAGE", [6]), ("MASK", []), ("IMAGE", [])]
    nodes = [
        _node(1, "FateZero_LoadPseudo3DUNet", [0, 0, 310, 290], [], [(UNET, [1]), ("CLIP", [2]), ("VAE", [3])]),
        _node(2, "FateZero_SampleClip", [0, 350, 310, 60], [], [("VIDEO", [4])]),
        _node(3, "PrimitiveStringMultiline", [0, 480, 310, 120], [], [("STRING", [5])], WORDS[:1]),
        _node(4, "FateZero_VideoEdit", [400, 0, 400, 760], sockets, results, VALUES),
        _node(5, "PreviewImage", [900, 0, 210, 250], [("images", "IMAGE", 6)], []),
    ]
    links = [[1, 1, 0, 4, 0, UNET], [2, 1, 1, 4, 1, "CLIP"], [3, 1, 2, 4, 2, "VAE"], [4, 2, 0, 4, 3, "VIDEO"]]
    links += [[5, 3, 0, 4, 5, "STRING"], [6, 4, 1, 5, 0, "IMAGE"]]
    return {"last_node_id": 5, "last_link_id": 6, "nodes": nodes, "links": links, "version": 0.4}


def boxed_edit():
    """The blueprint with the built-in model in place of a checkpoint, its clip in front and a preview behind."""
    (path,) = (ROOT / "subgraphs").glob("*.json")
    document = json.loads(path.read_text())
    (box,), (inside,) = document["nodes"], document["definitions"]["subgraphs"]
    loader, edit = inside["nodes"]
    loader |= {"type": "FateZero_LoadPseudo3DUNet", "inputs": [], "widgets_values": [], "properties": {}}
    loader["outputs"][0] |= {"name": "unet", "type": UNET}
    edit["widgets_values"] = VALUES
    inside["links"] = [link for link in inside["links"] if link["target_id"] != loader["id"]]
    for level in (inside, box):
        level["inputs"] = [each for each in level["inputs"] if each["name"] != "ckpt_name"]
    box["inputs"][0]["link"], box["outputs"][1]["links"], number = 1, [2], box["id"]
    document["nodes"] += [
        _node(number + 1, "FateZero_SampleClip", [-400, 0, 310, 60], [], [("VIDEO", [1])]),
        _node(number + 2, "PreviewImage", [500, 0, 210, 250], [("images", "IMAGE", 2)], []),
    ]
    document["links"] = [[1, number + 1, 0, number, 0, "VIDEO"], [2, number, 1, number + 2, 0, "IMAGE"]]
    return document | {"last_node_id": number + 2, "last_link_id": 2}
