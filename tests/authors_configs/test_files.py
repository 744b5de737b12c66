"""The files that come out: laid out, read back, checked by the runner, and run with the built-in model."""

import json

import pytest
from PIL import Image

from fatezero_ext.cli.main import main
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.media.video import read_video, to_bytes

from .conftest import BASE, as_yaml, changed

EXAMPLES = load_pack("nodes.headless.command").EXAMPLES
BUILT_IN = "LoadPseudo3DUNet.model=built-in toy model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An input folder with pictures where the base config wants them."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "data" / "jeep").mkdir(parents=True)
    frames = to_bytes(read_video(EXAMPLES / "red_circle_on_grass.mp4").frames)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / "data" / "jeep" / f"{number:05}.png")
    return folder


@pytest.fixture
def imported(folder, tmp_path, capsys):
    """Write a changed base config, import it; returns exit code, output path and what was said."""

    def run(changes=None, *options, text=None):
        config, output = tmp_path / "my jeep.yaml", tmp_path / "out" / "workflow.json"
        config.write_text(as_yaml(changed(changes or {})) if text is None else text)
        code = main(["import-config", str(config), "--output", str(output), *options])
        return code, output, capsys.readouterr()

    return run


def test_import_prints_the_file_and_its_warnings(imported):
    code, output, printed = imported({"seed": 7})
    assert code == 0 and printed.out == f"{output}\n"
    assert printed.err == "Warning: seed is not used: an edit draws nothing at random.\n"


def test_refused_config_exits_with_2_and_leaves_no_file(imported):
    code, output, printed = imported({"dataset_config.crop": "random"})
    assert code == 2 and not output.exists() and printed.out == ""
    assert printed.err.startswith("Error in my jeep.yaml: dataset_config.crop is 'random'")


def test_repeated_key_exits_with_2(imported):
    code, output, printed = imported(text="seed: 1\nseed: 2\n")
    assert code == 2 and not output.exists() and "'seed' is in line 1 and again in line 2" in printed.err


def test_output_that_cannot_be_written_exits_with_2(imported, tmp_path):
    (tmp_path / "out").write_text("a file")
    code, _, printed = imported()
    assert code == 2 and "cannot write" in printed.err


def test_file_holds_exactly_the_translated_graph(imported, translated, types):
    translation = translated(name="my jeep")
    _, output, _ = imported()
    read = load_pack("nodes.headless.formats.read").read_workflow(output, types)
    assert {node.id: node.title for node in read.nodes.values()} == {
        node.id: node.title for node in translation.graph.nodes.values()
    }
    for node in translation.graph.nodes.values():
        assert dict(read.nodes[node.id].inputs) == dict(node.inputs), node.label


@pytest.mark.parametrize("edits", [1, 2, 10])
def test_nodes_do_not_overlap_and_links_run_from_left_to_right(configs, translated, types, edits):
    control = {"cross_replace_steps": 0.5, "self_replace_steps": 0.5}
    changes = {
        "editing_config.editing_prompts": [BASE["dataset_config"]["prompt"]] * edits,
        "editing_config.p2p_config": {index: control for index in range(edits)},
    }
    document = configs["ui_writer"].ui_document(translated(changes).graph, types, note="a note\n" * 30)
    title = configs["ui_writer"].TITLE
    boxes = {node["id"]: (*node["pos"], *node["size"]) for node in document["nodes"]}
    for one, (left, top, width, height) in boxes.items():
        for other, (x, y, w, h) in boxes.items():
            apart = left + width <= x or x + w <= left or top + height <= y - title or y + h <= top - title
            assert one == other or apart, (one, other)
    for _, source, _, target, _, _ in document["links"]:
        assert boxes[source][0] + boxes[source][2] <= boxes[target][0]


def test_document_is_consistent(configs, translated, types):
    document = configs["ui_writer"].ui_document(translated().graph, types, note="a note")
    nodes = {node["id"]: node for node in document["nodes"]}
    assert document["version"] == 0.4 and document["last_node_id"] == max(nodes) == len(nodes)
    assert sorted(node["order"] for node in nodes.values()) == list(range(len(nodes)))
    for number, source, out, target, slot, kind in document["links"]:
        assert number in nodes[source]["outputs"][out]["links"] and nodes[source]["outputs"][out]["type"] == kind
        assert nodes[target]["inputs"][slot]["link"] == number
    assert document["last_link_id"] == len(document["links"])
    for node in nodes.values():
        if node["type"] in types:
            assert len(node["widgets_values"]) == len(types[node["type"]].widgets)


def test_note_tells_what_was_read_differently(imported):
    _, output, _ = imported({"seed": 7})
    (note,) = [node for node in json.loads(output.read_text())["nodes"] if node["type"] == "MarkdownNote"]
    assert "- seed is not used" in note["widgets_values"][0]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"editing_config.prompt2prompt_edit": False, "test_pipeline_config": ...},
        {"editing_config.use_inversion_attention": False},
        {
            "editing_config.p2p_config.1": {
                "cross_replace_steps": {"default_": 0.5, "car": [0.1, 0.3]},
                "self_replace_steps": [0.1, 0.6],
                "eq_params": {"words": ["red"], "values": [2]},
                "blend_words": [["jeep"], ["car"]],
                "blend_self_attention": True,
                "blend_latents": True,
                "blend_th": [2, 2],
            }
        },
    ],
    ids=["plain", "tuning", "reconstruction", "all settings"],
)
def test_runner_finds_the_file_valid(imported, folder, capsys, changes):
    code, output, _ = imported(changes)
    assert code == 0
    assert main(["run", str(output), "--check", "--input", str(folder), "--set", BUILT_IN]) == 0, capsys.readouterr()


def test_model_that_is_not_there_is_only_told_by_the_run(imported, folder, capsys):
    _, output, _ = imported()
    assert main(["run", str(output), "--check", "--input", str(folder)]) == 2
    assert "the model 'tuned_jeep' is not there" in capsys.readouterr().err


def test_imported_edits_run_with_the_built_in_model(imported, folder, tmp_path, capsys):
    changes = {
        "dataset_config.prompt": "a red circle on the grass",
        "dataset_config.image_size": 64,
        "dataset_config.n_sample_frame": 2,
        "dataset_config.offset": ...,
        "editing_config.num_inference_steps": 2,
        "editing_config.editing_prompts": ["a red circle on the grass", "a blue circle on the grass"],
        "editing_config.p2p_config.1.blend_words": [["red", "circle"], ["blue", "circle"]],
        "editing_config.p2p_config.1.blend_self_attention": True,
    }
    code, output, _ = imported(changes)
    results = tmp_path / "results"
    assert code == 0
    assert main(["run", str(output), "--input", str(folder), "--output", str(results), "--set", BUILT_IN]) == 0
    saved = capsys.readouterr().out.splitlines()
    names = [path.rpartition("/")[2] for path in saved]
    assert names == ["my_jeep_0_00001_.mp4", "my_jeep_1_00001_.mp4", "my_jeep_all_00001_.mp4"]
    shapes = [tuple(read_video(path).frames.shape) for path in saved]
    assert shapes[0] == shapes[1] == (2, 64, 64, 3) and shapes[2][2] > 128


def test_a_config_is_not_overwritten_by_its_own_workflow(tmp_path, capsys):
    config = tmp_path / "jeep.yaml"
    config.write_text(as_yaml(BASE))
    assert main(["import-config", str(config), "--output", str(tmp_path / "." / "jeep.yaml")]) == 2
    assert "is the config itself" in capsys.readouterr().err and config.read_text() == as_yaml(BASE)
