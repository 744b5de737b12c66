"""Rows: what columns mean, what is wrong with values, and what rows are named by."""

import json
import shutil

import pytest

from fatezero_ext.cli.node_pack import load_pack

CLIP = "red_circle_on_grass.mp4"
ONE = "a red circle on the grass"
OTHER = "a blue circle on the grass"


@pytest.fixture
def table(plan):
    """Write rows of the one-node edit."""

    def write(*rows, columns="clip,source_prompt,edit_prompt,steps,frames"):
        return plan("\n".join([columns, *rows]) + "\n")

    return write


def test_mistakes_of_all_rows_come_with_row_line_and_column(check, table):
    rows, problems = check(
        table(
            f"{CLIP},{ONE},{OTHER},2,2",
            f"missing.mp4,{ONE},{OTHER},2,2",
            f"{CLIP},{ONE},{OTHER},two,2",
            f"../secret.mp4,{ONE},{OTHER},2,2",
            f"{CLIP},,{OTHER},2,2",
        )
    )
    assert [bool(row.folder) for row in rows] == [True, False, False, False, False]
    assert problems[0].startswith("row 2 (line 3), column 'clip': there is no file 'missing.mp4'")
    assert problems[1].startswith("row 3 (line 4), column 'steps': 'two' is not a whole number")
    assert problems[2].startswith("row 4 (line 5), column 'clip': '../secret.mp4' is outside the input folder")
    assert "source_prompt is empty" in problems[3] and problems[3].startswith("row 5 (line 6)")


def test_an_empty_cell_for_the_clip_is_one_mistake(check, table):
    _, problems = check(table(f"{CLIP},{ONE},{OTHER},2,2", f",{ONE},{OTHER},2,2"))
    (problem,) = problems
    assert problem.startswith("row 2 (line 3), column 'clip': the cell is empty")


def test_a_decimal_comma_is_told_the_point(check, table):
    columns = "clip,source_prompt,edit_prompt,strength,steps"
    _, problems = check(table(f'{CLIP},{ONE},{OTHER},"0,8","2,5"', columns=columns))
    assert problems[0].endswith("column 'strength': '0,8' is not a number, which it needs. Write 0.8.")
    assert problems[1].endswith("'2,5' is not a whole number, which it needs. Correct the value.")


def test_unknown_columns_are_refused_at_once(batches, check, plan):
    with pytest.raises(batches.problems.InvalidPlan) as caught:
        check(plan("clip,sorce_prompt,9.x,SaveVideo.nothing\na,b,c,d\n"))
    text = str(caught.value)
    assert "column 'sorce_prompt'" in text and "Did you mean source_prompt" in text
    assert "column '9.x'" in text and "column 'SaveVideo.nothing'" in text


def test_close_names_come_before_all_the_others(batches, check, plan):
    with pytest.raises(
        batches.problems.InvalidPlan, match=r"widget\. Did you mean source_prompt.*\? There are .*clip, "
    ):
        check(plan(f"clip,sorce_prompt\n{CLIP},{ONE}\n"))


def test_a_clip_for_a_workflow_that_takes_none_is_told_what_there_is(batches, check, place, plan):
    template = batches.command.EXAMPLES / "1_colour_edit_with_mask.json"
    with pytest.raises(batches.problems.InvalidPlan, match="no Load Video.*Sample Clip.*the column 'sample'") as caught:
        check(plan(f"clip\n{CLIP}\n"), template)
    assert "Did you mean" not in str(caught.value)
    with pytest.raises(batches.problems.InvalidPlan) as caught:
        check(plan("cilp\nx\n"), template)
    assert "codec" in str(caught.value) and " clip" not in str(caught.value)
    with pytest.raises(batches.problems.InvalidPlan, match="no Load Video, which this column sets. Put one into it"):
        check(plan("clip\nx\n"), place / "picture.json")


def test_two_columns_of_one_input_are_refused(batches, check, plan):
    with pytest.raises(batches.problems.InvalidPlan, match="same input as the column 'clip'"):
        check(plan(f"clip,LoadVideo.file\n{CLIP},{CLIP}\n"))


def test_a_name_that_several_nodes_have_is_refused(batches, check, place, plan):
    document = json.loads((place / "picture.json").read_text())
    document["4"] = {**document["2"], "inputs": {**document["2"]["inputs"], "image": ["2", 0]}}
    document["3"]["inputs"]["images"] = ["4", 0]
    (place / "two.json").write_text(json.dumps(document))
    with pytest.raises(batches.problems.InvalidPlan, match="several nodes have it"):
        check(plan("width\n3\n"), place / "two.json")
    rows, problems = check(plan("2.width,4.width\n3,5\n"), place / "two.json")
    assert rows[0].folder and not problems


def test_what_is_wrong_with_the_workflow_is_said_once(batches, check, place, plan):
    (place / "odd.json").write_text(json.dumps({"1": {"class_type": "SaveImage", "inputs": {"images": ["7", 0]}}}))
    with pytest.raises(batches.problems.InvalidPlan) as caught:
        check(plan("filename_prefix\na\nb\n"), place / "odd.json")
    assert len(caught.value.problems) == 1 and caught.value.problems[0].row == 0


def test_the_same_row_twice_is_refused(batches, check, table):
    with pytest.raises(batches.problems.InvalidPlan, match=r"row 2 \(line 3\): it is the same as row 1"):
        check(table(f"{CLIP},{ONE},{OTHER},2,2", f"{CLIP},{ONE},{OTHER},02,2"))
    with pytest.raises(batches.problems.InvalidPlan, match="lists a value twice"):
        check(table(f"{CLIP},{ONE},{OTHER}|{OTHER},2,2"))


def test_rows_of_one_clip_and_inversion_are_one_unit(batches, check, table):
    rows, _ = check(
        table(
            f"{CLIP},{ONE},{OTHER} | a green circle on the grass,2,2",
            f"{CLIP},{ONE},{OTHER},3,2",
            f"{CLIP},a red circle,a blue circle,2,2",
            f"{CLIP},{ONE},a yellow circle on the grass,2,2",
        )
    )
    units = batches.rows.units_of(rows)
    assert [[row.number for row in unit.rows] for unit in units] == [[1, 1, 4], [2], [3]]
    assert len({row.key for row in rows}) == len(rows)


def test_large_units_are_split_alike_whatever_is_left(batches, check, table, monkeypatch):
    monkeypatch.setattr(batches.rows, "MOST_OF_UNIT", 2)
    rows, _ = check(table(f"{CLIP},{ONE},{OTHER}|a green circle|a blue hat|a hat|a dog,2,2"))
    units = batches.rows.units_of(rows)
    assert [len(unit.rows) for unit in units] == [2, 2, 1]
    assert batches.rows.units_of(rows[1:])[1] == units[1]


def test_a_check_that_breaks_concerns_its_row_alone(batches, check, plan, place, monkeypatch):
    original, count = batches.rows.validated, []

    def breaks(graph, types):
        count.append(1)
        if len(count) == 2:
            raise OSError(5, "Input/output error")
        return original(graph, types)

    monkeypatch.setattr(batches.rows, "validated", breaks)
    rows, problems = check(plan("width\n4\n5\n6\n"), place / "picture.json")
    assert [bool(row.folder) for row in rows] == [True, False, True]
    assert "row 2" in problems[0] and "Input/output error" in problems[0]


def test_stamps_of_a_model_follow_linked_folders_and_names(place):
    model_list = load_pack("nodes.method.model_list")
    (place / "real").mkdir()
    (place / "m" / "unet").mkdir(parents=True)
    (place / "real" / "w.safetensors").write_bytes(b"1")
    (place / "m" / "vae").symlink_to(place / "real")
    (place / "m" / "unet" / "back").symlink_to(place / "m")  # a loop
    first = model_list.stamps(place / "m")
    (place / "real" / "w.safetensors").write_bytes(b"22")
    changed = model_list.stamps(place / "m")
    assert first != changed
    (place / "real" / "w.safetensors").rename(place / "real" / "v.safetensors")
    assert model_list.stamps(place / "m") != changed


def test_prompts_of_nodes_in_front_belong_to_the_row_and_not_to_the_unit(batches, check, place, plan):
    document = {name: {**node, "inputs": dict(node["inputs"])} for name, node in batches.workflow.VIDEO_EDIT.items()}
    document["1"]["inputs"]["file"] = CLIP
    document["3"]["inputs"]["source_prompt"] = ONE
    document["5"] = {"class_type": "PrimitiveString", "inputs": {"value": OTHER}}
    document["3"]["inputs"]["edit_prompt"] = ["5", 0]
    (place / "linked.json").write_text(json.dumps(document))
    rows, _ = check(plan(f"value\n{OTHER}\na green circle on the grass\n"), place / "linked.json")
    assert rows[0].unit == rows[1].unit and rows[0].key != rows[1].key


def test_keys_follow_the_bytes_of_the_clip_and_not_its_time(batches, check, place, table):
    shutil.copy(batches.command.EXAMPLES / CLIP, place / "mine.mp4")
    first, _ = check(table(f"mine.mp4,{ONE},{OTHER},2,2"))
    (place / "mine.mp4").touch()
    assert check(table(f"mine.mp4,{ONE},{OTHER},2,2"))[0] == first
    with (place / "mine.mp4").open("ab") as file:
        file.write(b"\0\0\0\x08free")
    changed, _ = check(table(f"mine.mp4,{ONE},{OTHER},2,2"))
    assert changed[0].key != first[0].key and changed[0].unit != first[0].unit


def test_the_name_of_saved_files_is_no_part_of_a_row(batches, check, place, plan):
    rows, _ = check(plan("width\n5\n"), place / "picture.json")
    document = json.loads((place / "picture.json").read_text())
    document["3"]["inputs"]["filename_prefix"] = "other/%date:yyyy%"
    (place / "picture.json").write_text(json.dumps(document))
    assert check(plan("width\n5\n"), place / "picture.json")[0][0].key == rows[0].key


def test_folders_are_readable_and_short(check, plan):
    text = "x" * 300
    rows, _ = check(
        plan(f"clip,source_prompt,edit_prompt,name\n{CLIP},{ONE},{OTHER},Red/../Ball é\n{CLIP},{ONE},{text},\n")
    )
    assert rows[0].folder == f"red-ball-é-{rows[0].key[:16]}"
    assert rows[1].folder.startswith("red_circle_on_grass-xxx") and len(rows[1].folder) <= 65


def test_stamps_read_a_file_once_and_notice_its_change(batches, place):
    file, kept = place / "file", place / "stamps.json"
    file.write_bytes(b"one")
    stamps = batches.content.ContentStamps(kept)
    first = stamps(file)
    stamps.save()
    file.write_bytes(b"two, longer")
    again = batches.content.ContentStamps(kept)
    assert again(file) != first
    again.save()
    assert len(json.loads(kept.read_text())) == 1  # the old one is forgotten
    shutil.copy(file, place / "copy")
    assert again(place / "copy") == again(file)
    kept.write_text("[")
    assert batches.content.ContentStamps(kept)(file) == again(file)
