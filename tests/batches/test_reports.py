"""Reports and status: what a folder shows, whatever texts are in it."""

import csv
import json
import re

import pytest

EVIL = '<script>alert("1")</script> & =1+1'


@pytest.fixture
def folder(batches, tmp_path):
    """A folder with a row of each kind."""
    names = {"done": {"clip": EVIL}, "failed": {"clip": "b.mp4"}, "waiting": {"clip": "=SUM(A1)"}}
    rows = [
        batches.rows.Row(number, number + 1, values, f"key-{name}", f"unit-{name}", f"{name} row-1")
        for number, (name, values) in enumerate(names.items(), start=1)
    ]
    rows.append(batches.rows.Row(4, 5, {"clip": "none.mp4"}, problems=("row 4: no file",)))
    opened = batches.folder.BatchFolder(tmp_path / "out")
    opened.open("my <plan>.csv", rows)
    draft = opened.own / "drafts" / "x"
    draft.mkdir()
    measures = {"likeness": {"psnr": 31.25, "ssim": 0.5}, "frames": 8, "remarks": ["x"], "vmaf": None}
    facts = {"files": ["sub/edit #1.mp4"], "preview": "preview.webp", "seconds": 2.5, "peak_bytes": 2**20}
    batches.folder.write_json(draft / "result.json", {**facts, "measures": measures})
    opened.publish(draft, rows[0])
    opened.write_failure(rows[1], {"error": f"bad {EVIL}", "traceback": "Traceback: here", "seconds": 1.0})
    return opened


def test_the_page_holds_every_row_and_runs_no_text(batches, folder):
    page = batches.report.write_reports(folder).page
    text = page.read_text()
    states = [state for state in batches.report.STATES if state != "damaged"]
    assert [re.findall(f'<article class="{state}"', text) != [] for state in states] == [True] * 4
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text and "<plan>" not in text
    assert 'src="rows/done%20row-1/preview.webp"' in text and 'href="rows/done%20row-1/sub/edit%20%231.mp4"' in text
    assert "likeness psnr 31.2" in text and "Traceback: here" in text
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text)


def test_the_table_has_figures_and_no_formulas(batches, folder):
    table = batches.report.write_reports(folder).table
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["done", "failed", "waiting", "invalid"]
    assert rows[0]["likeness psnr"] == "31.25" and rows[0]["clip"] == EVIL and rows[2]["clip"] == "'=SUM(A1)"
    assert rows[3]["error"] == "row 4: no file"
    assert rows[0]["file"] == "rows/done row-1/sub/edit #1.mp4"  # a path, where the page has a link


def test_remarks_are_in_page_and_table_as_texts(batches, folder):
    (folder.result(folder.rows()[1][0]) / "result.json").write_text(json.dumps({"remarks": [f"{EVIL}\nlist", "b."]}))
    reports = batches.report.write_reports(folder)
    page = reports.page.read_text()
    assert reports.remarked == 1 and reports.remarks == {EVIL: 1} and "<script>alert" not in page
    assert re.findall('<p class="remark">(.*)</p>', page)[0].startswith("&lt;script&gt;alert") and ">b.</p>" in page
    with reports.table.open(newline="") as file:
        assert [row["remarks"] for row in csv.DictReader(file)] == [f"{EVIL} b.", "", "", ""]


def test_rows_that_the_plan_no_longer_has_are_counted(batches, folder):
    rows = folder.rows()[1]
    folder.open("plan.csv", rows[1:])
    assert "1 more results" in batches.report.write_reports(folder).page.read_text()


def test_damaged_results_leave_a_report(batches, folder):
    (folder.result(folder.rows()[1][0]) / "result.json").write_text("{")
    assert 'class="damaged"' in batches.report.write_reports(folder).page.read_text()


@pytest.mark.parametrize("odd", [{"seconds": None}, {"files": 3}, {"measures": []}, {"preview": {}}, [1]])
def test_odd_results_are_shown_as_damaged(batches, folder, odd):
    (folder.result(folder.rows()[1][0]) / "result.json").write_text(json.dumps(odd))
    text = batches.report.write_reports(folder).page.read_text()
    assert 'class="damaged"' in text and "result.json cannot be read" in text


@pytest.mark.parametrize("odd", [{"values": [1]}, {"folder": "/etc"}, {"folder": "../x"}, {"number": "one"}])
def test_odd_rows_are_no_batch(batches, folder, odd):
    found = json.loads(folder.plan.read_text())
    found["rows"][0] |= odd
    folder.plan.write_text(json.dumps(found))
    with pytest.raises(batches.problems.InvalidPlan, match="holds no batch"):
        batches.report.write_reports(folder)


def test_the_page_shows_the_end_of_a_traceback_and_leads_to_the_rest(batches, folder):
    row = folder.rows()[1][1]
    folder.write_failure(row, {"error": "bad", "traceback": "early " + "x" * 20_000 + " late", "seconds": 1.0})
    text = batches.report.write_reports(folder).page.read_text()
    assert " late" in text and "early" not in text and "x" * 2000 not in text
    assert 'href="failed/failed%20row-1.json"' in text


def test_status_says_what_is_done_and_who_is_at_work(batches, folder):
    lines = batches.status.status_lines(folder.path)
    assert lines[0].endswith("1 of 4 rows done, 2 failed, 1 left") and lines[1].startswith("Nobody works on it")
    with batches.drivers.Driver(folder, state={"running": {"worker-1": "waiting row-1"}, "seconds_left": 90.0}):
        lines = batches.status.status_lines(folder.path)
    assert "about 2 min" in lines[0] and "worker-1: waiting row-1" in lines[1]
    with batches.drivers.Driver(folder):  # which has no worker yet
        assert batches.status.status_lines(folder.path)[1].endswith(": starting")


def test_a_folder_without_a_batch_has_no_status(batches, tmp_path):
    with pytest.raises(batches.problems.InvalidPlan, match="holds no batch"):
        batches.status.status_lines(tmp_path)
    (tmp_path / ".batch").mkdir()
    (tmp_path / ".batch" / "plan.json").write_text(json.dumps({"format": 1, "plan": "x", "rows": [{"number": 1}]}))
    with pytest.raises(batches.problems.InvalidPlan, match="holds no batch"):
        batches.report.write_reports(batches.folder.BatchFolder(tmp_path))


def test_progress_lines_are_plain_without_a_terminal_and_one_a_second(batches, capsys):
    import sys

    from rich.console import Console

    lines = batches.progress.ProgressLines(Console(file=sys.stdout))
    counts = batches.progress.Counts(10, done=4, failed=1)
    with lines:
        for done in range(4, 9):
            counts.done = done
            lines.show(counts)
        lines.show(counts, now=True)
    assert capsys.readouterr().out.splitlines() == [
        "4 of 10 rows done, 1 failed, 5 left",
        "8 of 10 rows done, 1 failed, 1 left",
    ]


def test_time_left_comes_from_what_this_run_has_done(batches):
    import time

    counts = batches.progress.Counts(100, done=50, here=1, began=time.monotonic() - 20)
    assert counts.seconds_left is None
    counts.here = 10
    assert counts.seconds_left == pytest.approx(100, rel=0.1)
    assert [batches.progress.duration(seconds) for seconds in (5, 600, 7200)] == ["5 s", "10 min", "2.0 h"]
