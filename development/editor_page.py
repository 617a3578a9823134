"""ComfyUI's editor in a browser's tab, used with mouse and keyboard.

One driver for three generations of the frontend: in 1.32 errors are dialogs and help is in the sidebar; in 1.49 and
1.58 errors are a notice whose details open in a panel, and so does the help.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import FloatRect, Locator, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

from development.browser import WINDOW
from development.editor_scripts import BADGES, HAS_NODES, LOADED_PICTURES, PLACES, SET_WIDGET
from development.package import NAME

NODE = "OpenAIDalle2"
TEMPLATE = "OpenAI DALL-E 2 Text to Image"
# The canvas takes two clicks for one and one when a busy machine is late with them; a person clicks again.
DOUBLE_CLICKS = 10
DOUBLE_CLICK_MS = 2000
# How often to look for what nothing announces.
TRIES, TRY_MS = 50, 100

Point = tuple[float, float]


@dataclass(frozen=True)
class Problem:
    """What the editor tells about a run that failed: its notice or dialog, and the details where it has some."""

    notice: str
    details: str = ""


class Editor:
    """The editor at `url`, opened in `page` by someone who has been there before and has chosen `settings`."""

    def __init__(self, page: Page, url: str, settings: Mapping[str, Any] | None = None) -> None:
        self.page = page
        # A first visit begins with a tour of the templates, and 1.32 advertises another look in a banner.
        page.request.post(f"{url}/settings", data={"Comfy.TutorialCompleted": True, **(settings or {})}).dispose()
        page.add_init_script("localStorage.setItem('vueNodesBannerDismissed', 'true')")
        page.goto(url)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait for the end of a (re)load."""
        self._wait("() => Boolean(window.app?.extensionManager && window.app.graph && window.app.canvas)")
        expect(self.page.get_by_test_id("queue-button").or_(self.sign_in_button)).to_be_visible()

    def tidy(self) -> None:
        """Close what is open over the canvas and beside it: the search, dialogs, and the panel of 1.58."""
        if self._search_box.is_visible():
            self.page.keyboard.press("Escape")
            expect(self._search_box).to_be_hidden()
        dialogs = self.page.locator("[role=dialog]:visible")
        while count := dialogs.count():
            self.page.keyboard.press("Escape")
            expect(dialogs).not_to_have_count(count)
        if self._panel.is_visible():
            self.page.get_by_role("button", name="Toggle properties panel").first.click()
            expect(self._panel).to_be_hidden()

    def wait_until_idle(self) -> None:
        """Wait until there is nothing to cancel."""
        expect(self._cancel_button).to_be_disabled()

    @property
    def sign_in_button(self) -> Locator:
        """What 1.58 shows in place of Run to someone who has to sign in first."""
        return self.page.get_by_test_id("partner-sign-in-to-run-button")

    @property
    def sign_in_dialog(self) -> Locator:
        """The frontend's own dialog for a node that needs a Comfy.org account."""
        return self.page.get_by_role("dialog").filter(has_text=re.compile("sign in", re.IGNORECASE))

    @property
    def help(self) -> Locator:
        """The help page of a node, while it is open."""
        return self.page.locator(".node-help-content")

    def browse_templates(self) -> None:
        """Open the template browser at this package's templates."""
        self.page.get_by_role("button", name="Templates").first.click()
        self.page.get_by_role("dialog").get_by_text(NAME).first.click()
        expect(self.template(TEMPLATE)).to_be_visible()

    def template(self, name: str) -> Locator:
        """The card of a template in the template browser."""
        return self.page.get_by_test_id(f"template-workflow-{name}")

    def open_template(self, name: str) -> None:
        """Choose one of this package's templates in the template browser."""
        if not self.template(name).is_visible():
            self.browse_templates()
        self.template(name).click()
        expect(self.page.get_by_test_id("template-workflows-content")).to_have_count(0)
        self._wait("() => window.app.graph.nodes.some(node => node.type.startsWith('OpenAIDalle'))")

    def open_file(self, path: Path) -> None:
        """Open the file of a workflow, as the menu's Open does."""
        self.clear()
        self.page.locator("#comfy-file-input").set_input_files(path)
        # After a reload the editor may still be about to open what was open before.
        nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
        self._wait(HAS_NODES, [[node["id"], node["type"], node.get("color")] for node in nodes])

    def clear(self) -> None:
        """Take everything off the canvas."""
        self.page.evaluate("() => window.app.graph.clear()")

    def search(self, words: str, name: str) -> Locator:
        """Open the search for nodes with a double click, type, and return the place where a name is found."""
        for _ in range(DOUBLE_CLICKS):
            if self._search_box.is_visible():
                break
            self.page.mouse.dblclick(WINDOW["width"] / 2, WINDOW["height"] - 60)
            with suppress(PlaywrightTimeoutError):
                self._search_box.wait_for(timeout=DOUBLE_CLICK_MS)
        self._search_box.fill(words)
        return self._found.filter(has_text=name).first

    def add_node(self, words: str, name: str, at: Point) -> int:
        """Search for a node, choose it by its name, and drag it to a place in the window; returns its id."""
        before = set(self.nodes())
        self.search(words, name).click()
        expect(self._search_box).to_have_count(0)
        self.page.mouse.move(*at, steps=4)
        self.page.mouse.click(*at)  # 1.58 hands a new node to the mouse, until a click
        (added,) = set(self.nodes()) - before
        self._drag(self._places(added)["title"], at)
        return added

    def connect(self, source: int, output: str, target: int, name: str) -> None:
        """Drag a link from an output to an input, both given by their names."""
        ends = self._places(source, output, is_output=True)["slot"], self._places(target, name)["slot"]
        self._drag(*ends)
        linked = "([id, name]) => window.app.graph.getNodeById(id).inputs.find(it => it.name === name).link !== null"
        self._wait(linked, [target, name])

    def type_prompt(self, text: str) -> None:
        """Type into the first prompt, whichever way nodes are rendered."""
        in_vue_node = self.page.locator("[data-node-id] textarea:visible")
        self.page.locator("textarea.comfy-multiline-input").or_(in_vue_node).first.fill(text)

    def open_settings(self) -> None:
        """Open this package's page of the settings."""
        self.page.keyboard.press("Control+Comma")
        self.page.get_by_role("dialog").get_by_text("OpenAI DALL·E", exact=True).first.click()
        expect(self.key_field).to_be_visible()

    @property
    def key_field(self) -> Locator:
        """Where the settings take the key."""
        return self.page.get_by_role("textbox", name="Key", exact=True)

    def paste(self, field: Locator, text: str) -> None:
        """Paste a text from the clipboard into a field."""
        self.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page.evaluate("text => navigator.clipboard.writeText(text)", text)
        field.focus()
        self.page.keyboard.press("Control+V")

    @property
    def toast(self) -> Locator:
        """What this package says about a run that failed, where the frontend does not show it."""
        return self.page.get_by_role("alert").filter(has=self.page.get_by_role("button", name="Help", exact=True))

    def set_key(self, key: str) -> None:
        """Enter a key in the settings, or take the one away that is there."""
        field, remove = self.key_field, self.page.get_by_role("button", name="Remove the key")
        if key:
            field.fill(key)
            field.press("Tab")
            expect(self.page.get_by_placeholder("A key is set")).to_be_visible()
        else:
            remove.click()
            expect(remove).to_be_hidden()

    def set_widget(self, node_id: int, name: str, value: Any) -> None:
        """Give a widget of a node a value."""
        self.page.evaluate(SET_WIDGET, [node_id, name, value])

    def badges(self, node_id: int, expected: Sequence[str]) -> list[str]:
        """The badges that the canvas draws on a node beside the package's name, once they are as expected, or else."""
        shown: list[str] = []
        for _ in range(TRIES):
            shown = [text for text in self.page.evaluate(BADGES, node_id) if text != NAME]
            if shown == list(expected):
                break
            self.page.wait_for_timeout(TRY_MS)
        return shown

    def saved(self, node_id: int) -> Any:
        """A node as it would be saved."""
        return self.page.evaluate("id => window.app.graph.getNodeById(id).serialize()", node_id)

    def open_help(self, node_id: int) -> None:
        """Open the help page of a node with the button that appears above it when it is selected."""
        button = self.page.get_by_test_id("info-button")
        self._select(node_id, button)
        button.click()
        expect(self.help).to_be_visible()

    def _select(self, node_id: int, button: Locator) -> None:
        """Click a node until its button is there; the view may still move when a file has just been opened."""
        for _ in range(DOUBLE_CLICKS):
            self.page.mouse.click(*self._places(node_id)["title"])
            with suppress(PlaywrightTimeoutError):
                button.wait_for(timeout=DOUBLE_CLICK_MS)
                return

    def open_mask_editor(self, node_id: int) -> Locator:
        """Open the mask editor of 1.58 on a Load Image node, and return it."""
        button = self.page.get_by_role("button", name="Open Mask Editor for Selected Node")
        self._select(node_id, button)
        button.click()
        mask_editor = self.page.get_by_role("dialog").filter(has=self.page.get_by_test_id("mask-editor-ui"))
        expect(mask_editor.get_by_role("button", name="Save")).to_be_visible()
        return mask_editor

    def paint_mask(self, mask_editor: Locator, stroke: Sequence[Point], thickness: int) -> None:
        """Paint a stroke through points of the window, with a brush so many pixels of the picture thick."""
        mask_editor.locator("input[type=number]").first.fill(str(thickness))
        self.page.mouse.move(*stroke[0])
        self.page.mouse.down()
        for point in stroke:
            self.page.mouse.move(*point, steps=4)
        self.page.mouse.up()

    def save_mask(self, mask_editor: Locator) -> None:
        """Press Save in the mask editor."""
        mask_editor.get_by_role("button", name="Save").click()
        expect(mask_editor).to_have_count(0)

    def run(self) -> None:
        """Press Run."""
        button = self.page.get_by_test_id("queue-button")
        # 1.32 gives the name to a group of buttons, 1.58 to the button itself.
        (button if button.evaluate("it => it.tagName") == "BUTTON" else button.get_by_role("button").first).click()

    def cancel(self) -> None:
        """Press the button that stops the run."""
        self._cancel_button.click()

    def text_on_node(self, pattern: str) -> Locator:
        """The line on a node that a regular expression matches."""
        return self.page.get_by_text(re.compile(pattern)).first

    def pictures(self, node_id: int) -> list[str]:
        """Wait until a node shows the pictures of its run, and return their addresses."""
        addresses: list[str] = self._wait(LOADED_PICTURES, node_id)
        return addresses

    def problem(self) -> Problem:
        """Wait for what the editor says about a run that failed, open its details, and return both."""
        notice, dialog = self.page.get_by_test_id("error-overlay"), self.page.locator(".comfy-error-report")
        expect(notice.or_(dialog).first).to_be_visible()
        if not notice.count():
            return Problem(dialog.inner_text())
        text = notice.inner_text()
        self.page.get_by_test_id("error-overlay-see-errors").click()
        buttons = self._panel.get_by_role("button", name=re.compile("^Info for"))
        # A run's report comes later than the panel; what is refused before it runs has buttons instead.
        expect(self._panel.get_by_text("ComfyUI Error Report").or_(buttons).first).to_be_visible()
        for details in buttons.all():
            details.click()
        return Problem(text, self._panel.inner_text())

    def nodes(self, kind: str | None = None) -> list[int]:
        """The ids of the nodes of a type, or of all."""
        code = "kind => window.app.graph.nodes.filter(it => !kind || it.type === kind).map(it => it.id)"
        ids: list[int] = self.page.evaluate(code, kind)
        return ids

    def frame(self) -> None:
        """Bring all nodes into sight."""
        self.page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")

    def wait_until_quiet(self) -> None:
        """Wait until the notices that go by themselves are gone."""
        for notice in (".p-toast-message", "[data-testid=queue-notification-banner]"):
            expect(self.page.locator(notice).locator("visible=true")).to_have_count(0)
        self.page.mouse.move(WINDOW["width"] / 2, WINDOW["height"] - 5)

    def look_at(self, *node_ids: int) -> bytes:
        """A PNG of the part of the window where some nodes are, with their titles."""
        boxes = [self._places(node_id)["corners"] for node_id in node_ids]
        left, top = (min(box[place] for box in boxes) for place in (0, 1))
        right, bottom = (max(box[place] for box in boxes) for place in (2, 3))
        return self.screenshot(FloatRect(x=left, y=top, width=right - left, height=bottom - top))

    def screenshot(self, part: FloatRect | None = None) -> bytes:
        """A PNG of the window, or of a part of it."""
        return self.page.screenshot(clip=part, animations="disabled")

    @property
    def _panel(self) -> Locator:
        return self.page.get_by_test_id("properties-panel")

    @property
    def _cancel_button(self) -> Locator:
        return self.page.get_by_role("button", name="Cancel current run").first

    @property
    def _search_box(self) -> Locator:
        old = self.page.locator(".comfy-vue-node-search-container input[type=text]")
        return old.or_(self.page.get_by_role("search").get_by_role("combobox").and_(self.page.locator("input")))

    @property
    def _found(self) -> Locator:
        old = self.page.locator(".comfy-vue-node-search-container [role=option]")
        return old.or_(self.page.get_by_role("search").get_by_test_id("result-item"))

    def _places(self, node_id: int, slot: str = "", *, is_output: bool = False) -> Any:
        return self.page.evaluate(PLACES, [node_id, is_output, slot])

    def _drag(self, start: Point, end: Point) -> None:
        self.page.mouse.move(*start)
        self.page.mouse.down()
        self.page.mouse.move(*end, steps=8)
        self.page.mouse.up()

    def _wait(self, code: str, argument: Any = None) -> Any:
        return self.page.wait_for_function(code, arg=argument).json_value()
