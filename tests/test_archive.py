"""What the registry gets: the description in pyproject.toml, and the archive, which has to work when it is unpacked."""

from __future__ import annotations

import io
import re
import sys
import tokenize
import zipfile
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from development.comfyui import ComfyUI
from development.package import NAME, ROOT, archived_files, git_files, write_archive
from development.workflows import text_to_image
from tests.stage import KEY, Stage

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_ARCHIVE_BYTES = 2_000_000


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(tmp_path_factory.mktemp("archive") / "node.zip")


def test_the_description_passes_the_registrys_specification(description: dict[str, Any]) -> None:
    project, comfy = description["project"], description["tool"]["comfy"]
    assert project["name"] == NAME
    assert "comfyui" not in project["name"] and len(project["name"]) < 100
    assert re.fullmatch(r"[a-z]+([-_.]?[a-z0-9]+)*", project["name"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert (ROOT / project["license"]["file"]).is_file() and project["description"]
    assert "Operating System :: OS Independent" in project["classifiers"]
    assert project["urls"]["Repository"].startswith("https://github.com/")
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    assert comfy["PublisherId"] and comfy["DisplayName"] == "OpenAI DALL·E 2 and 3"
    assert comfy["includes"] == []


@pytest.mark.parametrize("typed", ["DALL-E", "DALL·E", "OpenAIDalle2", "OpenAIDalle3"])
def test_comfyui_manager_finds_the_package_by_what_people_type(description: dict[str, Any], typed: str) -> None:
    # js/custom-nodes-manager.js of ComfyUI-Manager: it looks at title, author and description.
    title, words = description["tool"]["comfy"]["DisplayName"], description["project"]["description"]
    assert typed.lower() in f"{title} {words}".lower()


def test_the_dependencies_are_those_of_requirements_txt(description: dict[str, Any]) -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert description["project"]["dependencies"] == [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize(("key", "ratio"), [("Icon", 1), ("Banner", 21 / 9)])
def test_the_artwork_is_where_the_description_says_and_has_its_shape(
    description: dict[str, Any], key: str, ratio: float
) -> None:
    repository = description["project"]["urls"]["Repository"]
    raw = repository.replace("github.com", "raw.githubusercontent.com") + "/main/"
    address = description["tool"]["comfy"][key]
    assert address.startswith(raw)
    with Image.open(ROOT / address.removeprefix(raw)) as picture:
        width, height = picture.size
    assert width / height == pytest.approx(ratio, abs=0.001)
    assert key == "Banner" or width <= 400


def test_every_action_of_the_workflows_is_pinned_by_its_commit() -> None:
    for workflow in (ROOT / ".github" / "workflows").glob("*.yml"):
        for action in re.findall(r"uses: (\S+.*)", workflow.read_text(encoding="utf-8")):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+|\./\S+", action), f"{workflow.name}: {action}"


# Beside the modules of the root.
FOLDERS = {"generation", "net", "web", "locales", "example_workflows", "docs"}
FILES = {"pyproject.toml", "requirements.txt", ".env.example", "LICENSE"}
PAGES = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"}


def test_the_archive_holds_what_an_installation_needs_and_nothing_else(archive: Path) -> None:
    installed = {path.name for path in ROOT.glob("*.py")} - {"dev.py"} | FOLDERS | FILES | PAGES
    tracked = git_files(ROOT, "--cached")
    assert archived_files() == [path for path in tracked if path.partition("/")[0] in installed]
    assert archive.stat().st_size < MAX_ARCHIVE_BYTES
    assert not [name for name in archived_files() if "test" in name.lower() or name.endswith(".env")]


LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


# What makes the registry's scan flag a release, wherever it stands in the archive, except in comments of code.
FLAGGED = re.compile(
    r"\.connect\(|\.bind\(|\.send(?:all)?\(|\.recv\(|aiohttp\.ClientSession|requests\.(?:get|post)\("
    r"|urllib\.request\.urlopen\(|os\.environ(?:\.get\(|\[)|subprocess|\b(?:eval|exec)\(|importlib"
    r"|AUTH_TOKEN_COMFY_ORG"
)
# What cannot be avoided, with its reason.
UNAVOIDABLE = {
    ("nodes.py", "AUTH_TOKEN_COMFY_ORG"): "the hidden input in which ComfyUI hands over the account's token",
    ("transport.py", ".connect("): "urllib3's own method, extended to know whether a request went out",
    ("transport.py", ".send("): "http.client's own method, extended to send an upload piece by piece",
}


def test_nothing_in_the_archive_makes_the_registry_flag_it() -> None:
    found = set()
    for path in map(ROOT.joinpath, archived_files()):
        if path.suffix in (".png", ".jpg"):
            continue
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            tokens = tokenize.generate_tokens(io.StringIO(text).readline)
            text = tokenize.untokenize(token for token in tokens if token.type != tokenize.COMMENT)
        found |= {(path.name, pattern) for pattern in FLAGGED.findall(text)}
    assert found == set(UNAVOIDABLE)


def test_no_page_of_the_archive_leads_to_what_is_not_in_it() -> None:
    archived = set(archived_files())
    lost = [
        f"{page}: {link}"
        for page in archived
        if page.endswith(".md")
        and not page.startswith(("web/docs/OpenAIDalle2/", "web/docs/OpenAIDalle3/"))  # counted from web/docs
        for link in LINK.findall((ROOT / page).read_text(encoding="utf-8"))
        if (ROOT / page).parent.joinpath(link).resolve().relative_to(ROOT).as_posix() not in archived | {".env.example"}
    ]
    assert lost == []


def test_every_picture_of_the_documentation_is_shown_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "web" / "docs").glob("*.md")]
    shown = {Path(link).name for page in pages for link in LINK.findall(page.read_text(encoding="utf-8"))}
    there = {path.name for folder in ("docs", "web/docs") for path in (ROOT / folder / "images").iterdir()}
    assert there - {"icon.png", "banner.png"} <= shown


def test_every_test_that_a_guarantee_names_exists() -> None:
    named = set(re.findall(r"\btest_\w+", (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")))
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py")]
    there = {name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}
    assert named and named <= there


def test_the_archive_works_when_it_is_unpacked_into_custom_nodes(archive: Path, own_key: Stage, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "custom_nodes" / NAME)
    env = {"OPENAI_BASE_URL": own_key.emulator.base_url, "OPENAI_API_KEY": KEY}
    with ComfyUI(tmp_path, env=env, has_package=False) as comfyui:
        assert len(Stage(comfyui, own_key.emulator).pictures(text_to_image("out of the box", size="256x256"))) == 1
        for path in (
            f"/extensions/{NAME}/docs/OpenAIDalle2.md",
            f"/extensions/{NAME}/docs/images/text-to-image.jpg",
            f"/api/workflow_templates/{NAME}/OpenAI DALL-E 2 Text to Image.json",
            f"/api/workflow_templates/{NAME}/OpenAI DALL-E 2 Text to Image.jpg",
        ):
            assert requests.get(comfyui.url + path, timeout=30).status_code == 200, path
