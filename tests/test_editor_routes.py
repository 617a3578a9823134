"""The routes of the settings page: what they store and show, and what they refuse."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from dalle2 import editor
from dalle2.backends import NO_KEY
from dalle2.comfyui import JsonAnswer, PageRequest
from dalle2.image_models import PRICES_USD
from dalle2.nodes import OpenAIDalle2
from dalle2.settings import SettingsFiles, read_settings
from development.emulator import Emulator
from development.package import ROOT

KEY = "sk-typed-1234567890"
PAGE = {
    "host": "127.0.0.1:8188",
    "origin": "http://127.0.0.1:8188",
    "sec-fetch-site": "same-origin",
    "content-type": "application/json",
}


@pytest.fixture
def files(tmp_path: Path) -> SettingsFiles:
    return SettingsFiles(env=tmp_path / ".env", editor=tmp_path / "user" / "settings.json")


def page(body: object = None, *, remote: str = "127.0.0.1", **headers: Any) -> PageRequest:
    """A request of ComfyUI's own page; a header that is None is left out."""
    changed = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {name: value for name, value in {**PAGE, **changed}.items() if value is not None}
    return PageRequest(remote, sent, body if isinstance(body, bytes) else json.dumps(body).encode())


def change(files: SettingsFiles, body: object, **options: Any) -> JsonAnswer:
    return editor.change(page(body, **options), files)


def stored(files: SettingsFiles) -> Any:
    assert files.editor is not None
    return json.loads(files.editor.read_text(encoding="utf-8")) if files.editor.exists() else None


def fields(answer: JsonAnswer) -> Any:
    status, content = answer
    assert status == 200, content
    return content["fields"]


def test_a_typed_key_is_used_from_the_next_call_on(files: SettingsFiles) -> None:
    assert fields(change(files, {"openai_api_key": f" {KEY} ", "openai_base_url": ""}))["openai_api_key"]["is_set"]
    settings = read_settings(files)
    assert settings.openai_api_key is not None and settings.openai_api_key.get_secret_value() == KEY
    assert settings.backend == "openai"


def test_the_key_can_never_be_read_back(files: SettingsFiles) -> None:
    said = [change(files, {"openai_api_key": KEY, "openai_base_url": "https://example.com/v1"})]
    said += [editor.show(page(), files), editor.test_connection(page(), files), change(files, {"openai_api_key": "é"})]
    assert KEY not in json.dumps(said)


def test_the_file_is_private_and_outside_of_the_package(files: SettingsFiles) -> None:
    change(files, {"openai_api_key": KEY, "openai_base_url": ""})
    assert files.editor is not None
    assert stat.S_IMODE(files.editor.stat().st_mode) == 0o600
    assert [path.name for path in files.editor.parent.iterdir()] == ["settings.json"]
    assert OpenAIDalle2.settings_files.editor != ROOT / "settings.json"
    assert ROOT not in (files.editor.parents)


@pytest.mark.parametrize(
    ("body", "is_kept"),
    [
        ({"openai_base_url": "https://other.example/v1"}, False),
        ({"openai_base_url": ""}, False),
        ({"openai_base_url": "https://example.com/v1/"}, True),
        ({"dalle2_quality": "high"}, True),
    ],
)
def test_only_a_changed_address_drops_the_stored_key(files: SettingsFiles, body: object, is_kept: bool) -> None:
    change(files, {"openai_api_key": KEY, "openai_base_url": "https://example.com/v1"})
    answer = change(files, body)
    assert fields(answer)["openai_api_key"]["is_set"] == is_kept
    assert answer[1]["notice"] == ("" if is_kept else editor.KEY_DROPPED)
    assert stored(files).get("openai_api_key") == (KEY if is_kept else None)


def test_a_key_without_its_address_is_refused(files: SettingsFiles) -> None:
    assert change(files, {"openai_api_key": KEY}) == (400, {"error": editor.KEY_ALONE})
    assert stored(files) is None


def test_an_empty_value_takes_a_setting_away(files: SettingsFiles) -> None:
    change(files, {"openai_api_key": KEY, "openai_base_url": "https://example.com/v1", "dalle2_quality": "high"})
    answer = change(files, {"openai_api_key": "", "openai_base_url": "", "dalle2_quality": ""})
    assert stored(files) == {}
    assert fields(answer)["dalle2_quality"] == {"source": "", "fixed": False, "value": "low"}
    assert answer[1]["pays"] == "Comfy.org"


ATTACKS: dict[str, tuple[dict[str, Any], int]] = {
    "another website": ({"origin": "https://evil.example", "sec_fetch_site": "cross-site"}, 403),
    "another website, in an old browser": ({"origin": "https://evil.example", "sec_fetch_site": None}, 403),
    "another port of this computer": ({"origin": "http://127.0.0.1:9000", "sec_fetch_site": "same-site"}, 403),
    "a sandboxed frame": ({"origin": "null"}, 403),
    "a form without an origin": ({"origin": None}, 403),
    "a browser that says cross-site": ({"sec_fetch_site": "cross-site"}, 403),
    "a broken origin": ({"origin": "http://[", "host": "["}, 403),
    "a website whose name leads to this computer": ({"origin": "http://evil.example", "host": "evil.example"}, 403),
    "a proxy on this computer": ({"x_forwarded_for": "203.0.113.7"}, 403),
    "no host": ({"host": None, "origin": "http://"}, 403),
    "a form's text": ({"content_type": "text/plain"}, 415),
    "no content type": ({"content_type": None}, 415),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_another_page_can_change_nothing(files: SettingsFiles, name: str) -> None:
    headers, status = ATTACKS[name]
    body = {"openai_api_key": KEY, "openai_base_url": "https://evil.example/v1"}
    assert change(files, body, **headers)[0] == status
    assert editor.test_connection(page({}, **headers), files)[0] == status
    assert stored(files) is None


@pytest.mark.parametrize("remote", ["192.168.1.7", "203.0.113.7", "::ffff:192.168.1.7", "fe80::1%eth0", ""])
def test_another_computer_can_change_nothing(files: SettingsFiles, remote: str) -> None:
    assert change(files, {"dalle2_quality": "high"}, remote=remote) == (403, {"error": editor.ELSEWHERE})
    assert editor.test_connection(page({}, remote=remote), files)[0] == 403
    assert editor.show(page(remote=remote), files)[1]["read_only"] == editor.ELSEWHERE
    assert stored(files) is None


@pytest.mark.parametrize(
    ("remote", "host"), [("127.0.0.1", "localhost:8188"), ("::1", "[::1]:8188"), ("::ffff:127.0.0.1", "127.0.0.2")]
)
def test_this_computer_can_change_settings_by_any_of_its_names(files: SettingsFiles, remote: str, host: str) -> None:
    answer = change(files, {"dalle2_quality": "high"}, remote=remote, host=host, origin=f"http://{host}")
    assert fields(answer)["dalle2_quality"]["value"] == "high"


MALFORMED = {
    "half an object": b'{"openai_api_key"',
    "a list": b"[]",
    "a number": b'{"dalle2_model": 7}',
    "null": b'{"dalle2_model": null}',
    "not UTF-8": b'{"dalle2_model": "\xff"}',
    "too long": b'{"dalle2_model": "%b"}' % (b"x" * editor.MAX_BODY_BYTES),
    "an unknown name": b'{"openai_org_id": "org"}',
    "a limit of time": b'{"dalle2_read_timeout_s": "1"}',
    "a backend that is none": b'{"dalle2_backend": "azure"}',
    "an address with a password": b'{"openai_base_url": "https://me:secret@example.com/v1"}',
    "a key of two lines": b'{"openai_api_key": "sk-a\\nHost: evil", "openai_base_url": ""}',
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_cannot_be_a_setting_is_refused_and_not_repeated(files: SettingsFiles, name: str) -> None:
    change(files, {"dalle2_quality": "high"})
    status, content = change(files, MALFORMED[name])
    assert status in (400, 413) and content["error"]
    assert "secret" not in content["error"] and "evil" not in content["error"]
    assert stored(files) == {"dalle2_quality": "high"}


def test_what_the_environment_sets_is_shown_as_fixed(files: SettingsFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    assert files.env is not None
    files.env.write_text("DALLE2_MODEL=gpt-image-2\n", encoding="utf-8")
    shown = fields(editor.show(page(), files))
    assert shown["openai_api_key"] == {"source": "environment", "fixed": True, "is_set": True}
    assert shown["openai_base_url"] == {"source": "", "fixed": True, "value": ""}
    assert shown["dalle2_model"] == {"source": ".env", "fixed": True, "value": "gpt-image-2"}
    assert not shown["dalle2_quality"]["fixed"]


@pytest.mark.parametrize(
    "body", [{"openai_api_key": KEY, "openai_base_url": ""}, {"openai_base_url": "https://a.b/v1"}]
)
def test_a_key_from_the_environment_goes_to_no_typed_address(
    files: SettingsFiles, monkeypatch: pytest.MonkeyPatch, body: dict[str, str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    assert change(files, body)[0] == 400
    assert stored(files) is None


def test_a_login_in_an_address_is_not_shown(files: SettingsFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://me:secret@example.com/v1")
    status, content = editor.show(page(), files)
    assert status == 200 and "OPENAI_BASE_URL" in content["problem"]
    assert "secret" not in json.dumps(content)


def test_a_damaged_file_is_told_and_replaced(files: SettingsFiles) -> None:
    assert files.editor is not None
    files.editor.parent.mkdir()
    files.editor.write_text("{", encoding="utf-8")
    answer = editor.show(page(), files)
    assert str(files.editor) in answer[1]["problem"]
    assert not fields(answer)["openai_api_key"]["fixed"]
    assert change(files, {"dalle2_quality": "high"})[1]["problem"] == ""


def test_a_file_that_cannot_be_written_is_told(files: SettingsFiles, tmp_path: Path) -> None:
    (tmp_path / "user").write_text("a file where the folder should be")
    status, content = change(files, {"dalle2_quality": "high"})
    assert status == 500 and "could not be written" in content["error"]


def test_without_a_folder_settings_can_only_be_read() -> None:
    files = SettingsFiles(env=None)
    assert editor.show(page(), files)[1]["read_only"] == editor.NO_FOLDER
    assert change(files, {"dalle2_quality": "high"}) == (501, {"error": editor.NO_FOLDER})


PRICED: dict[str, tuple[dict[str, str], str, float | None]] = {
    "an account": ({}, "Comfy.org", PRICES_USD["low"]),
    "a key of OpenAI": ({"openai_api_key": KEY, "dalle2_quality": "high"}, "api.openai.com", PRICES_USD["high"]),
    "a quality that the model chooses": ({"dalle2_quality": "auto"}, "Comfy.org", None),
    "the usual model by name": ({"dalle2_model": "gpt-image-2"}, "Comfy.org", PRICES_USD["low"]),
    "another model": ({"dalle2_model": "gpt-image-3"}, "Comfy.org", None),
    "another server": ({"openai_base_url": "http://127.0.0.1:8080/v1"}, "127.0.0.1", None),
}


@pytest.mark.parametrize("name", PRICED)
def test_who_is_paid_and_what_an_image_costs_where_that_is_known(files: SettingsFiles, name: str) -> None:
    values, pays, price = PRICED[name]
    _, content = change(files, {"openai_base_url": "", **values})
    assert content["pays"] == pays
    assert content["prices"]["OpenAIDalle2"].get("") == price
    is_known = price is not None or "auto" in values.values()
    assert content["prices"]["OpenAIDalle3"] == ({"standard": 0.006, "hd": 0.053} if is_known else {})


def test_the_connection_is_tried_with_a_free_request(files: SettingsFiles) -> None:
    with Emulator(api_key=KEY) as emulator:
        change(files, {"openai_api_key": KEY, "openai_base_url": emulator.base_url})
        status, content = editor.test_connection(page({}), files)
        assert status == 200 and content["reached"]
        assert content["message"].startswith("127.0.0.1 responds. Its models: ") and "gpt-image-2" in content["message"]
        assert not emulator.posts


def test_a_failed_connection_is_told_in_the_words_of_the_errors(files: SettingsFiles) -> None:
    with Emulator(api_key=KEY) as emulator:
        change(files, {"openai_api_key": "sk-wrong-1234567890", "openai_base_url": emulator.base_url})
        _, refused = editor.test_connection(page({}), files)
    _, gone = editor.test_connection(page({}), files)
    assert not refused["reached"] and refused["message"].startswith("The server did not accept the key.")
    assert not gone["reached"] and gone["message"].startswith("Nothing responds at 127.0.0.1")


def test_without_a_key_there_is_nothing_to_try(files: SettingsFiles) -> None:
    assert editor.test_connection(page({}), files)[1] == {"reached": False, "message": editor.USES_ACCOUNT}
    change(files, {"dalle2_backend": "openai"})
    assert editor.test_connection(page({}), files)[1] == {"reached": False, "message": NO_KEY}


def test_the_page_knows_the_package_by_its_registered_name() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    for name, value in editor.PACKAGE.items():
        assert f'{name} = "{value}"' in lines
