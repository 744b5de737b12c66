"""Plans as files: what is read, and what is refused with its place."""

import json

import pytest

HEADER = "clip,edit_prompt\n"


def values(rows):
    return [dict(row.values) for row in rows]


def test_the_three_formats_say_the_same(batches, plan):
    csv = plan('clip,edit_prompt,strength\na.mp4,"a blue, round ball | a red box",0.5\nb.mp4,a hat,\n')
    jsonl = plan(
        '{"clip": "a.mp4", "edit_prompt": ["a blue, round ball", "a red box"], "strength": 0.5}\n\n'
        '{"clip": "b.mp4", "edit_prompt": "a hat", "strength": null}\n',
        "plan.jsonl",
    )
    yaml = plan(
        "- clip: a.mp4\n  edit_prompt: ['a blue, round ball', a red box]\n  strength: 0.5\n"
        "- {clip: b.mp4, edit_prompt: a hat}\n",
        "plan.yaml",
    )
    read = [batches.plan.read_plan(path) for path in (csv, jsonl, yaml)]
    assert values(read[0]) == values(read[1]) == values(read[2])
    assert values(read[0])[0] == {"clip": "a.mp4", "edit_prompt": "a blue, round ball", "strength": "0.5"}
    assert values(read[0])[2] == {"clip": "b.mp4", "edit_prompt": "a hat"}
    assert [row.number for row in read[0]] == [1, 1, 2]


def test_lists_give_all_combinations(batches, plan):
    rows = batches.plan.read_plan(plan("clip,kind,strength,name\na.mp4,colour|style,0.5|0.7|1,mine\n"))
    assert len(rows) == len({tuple(row.values.items()) for row in rows}) == 6
    assert {row.name for row in rows} == {"mine"} and "name" not in rows[0].values


def test_true_is_written_as_settings_take_it(batches, plan):
    assert values(batches.plan.read_plan(plan("- {a: true, b: 3, c: 0.25}\n", "p.yml"))) == [
        {"a": "true", "b": "3", "c": "0.25"}
    ]


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\u2029"])
def test_jsonl_is_cut_at_line_ends_alone(batches, plan, mark):
    text = json.dumps({"clip": "a.mp4", "edit_prompt": f"a{mark}b"}, ensure_ascii=False)
    rows = batches.plan.read_plan(plan(f"{text}\r\n{text}\n", "plan.jsonl"))
    assert values(rows) == [{"clip": "a.mp4", "edit_prompt": f"a{mark}b"}] * 2


@pytest.mark.parametrize("mark", [";", "\t"])
def test_spreadsheets_of_other_countries_are_read(batches, plan, mark):
    rows = batches.plan.read_plan(plan(f"\ufeffclip{mark}edit_prompt\r\na.mp4{mark}a ball, a hat\r\n"))
    assert values(rows) == [{"clip": "a.mp4", "edit_prompt": "a ball, a hat"}]


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;;"])
def test_a_first_line_for_excel_names_the_mark(batches, plan, first):
    rows = batches.plan.read_plan(plan(f"\ufeff{first}\r\nclip;edit_prompt\r\na.mp4;a ball, a hat, a dog\r\n"))
    assert values(rows) == [{"clip": "a.mp4", "edit_prompt": "a ball, a hat, a dog"}] and rows[0].line == 3


def test_lines_of_rows_count_line_breaks_in_cells(batches, plan):
    rows = batches.plan.read_plan(plan(HEADER + 'a.mp4,"one\ntwo"\nb.mp4,three\n'))
    assert [(row.number, row.line) for row in rows] == [(1, 2), (2, 4)]


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("plan.txt", "", "ending"),
        ("plan.csv", HEADER, "no rows"),
        ("plan.csv", HEADER + "a.mp4\n", r"row 1 \(line 2\): it has 1 cells and the header has 2"),
        ("plan.csv", HEADER + 'a.mp4,"a ball\n', r"row 1 \(line 2\): the quotes are wrong"),
        ("plan.csv", HEADER + 'a.mp4,"a" ball\n', "the quotes are wrong"),
        ("plan.csv", HEADER + "a.mp4,a ||b\n", r"row 1 \(line 2\), column 'edit_prompt': there is no value beside"),
        ("plan.csv", "clip,clip\na,b\n", "twice"),
        ("plan.csv", "clip,\na,b\n", "column 2 has no name"),
        ("plan.jsonl", '{"clip": "a"}\n{"clip": }\n', r"row 2 \(line 2\): it is not a JSON object"),
        ("plan.jsonl", '{"clip": "a", "clip": "b"}\n', "twice"),
        ("plan.jsonl", '{"clip": {"a": 1}}\n', "column 'clip': it holds"),
        ("plan.jsonl", '{"clip": []}\n', "column 'clip': its list has no value"),
        ("plan.jsonl", "[1]\n", "it holds"),
        ("plan.yaml", "clip: a\n", "a list of rows is needed"),
        ("plan.yaml", "- clip: [a\n", "not YAML"),
        ("plan.yaml", "- &a {clip: b}\n- *a\n", "alias"),
    ],
)
def test_what_is_no_plan_is_refused_with_its_place(batches, plan, name, text, said):
    with pytest.raises(batches.problems.InvalidPlan, match=said):
        batches.plan.read_plan(plan(text, name))


def test_too_many_rows_are_refused_before_they_are_made(batches, plan):
    many = "|".join(map(str, range(200)))
    with pytest.raises(batches.problems.InvalidPlan, match="more than 20000 rows"):
        batches.plan.read_plan(plan(f"a,b,c\n1,2,3\n{many},{many},{many}\n"))


def test_a_file_that_is_too_large_or_missing_is_refused(batches, place, monkeypatch):
    with pytest.raises(batches.problems.InvalidPlan, match="cannot read"):
        batches.plan.read_plan(place / "none.csv")
    monkeypatch.setattr(batches.plan, "MOST_BYTES", 10)
    (place / "plan.csv").write_text(HEADER + "a,b\n")
    with pytest.raises(batches.problems.InvalidPlan, match="at most that is read"):
        batches.plan.read_plan(place / "plan.csv")
