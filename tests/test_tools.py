"""What carries the other tests and the sessions: packaging, dev.py, the browser, the harness around ComfyUI."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

import dev
from development import browser, demo, program
from development.comfyui import ComfyUI, child_environment
from development.console import Failed, guarded
from development.package import ROOT, copy_package, modules

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


class TestPackage:
    def test_a_copy_holds_what_a_user_needs_and_nothing_else(self, tmp_path: Path) -> None:
        wanted = {"__init__.py", "nodes.py", "net/a.py", "generation/b.py", "pyproject.toml", "web/docs/help.md"}
        private = {".env", ".venv/x.py", ".nox/x.py", "web/.env", "output/a.png"}
        for_developers = {"dev.py", "tests/test_x.py", "development/x.py", "net/.env", ".gitignore", ".comfyignore"}
        for name in wanted | private | for_developers:
            (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "root" / name).touch()
        for name in (".gitignore", ".comfyignore"):
            shutil.copy2(ROOT / name, tmp_path / "root")
        for command in (["git", "init", "--quiet"], ["git", "add", "dev.py", "nodes.py", "tests"]):
            subprocess.run(command, cwd=tmp_path / "root", check=True)
        copy = copy_package(tmp_path / "copy", tmp_path / "root")
        assert {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()} == wanted


class TestDev:
    def test_hands_a_session_and_its_arguments_to_nox(self, monkeypatch: pytest.MonkeyPatch) -> None:
        handed_on: list[list[str]] = []

        def run_nox(arguments: list[str]) -> int:
            handed_on.append(arguments)
            return 7

        monkeypatch.setattr(dev, "prepare", lambda: None)
        monkeypatch.setattr(dev, "run_nox", run_nox)
        assert dev.main(["tests", "-k", "codec"]) == 7
        assert dev.main([]) == 7
        assert handed_on == [["--session", "tests", "--", "-k", "codec"], ["--list"]]

    def test_an_old_python_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        old = SimpleNamespace(version_info=(3, 9, 2), version="3.9.2 (main)", exit=sys.exit)
        monkeypatch.setattr(dev, "sys", old)
        with pytest.raises(SystemExit, match=r"Python 3\.10 or newer is needed; this is 3\.9\.2"):
            dev.main(["tests"])

    def test_a_python_without_venv_is_refused(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(dev, "PYTHON", tmp_path / "python")
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(SystemExit, match="python3-venv"):
            dev.main(["tests"])

    def test_contributing_lists_every_session_that_is_there(self) -> None:
        command = [sys.executable, "-m", "nox", "--list", "--json", "--noxfile", "development/noxfile.py"]
        listed = subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
        names = {session["name"] for session in json.loads(listed.stdout)}
        text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
        table = text.partition("| session |")[2].partition("\n\n")[0]
        # `litellm` only prepares what `scale` needs.
        assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == names - {"litellm"}


def test_a_missing_browser_is_explained(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(browser, "install_commands", lambda: [[sys.executable, "-c", ""]])
    monkeypatch.setenv("CHROMIUM", "/nowhere/chromium")
    assert browser.main() == 0
    said = capsys.readouterr().err
    assert "apt-get install chromium" in said and "/nowhere/chromium" in said


class TestComfyUI:
    def test_is_told_no_key_of_the_caller_and_no_path_to_this_package(self) -> None:
        parent = {"OPENAI_API_KEY": "k", "DALLE2_MODEL": "m", "PYTHONPATH": ".", "no_proxy": "a.b", "A": "1"}
        child = child_environment(parent, {"OPENAI_BASE_URL": "http://127.0.0.1:1"})
        assert {"OPENAI_API_KEY", "DALLE2_MODEL", "PYTHONPATH", "no_proxy"}.isdisjoint(child)
        assert child["A"] == "1"
        assert child["OPENAI_BASE_URL"] == "http://127.0.0.1:1"
        assert child["NO_PROXY"] == "a.b,127.0.0.1,localhost"

    def test_ends_when_its_caller_is_gone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        main_py(SERVER, tmp_path, monkeypatch)
        with ComfyUI(tmp_path / "base", has_package=False) as server:
            assert server.process.stdin is not None
            server.process.stdin.close()
            assert server.process.wait(10) == 1

    def test_one_that_does_not_obey_is_killed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        main_py(deaf + SERVER, tmp_path, monkeypatch)
        monkeypatch.setattr(program, "STOP_TIMEOUT_S", 0.2)
        with ComfyUI(tmp_path / "base", has_package=False) as server:
            server.stop()
            assert server.process.returncode not in (None, 0)

    def test_one_that_does_not_start_shows_its_log(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        main_py("print('no such disk')\nraise SystemExit(3)", tmp_path, monkeypatch)
        with pytest.raises(Failed, match=r"ended with code 3.*\n.*no such disk"):
            ComfyUI(tmp_path / "base", has_package=False).start()

    def test_a_path_without_comfyui_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
        with pytest.raises(Failed, match=r"no main\.py"):
            ComfyUI(tmp_path / "base")


class TestConsole:
    @pytest.fixture(autouse=True)
    def same_signal_handler(self) -> Iterator[None]:
        before = signal.getsignal(signal.SIGTERM)
        yield
        signal.signal(signal.SIGTERM, before)

    @pytest.mark.parametrize(
        ("error", "code", "said"),
        [(Failed("Inpainting failed: no key"), 1, "Inpainting failed: no key"), (KeyboardInterrupt(), 130, "Stopped.")],
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


class TestDemo:
    def test_the_emulator_costs_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        with demo.api() as env:
            headers = {"Authorization": f"Bearer {env['OPENAI_API_KEY']}"}
            listed = requests.get(f"{env['OPENAI_BASE_URL']}/models", headers=headers, timeout=5)
        assert listed.status_code == 200
        assert "no costs" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("variables", "host"),
        [
            ({"OPENAI_API_KEY": "sk-mine", "DALLE2_BACKEND": "comfy"}, "api.openai.com"),
            ({"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "DALLE2_MODEL": "flux"}, "127.0.0.1"),
        ],
    )
    def test_another_server_may_cost_money(
        self, variables: dict[str, str], host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with demo.api() as env:
            assert env == {name: value for name, value in variables.items() if name != "DALLE2_BACKEND"}
        said = capsys.readouterr().out
        assert f"Using {host}," in said and "may cost money" in said


def test_one_module_alone_knows_comfyui() -> None:
    theirs = {"comfy", "comfy_execution", "comfy_api", "server", "folder_paths", "execution"}
    for path in modules():
        code = path.read_text(encoding="utf-8")
        nodes = list(ast.walk(ast.parse(code)))
        imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
        assert not {name.partition(".")[0] for name in imported} & theirs, path.name
        assert path.name == "comfyui.py" or ("sys.modules" not in code and "aiohttp" not in code), path.name
