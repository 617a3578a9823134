"""The help page and the node's texts, which have to say the same in every language, and the same as the code."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dalle2.backends import STAND_INS, Settings
from dalle2.errors import ADD_CREDITS, CONDITIONS, DOWNLOADS, LINK_FAULTS, SIGN_IN
from dalle2.inpainting import NEEDS_BOTH, NOTHING_PAINTED
from dalle2.nodes import EMPTY_PROMPT, NODE_DISPLAY_NAME_MAPPINGS, NODE_ID, OpenAIDalle2
from development.package import ROOT, modules

LANGUAGES = ("de", "es", "fr", "it", "ja", "ko", "pt-BR", "ru", "zh", "zh-TW")
ENGLISH_PAGE = ROOT / "web" / "docs" / f"{NODE_ID}.md"
SETTINGS = sorted(name.upper() for name in Settings.model_fields)

FENCED = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")


def page(language: str) -> Path:
    return ENGLISH_PAGE.with_suffix("") / f"{language}.md"


def node_texts(language: str) -> dict[str, Any]:
    texts = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    assert list(texts) == [NODE_ID]
    node: dict[str, Any] = texts[NODE_ID]
    return node


def leaves(texts: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in texts.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def tables(text: str) -> list[list[int]]:
    """For each table the number of cells in each of its rows."""
    found: list[list[int]] = []
    follows = False
    for line in text.splitlines():
        if line.startswith("|"):
            found += [] if follows else [[]]
            found[-1].append(line.strip("|").count("|") + 1)
        follows = line.startswith("|")
    return found


def structure(path: Path) -> dict[str, Any]:
    """What a translation must not change: headings, lists, tables, pictures, links and everything in code marks."""
    text = path.read_text(encoding="utf-8")
    prose = FENCED.sub("", text)
    return {
        "headings": [len(marks) for marks in re.findall(r"^(#+) ", prose, re.MULTILINE)],
        "lists": re.findall(r"^(-|\d+\.) ", prose, re.MULTILINE),
        "tables": tables(prose),
        "pictures": re.findall(r"!\[[^\]]+\]\(([^)]+)\)", prose),
        "links": re.findall(r"(?<!!)\[[^\]]+\]\(([^)]+)\)", prose),
        "examples": FENCED.findall(text),
        "code": Counter(CODE.findall(prose)),
        "numbers": re.findall(r"\$[\d.]+|\d+x\d+", prose),
    }


def quoted_messages() -> list[str]:
    """What the help page quotes in the left column of its table of errors."""
    rows = ENGLISH_PAGE.read_text(encoding="utf-8").split("## When something goes wrong")[1].split("|---|---|\n")[1]
    return [words for row in rows.splitlines() for words in CODE.findall(row.split("|")[1])]


def test_the_help_and_the_texts_exist_in_the_same_languages() -> None:
    assert sorted(path.stem for path in page("de").parent.iterdir()) == sorted(LANGUAGES)
    assert sorted(path.name for path in (ROOT / "locales").iterdir()) == sorted(("en", *LANGUAGES))


def test_the_english_texts_are_those_of_the_node() -> None:
    groups = OpenAIDalle2.INPUT_TYPES()
    inputs = {**groups["required"], **groups["optional"]}
    node = node_texts("en")
    assert node["display_name"] == NODE_DISPLAY_NAME_MAPPINGS[NODE_ID]
    assert node["description"] == OpenAIDalle2.DESCRIPTION
    assert node["inputs"] == {name: {"name": name, "tooltip": spec[1]["tooltip"]} for name, spec in inputs.items()}
    outputs = [(str(index), name) for index, name in enumerate(OpenAIDalle2.RETURN_TYPES)]
    assert [(index, output["name"]) for index, output in node["outputs"].items()] == outputs


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_of_the_node_is_translated(language: str) -> None:
    english, translated = dict(leaves(node_texts("en"))), dict(leaves(node_texts(language)))
    assert list(translated) == list(english)
    assert translated["display_name"] == english["display_name"]
    same = [key for key in english if translated[key] == english[key] and not key.endswith("name")]
    assert same == []
    for key, text in translated.items():
        assert re.findall(r"\d+x\d+", text) == re.findall(r"\d+x\d+", english[key]), key


@pytest.mark.parametrize("language", ("en", *LANGUAGES))
def test_no_text_has_a_character_that_the_frontend_takes_for_syntax(language: str) -> None:
    assert [key for key, text in leaves(node_texts(language)) if not text.strip() or set("@{}|") & set(text)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translated_help_page_is_built_like_the_english_one(language: str) -> None:
    assert structure(page(language)) == structure(ENGLISH_PAGE)


@pytest.mark.parametrize("path", [ENGLISH_PAGE, *map(page, LANGUAGES)], ids=lambda path: path.stem)
def test_a_table_has_as_many_cells_in_each_row(path: Path) -> None:
    assert [rows for rows in structure(path)["tables"] if len(set(rows)) != 1] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_paragraph_of_a_help_page_is_left_in_english(language: str) -> None:
    def paragraphs(path: Path) -> set[str]:
        prose = FENCED.sub("", path.read_text(encoding="utf-8"))
        without_code = (CODE.sub("", line).strip("|-. ") for line in prose.splitlines())
        return {line for line in without_code if len(re.findall(r"[A-Za-z]{3,}", line)) > 3}

    assert paragraphs(page(language)) & paragraphs(ENGLISH_PAGE) == set()


def test_the_help_page_explains_every_setting_with_its_default() -> None:
    text = ENGLISH_PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([A-Z0-9_]+)` \| (.*?) ?\| ", text, re.MULTILINE))
    assert sorted(rows) == SETTINGS
    for name, field in Settings.model_fields.items():
        if field.default is not None:
            assert rows[name.upper()] == f"`{field.default}`"


def test_the_help_page_names_every_input_and_every_stand_in() -> None:
    code = structure(ENGLISH_PAGE)["code"]
    groups = OpenAIDalle2.INPUT_TYPES()
    names = {*groups["required"], *groups["optional"], *(model for models in STAND_INS.values() for model in models)}
    assert names - set(code) == set()


MESSAGES = {
    **{f"status {row.name}": row.says for row in CONDITIONS},
    **{f"account {row.name}": row.account_says for row in CONDITIONS if row.account_says},
    **{f"download {row.name}": row.says for row in DOWNLOADS},
    **{f"link {name}": text for name, text in LINK_FAULTS.items()},
    "sign in": SIGN_IN,
    "add credits": ADD_CREDITS,
    "blank prompt": EMPTY_PROMPT,
    "image without mask": NEEDS_BOTH,
    "empty mask": NOTHING_PAINTED,
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_the_help_page_explains_the_message(message: str) -> None:
    assert [words for words in quoted_messages() if words in message]


# What is raised in words of its own, and seen by nobody: it becomes a part of another message, or none.
INNER = (
    "the URL is too long",
    "there is more in it than pictures",
    "it has characters",
    "it is not the address of a server",
    "There is no picture to decode",
    "list of models cannot be read",
    "Cancelled before",
    "Not asked for",
    "It asks to wait",
)


def raised_texts() -> Iterator[str]:
    """What stands in quotation marks in the `raise` statements of the package."""
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                parts = (part.value for part in ast.walk(node.exc) if isinstance(part, ast.Constant))
                yield "".join(part for part in parts if isinstance(part, str))


def test_the_help_page_explains_whatever_is_raised() -> None:
    explained = (*quoted_messages(), *INNER)
    sentences = [text for text in raised_texts() if len(text.split()) > 2]  # the rest only joins what stands elsewhere
    unexplained = [text for text in sentences if not any(words in text for words in explained)]
    assert unexplained == []


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
    monkeypatch.setitem(Settings.model_config, "env_file", file)
    settings = Settings.read()
    assert settings.backend == "openai"
    assert settings.openai_base_url == "http://127.0.0.1:8080/v1"
    assert settings.dalle2_read_timeout_s == 600
