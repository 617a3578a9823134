"""The help pages and the nodes' texts, which have to say the same in every language, and the same as the code."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dalle2.errors import ADD_CREDITS, DOWNLOAD_CASES, SIGN_IN, STATUS_CASES, ConnectionProblem
from dalle2.generation.inpainting import NEEDS_BOTH, NOTHING_PAINTED
from dalle2.image_models import GPT_IMAGE_MODELS, MODELS_ELSEWHERE, Original
from dalle2.nodes import EMPTY_PROMPT, NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from dalle2.settings import Settings, SettingsFiles, read_settings
from development.package import ROOT, modules

LANGUAGES = ("ar", "es", "fa", "fr", "he", "it", "ja", "ko", "pt-BR", "ru", "tr", "zh", "zh-TW")
NODES: dict[str, Any] = dict(NODE_CLASS_MAPPINGS)
ORIGINALS: dict[str, Original] = {"OpenAIDalle2": "dall-e-2", "OpenAIDalle3": "dall-e-3"}
SETTINGS = sorted(name.upper() for name in Settings.model_fields)

CODE = re.compile(r"`([^`\n]+)`")

each_node = pytest.mark.parametrize("node", NODES)
each_language = pytest.mark.parametrize("language", LANGUAGES)


def page(node: str, language: str = "en") -> Path:
    docs = ROOT / "web" / "docs"
    return docs / f"{node}.md" if language == "en" else docs / node / f"{language}.md"


def node_texts(language: str) -> dict[str, Any]:
    texts: dict[str, Any] = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    return texts


def leaves(texts: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Each text with the path to it, such as "OpenAIDalle2.inputs.n.tooltip"."""
    for key, value in texts.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def structure(path: Path) -> dict[str, Any]:
    """What a translation must not change: headings, lists, pictures, links, prices, sizes and what is in code marks."""
    text = path.read_text(encoding="utf-8")
    return {
        "paragraphs": len(re.split(r"\n\n+", text.strip())),
        "headings": [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)],
        "lists": re.findall(r"^(-|\d+\.) ", text, re.MULTILINE),
        "bold": len(re.findall(r"\*\*.+?\*\*", text)),
        "pictures": re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text),
        "links": re.findall(r"(?<!!)\[[^\]]+\]\(([^)]+)\)", text),
        "code": Counter(CODE.findall(text)),
        "numbers": Counter(re.findall(r"\$[\d.]*\d|\d+x\d+", text)),
    }


def quoted_messages() -> list[str]:
    """The messages that the help page explains; what is all in capitals is a setting."""
    text = page("OpenAIDalle2").read_text(encoding="utf-8")
    section = text.split("## When something goes wrong")[1].split("\n## ")[0]
    return [words for words in CODE.findall(section) if not words.isupper()]


def test_the_help_pages_and_the_texts_exist_in_the_same_languages() -> None:
    assert sorted(path.name for path in (ROOT / "locales").iterdir()) == sorted(("en", *LANGUAGES))
    for node in NODES:
        assert sorted(path.stem for path in page(node).with_suffix("").iterdir()) == sorted(LANGUAGES)


@each_node
def test_the_english_texts_are_those_of_the_node(node: str) -> None:
    groups = NODES[node].INPUT_TYPES()
    inputs = {**groups["required"], **groups["optional"]}
    assert node_texts("en")[node] == {
        "display_name": NODE_DISPLAY_NAME_MAPPINGS[node],
        "description": NODES[node].DESCRIPTION,
        "inputs": {name: {"name": name, "tooltip": spec[1]["tooltip"]} for name, spec in inputs.items()},
        "outputs": {"0": {"name": NODES[node].RETURN_TYPES[0], "tooltip": NODES[node].OUTPUT_TOOLTIPS[0]}},
    }


@each_language
def test_every_text_of_the_nodes_is_translated(language: str) -> None:
    english, translated = dict(leaves(node_texts("en"))), dict(leaves(node_texts(language)))
    assert list(translated) == list(english)
    for key, text in translated.items():
        assert (text == english[key]) == key.endswith("name"), key  # names stay as they are
        assert re.findall(r"\d+x\d+", text) == re.findall(r"\d+x\d+", english[key]), key


def setting_names(language: str) -> dict[str, str]:
    """The names on the settings page, by the key that the frontend makes of a setting's id."""
    texts = json.loads((ROOT / "locales" / language / "settings.json").read_text(encoding="utf-8"))
    return {key: text["name"] for key, text in texts.items()}


def test_the_english_names_of_the_settings_are_those_of_the_settings_page() -> None:
    script = (ROOT / "web" / "js" / "openai_dalle.js").read_text(encoding="utf-8")
    table = script.split("const SETTINGS = [")[1].split("].map(")[0]
    names = {f"OpenAIDalle_{field}": name for name, field in re.findall(r'\["(.*?)", "(\w+)"', table)}
    assert setting_names("en") == names


@each_language
def test_the_settings_have_the_same_names_on_their_page_and_in_the_help(language: str) -> None:
    english, translated = setting_names("en"), setting_names(language)
    assert list(translated) == list(english)
    for node in NODES:
        help_page, original = page(node, language).read_text(encoding="utf-8"), page(node).read_text(encoding="utf-8")
        for key, name in english.items():
            assert help_page.count(f"*{translated[key]}*") == original.count(f"*{name}*"), translated[key]


@pytest.mark.parametrize("language", ("en", *LANGUAGES))
def test_no_text_has_a_character_that_the_frontend_takes_for_syntax(language: str) -> None:
    assert [key for key, text in leaves(node_texts(language)) if not text.strip() or set("@{}|") & set(text)] == []


@each_node
@each_language
def test_a_translated_help_page_is_built_like_the_english_one(node: str, language: str) -> None:
    assert structure(page(node, language)) == structure(page(node))


@each_node
@each_language
def test_no_paragraph_of_a_help_page_is_left_in_english(node: str, language: str) -> None:
    def paragraphs(path: Path) -> set[str]:
        lines = (CODE.sub("", line).strip("-. ") for line in path.read_text(encoding="utf-8").splitlines())
        return {line for line in lines if len(re.findall(r"[A-Za-z]{3,}", line)) > 3}

    assert paragraphs(page(node, language)) & paragraphs(page(node)) == set()


@each_node
def test_the_help_page_names_every_input_and_every_model(node: str) -> None:
    groups = NODES[node].INPUT_TYPES()
    names = {*groups["required"], *groups["optional"], *GPT_IMAGE_MODELS, *MODELS_ELSEWHERE[ORIGINALS[node]]}
    assert names - set(structure(page(node))["code"]) == set()


MESSAGES = {
    **{f"status {row.case.name}": row.says for row in STATUS_CASES},
    **{f"account {row.case.name}": row.account_says for row in STATUS_CASES if row.account_says},
    **{f"no key {row.case.name}": row.keyless_says for row in STATUS_CASES if row.keyless_says},
    **{f"download {row.case.name}": row.says for row in DOWNLOAD_CASES},
    **{f"connection {kind.name}": kind.value.says for kind in ConnectionProblem},
    "sign in": SIGN_IN,
    "add credits": ADD_CREDITS,
    "blank prompt": EMPTY_PROMPT,
    "image without mask": NEEDS_BOTH,
    "empty mask": NOTHING_PAINTED,
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_the_help_page_explains_the_message(message: str) -> None:
    assert [words for words in quoted_messages() if words in message]


# Raised in words of their own that nobody reads alone: they become a part of another message, or of none.
INNER = (
    "the URL is too long",
    "there is more in it than images",
    "it has no list of images",
    "it has characters that no",
    "needs pydantic 2.9",
    "it is not the address of a server",
    "There is no image to decode",
    "redirects more than",
    "too large to open",
    "too many to open",
    "Cancelled",
)


def raised_texts() -> Iterator[str]:
    """What stands in quotation marks in the `raise` statements of the package; the editor's are read in the editor."""
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and node.exc is not None and path.name != "editor.py":
                parts = [part.value for part in ast.walk(node.exc) if isinstance(part, ast.Constant)]
                yield "".join(part for part in parts if isinstance(part, str))


def test_the_help_page_explains_whatever_is_raised() -> None:
    explained = (*quoted_messages(), *INNER)
    sentences = [text for text in raised_texts() if len(text.split()) > 2]  # the rest only joins what stands elsewhere
    assert [text for text in sentences if not any(words in text for words in explained)] == []


def test_the_help_page_quotes_no_message_that_does_not_exist() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in modules()]
    constants = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    said = "\n".join(value for value in constants if isinstance(value, str))
    assert [words for words in quoted_messages() if words not in said] == []


def test_the_example_of_a_settings_file_has_every_setting_and_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^#([A-Z0-9_]+)=", example, re.MULTILINE)) == SETTINGS
    assert [line for line in example.splitlines() if line and not line.startswith("#")] == []
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / ".env"
    file.write_text(re.sub(r"^#(?=[A-Z])", "", example, flags=re.MULTILINE), encoding="utf-8")
    settings = read_settings(SettingsFiles(env=file))
    assert settings.backend == "openai"
    assert settings.openai_base_url == "http://127.0.0.1:8080/v1"
    assert settings.dalle2_read_timeout_s == 600
