"""The emulator's log and page, and its start and stop."""

from __future__ import annotations

import errno
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
from tests.emulated import GENERATION, KEY, MASK, SMALL, edit, generate, png

running, openai = emulated.running, emulated.openai
classic, dalle = emulated.classic, emulated.dalle


def test_the_log_holds_what_was_sent(openai: Emulator) -> None:
    image = png("RGB", (64, 64))
    edit(openai, image, MASK, model="gpt-image-2", size="1024x1024", n="1")
    generate(openai, GENERATION, params={"a": "b"})
    requests.get(f"{openai.base_url}/models", headers=KEY, timeout=5)
    edited, generated, listed = openai.requests
    assert openai.posts == (edited, generated)
    assert (edited.number + 1, generated.number + 1) == (generated.number, listed.number)
    assert edited.fields == {"prompt": "a lighthouse", "model": "gpt-image-2", "size": "1024x1024", "n": "1"}
    assert edited.file("image").data == image
    assert (edited.file("mask").filename, edited.file("mask").content_type) == ("mask.png", "image/png")
    with pytest.raises(KeyError):
        edited.file("image[]")
    assert generated.fields == GENERATION
    assert (generated.method, generated.path, generated.query) == ("POST", "/v1/images/generations", {"a": "b"})
    assert generated.headers["authorization"] == "Bearer sk-emulated"
    assert generated.started <= (generated.answered or 0)
    assert [r.status for r in openai.requests] == [200, 200, 200]


def test_the_public_log_and_repr_hold_no_secret_and_no_file(openai: Emulator) -> None:
    keys = {**KEY, "X-API-KEY": "comfyui-secret", "api-key": "secret"}
    edit(openai, png(), MASK, headers=keys, model="gpt-image-2")
    text = requests.get(f"{openai.origin}/log", timeout=5).text
    assert "sk-emulated" not in text and "secret" not in text
    assert f'"bytes": {len(MASK)}' in text
    assert "sk-emulated" not in repr(openai.requests)


def test_the_page_shows_pictures_and_escapes_prompts(dalle: Emulator) -> None:
    generate(dalle, {**SMALL, "prompt": "<script>alert(1)</script>"})
    dalle.fail(Fault("svg_bomb"))
    generate(dalle, SMALL)
    page = requests.get(dalle.origin, timeout=5)
    assert page.headers["Content-Type"].startswith("text/html")
    assert "&lt;script&gt;" in page.text and "<script>" not in page.text
    assert "/pictures/" in page.text and ".svg" not in page.text
    assert dalle.requests[-1].method == "POST"


def test_the_log_can_do_without_files_and_old_pictures_go() -> None:
    with Emulator(models=("dall-e-2",), keep_files=False) as emulator:
        emulator.result, emulator.answer_size = "url", (64, 64)
        first = generate(emulator, SMALL).json()["data"][0]["url"]
        edit(emulator, png("RGBA"), model="dall-e-2", size="256x256")
        assert emulator.posts[1].file("image").data == b""
        for _ in range(20):
            last = generate(emulator, {**SMALL, "n": 10}).json()["data"][0]["url"]
        assert requests.get(first, timeout=5).status_code == 404
        assert requests.get(last, timeout=5).status_code == 200


def test_clear_empties_log_and_bill(dalle: Emulator) -> None:
    generate(dalle, SMALL)
    dalle.clear()
    assert (dalle.requests, dalle.paid_pictures) == ((), 0)


def test_a_call_that_is_given_up_is_billed_all_the_same(dalle: Emulator) -> None:
    dalle.delay_s = 0.3
    with pytest.raises(requests.ReadTimeout):
        requests.post(f"{dalle.base_url}/images/generations", json=SMALL, headers=KEY, timeout=0.1)
    deadline = time.monotonic() + 5
    while not dalle.paid_pictures and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (dalle.posts[0].billed, dalle.posts[0].status) == (1, None)


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


# Windows has a number of its own for it.
IN_USE = (errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE))


def test_a_taken_port_and_an_unknown_server_are_errors(openai: Emulator) -> None:
    with pytest.raises(OSError) as caught:
        Emulator(port=openai.port).start()
    assert caught.value.errno in IN_USE
    with pytest.raises(ValueError, match="unknown server 'dalle'"):
        Emulator("dalle")


SK_MINE = {"Authorization": "Bearer sk-mine"}


def test_it_runs_on_its_own_and_says_what_to_set() -> None:
    options = ["--port", "0", "--delay", "0", "--api-key", "sk-mine", "--fail", "quota"]
    command = [sys.executable, "-m", "development.emulator", *options]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        lines = [run.stdout.readline().strip() for _ in range(4)]
        base_url = lines[2].removeprefix("OPENAI_BASE_URL=")
        listed = requests.get(f"{base_url}/models", headers=SK_MINE, timeout=5)
        refused = requests.post(f"{base_url}/images/generations", json=GENERATION, headers=SK_MINE, timeout=5)
        run.terminate()
        # Windows ends it on the spot.
        assert run.wait(10) == (1 if sys.platform == "win32" else 0)
    assert "development server" in lines[0]
    assert listed.status_code == 200
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")


def test_two_emulators_share_nothing(openai: Emulator) -> None:
    with Emulator() as other:
        generate(other, GENERATION)
        assert (len(other.posts), len(openai.posts)) == (1, 0)
