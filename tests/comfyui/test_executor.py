"""The nodes under ComfyUI's own executor and each of its caches: the same latents, and no more work than needed."""

import sys

import pytest
import torch

from fatezero_ext import BlendSettings, Controller, InflationSettings, Storage, edit, invert, load_toy
from fatezero_ext.cli.examples import EXAMPLES
from fatezero_ext.media.video import read_video
from tests.comfyui.in_process import Executor, Give, caches, digest
from tests.comfyui.workflows import EDIT, FRAMES, INVERT, KEEP, LATENTS, LOAD, REGISTER, STEPS, small_graph, with_copy

from ..small_runs import named

CACHES = ("classic", "lru 1", "lru 50", "none", "ram")
SOURCE = "a red circle on the grass"
A, B, C = (f"a {colour} circle on the grass" for colour in ("blue", "purple", "green"))
AGAIN = str(int(LATENTS) + 100)

pytestmark = pytest.mark.usefixtures("loaded")


@pytest.fixture(params=CACHES)
def executor(request, loaded):
    if request.param not in caches():
        pytest.skip(f"this ComfyUI has no cache {request.param!r}")
    return Executor(request.param)


@pytest.fixture(scope="module")
def alone(loaded):
    """The latents of an edit in an executor of its own, nothing cached: by the edit's widgets."""
    found = {}

    def latents(**edit):
        key = tuple(sorted(edit.items()))
        if key not in found:
            found[key] = Executor("none").run(small_graph(**edit)).latents(LATENTS)
        return found[key]

    return latents


def test_the_pack_runs_under_the_name_of_its_folder_and_not_under_its_own(loaded):
    assert loaded in sys.modules and "fatezero" not in loaded.rpartition("/")[2]
    edit = Executor().run(small_graph())
    assert edit.error is None and edit.executed


def test_latents_are_those_of_the_python_calls(loaded):
    frames = read_video(EXAMPLES / "red_circle_on_grass.mp4").frames[:FRAMES]
    model = load_toy(InflationSettings(key_frames=()))
    with torch.inference_mode():
        controller = Controller(model.unet, storage=Storage("features", "ram"))
        latents = model.vae.encode(frames)
        inverted = invert(controller, model.text_encoder, latents, SOURCE, steps=STEPS, inversion_passes=0)
        blend = BlendSettings(("red circle",), ("circle",), 0.3, latents=True)
        wanted = edit(inverted, model.text_encoder, A, named(guidance=3.0, blend=blend))
    cell = model.unet.latent_format.pixels_per_cell
    mask = wanted.mask.repeat_interleave(cell, 1).repeat_interleave(cell, 2)
    Give.given["frames"], graph = frames, small_graph()
    graph["0"] = {"class_type": "TestGive", "inputs": {"name": "frames"}}
    assert Executor().run(graph).latents(LATENTS) == digest(wanted.latents, mask)


@pytest.mark.parametrize("widget, values", [("edit_prompt", (A, B, C, A)), ("blend_threshold", (0.3, 0.5, 0.1, 0.3))])
def test_a_widget_that_goes_there_and_back_gives_each_values_own_latents(executor, alone, widget, values):
    found = [executor.run(small_graph(**{widget: value})).latents(LATENTS) for value in values]
    assert found == [alone(**{widget: value}) for value in values]
    assert len(set(found)) == 3


def test_steps_that_go_there_and_back_give_each_counts_own_latents(executor):
    found = [executor.run(small_graph(steps)).latents(LATENTS) for steps in (2, 3, 4, 2)]
    assert found == [Executor("none").run(small_graph(steps)).latents(LATENTS) for steps in (2, 3, 4, 2)]
    assert len(set(found)) == 3


def test_two_edits_of_one_controller_in_one_prompt_do_not_disturb_each_other(executor, alone):
    run = executor.run(with_copy(small_graph(), EDIT, edit_prompt=B))
    assert run.executed.count(INVERT) == 1
    assert (run.latents(LATENTS), run.latents(AGAIN)) == (alone(), alone(edit_prompt=B))


def test_two_equal_edits_of_one_controller_give_the_same(executor, alone):
    run = executor.run(with_copy(small_graph(), EDIT))
    assert (run.latents(LATENTS), run.latents(AGAIN)) == (alone(), alone())


@pytest.mark.parametrize("first", [REGISTER, KEEP, INVERT])
def test_two_separate_identical_nodes_give_what_one_gives(executor, alone, first):
    run = executor.run(with_copy(small_graph(), first, edit_prompt=B))
    assert (run.latents(LATENTS), run.latents(AGAIN)) == (alone(), alone(edit_prompt=B))


@pytest.mark.parametrize("policy, place", [("maps", "ram"), ("recompute", "auto"), ("features", "disk")])
def test_each_way_of_keeping_attention_gives_the_same_in_two_branches_and_again(
    executor, policy, place, tmp_path, monkeypatch
):
    monkeypatch.setenv("FATEZERO_CACHE_DIR", str(tmp_path))
    graph = with_copy(small_graph(), EDIT, edit_prompt=B)
    graph[KEEP]["inputs"] |= {"policy": policy, "place": place}
    runs = [executor.run(graph), executor.run(graph), Executor("none").run(graph)]
    assert len({run.latents(LATENTS) for run in runs}) == 1
    assert len({run.latents(AGAIN) for run in runs}) == 1
    assert runs[0].latents(LATENTS) != runs[0].latents(AGAIN)


def test_a_cache_that_always_has_to_let_go_gives_the_same_latents(loaded, alone):
    if "ram pressed" not in caches():
        pytest.skip("this ComfyUI has no cache that lets go under memory pressure")
    executor = Executor("ram pressed")
    run = executor.run(with_copy(small_graph(), INVERT, edit_prompt=B))
    assert (run.latents(LATENTS), run.latents(AGAIN)) == (alone(), alone(edit_prompt=B))
    assert executor.run(small_graph(edit_prompt=C)).latents(LATENTS) == alone(edit_prompt=C)


CHANGES = [
    (EDIT, "edit_prompt", B, {EDIT, LATENTS}),
    (EDIT, "guidance", 5.0, {EDIT, LATENTS}),
    (EDIT, "blend_words", "circle", {EDIT, LATENTS}),
    (INVERT, "steps", 4, {INVERT, EDIT, LATENTS}),
    (INVERT, "source_prompt", "one red circle on the grass", {INVERT, EDIT, LATENTS}),
    (KEEP, "policy", "recompute", {KEEP, INVERT, EDIT, LATENTS}),
    (REGISTER, "most_cells", 64, {REGISTER, KEEP, INVERT, EDIT, LATENTS}),
    (LOAD, "norm", "frame", {LOAD, "4", REGISTER, KEEP, INVERT, EDIT, LATENTS}),
]


@pytest.mark.parametrize("cache", ["classic", "lru 50", "ram"])
@pytest.mark.parametrize("node, widget, value, runs_again", CHANGES)
def test_only_the_changed_node_and_what_follows_runs_again(loaded, cache, node, widget, value, runs_again):
    if cache not in caches():
        pytest.skip(f"this ComfyUI has no cache {cache!r}")
    executor, graph = Executor(cache), small_graph()
    assert set(executor.run(graph).executed) == set(graph)
    graph[node]["inputs"][widget] = value
    run = executor.run(graph)
    assert run.error is None
    assert set(run.executed) == runs_again
    assert set(run.cached) == set(graph) - runs_again


def test_an_unchanged_prompt_runs_nothing(loaded):
    executor = Executor()
    first, second = executor.run(small_graph()), executor.run(small_graph())
    assert second.executed == [] and second.latents(LATENTS) == first.latents(LATENTS)


def test_a_new_prompt_after_a_wrong_one_does_not_invert_again(loaded, alone):
    executor = Executor()
    executor.run(small_graph())
    assert executor.run(small_graph(blend_words="cat")).error["node_id"] == EDIT
    run = executor.run(small_graph(edit_prompt=B))
    assert INVERT not in run.executed and run.latents(LATENTS) == alone(edit_prompt=B)
