"""The emulator as a program: its log and page, its start and stop."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests

from development.emulator import Emulator, Fault
from tests import emulated
from tests.emulated import GENERATION, KEY, SMALL, edit, generate, half_mask, png

running, openai = emulated.running, emulated.openai
MASK = half_mask((64, 64))


def test_the_log_holds_what_was_sent(openai: Emulator) -> None:
    image = png("RGB", (64, 64))
    edit(openai, image, MASK, model="gpt-image-2", size="1024x1024", n="1")
    generate(openai, GENERATION, params={"a": "b"})
    requests.get(f"{openai.base_url}/models", headers=KEY, timeout=5)
    edited, generated, listed = openai.requests
    assert openai.posts == (edited, generated)
    assert edited.fields == {"prompt": "mountains", "model": "gpt-image-2", "size": "1024x1024", "n": "1"}
    assert (edited.file("image").data, edited.file("mask").filename) == (image, "mask.png")
    assert generated.fields == GENERATION and generated.query == {"a": "b"}
    assert generated.headers["authorization"] == "Bearer sk-emulated"
    assert generated.started <= (generated.answered or 0) and listed.status == 200


def test_the_public_log_and_repr_hold_no_key_and_no_file(openai: Emulator) -> None:
    keys = {**KEY, "X-API-KEY": "comfyui-secret", "api-key": "secret"}
    edit(openai, png(), MASK, headers=keys, model="gpt-image-2")
    text = requests.get(f"{openai.origin}/log", timeout=5).text + repr(openai.requests)
    assert "sk-emulated" not in text and "secret" not in text
    assert f'"bytes": {len(MASK)}' in text


def test_the_page_shows_pictures_and_escapes_prompts(openai: Emulator) -> None:
    generate(openai, {**SMALL, "prompt": "<script>alert(1)</script>"})
    page = requests.get(openai.origin, timeout=5).text
    assert "&lt;script&gt;" in page and "<script>" not in page and 'src="/pictures/' in page


def test_the_log_can_do_without_files_and_old_pictures_go() -> None:
    with Emulator(models=("dall-e-2",), keep_files=False) as emulator:
        emulator.result, emulator.answer_size = "url", (64, 64)
        first = generate(emulator, SMALL).json()["data"][0]["url"]
        edit(emulator, png("RGBA"), model="dall-e-2", size="256x256")
        assert emulator.posts[1].file("image").data == b""
        for _ in range(20):
            last = generate(emulator, {**SMALL, "n": 10}).json()["data"][0]["url"]
        assert [requests.get(url, timeout=5).status_code for url in (first, last)] == [404, 200]


def test_a_call_that_is_given_up_is_billed_all_the_same(openai: Emulator) -> None:
    openai.delay_s = 0.3
    with pytest.raises(requests.ReadTimeout):
        generate(openai, SMALL, timeout=0.1)
    deadline = time.monotonic() + 5
    while not openai.paid_pictures and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (openai.posts[0].billed, openai.posts[0].status) == (1, None)
    openai.clear()
    assert (openai.requests, openai.paid_pictures) == ((), 0)


@pytest.mark.parametrize("name", [None, "drip", "endless_body"])
def test_it_stops_promptly_while_requests_hang(name: str | None) -> None:
    with Emulator(models=("dall-e-2",), delay_s=0.0 if name else 60.0) as emulator:
        if name:
            emulator.fail(Fault(name, times=None))
        thread = threading.Thread(target=_swallow, args=(emulator,))
        thread.start()
        while not emulator.posts or not emulator.posts[0].fields:
            time.sleep(0.01)
        started = time.monotonic()
    assert time.monotonic() - started < 1
    thread.join(5)
    assert not thread.is_alive()
    with pytest.raises(ConnectionRefusedError):  # which Windows is sure of after two seconds
        socket.create_connection(("127.0.0.1", emulator.port), timeout=10)


def _swallow(emulator: Emulator) -> None:
    with pytest.raises(requests.RequestException):
        generate(emulator, SMALL)


def test_a_taken_port_and_an_unknown_server_are_errors(openai: Emulator) -> None:
    with pytest.raises(OSError, match=str(openai.port)):
        Emulator(port=openai.port).start()
    with pytest.raises(ValueError, match="unknown server 'dalle'"):
        Emulator("dalle")


def test_it_runs_on_its_own_and_says_what_to_set() -> None:
    options = ["--port", "0", "--delay", "0", "--api-key", "sk-mine", "--fail", "quota"]
    command = [sys.executable, "-m", "development.emulator", *options]
    root = Path(__file__).parents[1]
    key = {"Authorization": "Bearer sk-mine"}
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        lines = [run.stdout.readline().strip() for _ in range(4)]
        base_url = lines[2].removeprefix("OPENAI_BASE_URL=")
        listed = requests.get(f"{base_url}/models", headers=key, timeout=5)
        refused = requests.post(f"{base_url}/images/generations", json=GENERATION, headers=key, timeout=5)
        run.terminate()
        # Windows ends it on the spot.
        assert run.wait(10) == (1 if sys.platform == "win32" else 0)
    assert "development server" in lines[0] and listed.status_code == 200
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
