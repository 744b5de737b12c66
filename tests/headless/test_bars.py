"""The bars of a headless run's terminal."""

from fatezero_ext.cli.node_pack import load_pack


def test_work_that_is_done_once_more_has_a_bar_that_runs_again():
    """Drafts of an edit, each of which has all steps."""
    progress = load_pack("nodes.headless.run.progress")
    bars = progress.Progress(progress.BarColumn(), console=progress.Console(quiet=True))
    task = bars.add_task("edit", total=10)
    bar = progress.Bar(bars, task)
    for step in (5, 10):
        bar.update(step)
    assert bars.tasks[0].finished
    bar.update(2)
    assert bars.tasks[0].completed == 2 and not bars.tasks[0].finished
    bar.update(10)
    assert bars.tasks[0].finished
