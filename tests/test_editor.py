"""ComfyUI's editor in a real browser, with three generations of its frontend."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, expect

from dalle2.backends import NO_KEY
from dalle2.errors import CONDITIONS
from dalle2.inpainting import NEEDS_BOTH
from dalle2.nodes import EMPTY_PROMPT, OpenAIDalle2
from development.browser import started_browser, visitor
from development.comfyui import ComfyUI
from development.editor_page import NODE, Editor
from development.emulator import Emulator
from development.failures import FAILURES
from development.frontends import FRONTENDS, comfyui_for_browser, use_own_key, version
from development.screenshots import THUMBNAIL_PX
from development.workflows import EXAMPLES, SAVED, example_photo
from tests.stage import SAVED_WORKFLOW, png

# The name of each template, and how many pictures each of its SaveImage nodes shows.
TEMPLATES = {"text-to-image": 1, "inpainting": 1, "several-prompts": 2, "batch": 4}


@dataclass(frozen=True)
class Desk:
    """A running ComfyUI, the emulator that it talks to, and a browser to look at it."""

    version: tuple[int, ...]  # of the frontend
    comfyui: ComfyUI
    emulator: Emulator
    browser: Browser


def sentence(condition: str) -> str:
    """The first sentence of a row of the table of errors."""
    return next(row.says for row in CONDITIONS if row.name == condition).split(". ")[0]


# Our sentence for each failure, and what the newest frontend makes of it in its own words, which it translates.
SAID = {
    "no-key": (NO_KEY.split(":")[0], "OpenAI DALL·E 2 failed"),
    "wrong-key": (sentence("key"), "OpenAI DALL·E 2 failed"),
    "blank-prompt": (EMPTY_PROMPT, "OpenAI DALL·E 2 rejected the value for prompt."),
    "image-without-mask": (NEEDS_BOTH, "OpenAI DALL·E 2 failed"),
    "moderation": (sentence("moderation"), "Content blocked"),
    "rate-limit": (sentence("rate"), "Servers are busy"),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_browser() as browser:
        yield browser


@pytest.fixture(scope="module", params=FRONTENDS)
def open_desk(
    request: pytest.FixtureRequest, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp(request.param)
    with Emulator() as emulator, comfyui_for_browser(folder, request.param, emulator) as comfyui:
        yield Desk(tuple(map(int, version(request.param).split("."))), comfyui, emulator, browser)


@pytest.fixture
def desk(open_desk: Desk) -> Iterator[Desk]:
    """The desk for one test: the user's own key, an empty log, and every knob in its place."""
    use_own_key(open_desk.comfyui, open_desk.emulator)
    open_desk.emulator.reset()
    yield open_desk
    open_desk.emulator.reset()


@pytest.fixture(scope="module")
def somebody(open_desk: Desk) -> Iterator[BrowserContext]:
    """One visitor for all tests with a frontend: its browser remembers the frontend's code."""
    with visitor(open_desk.browser) as somebody:
        yield somebody


@pytest.fixture(scope="module")
def open_editor(open_desk: Desk, somebody: BrowserContext) -> Editor:
    use_own_key(open_desk.comfyui, open_desk.emulator)
    return Editor(somebody.new_page(), open_desk.comfyui.url)


@pytest.fixture
def editor(desk: Desk, open_editor: Editor) -> Editor:
    """The editor of all tests with a frontend: it takes longer to load than most of them."""
    open_editor.tidy()
    return open_editor


def colours(png: bytes) -> int:
    """How many different colours a picture has: the editor itself uses few."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)
    return len(np.unique(pixels, axis=0))


@pytest.mark.parametrize(("name", "count"), TEMPLATES.items())
def test_a_template_opens_and_runs_as_it_is(editor: Editor, name: str, count: int) -> None:
    editor.open_template(name)
    (first, *others) = editor.nodes("SaveImage")
    assert colours(editor.look_at(first)) < 1000
    editor.run()
    for node_id in (first, *others):
        assert len(set(editor.pictures(node_id))) == count
    assert colours(editor.look_at(first)) > 1000


def test_every_template_has_a_thumbnail_and_a_note(editor: Editor) -> None:
    editor.browse_templates()
    for name in TEMPLATES:
        picture = editor.template(name).locator("img").first
        expect(picture).not_to_have_attribute("src", re.compile("default-template"))
        assert picture.evaluate("it => it.decode().then(() => it.naturalWidth)") == THUMBNAIL_PX
    for name in TEMPLATES:
        editor.open_template(name)
        assert len(editor.nodes("MarkdownNote")) == 1


def test_a_graph_built_by_hand_runs(desk: Desk, editor: Editor) -> None:
    editor.clear()
    drawn = editor.add_node("dalle", "OpenAI DALL·E 2", (300, 250))
    saved = editor.add_node("save image", "Save Image", (850, 250))
    editor.connect(drawn, "IMAGE", saved, "images")
    editor.type_prompt("A fox in the snow")
    editor.run()
    assert editor.pictures(saved)
    (call,) = desk.emulator.posts
    assert call.fields["prompt"] == "A fox in the snow"


def test_a_graph_of_the_old_node_opens_with_its_values_and_runs(desk: Desk, editor: Editor) -> None:
    desk.comfyui.upload("hills-with-a-hole.png", example_photo(512))
    editor.page.reload()
    editor.wait_until_ready()
    editor.open_file(SAVED_WORKFLOW)
    (node_id,) = editor.nodes(NODE)
    look = editor.page.evaluate("id => window.app.graph.getNodeById(id).serialize()", node_id)
    assert (look["color"], look["bgcolor"]) == ("#432", "#653")
    assert look["widgets_values"] == ["A red hot-air balloon", 1547204331, "randomize", "512x512", 2]
    editor.run()
    (saved,) = editor.nodes("SaveImage")
    assert len(editor.pictures(saved)) == 2
    (call,) = desk.emulator.posts
    assert call.path.endswith("/edits") and call.fields["prompt"] == "A red hot-air balloon"


@pytest.mark.parametrize("open_desk", ["newest"], indirect=True)
def test_a_mask_painted_in_the_mask_editor_is_what_is_edited(desk: Desk, editor: Editor) -> None:
    photo = Image.open(io.BytesIO(example_photo(512))).convert("RGB")
    desk.comfyui.upload("hills.png", png(np.asarray(photo)))
    editor.page.reload()
    editor.wait_until_ready()
    editor.open_file(SAVED / "edit-a-photo.json")
    (loaded,) = editor.nodes("LoadImage")
    mask_editor = editor.open_mask_editor(loaded)
    editor.paint_mask(mask_editor, [(500, 300), (560, 300)], thickness=50)
    editor.save_mask(mask_editor)
    editor.run()
    (saved,) = editor.nodes("SaveImage")
    assert editor.pictures(saved)
    (call,) = desk.emulator.posts
    sent = np.asarray(Image.open(io.BytesIO(call.file("mask").data)))
    assert 0.01 < (sent[..., 3] < 128).mean() < 0.2


def test_the_node_says_what_it_waits_for_and_shows_the_picture(desk: Desk, editor: Editor) -> None:
    desk.emulator.delay_s = 3
    editor.open_template("text-to-image")
    editor.type_prompt("A slow river")
    editor.run()
    for seconds in (1, 2):
        expect(editor.text_on_node(rf"^Waiting for .*, {seconds} s$")).to_be_visible()
    (drawn,), (saved,) = editor.nodes(NODE), editor.nodes("SaveImage")
    assert editor.pictures(saved) and colours(editor.look_at(drawn)) > 1000
    if desk.version < (1, 33):  # newer ones take the texts away when the run is over
        expect(editor.text_on_node(r"^1 picture by gpt-image-2, in place of dall-e-2, [\d.]+ s$")).to_be_visible()


def test_cancel_stops_the_node_and_the_next_run_works(desk: Desk, editor: Editor) -> None:
    desk.emulator.delay_s = 30
    editor.open_template("text-to-image")
    editor.type_prompt("Something slow")
    editor.run()
    expect(editor.text_on_node(r"^Waiting for .*, \d+ s$")).to_be_visible()
    editor.cancel()
    editor.wait_until_idle()
    desk.emulator.delay_s = 0
    editor.type_prompt("Something else")
    editor.run()
    (saved,) = editor.nodes("SaveImage")
    assert editor.pictures(saved)


@pytest.mark.parametrize("name", FAILURES)
def test_a_failed_run_is_told_in_the_words_that_were_meant(desk: Desk, editor: Editor, name: str) -> None:
    failure, (says, notice) = FAILURES[name], SAID[name]
    failure.prepare(desk.comfyui, desk.emulator)
    editor.open_file(failure.workflow)
    editor.type_prompt(failure.prompt)
    editor.run()
    problem = editor.problem()
    assert says in problem.notice + problem.details
    if desk.version > (1, 33):
        assert notice in problem.notice


@pytest.mark.parametrize(("locale", "words"), [("en-US", "mask"), ("ja-JP", "マスク")])
def test_the_help_opens_from_the_node_in_the_users_language(desk: Desk, locale: str, words: str) -> None:
    with visitor(desk.browser, locale=locale) as reader:
        editor = Editor(reader.new_page(), desk.comfyui.url)
        editor.open_file(EXAMPLES / "text-to-image.json")
        editor.open_help(editor.nodes(NODE)[0])
        expect(editor.help).to_contain_text(words)
        pictures = editor.help.locator("img")
        assert pictures.count() >= 3
        assert all(editor.help.locator("img").evaluate_all(LOADED))


LOADED = "all => Promise.all(all.map(it => it.decode().then(() => it.naturalWidth > 0, () => false)))"


def test_the_search_finds_the_node_by_its_names(editor: Editor) -> None:
    editor.clear()
    for words in ("DALL-E", "dalle", "OpenAI"):
        expect(editor.search(words, "OpenAI DALL·E 2")).to_be_visible()


@pytest.mark.parametrize("open_desk", ["newest"], indirect=True)
def test_the_search_finds_the_node_by_its_aliases(desk: Desk, somebody: BrowserContext) -> None:
    """Only a newer ComfyUI than the tested one passes them on; its answer is completed as that does."""
    with somebody.new_page() as page:
        page.route("**/object_info", lambda route: route.fulfill(json=with_aliases(route.fetch().json())))
        editor = Editor(page, desk.comfyui.url)
        editor.clear()
        for words in OpenAIDalle2.SEARCH_ALIASES:
            expect(editor.search(words, "OpenAI DALL·E 2")).to_be_visible()


def with_aliases(info: dict[str, Any]) -> dict[str, Any]:
    """The description of all nodes, with our aliases where a ComfyUI of today gives them."""
    return {**info, NODE: {**info[NODE], "search_aliases": OpenAIDalle2.SEARCH_ALIASES}}


def test_with_an_own_key_nobody_is_asked_to_sign_in(editor: Editor) -> None:
    editor.open_template("text-to-image")
    expect(editor.sign_in_button).to_have_count(0)
    editor.run()
    (saved,) = editor.nodes("SaveImage")
    assert editor.pictures(saved)
    expect(editor.sign_in_dialog).to_have_count(0)


def test_without_a_key_and_an_account_the_frontend_asks_to_sign_in(desk: Desk, somebody: BrowserContext) -> None:
    desk.comfyui.set_up()
    with somebody.new_page() as page:
        editor = Editor(page, desk.comfyui.url)
        editor.open_template("text-to-image")
        editor.type_prompt("A picture for nobody")
        if desk.version < (1, 50):
            editor.run()
        else:
            editor.sign_in_button.click()
        expect(editor.sign_in_dialog).to_be_visible()
    assert not desk.emulator.requests
