"""Where a setting comes from, and what is said of one that cannot be used."""

from __future__ import annotations

import json
import traceback
from pathlib import Path

import pytest

from dalle2.errors import Charge
from dalle2.settings import Settings, SettingsError, SettingsFiles, read_settings, settings_by_source

ADDRESS = "http://127.0.0.1:8080/v1"


@pytest.fixture
def files(tmp_path: Path) -> SettingsFiles:
    """The files of a user, which are not there yet."""
    return SettingsFiles(env=tmp_path / ".env", editor=tmp_path / "settings.json")


def write(files: SettingsFiles, *, env: str | bytes | None = None, editor: object = None) -> None:
    assert files.env and files.editor
    if env is not None:
        files.env.write_bytes(env.encode() if isinstance(env, str) else env)
    if editor is not None:
        files.editor.write_text(editor if isinstance(editor, str) else json.dumps(editor), encoding="utf-8")


def complaint(files: SettingsFiles) -> str:
    """What is said of these settings; what was set stands nowhere in it."""
    with pytest.raises(SettingsError) as caught:
        read_settings(files)
    assert "secret" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None
    assert str(caught.value).endswith(Charge.NO.value)
    return str(caught.value)


def key_of(settings: Settings) -> str | None:
    return settings.openai_api_key.get_secret_value() if settings.openai_api_key else None


def test_the_environment_comes_before_the_file_and_that_before_the_editor(
    files: SettingsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(files, editor={"dalle2_quality": "auto", "dalle2_model": "editor", "dalle2_backend": "openai"})
    write(files, env="dalle2_quality=high\nDALLE2_MODEL=file\nUNKNOWN=1\n")
    monkeypatch.setenv("DALLE2_QUALITY", "medium")
    settings = read_settings(files)
    assert (settings.dalle2_quality, settings.dalle2_model, settings.dalle2_backend) == ("medium", "file", "openai")
    assert [(source, sorted(values)) for source, values in settings_by_source(files)] == [
        ("environment", ["dalle2_quality"]),
        (".env", ["dalle2_model", "dalle2_quality"]),
        ("editor", ["dalle2_backend", "dalle2_model", "dalle2_quality"]),
    ]


@pytest.mark.parametrize(
    ("environment", "env", "key_and_address"),
    [
        ({}, "", ("sk-editor", ADDRESS)),
        ({"OPENAI_API_KEY": "sk-environment"}, "", ("sk-environment", None)),
        ({"OPENAI_BASE_URL": "https://example.com/v1"}, "", (None, "https://example.com/v1")),
        ({}, "OPENAI_API_KEY=sk-file", ("sk-file", None)),
        ({}, "OPENAI_BASE_URL=https://example.com/v1", (None, "https://example.com/v1")),
        ({"OPENAI_API_KEY": " "}, "OPENAI_BASE_URL=", ("sk-editor", ADDRESS)),
        ({"OPENAI_API_KEY": "sk-mine"}, "OPENAI_BASE_URL=https://a.b/v1", ("sk-mine", "https://a.b/v1")),
    ],
)
def test_the_editor_s_key_and_address_count_only_together(
    environment: dict[str, str],
    env: str,
    key_and_address: object,
    files: SettingsFiles,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(files, env=env, editor={"openai_api_key": "sk-editor", "openai_base_url": ADDRESS})
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = read_settings(files)
    assert (key_of(settings), settings.openai_base_url) == key_and_address


def test_the_editor_changes_nothing_else(files: SettingsFiles) -> None:
    write(files, editor={"openai_org_id": "org-1", "dalle2_read_timeout_s": 1, "DALLE2_MODEL": "sd-turbo"})
    settings = read_settings(files)
    assert (settings.openai_org_id, settings.dalle2_read_timeout_s, settings.dalle2_model) == (None, 600, "sd-turbo")


@pytest.mark.parametrize("blank", ["", " \t"])
def test_a_blank_value_counts_as_not_set(blank: str, files: SettingsFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    write(files, env=f"DALLE2_MODEL={blank}\nDALLE2_BACKEND", editor={"dalle2_model": "sd-turbo"})
    monkeypatch.setenv("DALLE2_MODEL", blank)
    monkeypatch.setenv("DALLE2_CONNECT_TIMEOUT_S", blank)
    settings = read_settings(files)
    assert (settings.dalle2_model, settings.dalle2_connect_timeout_s, settings.backend) == ("sd-turbo", 10, "comfy")


def test_a_file_that_begins_with_a_byte_order_mark_is_read(files: SettingsFiles) -> None:
    write(files, env="OPENAI_API_KEY=sk-file\n".encode("utf-8-sig"))
    assert key_of(read_settings(files)) == "sk-file"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("OPENAI_API_KEY=sk-secret-ü".encode("utf-16"), "UTF-8"),
        ("# mine\nset OPENAI_API_KEY=sk-secret\n", "a line must look like OPENAI_API_KEY=YOUR-KEY"),
        ("# mine\nOPENAI_API_KEY: sk-secret\n", "a line must look like OPENAI_API_KEY=YOUR-KEY"),
    ],
)
def test_a_file_that_says_nothing_to_read_is_reported(text: str | bytes, words: str, files: SettingsFiles) -> None:
    write(files, env=text)
    assert words in complaint(files)


def test_a_file_that_cannot_be_read_is_reported(files: SettingsFiles) -> None:
    assert files.env
    files.env.mkdir()
    assert f"{files.env} cannot be read: " in complaint(files)


@pytest.mark.parametrize("broken", ['{"openai_api_key": "sk-secret', "[]"])
def test_a_broken_file_of_the_editor_is_reported(broken: str, files: SettingsFiles) -> None:
    write(files, editor=broken)
    assert f"{files.editor} cannot be read. Delete it" in complaint(files)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("OPENAI_API_KEY", "sk-secret with a blank", "without quotation marks or spaces"),
        ("OPENAI_API_KEY", '"sk-secret"', "without quotation marks or spaces"),
        ("OPENAI_API_KEY", "sk-secret-café", "characters that no key has"),
        ("OPENAI_API_KEY", "sk-secret\nmore", "characters that no key has"),
        ("OPENAI_ORG_ID", "org\nsecret", "no such id"),
        ("OPENAI_PROJECT_ID", "my sécret project", "no such id"),
        ("OPENAI_BASE_URL", "sk-secret", ADDRESS),
        ("OPENAI_BASE_URL", "localhost:11434/secret", ADDRESS),
        ("OPENAI_BASE_URL", "http://[::1/secret", ADDRESS),
        ("OPENAI_BASE_URL", "http://example.com:99999/secret", ADDRESS),
        ("OPENAI_BASE_URL", "https://me:secret@example.com/v1", "without a user name"),
        ("OPENAI_BASE_URL", "https://example.com/v1?secret=1", "question mark"),
        ("DALLE2_BACKEND", "secret", "'auto', 'comfy' or 'openai'"),
        ("DALLE2_QUALITY", "secret", "'low', 'medium', 'high' or 'auto'"),
        ("DALLE2_READ_TIMEOUT_S", "secret", "a valid number"),
        ("DALLE2_READ_TIMEOUT_S", "0", "greater than 0"),
        ("DALLE2_CONNECT_TIMEOUT_S", "inf", "less than or equal to 3600"),
        ("DALLE2_CONNECT_TIMEOUT_S", "nan", "Input should be"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_and_not_repeated(
    name: str, value: str, words: str, files: SettingsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    text = complaint(files)
    assert f"The setting {name} " in text and words in text


def test_nothing_shows_the_key(files: SettingsFiles) -> None:
    write(files, editor={"openai_api_key": "sk-secret"})
    settings = read_settings(files)
    assert "secret" not in repr(settings) + str(settings)
