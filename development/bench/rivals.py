"""What this package is measured against: the code of ComfyUI's own node, and OpenAI's SDK where it does the same job.

ComfyUI's is called as it stands; what surrounds a step in it is replaced, so that the step alone is measured.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from development.comfyui_main import TorchvisionFinder
from development.comfyui_source import comfyui_copy


class OwnNode:
    """The steps of ComfyUI's own `OpenAIDalle2`."""

    def __init__(self) -> None:
        sys.meta_path.insert(0, TorchvisionFinder())
        # Before this repository, whose modules have names that ComfyUI's have too.
        sys.path.insert(0, str(comfyui_copy()))
        # First, as in its main.py: later, another module of this name is in the way.
        importlib.import_module("utils.extra_config")
        importlib.import_module("comfy.cli_args").args.cpu = True
        self._module: Any = importlib.import_module("comfy_api_nodes.nodes_openai")
        self._client: Any = importlib.import_module("comfy_api_nodes.util.client")
        self._folder = tempfile.TemporaryDirectory()  # for its log
        importlib.import_module("folder_paths").set_temp_directory(self._folder.name)

    def encode(self, image: Any, mask: Any) -> bytes:
        """The PNG file that the node would send."""
        sent = {}

        async def sync_op(*_: Any, files: dict[str, Any], **__: Any) -> None:
            sent["file"] = files["image"][1].getvalue()

        async def no_answer(_: Any) -> None:
            return None

        module = self._module
        kept = module.sync_op, module.validate_and_cast_response
        module.sync_op, module.validate_and_cast_response = sync_op, no_answer
        try:
            asyncio.run(module.OpenAIDalle2.execute("a prompt", image=image, mask=mask))
        finally:
            module.sync_op, module.validate_and_cast_response = kept
        return bytes(sent["file"])

    def decode(self, files: Sequence[bytes]) -> Any:
        """The tensor of an answer whose base64 is decoded already."""
        module = self._module
        module.base64 = SimpleNamespace(b64decode=lambda content: content)
        try:
            return self._tensor([SimpleNamespace(b64_json=file, url=None) for file in files])
        finally:
            module.base64 = base64

    def read(self, body: bytes, *, logged: bool = True) -> list[bytes]:
        """From the body of an answer to its pictures' bytes; on the way it writes the body to a log of its own."""
        content = json.loads(body.decode())
        if logged:
            log = self._client.request_logger.log_request_response
            log("POST_bench", "POST", "http://127.0.0.1/", response_status_code=200, response_content=content)
        answer = self._client._validate_or_raise(self._module.OpenAIImageGenerationResponse, content)
        return [base64.b64decode(item.b64_json) for item in answer.data]

    def fetch(self, urls: Sequence[str]) -> Any:
        """The tensor of an answer that holds URLs."""
        return self._tensor([SimpleNamespace(b64_json=None, url=url) for url in urls])

    def _tensor(self, items: list[SimpleNamespace]) -> Any:
        return asyncio.run(self._module.validate_and_cast_response(SimpleNamespace(data=items)))


class Sdk:
    """OpenAI's SDK, installed in a folder of its own. Raises ImportError where it is not."""

    def __init__(self, folder: Path) -> None:
        sys.path.append(str(folder))
        self._models: Any = importlib.import_module("openai._models")
        self._types: Any = importlib.import_module("openai.types")

    def read(self, body: bytes) -> list[bytes]:
        """From the body of an answer to its pictures' bytes, as the SDK and its documentation do it."""
        answer = self._models.construct_type(type_=self._types.ImagesResponse, value=json.loads(body))
        return [base64.b64decode(item.b64_json) for item in answer.data]
