"""ComfyUI's editor in a real browser, with three generations of its frontend and both renderers of nodes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect

from dalle2.backends import NO_KEY
from dalle2.comfyui import CANCELLED
from dalle2.editor import PACKAGE
from dalle2.errors import STATUS_CASES, Case
from dalle2.generation.inpainting import NEEDS_BOTH
from dalle2.nodes import EMPTY_PROMPT, OpenAIDalle2
from development.browser import started_browser, visitor
from development.comfyui import ComfyUI
from development.editor_page import NODE, TEMPLATE, Editor
from development.emulator import Emulator
from development.frontends import FRONTENDS, comfyui_for_browser, use_own_key, use_settings_page, version
from development.screenshots import THUMBNAIL_PX
from development.workflows import EXAMPLES, SAVED, example_photo
from tests.failures import FAILURES
from tests.pictures import file_of
from tests.stage import ACCOUNT_KEY, SAVED_WORKFLOW

TEMPLATES = sorted(path.stem for path in EXAMPLES.glob("*.json"))
# The Nodes 2.0 of 1.32, which were a beta, show no texts on nodes, whoever sends them.
FRONTENDS_AND_RENDERERS = [
    ("pinned", "canvas"),
    *((name, renderer) for name in ("middle", "newest") for renderer in ("canvas", "nodes 2.0")),
]
with_both_renderers = pytest.mark.parametrize(("open_desk", "rendered"), FRONTENDS_AND_RENDERERS, indirect=True)
LINE = r"^1 \w+ · gpt-image-2 · [\d.]+ s$"


@dataclass(frozen=True)
class Desk:
    """A running ComfyUI, the emulator that it talks to, and a browser to look at it."""

    version: tuple[int, ...]  # of the frontend
    comfyui: ComfyUI
    emulator: Emulator
    browser: Browser

    @property
    def shows_errors_in_dialogs(self) -> bool:
        """As frontends did until 1.40: with the message, which newer ones hide behind a click."""
        return self.version < (1, 40)


def sentence(case: Case) -> str:
    """The first sentence of the first row for a case."""
    return next(row.says for row in STATUS_CASES if row.case is case).split(". ")[0]


# Our sentence for each failure, and what newer frontends make of it in their own words, which they translate.
FAILED = "OpenAI DALL·E 2 failed"
SAID = {
    "no-key": (NO_KEY.split(":")[0], FAILED),
    "wrong-key": (sentence(Case.KEY), FAILED),
    "blank-prompt": (EMPTY_PROMPT, "OpenAI DALL·E 2 rejected the value for prompt."),
    "image-without-mask": (NEEDS_BOTH, FAILED),
    "moderation": (sentence(Case.MODERATION), "Content blocked"),
    "rate-limit": (
        "Rate Limit Exceeded: the server wants fewer requests. Run again in 10 minutes.",
        "Servers are busy",
    ),
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


@pytest.fixture
def page(desk: Desk, somebody: BrowserContext) -> Iterator[Page]:
    """A page of its own, for tests that change settings."""
    with somebody.new_page() as page:
        yield page


@pytest.fixture
def rendered(request: pytest.FixtureRequest, desk: Desk, page: Page) -> Iterator[Editor]:
    """The editor with a renderer of nodes."""
    yield Editor(page, desk.comfyui.url, {"Comfy.VueNodes.Enabled": request.param == "nodes 2.0"})
    page.request.post(f"{desk.comfyui.url}/settings", data={"Comfy.VueNodes.Enabled": False}).dispose()


def colours(png: bytes) -> int:
    """How many different colours a picture has: the editor itself uses few."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)
    return len(np.unique(pixels, axis=0))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_opens_and_runs_as_it_is(desk: Desk, editor: Editor, name: str) -> None:
    desk.comfyui.upload("example.png", example_photo(512))
    editor.open_template(name)
    (first, *others) = editor.nodes("SaveImage")
    assert colours(editor.look_at(first)) < 1000
    editor.run()
    for node_id in (first, *others):
        assert editor.pictures(node_id)
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
    *_, call = desk.emulator.posts  # the first may be refused for a field that this server does not take
    assert call.fields["prompt"] == "A fox in the snow"


def test_a_graph_of_the_old_node_opens_with_its_values_and_runs(desk: Desk, editor: Editor) -> None:
    desk.comfyui.upload("hills-with-a-hole.png", example_photo(512))
    editor.page.reload()
    editor.wait_until_ready()
    editor.open_file(SAVED_WORKFLOW)
    (node_id,) = editor.nodes(NODE)
    look = editor.saved(node_id)
    assert (look["color"], look["bgcolor"]) == ("#432", "#653")
    assert look["widgets_values"] == ["A red hot-air balloon", 1547204331, "randomize", "512x512", 2]
    (saved,) = editor.nodes("SaveImage")
    assert editor.saved(saved)["properties"]["cnr_id"] == "comfy-core"
    properties = look["properties"]  # whoever gets the file, once it is saved again, is offered this package
    assert (properties["cnr_id"], properties["ver"]) == (PACKAGE["name"], PACKAGE["version"])
    editor.run()
    assert len(editor.pictures(saved)) == 2
    *_, call = desk.emulator.posts
    assert call.path.endswith("/edits") and call.fields["prompt"] == "A red hot-air balloon"


def test_an_old_graph_runs_with_an_account_and_leads_to_the_help(desk: Desk) -> None:
    desk.comfyui.upload("hills-with-a-hole.png", example_photo(512))
    use_settings_page(desk.comfyui)
    with visitor(desk.browser) as member:
        page = member.new_page()
        # Somebody who has signed in with a Comfy.org API key; only Comfy.org's list of customers is not there.
        page.add_init_script(f"localStorage.setItem('comfy_api_key', '{ACCOUNT_KEY}')")
        page.route("**/customers", lambda route: route.fulfill(json={"id": "a-customer"}))
        editor = Editor(page, desk.comfyui.url)
        editor.open_file(SAVED_WORKFLOW)
        expect(editor.sign_in_button).to_have_count(0)
        editor.run()
        (saved,) = editor.nodes("SaveImage")
        assert len(editor.pictures(saved)) == 2
        *_, call = desk.emulator.posts
        assert call.path == "/proxy/openai/images/edits"
        assert call.headers["x-api-key"] == ACCOUNT_KEY
        expect(editor.text_on_node(r"^2 pictures · .* · [\d.]+ credits$")).to_be_visible()
        editor.open_help(editor.nodes(NODE)[0])
        expect(editor.help).to_contain_text("mask")


def test_a_graph_of_the_old_dall_e_3_runs(desk: Desk, editor: Editor) -> None:
    editor.open_file(SAVED / "saved-dalle-3.json")
    editor.run()
    (saved,) = editor.nodes("SaveImage")
    assert len(editor.pictures(saved)) == 1
    *_, call = desk.emulator.posts
    assert (call.fields["size"], call.fields["quality"]) == ("1024x1792", "medium")


@pytest.mark.parametrize("open_desk", ["newest"], indirect=True)
def test_a_mask_painted_in_the_mask_editor_is_what_is_edited(desk: Desk, editor: Editor) -> None:
    photo = Image.open(io.BytesIO(example_photo(512))).convert("RGB")
    desk.comfyui.upload("hills.png", file_of(photo))
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
    *_, call = desk.emulator.posts
    sent = np.asarray(Image.open(io.BytesIO(call.file("mask").data)))
    assert 0.01 < (sent[..., 3] < 128).mean() < 0.2


@with_both_renderers
def test_the_node_says_what_it_waits_for_and_then_what_came_of_it(desk: Desk, rendered: Editor) -> None:
    desk.emulator.delay_s = 2
    rendered.open_template(TEMPLATE)
    rendered.type_prompt(f"A slow river {uuid4()}")  # another one each time: ComfyUI keeps results
    rendered.run()
    expect(rendered.text_on_node(r"^Waiting for .*, 1 s$")).to_be_visible()
    expect(rendered.text_on_node(LINE)).to_be_visible()
    rendered.page.wait_for_timeout(500)  # the frontend clears texts some time after a run
    expect(rendered.text_on_node(LINE)).to_be_visible()
    assert colours(rendered.look_at(rendered.nodes(NODE)[0])) > 1000


def test_of_a_list_of_calls_the_line_that_counts_all_images_stays(editor: Editor) -> None:
    lines = ["3 pictures · gpt-image-2 · 2.0 s", "1 picture · gpt-image-2 · 1.0 s", "2 pictures · gpt-image-2 · 1.5 s"]
    assert editor.page.evaluate(LAST_LINE, lines) == lines[0]
    assert editor.page.evaluate(LAST_LINE, lines[1:]) == lines[2]


# Plays ComfyUI's messages about a node that has returned these lines; the text that the node is left with.
LAST_LINE = """lines => new Promise(done => {
  const { api } = window.comfyAPI.api
  api.addEventListener("progress_text", ({ detail }) => detail.nodeId === "99" && done(detail.text))
  api.dispatchCustomEvent("executed", { node: "99", output: { openai_dalle: lines } })
  api.dispatchCustomEvent("execution_success", {})
})"""


@with_both_renderers
def test_cancel_stops_the_node_and_the_next_run_works(desk: Desk, rendered: Editor) -> None:
    desk.emulator.delay_s = 30
    rendered.open_template(TEMPLATE)
    rendered.type_prompt(f"Something slow {uuid4()}")
    rendered.run()
    expect(rendered.text_on_node(r"^Waiting for .*, \d+ s$")).to_be_visible()
    rendered.cancel()
    rendered.wait_until_idle()
    expect(rendered.text_on_node(f"^{CANCELLED}$")).to_be_visible()
    expect(rendered.text_on_node("^Waiting")).to_have_count(0)
    desk.emulator.delay_s = 0
    rendered.type_prompt(f"Something else {uuid4()}")
    rendered.run()
    expect(rendered.text_on_node(LINE)).to_be_visible()


@pytest.mark.parametrize("name", FAILURES)
def test_a_failed_run_is_told_in_the_words_that_were_meant(desk: Desk, editor: Editor, name: str) -> None:
    failure, (says, notice) = FAILURES[name], SAID[name]
    failure.prepare(desk.comfyui, desk.emulator)
    editor.open_file(failure.workflow)
    editor.type_prompt(failure.prompt)
    editor.run()
    if notice == FAILED and not desk.shows_errors_in_dialogs:
        expect(editor.toast).to_contain_text(says)
        editor.toast.get_by_role("button", name="Close").click()
    problem = editor.problem()
    expect(editor.toast).to_have_count(0)
    assert says in problem.notice + problem.details
    if not desk.shows_errors_in_dialogs:
        assert notice in problem.notice


@with_both_renderers
def test_the_message_of_a_failed_run_leads_to_the_help(desk: Desk, rendered: Editor) -> None:
    failure = FAILURES["wrong-key"]
    failure.prepare(desk.comfyui, desk.emulator)
    rendered.open_file(failure.workflow)
    rendered.run()
    if desk.shows_errors_in_dialogs:
        assert sentence(Case.KEY) in rendered.problem().notice
        return
    rendered.toast.get_by_role("button", name="Help").click()
    expect(rendered.help).to_contain_text("The key is not accepted")
    expect(rendered.toast).to_have_count(0)
    desk.emulator.reset()
    rendered.type_prompt(f"Another try {uuid4()}")
    rendered.run()
    expect(rendered.text_on_node(LINE)).to_be_visible()


@pytest.mark.parametrize(
    ("locale", "words", "address"), [("en-US", "mask", "Server address"), ("ja-JP", "マスク", "サーバーのアドレス")]
)
def test_help_and_settings_are_in_the_users_language(desk: Desk, locale: str, words: str, address: str) -> None:
    with visitor(desk.browser, locale=locale) as reader:
        editor = Editor(reader.new_page(), desk.comfyui.url)
        editor.open_file(EXAMPLES / f"{TEMPLATE}.json")
        editor.open_help(editor.nodes(NODE)[0])
        expect(editor.help).to_contain_text(words)
        assert all(editor.help.locator("img").evaluate_all(LOADED))
        editor.open_settings()
        if desk.version < (1, 40):
            address = "Server address"  # 1.32 loses the translations of packages when it loads its own
        expect(editor.page.get_by_role("dialog").get_by_text(address, exact=True).first).to_be_visible()


LOADED = "all => Promise.all(all.map(it => it.decode().then(() => it.naturalWidth > 0, () => false)))"


def test_the_search_finds_the_nodes_by_their_names(editor: Editor) -> None:
    editor.clear()
    for words in ("DALL-E", "dalle", "OpenAI"):
        for name in ("OpenAI DALL·E 2", "OpenAI DALL·E 3"):
            expect(editor.search(words, name)).to_be_visible()


@pytest.mark.parametrize("open_desk", ["newest"], indirect=True)
def test_the_search_finds_the_node_by_its_aliases(desk: Desk, page: Page) -> None:
    """Only a newer ComfyUI than the tested one passes them on; its answer is completed as that does."""
    page.route("**/object_info", lambda route: route.fulfill(json=with_aliases(route.fetch().json())))
    editor = Editor(page, desk.comfyui.url)
    editor.clear()
    for words in OpenAIDalle2.SEARCH_ALIASES:
        expect(editor.search(words, "OpenAI DALL·E 2")).to_be_visible()


def with_aliases(info: dict[str, Any]) -> dict[str, Any]:
    """The description of all nodes, with our aliases where a ComfyUI of today gives them."""
    return {**info, NODE: {**info[NODE], "search_aliases": OpenAIDalle2.SEARCH_ALIASES}}


def test_a_key_is_never_stored_for_another_address_than_the_one_shown(desk: Desk, editor: Editor) -> None:
    use_settings_page(desk.comfyui, openai_base_url=desk.emulator.base_url)
    editor.page.reload()
    editor.wait_until_ready()
    editor.open_settings()
    address = editor.page.get_by_role("textbox", name="Server address")
    expect(address).to_have_value(desk.emulator.base_url)
    address.fill("gateway.example/v1")
    address.press("Tab")
    expect(editor.page.get_by_text("it is not the address of a server").first).to_be_visible()
    editor.paste(editor.key_field, "sk-for-the-gateway")
    expect(editor.page.get_by_text("it is not the address of a server")).to_have_count(2)
    expect(editor.page.get_by_placeholder("A key is set")).to_have_count(0)


@with_both_renderers
def test_the_first_picture_takes_four_steps_with_an_own_key(desk: Desk, rendered: Editor) -> None:
    use_settings_page(desk.comfyui, openai_base_url=desk.emulator.base_url, dalle2_model="gpt-image-2")
    rendered.page.reload()
    rendered.wait_until_ready()
    rendered.open_settings()
    rendered.paste(rendered.key_field, desk.emulator.api_key)
    expect(rendered.page.get_by_placeholder("A key is set")).to_be_visible()
    rendered.tidy()
    rendered.open_template(TEMPLATE)
    rendered.type_prompt(f"The first picture {uuid4()}")
    rendered.run()
    expect(rendered.text_on_node(LINE)).to_be_visible()
    expect(rendered.sign_in_dialog).to_have_count(0)
    *_, call = desk.emulator.posts
    assert call.headers["authorization"].endswith(desk.emulator.api_key)
    readable = [rendered.page.request.get(desk.comfyui.url + path).text() for path in ("/settings", SETTINGS_PATH)]
    assert desk.emulator.api_key not in "".join(readable)


IS_PARTNER_NODE = "is => window.LiteGraph.registered_node_types.OpenAIDalle2.nodeData.api_node === is"
SETTINGS_PATH = "/openai_dalle/settings"


def test_the_sign_in_wall_falls_with_a_key_and_comes_back_without_one(desk: Desk, page: Page) -> None:
    use_settings_page(desk.comfyui)
    editor = Editor(page, desk.comfyui.url)
    editor.open_template(TEMPLATE)
    has_wall = desk.version > (1, 50)
    editor.open_settings()
    for key, is_account in (("sk-mine", False), ("", True)):
        editor.set_key(key)
        expect(editor.sign_in_button).to_have_count(int(has_wall and is_account))
        page.wait_for_function(IS_PARTNER_NODE, arg=is_account)


def test_a_badge_says_what_a_run_costs_and_who_is_paid(desk: Desk, page: Page) -> None:
    use_settings_page(desk.comfyui)
    editor = Editor(page, desk.comfyui.url)
    editor.open_template(TEMPLATE)
    (node_id,) = editor.nodes(NODE)
    has_own = not desk.shows_errors_in_dialogs  # the frontend shows the price in credits too
    for n, credits, usd in ((1, "1.3", "0.006"), (3, "3.8", "0.018")):
        editor.set_widget(node_id, "n", n)
        expected = [f"{credits} credits/Run"] * has_own + [f"${usd} · Comfy.org"]
        assert editor.badges(node_id, expected) == expected
    editor.open_settings()
    editor.set_key("sk-mine")
    assert editor.badges(node_id, ["$0.018 · api.openai.com"]) == ["$0.018 · api.openai.com"]
    page.get_by_role("combobox", name="Quality").select_option("high")
    assert editor.badges(node_id, ["$0.633 · api.openai.com"]) == ["$0.633 · api.openai.com"]
    page.get_by_role("textbox", name="Model", exact=True).fill("gpt-image-3")
    page.get_by_role("textbox", name="Model", exact=True).blur()
    assert editor.badges(node_id, ["api.openai.com"]) == ["api.openai.com"]


def test_nodes_2_show_the_badge_too(desk: Desk, page: Page) -> None:
    use_settings_page(desk.comfyui)
    editor = Editor(page, desk.comfyui.url, {"Comfy.VueNodes.Enabled": True})
    editor.open_template(TEMPLATE)
    node = page.locator(f"[data-node-id='{editor.nodes(NODE)[0]}']")
    expect(node).to_contain_text("$0.006 · Comfy.org")
    expect(node).not_to_contain_text("$0.020")
    if not desk.shows_errors_in_dialogs:
        expect(node).to_contain_text(re.compile(r"1\.3\s*credits"))
    editor.open_settings()
    editor.set_key("sk-mine")
    expect(node).to_contain_text("$0.006 · api.openai.com")
    expect(node).not_to_contain_text("credits")
    page.request.post(f"{desk.comfyui.url}/settings", data={"Comfy.VueNodes.Enabled": False}).dispose()


def test_the_server_that_is_set_can_be_tried(desk: Desk, page: Page) -> None:
    use_settings_page(desk.comfyui, openai_base_url=desk.emulator.base_url, dalle2_model="gpt-image-2")
    editor = Editor(page, desk.comfyui.url)
    editor.open_settings()
    editor.set_key("sk-wrong-1234567890")
    page.get_by_role("button", name="Test", exact=True).click()
    expect(page.get_by_text("The server did not accept the key")).to_be_visible()
    editor.set_key(desk.emulator.api_key)
    page.get_by_role("button", name="Test", exact=True).click()
    expect(page.get_by_text("127.0.0.1 responds. Its models: ")).to_be_visible()


def test_what_the_environment_file_sets_is_fixed_in_the_settings(desk: Desk, page: Page) -> None:
    editor = Editor(page, desk.comfyui.url)
    editor.open_settings()
    expect(editor.key_field).to_be_disabled()
    expect(page.get_by_role("textbox", name="Server address")).to_have_value(desk.emulator.base_url)
    expect(page.get_by_text("Fixed by the file .env.")).to_have_count(3)
    expect(page.get_by_role("combobox", name="Quality")).to_be_enabled()


def test_without_a_key_and_an_account_the_frontend_asks_to_sign_in(desk: Desk, page: Page) -> None:
    use_settings_page(desk.comfyui)
    editor = Editor(page, desk.comfyui.url)
    editor.open_template(TEMPLATE)
    editor.type_prompt("A picture for nobody")
    if desk.version < (1, 50):
        editor.run()
    else:
        editor.sign_in_button.click()
    expect(editor.sign_in_dialog).to_be_visible()
    expect(editor.toast).to_have_count(0)
    assert not desk.emulator.requests
