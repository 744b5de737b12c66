"""Pages for readers: their links lead somewhere, they are complete, and they agree with what they describe."""

import re
from functools import cache
from pathlib import Path

import pytest

import fatezero_ext

ROOT = Path(__file__).parents[2]
DOCS, NODE_PAGES = ROOT / "docs", ROOT / "web" / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *NODE_PAGES.rglob("*.md"), ROOT / "tests" / "golden" / "README.md"]
MOST_LINES_OF_README, MOST_BYTES_OF_PICTURE = 120, 500 * 1024
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@cache
def text_of(page):
    """A page without its code, in which brackets are no links."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<!`)`[^`\n]+`(?!`)", lambda code: re.sub(r"[\[\]()]", "", code[0]), text)


@cache
def anchors(page):
    """What headings can be linked by, as GitHub makes it."""
    found = []
    for heading in re.findall(r"^#+ +(.+?) *$", text_of(page), flags=re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return frozenset(found)


def targets(page):
    """Path and anchor of each relative link."""
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if not re.match(r"[a-z]+:", link):
            path, _, anchor = link.partition("#")
            # ComfyUI looks for a node page's pictures from the folder of pages, in every language.
            base = NODE_PAGES if page.is_relative_to(NODE_PAGES) else page.parent
            yield link, (base / path).resolve() if path else page, anchor


@each_page
def test_links_lead_somewhere(page):
    assert [link for link, path, _ in targets(page) if not path.exists()] == []


@each_page
def test_anchors_are_headings(page):
    assert [link for link, path, anchor in targets(page) if anchor and anchor not in anchors(path)] == []


def test_links_and_anchors_are_found():
    linked = {(path.name, anchor) for _, path, anchor in targets(ROOT / "README.md")}
    assert {("comfyui.md", "install"), ("edits.webp", ""), ("LICENSE", "")} <= linked


def test_python_md_names_everything_that_is_exported_and_nothing_else():
    tables = re.findall(r"^\| name \|.*\n\|[-|]+\n((?:\|.*\n)+)", (DOCS / "python.md").read_text("utf-8"), flags=re.M)
    first_cells = [row.split("|")[1] for table in tables for row in table.splitlines()]
    named = re.findall(r"`(\w+)", " ".join(first_cells))
    explained = re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", (DOCS / "python.md").read_text("utf-8"))))
    assert sorted(set(fatezero_ext.__all__) - set(explained)) == []
    assert sorted(set(named) - set(fatezero_ext.__all__)) == []
    assert len(named) == len(set(named)) > 70


def test_the_index_leads_to_every_page():
    linked = {path for _, path, _ in targets(DOCS / "index.md")}
    assert {page for page in DOCS.glob("*.md") if page.name != "index.md"} <= linked


def test_the_page_of_comfyui_leads_to_every_node_page():
    assert set(NODE_PAGES.rglob("*.md")) <= {path for _, path, _ in targets(DOCS / "comfyui.md")}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= MOST_LINES_OF_README


def test_pictures_of_pages_are_small():
    pictures = {path for page in PAGES for _, path, _ in targets(page) if path.suffix in (".webp", ".png", ".jpg")}
    assert {path.name for path in pictures if path.stat().st_size > MOST_BYTES_OF_PICTURE} == set()


def test_the_test_command_is_that_of_make():
    (command,) = re.findall(r"-m (pytest -n .+)", (ROOT / "Makefile").read_text("utf-8"))
    for page in (ROOT / "CONTRIBUTING.md", DOCS / "testing.md"):
        assert set(re.findall(r"-m (pytest -n [^`\n]+)", page.read_text("utf-8"))) == {command}, page.name


@pytest.mark.parametrize("package", ["fatezero_ext", "nodes"])
def test_architecture_names_every_room(package):
    rules = (ROOT / ".importlinter").read_text("utf-8")
    (layers,) = re.findall(
        rf"^containers = fatezero_pack\.{package}\nlayers =\n((?: +.+\n)+)", rules, flags=re.MULTILINE
    )
    rooms = set(re.findall(r"\w+", layers)) - {"__main__"}
    assert sorted(rooms - set(re.findall(r"`(\w+)`", (ROOT / "ARCHITECTURE.md").read_text("utf-8")))) == []


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_files_that_are_named_exist(name):
    folders = [ROOT, ROOT / "fatezero_ext", ROOT / "nodes"]
    named = re.findall(r"`([\w./]+(?:\.py|\.md|/))`", (ROOT / name).read_text("utf-8"))
    named = {path for path in named if "/" in path and "NAME" not in path}
    assert len(named) > 15
    assert [path for path in sorted(named) if not any((folder / path).exists() for folder in folders)] == []


def test_no_page_names_a_place_on_a_machine():
    machine = re.compile(r"(?<![\w.])/(?:work|tmp|home|root|usr|var|opt|mnt|Users)\b|\b[A-Za-z]:\\")
    assert [page.name for page in PAGES if machine.search(page.read_text("utf-8"))] == []
