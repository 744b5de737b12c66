"""Bars of inversions and edits: frames times steps; stopped within a step."""

import pytest
import torch

from fatezero_ext import Controller, InflationSettings, load_model
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.inversion.guided_prediction import StepDone

from ..conftest import GOLDEN
from ..small_runs import EDIT, SOURCE, calls_of, clip

FRAMES, STEPS = 5, 3


@pytest.fixture(scope="module")
def framewise():
    return load_model(GOLDEN / "model", InflationSettings(key_frames=(), norm="frame"))


@pytest.fixture
def bars(monkeypatch):
    """What the nodes report; a bar ends the run where `stop` is one of its places."""
    bars = []
    bars_stop = set()

    class Bar:
        def __init__(self, total):
            self.total, self.places = total, []

        def update(self, step, preview=None):
            self.places.append(step)
            if step in bars_stop:
                raise KeyboardInterrupt

    def progress(_host, total, latents=None):
        bars.append(Bar(total))
        return bars[-1]

    monkeypatch.setattr(load_pack("nodes.host.python").PythonHost, "progress", progress)
    return bars, bars_stop


def run(model, at_once, passes=0, **more):
    nodes = load_pack("nodes.headless.schemas.registry").pack_node_types()
    invert, edit = (nodes[f"FateZero_{name}"] for name in ("DDIMInvert", "P2PEdit"))
    latent, options = {"samples": clip(frames=FRAMES, height=8, width=8)}, {"inversion_passes": passes, **more}
    inverted = invert.node_class.execute(
        Controller(model.unet), model.text_encoder, latent, SOURCE, STEPS, frames_at_once=at_once, **options
    ).result[0]
    widgets = {each.id: each.default for each in edit.widgets} | {"edit_prompt": EDIT, "kind": "colour"}
    edit.node_class.execute(inverted, model.text_encoder, **widgets)


def test_a_clip_in_parts_counts_frames_times_steps_after_every_part(bars, framewise):
    run(framewise, 2)
    for bar in bars[0]:
        assert bar.total == STEPS * FRAMES and bar.places[-1] == bar.total
        assert bar.places[:5] == [2, 4, 4, 5, 7]  # the step's last frame is counted with the step
        assert bar.places == sorted(bar.places)


def test_passes_share_a_step(bars, framewise):
    run(framewise, 3, passes=1)
    assert bars[0][0].places[:5] == [1, 2, 4, 4, 5]


def test_a_whole_clip_counts_so_too_and_moves_after_each_pass(bars, framewise):
    """Whether it is split is known only once the memory is measured."""
    run(framewise, 0, passes=1)
    assert [bar.total for bar in bars[0]] == [STEPS * FRAMES] * 2
    assert bars[0][0].places[:6] == [2, 4, 5, 7, 9, 10]


def test_a_reconstruction_has_one_prediction_a_step(bars, framewise):
    run(framewise, 3, passes=1, attention_from="reconstruction")
    places = bars[0][0].places
    assert bars[0][0].total == 2 * STEPS * FRAMES and places == sorted(places)
    assert places[-3:] == [28, 29, 30] and places[5 * STEPS : 5 * STEPS + 3] == [18, 19, 20]


def test_a_bar_begins_again_with_every_draft(bars):
    bar = load_pack("nodes.method.run_bar").RunBar(FRAMES, [1] * STEPS, None)
    for _ in range(2):
        for step in range(STEPS):
            for part in (2, 2, 1):
                bar.on_frames(part)
            bar.on_step(StepDone(step + 1, STEPS, torch.zeros(FRAMES, 4, 8, 8)))
    places = bars[0][0].places
    half = len(places) // 2
    assert places[:half] == places[half:] == [2, 4, 4, 5, 7, 9, 9, 10, 12, 14, 14, 15]


def test_norms_over_all_frames_move_the_bar_at_the_end_of_a_step_and_can_be_stopped_before(bars, model):
    """Every layer asks whether to stop, under both texts in turn too."""
    run(model, 2)
    places = bars[0][1].places
    assert bars[0][1].total == STEPS * FRAMES and places == sorted(places) and places.count(0) > 10


def test_a_run_is_stopped_after_the_part_in_work(bars, framewise):
    _, stop = bars
    stop.add(2)
    with calls_of(framewise.unet.net) as calls, pytest.raises(KeyboardInterrupt):
        run(framewise, 2)
    assert calls == [2]


@pytest.mark.parametrize(("steps", "left"), [(4, "0:00:16 left"), (1, None)])
def test_the_terminal_says_how_much_time_is_left(steps, left):
    """Two seconds a step, of twelve steps; the first step after a resumed start has no pace yet."""
    from rich.console import Console
    from rich.progress import Progress

    progress, now = load_pack("nodes.headless.run.progress"), [0.0]
    column = progress.TimeLeft()
    column.max_refresh = None
    bars = Progress(column, console=Console(width=80), get_time=lambda: now[0], auto_refresh=False)
    task = bars.add_task("work", total=12)
    for step in range(steps):
        now[0] += 2
        bars.update(task, completed=step + 1)
    assert str(column.render(bars.tasks[0])) == (left or "")


def test_on_frames_hears_of_every_part(framewise):
    from fatezero_ext import invert

    heard = []
    latents = torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"steps": 2, "inversion_passes": 1, "frames_at_once": 2, "on_frames": heard.append}
    invert(Controller(framewise.unet), framewise.text_encoder, latents, SOURCE, **options)
    assert heard == [2, 2, 1] * 4
