import re
import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def lines(name):
    """The requirement lines of a file."""
    found = (line.strip() for line in (ROOT / name).read_text().splitlines())
    return [line for line in found if line and not line.startswith(("#", "-"))]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


PINS = {canonical(name): pinned for name, pinned in (line.split("==") for line in lines("constraints.txt"))}


@pytest.mark.parametrize("line", lines("requirements.txt"))
def test_requirements_are_floors_and_their_tested_version_is_pinned(line):
    assert re.fullmatch(r"[A-Za-z0-9-]+>=[0-9.]+", line)
    assert canonical(line.split(">=")[0]) in PINS


def test_torch_build_is_left_to_pip():
    assert PINS["torch"] == "2.13.0" and not any("+" in pinned for pinned in PINS.values())
    assert not re.search(
        r"https?://|--index|--find-links", (ROOT / "Makefile").read_text() + (ROOT / ".ci/run").read_text()
    )


def test_torch_of_the_makefile_is_the_pinned_one():
    assert f"TORCH := torch=={PINS['torch']}\n" in (ROOT / "Makefile").read_text()


def test_ruff_is_the_same_everywhere():
    dev = next(line for line in PROJECT["project"]["optional-dependencies"]["dev"] if line.startswith("ruff"))
    required = PROJECT["tool"]["ruff"]["required-version"]
    assert {f"=={PINS['ruff']}"} == {required, dev.removeprefix("ruff")}
    assert dev in lines("requirements-dev.txt")


@pytest.mark.parametrize("name", [line.split(">=")[0] for line in lines("requirements.txt")])
def test_all_that_a_requirement_pulls_in_is_pinned(name):
    direct = [need for need in requires(name) or () if "extra ==" not in need]
    needed = {canonical(re.match(r"[A-Za-z0-9._-]+", need).group()) for need in direct if "platform_system" not in need}
    installed = {need for need in needed if need in PINS or _installed(need)} - {"setuptools", "pip"}
    assert installed <= set(PINS)


def _installed(name):
    try:
        return bool(version(name))
    except ImportError:
        return False


def test_root_module_imports_alone_and_offers_nothing_without_a_package():
    probe = "import runpy; print(sorted(n for n in runpy.run_path('__init__.py') if not n.startswith('__')))"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_core_never_imports_comfyui():
    banned = re.compile(r"^\s*(?:from|import) (?:comfy|folder_paths|execution|nodes)\b", re.MULTILINE)
    allowed = {ROOT / "nodes" / name for name in ("host/comfy.py", "api.py", "native/sampling.py")}
    sources = [*(ROOT / "fatezero_ext").rglob("*.py"), *(ROOT / "nodes").rglob("*.py")]
    assert [path.name for path in sources if path not in allowed and banned.search(path.read_text())] == []


def test_every_source_file_is_at_most_400_lines():
    sources = [path for part in ("fatezero_ext", "nodes", "tests") for path in (ROOT / part).rglob("*.py")]
    assert [path.name for path in sources if len(path.read_text().splitlines()) > 400] == []


def test_the_registry_finds_its_pictures_and_the_tested_versions():
    comfy, project = PROJECT["tool"]["comfy"], PROJECT["project"]
    assert re.fullmatch(r"[a-z0-9-]+", comfy["PublisherId"]) and "comfyui" not in project["name"].lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert f"## {project['version']}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert comfy["requires-comfyui"] == ">=0.3.64" and "0.3.64" in (ROOT / "README.md").read_text()
    repository = project["urls"]["Repository"]
    for picture in ("Icon", "Banner"):
        address, path = comfy[picture].split("/main/")
        assert address == repository.replace("github.com", "raw.githubusercontent.com") and (ROOT / path).is_file()


def test_nothing_installs_or_runs_text_while_nodes_run():
    forbidden = re.compile(
        r"(?<![.\w])(?:eval|exec)\(|subprocess|os\.system|\bpip\b.*install|urlopen|requests\.get|hf_hub_download"
    )
    sources = [path for folder in ("nodes", "fatezero_ext") for path in (ROOT / folder).rglob("*.py")]
    sources = [path for path in sources if "toy" not in path.parts]  # training starts workers
    measuring = ROOT / "fatezero_ext" / "metrics" / "vmaf.py"  # calls an installed ffmpeg, by a list and no shell
    assert [path.name for path in sources if path != measuring and forbidden.search(path.read_text())] == []
    text = measuring.read_text()
    assert re.findall(r"subprocess\.(\w+)\(|os\.\w+\(", text) == ["run"] and "shell" not in text
    assert not forbidden.search(text.replace("subprocess", ""))
