"""`cache list`, `cache verify` and `cache prune`."""

import json

import pytest

from fatezero_ext.cli.main import main
from fatezero_ext.storage.disk_cache.cache import InversionCache

from .saved import ABOUT, KEY, LIMIT, OTHER, holds_its_pages, save, used_at


@pytest.fixture
def run(cache, capsys):
    """Run the command on the cache's folder: its exit code, output and errors."""

    def run(*words):
        try:
            code = main(["cache", *words, "--folder", str(cache.folder)] if words else ["cache"])
        except SystemExit as stop:
            code = stop.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def spoil(cache, key):
    path = cache.folder / key / "step-000.safetensors"
    path.write_bytes(bytes(path.stat().st_size))


def test_list_shows_each_inversion_and_the_total(cache, run):
    entry = save(cache, KEY)
    save(cache, OTHER).release()
    code, out, err = run("list")
    rows = {line.split()[1]: line for line in out.splitlines() if "│" in line}
    for word in ("a silver jeep", "8 x 512x512", " 3 ", "features", "KiB"):
        assert word in rows[KEY[:12]]
    assert rows[KEY[:12]].split()[-2] == "yes" and rows[OTHER[:12]].split()[-2] == "no"
    assert out.splitlines()[-1].endswith(f"of 32.00 GiB used by 2 inversions, in {cache.folder}")
    assert (code, err) == (0, "") and holds_its_pages(entry)


def test_list_starts_with_what_was_used_last(cache, run):
    save(cache, KEY).release()
    save(cache, OTHER).release()
    used_at(cache, OTHER, 1000)
    out = run("list")[1]
    assert out.index(KEY[:12]) < out.index(OTHER[:12]) and "1970-01-01" in out


def test_list_of_no_folder_is_one_line_and_makes_none(cache, run):
    assert run("list") == (0, f"0 bytes of 32.00 GiB used by 0 inversions, in {cache.folder}\n", "")
    assert not cache.folder.exists()


@pytest.mark.parametrize(
    "about",
    [
        {},
        {
            "prompt": "[/red] [bold]\x1b[31m\nx\u202e",
            "frames": [1],
            "size": {"a": None},
            "steps": None,
            "policy": 1e300,
        },
        {"prompt": "very " * 200, "size": [512, 384]},
    ],
)
def test_list_shows_any_words_without_obeying_them(cache, run, about):
    with cache.begin(KEY, about, 0) as draft:
        draft.publish()
    used_at(cache, KEY, 10**14)
    code, out, _ = run("list")
    assert code == 0 and KEY[:12] in out and "\x1b" not in out and "\u202e" not in out
    assert "[/red] [bold]" in out or "[/red]" not in about.get("prompt", "")
    assert ("512x384" in out) == ("very" in about.get("prompt", ""))


def test_list_says_why_an_inversion_cannot_be_used(cache, run):
    save(cache, KEY).release()
    path = cache.folder / KEY / "manifest.json"
    path.write_text(json.dumps({"format": 7}))
    code, out, _ = run("list")
    assert code == 0 and "cannot be used: it is of format 7" in " ".join(out.replace("│", " ").split())


def test_verify_of_whole_inversions_ends_with_0(cache, run):
    save(cache, KEY).release()
    code, out, err = run("verify")
    assert (code, err) == (0, "") and f"{KEY[:12]}  ok  a silver jeep" in out
    assert out.endswith(f"1 inversion checked, 0 damaged, in {cache.folder}\n")


def test_verify_names_damaged_files_and_ends_with_1_and_keeps_them(cache, run):
    save(cache, KEY).release()
    save(cache, OTHER).release()
    spoil(cache, KEY)
    code, out, err = run("verify")
    assert (code, err) == (1, "") and f"{KEY[:12]}  DAMAGED" in out and f"{OTHER[:12]}  ok" in out
    assert "step-000: its bytes do not match" in out and "2 inversions checked, 1 damaged" in out
    assert len(cache.entries()) == 2


def test_verify_removes_on_demand_what_is_damaged_and_not_in_use(cache, run):
    entry = save(cache, KEY)
    save(cache, OTHER).release()
    spoil(cache, KEY)
    (cache.folder / OTHER / "manifest.json").write_text("")
    code, out, _ = run("verify", "--remove")
    assert code == 1 and "kept, because it is in use" in out and "its manifest.json cannot be understood" in out
    assert [listed.key for listed in cache.entries()] == [KEY]
    entry.release()
    assert run("verify", "--remove")[0] == 1 and run("verify")[0] == 0 and cache.entries() == []


def test_prune_says_what_went_and_what_is_in_use(cache, run):
    entry = save(cache, KEY)
    save(cache, OTHER).release()
    code, out, err = run("prune", "--all")
    lines = out.splitlines()
    assert (code, err) == (0, "") and lines[0].startswith(f"removed {OTHER[:12]}  ") and "a silver jeep" in lines[0]
    assert lines[1].startswith(f"kept, because it is in use: {KEY[:12]}") and lines[2].startswith(
        "1 inversion removed; "
    )
    assert holds_its_pages(entry)


def test_prune_to_a_limit_keeps_the_rest(cache, run):
    save(cache, KEY).release()
    save(cache, OTHER).release()
    used_at(cache, KEY, 1000)
    assert run("prune")[1].startswith("0 inversions removed") and run("prune", "--limit-gb", "1")[0] == 0
    code, out, _ = run("prune", "--limit-gb", str((cache.nbytes - 1) / 2**30))
    assert code == 0 and out.startswith(f"removed {KEY[:12]}") and [left.key for left in cache.entries()] == [OTHER]


def test_prune_says_what_could_not_be_used(cache, run):
    """As saved by an older program, whose digests are others."""
    save(cache, KEY).release()
    (cache.folder / KEY / "manifest.json").write_text(json.dumps({"format": 1}))
    code, out, _ = run("prune")
    assert code == 0 and out.startswith(f"removed {KEY[:12]}") and cache.entries() == []
    assert "cannot be used: it is of format 1, this program reads format 2\n1 inversion removed;" in out


def test_prune_tells_of_leftovers(cache, run):
    save(cache, KEY).release()
    left = cache.folder / ".drafts" / f"{OTHER}.5000.{'0' * 32}"
    left.mkdir(parents=True)
    (left / "step-000.safetensors").write_bytes(bytes(2048))
    assert "removed 2.0 KiB that unfinished runs had left" in run("prune")[1] and not left.exists()


def test_the_environments_folder_is_the_default(cache, monkeypatch, capsys):
    save(cache, KEY)
    monkeypatch.setenv("FATEZERO_CACHE_DIR", str(cache.folder))
    monkeypatch.setenv("FATEZERO_CACHE_GB", "2")
    assert (
        main(["cache", "list"]) == 0
        and f"of 2.00 GiB used by 1 inversion, in {cache.folder}" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "required: COMMAND"),
        (["grow"], 2, "invalid choice: 'grow'"),
        (["prune", "--limit-gb", "-1"], 2, "'-1' is not a number of GiB"),
        (["prune", "--limit-gb", "nan"], 2, "'nan' is not a number of GiB"),
        (["prune", "--limit-gb", "1", "--all"], 2, "not allowed with"),
    ],
)
def test_mistakes_in_the_command_end_it_with_one_message(run, words, code, message):
    ended, out, err = run(*words)
    assert ended == code and message in err and out == ""


def test_a_folder_of_another_program_ends_with_1_and_one_line(tmp_path, capsys):
    (tmp_path / KEY).mkdir()
    assert main(["cache", "prune", "--all", "--folder", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("Error: ") and "another program" in printed.err and printed.out == ""
    assert (tmp_path / KEY).is_dir()


def test_a_setting_that_cannot_be_used_ends_with_1(monkeypatch, run):
    monkeypatch.setenv("FATEZERO_CACHE_GB", "lots")
    code, out, err = run("list")
    assert code == 1 and "FATEZERO_CACHE_GB is 'lots'" in err and out == ""


def test_what_the_command_shows_is_what_was_saved(cache):
    save(cache, KEY)
    assert dict(InversionCache(cache.folder, LIMIT).entries()[0].about) == ABOUT
