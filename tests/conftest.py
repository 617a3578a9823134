"""Makes the package importable as `dalle2`, whatever the folder of this checkout is called, and starts ComfyUI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from development.comfyui import ComfyUI
from development.emulator import Emulator
from development.package import load_package
from development.workflows import text_to_image
from tests.stage import KEY, LOG_WATCHER, Stage

load_package()

from dalle2.comfyui import NodeRunner  # noqa: E402 - now that it has that name
from dalle2.generation.answer_cache import AnswerCache  # noqa: E402
from dalle2.generation.fallback import ServerMemory  # noqa: E402
from dalle2.nodes import DalleNode  # noqa: E402
from dalle2.settings import SettingsFiles  # noqa: E402
from tests.loopback import Node  # noqa: E402

# The same examples in every run, so that none fails by chance; "many" are new ones each time, for `python dev.py fuzz`.
slow = [HealthCheck.too_slow]
settings.register_profile("same", max_examples=700, deadline=None, derandomize=True, suppress_health_check=slow)
settings.register_profile("many", max_examples=30_000, deadline=None, suppress_health_check=slow)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch, cache: AnswerCache) -> None:
    """Nothing of this machine or of another test reaches the node: no settings, proxies, memories or answers."""
    ours = ("OPENAI_", "DALLE2_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    for name in list(os.environ):
        if name.upper().startswith(ours) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", os.devnull)
    monkeypatch.setattr(DalleNode, "memory", ServerMemory())
    monkeypatch.setattr(DalleNode, "cache", cache)
    monkeypatch.setattr(DalleNode, "runner", NodeRunner(cache))
    monkeypatch.setattr(DalleNode, "settings_files", SettingsFiles(env=None))


@pytest.fixture
def cache() -> AnswerCache:
    return AnswerCache()


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    """The node in plain Python, which knows no server yet."""
    return Node(monkeypatch)


@contextmanager
def running_stage(folder: Path, emulator: Emulator, **options: Any) -> Iterator[Stage]:
    """A ComfyUI as users start it, with another custom node beside the package."""
    comfyui = ComfyUI(folder, **options)
    watcher = comfyui.package_dir.with_name("log-watcher")
    watcher.mkdir(parents=True)
    (watcher / "prestartup_script.py").write_text(LOG_WATCHER, encoding="utf-8")
    (watcher / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n", encoding="utf-8")
    with comfyui:
        loading = (watcher / "levels.log").read_text(encoding="utf-8").splitlines()
        yield Stage(comfyui, emulator, tuple(loading))


@pytest.fixture(scope="session")
def own_key_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Emulator(api_key=KEY) as emulator:
        env = {"OPENAI_BASE_URL": emulator.base_url, "OPENAI_API_KEY": KEY}
        with running_stage(tmp_path_factory.mktemp("own-key"), emulator, env=env) as stage:
            stage.pictures(text_to_image("the first", size="256x256"))  # now it knows what this server takes
            yield stage


@pytest.fixture(scope="session")
def account_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Emulator("comfy") as emulator:
        args = ["--comfy-api-base", emulator.origin]
        with running_stage(tmp_path_factory.mktemp("account"), emulator, args=args) as stage:
            yield stage


@pytest.fixture
def own_key(own_key_stage: Stage) -> Stage:
    """ComfyUI with the user's own OpenAI key, which the emulator takes; no request was sent yet."""
    own_key_stage.emulator.reset()
    return own_key_stage


@pytest.fixture
def account(account_stage: Stage) -> Stage:
    """The same with Comfy.org's proxy, whose part the emulator takes."""
    account_stage.emulator.reset()
    return account_stage
