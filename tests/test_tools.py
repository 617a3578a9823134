"""What carries the other tests and the demo: packaging, the launcher, the harness around ComfyUI."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import requests
from PIL import Image

import dev
from development import demo, program
from development.archive import tracked_files
from development.comfyui import ComfyUI, child_environment, problem
from development.comfyui_source import ComfyUINotFound, comfyui_copy
from development.console import Failed, guarded
from development.events import parse_event
from development.package import ALIAS, ROOT, copy_package, load_package, modules
from development.program import ProgramFailed, free_port
from development.workflows import example_photo, inpainting, text_to_image

# Stands in for ComfyUI where only its process matters.
SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def main_py(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder with this main.py the ComfyUI of the test."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "main.py").write_text(text, encoding="utf-8")
    monkeypatch.setenv("COMFYUI_PATH", str(source))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "environment"))
    (tmp_path / "environment").mkdir()


class TestPackage:
    def test_is_loaded_once_and_under_its_alias(self) -> None:
        assert load_package() is load_package() is sys.modules[ALIAS]

    def test_a_copy_holds_what_a_user_needs_and_nothing_else(self, tmp_path: Path) -> None:
        wanted = {"__init__.py", "nodes.py", "pyproject.toml", "web/docs/help.md", "locales/ja/nodeDefs.json"}
        private = {".env", ".git/config", ".venv/x.py", ".nox/x.py", "web/.env", "output/a.png"}
        for_developers = {"dev.py", "noxfile.py", "tests/test_x.py", "development/x.py"}
        for name in wanted | private | for_developers:
            (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "root" / name).touch()
        copy = copy_package(tmp_path / "copy", tmp_path / "root")
        assert {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()} == wanted


class TestDev:
    @pytest.fixture
    def handed_on(self, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        """The command lines that nox is given."""
        calls: list[list[str]] = []

        def run_nox(arguments: list[str]) -> int:
            calls.append(arguments)
            return 7

        monkeypatch.setattr(dev, "prepare", lambda: None)
        monkeypatch.setattr(dev, "run_nox", run_nox)
        return calls

    def test_hands_a_session_and_its_arguments_to_nox_and_its_exit_code_back(self, handed_on: list[list[str]]) -> None:
        assert dev.main(["tests", "-k", "codec"]) == 7
        assert handed_on == [["--session", "tests", "--", "-k", "codec"]]

    def test_lists_the_sessions_when_none_is_named(self, handed_on: list[list[str]]) -> None:
        dev.main([])
        assert handed_on == [["--list"]]

    def test_an_old_python_is_told_so(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        old = SimpleNamespace(version_info=(3, 9, 2), version="3.9.2 (main)", stderr=sys.stderr)
        monkeypatch.setattr(dev, "sys", old)
        assert dev.main(["tests"]) == 1
        assert "Python 3.10 or newer is needed; this is 3.9.2." in capsys.readouterr().err

    def test_a_python_without_venv_is_told_how_to_get_it(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert dev.main(["tests"]) == 1
        assert "python3-venv" in capsys.readouterr().err

    def test_an_environment_whose_python_is_gone_counts_as_missing(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(dev, "VENV", tmp_path)
        assert not dev.has_nox()

    def test_contributing_lists_every_session_that_is_there(self) -> None:
        command = [sys.executable, "-m", "nox", "--list", "--json", "--noxfile", str(ROOT / "noxfile.py")]
        listed = subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
        names = {session["name"] for session in json.loads(listed.stdout)}
        text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
        table = text.partition("| session |")[2].partition("\n\n")[0]
        # `litellm` only prepares what `scale` needs.
        assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == names - {"litellm"}


class TestComfyUI:
    def test_is_told_no_key_of_the_caller_and_no_path_to_this_package(self) -> None:
        parent = {"OPENAI_API_KEY": "k", "DALLE2_MODEL": "m", "PYTHONPATH": ".", "no_proxy": "a.b", "A": "1"}
        child = child_environment(parent, {"OPENAI_BASE_URL": "http://127.0.0.1:1"})
        assert {"OPENAI_API_KEY", "DALLE2_MODEL", "PYTHONPATH", "no_proxy"}.isdisjoint(child)
        assert child["A"] == "1"
        assert child["OPENAI_BASE_URL"] == "http://127.0.0.1:1"
        assert child["NO_PROXY"] == "a.b,127.0.0.1,localhost"

    def test_starts_answers_and_stops(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        main_py(SERVER, tmp_path, monkeypatch)
        with ComfyUI(tmp_path / "base", package=None) as server:
            assert server.history("no-such-prompt") is None
        assert server.process.poll() is not None

    def test_ctrl_c_is_heard(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        main_py(SERVER, tmp_path, monkeypatch)
        with ComfyUI(tmp_path / "base", package=None) as server:
            assert server.stop(signal.SIGINT) < program.STOP_TIMEOUT_S
            assert "KeyboardInterrupt" in server.log()

    def test_ends_when_its_caller_is_gone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        main_py(SERVER, tmp_path, monkeypatch)
        with ComfyUI(tmp_path / "base", package=None) as server:
            assert server.process.stdin is not None
            server.process.stdin.close()
            assert server.process.wait(10) == 1

    def test_one_that_does_not_obey_is_killed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        main_py(deaf + SERVER, tmp_path, monkeypatch)
        monkeypatch.setattr(program, "STOP_TIMEOUT_S", 0.2)
        with ComfyUI(tmp_path / "base", package=None) as server:
            server.stop()
            assert server.process.returncode not in (None, 0)

    def test_one_that_does_not_start_shows_its_log(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        main_py("print('no such disk')\nraise SystemExit(3)", tmp_path, monkeypatch)
        with pytest.raises(ProgramFailed, match=r"ended with code 3.*\n.*no such disk"):
            ComfyUI(tmp_path / "base", package=None).start()

    def test_a_path_without_comfyui_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
        with pytest.raises(ComfyUINotFound, match=r"no main\.py"):
            comfyui_copy()

    def test_is_copied_anew_once_it_changed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        main_py("1", tmp_path, monkeypatch)
        (tmp_path / "source" / "models").mkdir()
        first = comfyui_copy()
        assert comfyui_copy() == first
        assert [path.name for path in first.iterdir()] == ["main.py"]
        (tmp_path / "source" / "main.py").write_text("1 + 1", encoding="utf-8")
        assert comfyui_copy() != first

    def test_a_port_in_use_is_not_offered(self) -> None:
        taken = free_port()
        assert free_port(taken) == taken
        with socket.create_server(("127.0.0.1", taken)):
            assert free_port(taken) != taken


class TestEvents:
    def test_text_on_a_node(self) -> None:
        event = parse_event(struct.pack(">II", 3, 2) + b"12" + "fünf".encode())
        assert (event.kind, event.node_id, event.text) == ("text", "12", "fünf")

    def test_preview_with_its_node(self) -> None:
        metadata = b'{"node_id": "4"}'
        event = parse_event(struct.pack(">II", 4, len(metadata)) + metadata + b"PNG")
        assert (event.kind, event.node_id, event.picture) == ("preview", "4", b"PNG")

    def test_json(self) -> None:
        event = parse_event('{"type": "executing", "data": {"node": "7"}}')
        assert (event.kind, event.node_id, event.data) == ("executing", "7", {"node": "7"})


class TestWorkflows:
    def test_text_to_image_saves_what_the_node_draws(self) -> None:
        workflow = text_to_image("a fox", size="256x256", n=3, seed=5)
        assert workflow["1"]["inputs"] == {"prompt": "a fox", "seed": 5, "size": "256x256", "n": 3}
        assert workflow["2"]["inputs"]["images"] == ["1", 0]

    def test_inpainting_takes_image_and_mask_from_one_file(self) -> None:
        workflow = inpainting("a fox", "photo.png")
        assert workflow["1"]["inputs"]["image"] == ["3", 0]
        assert workflow["1"]["inputs"]["mask"] == ["3", 1]
        assert workflow["3"]["inputs"] == {"image": "photo.png"}

    def test_the_example_photo_has_a_hole_in_its_sky_only(self) -> None:
        photo = Image.open(io.BytesIO(example_photo(256)))
        alpha = np.asarray(photo)[..., 3]
        assert photo.size == (256, 256)
        assert alpha[80, 77] == 0
        assert (alpha[150:] == 255).all()
        assert (alpha[:, 152:] == 255).all()


class TestConsole:
    @pytest.fixture(autouse=True)
    def same_signal_handler(self) -> Iterator[None]:
        before = signal.getsignal(signal.SIGTERM)
        yield
        signal.signal(signal.SIGTERM, before)

    @pytest.mark.parametrize(
        ("error", "code", "said"),
        [
            (Failed("Inpainting failed: no key"), 1, "Inpainting failed: no key"),
            (KeyboardInterrupt(), 130, "Stopped."),
        ],
    )
    def test_failures_are_sentences(
        self, error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def job() -> None:
            raise error

        assert guarded(job) == code
        assert capsys.readouterr().err.strip() == said

    @pytest.mark.skipif(sys.platform == "win32", reason="there, this signal ends a process on the spot")
    def test_a_terminate_signal_stops_like_ctrl_c(self) -> None:
        def job() -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        assert guarded(job) == 130

    @pytest.mark.parametrize(
        ("status", "said"),
        [
            ({"status_str": "success", "messages": []}, None),
            ({"status_str": "error", "messages": [["execution_interrupted", {}]]}, "interrupted"),
            (
                {
                    "status_str": "error",
                    "messages": [["execution_error", {"node_type": "X", "exception_message": "no\n"}]],
                },
                "X: no",
            ),
        ],
    )
    def test_the_history_says_what_went_wrong(self, status: dict[str, object], said: str | None) -> None:
        assert problem({"status": status}) == said


class TestDemo:
    def test_uses_the_emulator_and_says_that_it_costs_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        with demo.api() as env:
            listed = requests.get(f"{env['OPENAI_BASE_URL']}/models", headers=bearer(env["OPENAI_API_KEY"]), timeout=5)
        assert listed.status_code == 200
        assert "no costs" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("variables", "host"),
        [
            ({"OPENAI_API_KEY": "sk-mine"}, "api.openai.com"),
            ({"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "DALLE2_MODEL": "flux"}, "127.0.0.1"),
            ({"OPENAI_API_KEY": "sk-mine", "DALLE2_BACKEND": "comfy"}, "api.openai.com"),
        ],
    )
    def test_uses_the_server_of_the_environment_and_says_that_it_may_cost(
        self, variables: dict[str, str], host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with demo.api() as env:
            assert env == {name: value for name, value in variables.items() if name != "DALLE2_BACKEND"}
        said = capsys.readouterr().out
        assert f"Using {host}," in said and "may cost money" in said


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_only_the_host_knows_comfyui() -> None:
    theirs = {"comfy", "comfy_execution", "comfy_api", "server", "folder_paths", "execution"}
    for path in modules():
        code = path.read_text(encoding="utf-8")
        nodes = list(ast.walk(ast.parse(code)))
        imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
        assert not {name.partition(".")[0] for name in imported} & theirs, path.name
        assert path.name == "host.py" or "sys.modules" not in code


@pytest.mark.parametrize("arguments", [["--collect-only"], ["--collect-only", "tests"], ["tests/test_nodes.py"]])
def test_the_tests_run_in_a_folder_of_any_name(arguments: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "a folder-with.any name"
    for path in tracked_files(ROOT, "--others", "--exclude-standard"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, folder / path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
