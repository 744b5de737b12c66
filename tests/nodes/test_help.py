"""Help pages of the nodes, their pictures, and the texts of the locales, against the schemas and the sources."""

import ast
import json
import re
import runpy
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGES, PICTURES, LOCALES = ROOT / "web" / "docs", ROOT / "web" / "docs" / "pictures", ROOT / "locales"
MAKE_LOCALE = runpy.run_path(str(ROOT / "docs" / "make_locale.py"))
SCHEMAS = {schema.node_id: schema for schema in MAKE_LOCALE["schemas"]()}
HEADINGS = {"en": ("Inputs", "Outputs", "Errors"), "zh": ("输入", "输出", "报错")}
NO_ERRORS = {"en": "It has none of its own.", "zh": "本节点没有自己的报错。"}
CHINESE = re.compile(r"[\u4e00-\u9fff]")
SAME_IN_CHINESE = {"UNet", "CLIP", "Latent", "PSNR", "SSIM"}
MOST_BYTES, MOST_BYTES_IN_ALL, WIDEST = 120 * 1024, 1536 * 1024, 800

each_page = pytest.mark.parametrize(
    ("node_id", "language"), [(node_id, language) for node_id in SCHEMAS for language in HEADINGS]
)


def page(node_id, language):
    """Where ComfyUI looks for a page; English is what it falls back to."""
    return PAGES / f"{node_id}.md" if language == "en" else PAGES / node_id / f"{language}.md"


def section(node_id, language, number):
    """The text below one of a page's common headings."""
    heading = HEADINGS[language][number]
    found = re.findall(
        rf"^## {heading}\n(.*?)(?=^## |\Z)", page(node_id, language).read_text("utf-8"), flags=re.M | re.S
    )
    assert len(found) == 1, heading
    return found[0]


def rows(node_id, language, number):
    """The cells of a section's only table, below its head and the line under it.

    Long names are written so that they can be broken in ComfyUI's narrow panel; they are read as `name`.
    """
    text = re.sub(r"</?code>", "`", section(node_id, language, number).replace("<wbr>", ""))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    if not lines:
        return []
    assert set("".join(cells[1])) == {"-"}
    return cells[2:]


def locale(language):
    return json.loads((LOCALES / language / "nodeDefs.json").read_text("utf-8"))


def leaves(texts, above=()):
    """Every text of a locale with the keys that lead to it."""
    for key, value in texts.items():
        yield from leaves(value, (*above, key)) if isinstance(value, dict) else [((*above, key), value)]


def said_in_sources():
    """Every string of the project's modules; what is filled in is a zero character."""
    for path in [*(ROOT / "fatezero_ext").rglob("*.py"), *(ROOT / "nodes").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


SAID = "\0\0".join(said_in_sources())


def test_each_node_has_a_page_in_each_language_and_no_page_is_without_its_node():
    wanted = {page(node_id, language) for node_id in SCHEMAS for language in HEADINGS}
    assert set(PAGES.rglob("*.md")) == wanted


@each_page
def test_a_page_names_the_inputs_and_outputs_of_its_node_in_their_order(node_id, language):
    schema, texts = SCHEMAS[node_id], locale(language)[node_id]
    names = (
        [socket.id for socket in schema.inputs],
        [socket.display_name or socket.get_io_type() for socket in schema.outputs],
    )
    keys = [socket.id for socket in schema.inputs], [str(place) for place in range(len(schema.outputs))]
    for number, kind in enumerate(("inputs", "outputs")):
        labels = [texts.get(kind, {}).get(key, {}).get("name", "") for key in keys[number]]
        # The Chinese interface shows the label, errors and workflows the name: the page has both.
        shown = labels if language != "en" else [""] * len(labels)
        wanted = [f"`{name}` {label}".strip() for name, label in zip(names[number], shown, strict=True)]
        assert [cells[0] for cells in rows(node_id, language, number)] == wanted


@each_page
def test_a_page_says_something_of_each_input_and_output(node_id, language):
    for number, further in ((0, 2), (1, 1)):
        for name, *cells in rows(node_id, language, number):
            assert len(cells) == further and all(cells), name
            if language == "zh":
                assert CHINESE.search(cells[-1]), name


def test_the_tables_of_the_pages_are_what_the_script_writes():
    pages = runpy.run_path(str(ROOT / "docs" / "make_node_tables.py"))["written_pages"]()
    assert [path.name for path, text in pages.items() if text != path.read_text("utf-8")] == []
    assert len(pages) == len(SCHEMAS) * len(HEADINGS)


@each_page
def test_errors_that_a_page_quotes_are_said_somewhere(node_id, language):
    said = section(node_id, language, 2)
    quoted = re.findall(r"\*\*(.+?)\*\*", said, flags=re.S)
    assert bool(quoted) != (said.strip() == NO_ERRORS[language])
    pieces = [" ".join(piece.split()) for quote in quoted for piece in quote.split("...")]
    assert [piece for piece in pieces if piece not in SAID] == []


@pytest.mark.parametrize("node_id", SCHEMAS)
def test_both_languages_quote_the_same_errors(node_id):
    english, chinese = (
        re.findall(r"\*\*(.+?)\*\*", section(node_id, language, 2), flags=re.S) for language in HEADINGS
    )
    assert [" ".join(found.split()) for found in english] == [" ".join(found.split()) for found in chinese]


@pytest.mark.parametrize("node_id", SCHEMAS)
@pytest.mark.parametrize("pattern", [r"!\[[^]]+\]\((.+?)\)", r"^```\n.*?^```"])
def test_both_languages_have_the_same_pictures_and_examples(node_id, pattern):
    english, chinese = (
        re.findall(pattern, page(node_id, language).read_text("utf-8"), flags=re.M | re.S) for language in HEADINGS
    )
    assert english == chinese


def test_pictures_that_are_linked_are_there_and_all_are_linked():
    links = {
        link for path in PAGES.rglob("*.md") for link in re.findall(r"!\[[^]]+\]\(([^)]+)\)", path.read_text("utf-8"))
    }  # both languages resolve against the folder of pages
    assert {PAGES / link for link in links} == set(PICTURES.iterdir())


def test_each_picture_is_drawn_by_one_of_the_scripts():
    scripts = [ROOT / "docs" / f"make_{name}_pictures.py" for name in ("node", "page")]
    drawn = [name for script in scripts for name in runpy.run_path(str(script))["DRAWN"]]
    assert sorted(f"{name}.png" for name in drawn) == sorted(path.name for path in PICTURES.iterdir())


def test_pictures_are_small():
    sizes = {path.name: path.stat().st_size for path in PICTURES.iterdir()}
    assert {name: size for name, size in sizes.items() if size > MOST_BYTES} == {}
    assert sum(sizes.values()) <= MOST_BYTES_IN_ALL
    for path in PICTURES.iterdir():
        with Image.open(path, formats=("PNG",)) as picture:
            picture.load()
            assert picture.width <= WIDEST, path.name


def test_the_english_locale_is_what_the_script_writes():
    written = MAKE_LOCALE["as_text"](MAKE_LOCALE["locale"]())
    assert (LOCALES / "en" / "nodeDefs.json").read_text("utf-8") == written


def test_the_chinese_locale_has_the_keys_of_the_english_one_in_their_order():
    assert [keys for keys, _ in leaves(locale("zh"))] == [keys for keys, _ in leaves(locale("en"))]


def test_the_chinese_locale_is_in_chinese():
    left = [keys for keys, text in leaves(locale("zh")) if not CHINESE.search(text) and text not in SAME_IN_CHINESE]
    assert left == []


def test_the_chinese_locale_has_the_folders_of_the_node_menu():
    folders = {folder for schema in SCHEMAS.values() for folder in schema.category.split("/")} - {"FateZero"}
    named = json.loads((LOCALES / "zh" / "main.json").read_text("utf-8"))["nodeCategories"]
    assert set(named) == folders and all(map(CHINESE.search, named.values()))


def test_chinese_tooltips_name_the_choices_as_workflows_do():
    english, chinese = locale("en"), locale("zh")
    missing = []
    for node_id, schema in SCHEMAS.items():
        for socket in (socket for socket in schema.inputs if socket.get_io_type() == "COMBO"):
            said, translated = (texts[node_id]["inputs"][socket.id]["tooltip"] for texts in (english, chinese))
            named = [choice for choice in socket.options if re.search(rf"\b{re.escape(choice)}:", said)]
            missing += [(node_id, socket.id, choice) for choice in named if choice not in translated]
    assert missing == []


@pytest.mark.parametrize("language", HEADINGS)
def test_locales_hold_nothing_that_the_translation_library_reads_as_its_own_syntax(language):
    assert [keys for keys, text in leaves(locale(language)) if re.search(r"[{}|@$]", text)] == []
    assert [keys for keys, _ in leaves(locale(language)) if any("." in key for key in keys)] == []


def test_no_page_and_no_locale_names_a_place_on_a_machine():
    files = [*PAGES.rglob("*.md"), *LOCALES.rglob("*.json"), *(ROOT / "docs").glob("*.py")]
    machine = re.compile(r"(?<![\w.])/(?:work|tmp|home|root|usr|var|opt|mnt|Users)\b|\b[A-Za-z]:\\")
    assert [path.name for path in files if machine.search(path.read_text("utf-8"))] == []


OLDER_NAMES = re.compile(r"P2P\s+Edit\b|DDIM\s+Invert\b|Load\s+Pseudo-3D\s+UNet|P2P 编辑|加载伪 3D UNet")


def test_nodes_are_called_by_the_names_that_they_now_have():
    """What has happened to earlier versions is told by the names of then."""
    documents = [path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")] if path.name != "CHANGELOG.md"]
    files = [*documents, *PAGES.rglob("*.md"), *LOCALES.rglob("*.json")]
    assert [path.name for path in files if OLDER_NAMES.search(path.read_text("utf-8"))] == []
