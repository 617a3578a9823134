"""The emulator's log and page, its start and stop."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests

from development.emulator import Emulator, Fault
from tests.emulated import GENERATION, KEY, SMALL, clean, edit, generate, half_mask, png, started

fixtures = (started, clean)
MASK = half_mask((64, 64))


def test_the_log_holds_what_was_sent_and_the_public_one_no_key(openai: Emulator) -> None:
    edit(openai, png(), MASK, model="gpt-image-2", size="1024x1024", n="1")
    generate(openai, GENERATION, params={"a": "b"})
    edited, generated = openai.posts
    assert edited.fields == {"prompt": "mountains", "model": "gpt-image-2", "size": "1024x1024", "n": "1"}
    assert (edited.file("image").data, edited.file("mask").filename) == (png(), "mask.png")
    assert (generated.fields, generated.query, generated.billed) == (GENERATION, {"a": "b"}, 1)
    assert generated.headers["authorization"] == KEY["Authorization"]
    assert generated.started <= (generated.answered or 0)
    public = requests.get(f"{openai.origin}/log", timeout=5).text
    assert "sk-emulated" not in public + repr(openai.requests) and f"{len(MASK)} bytes" in public


def test_the_page_shows_pictures_and_escapes_prompts(openai: Emulator) -> None:
    generate(openai, {**SMALL, "prompt": "<script>alert(1)</script>"})
    page = requests.get(openai.origin, timeout=5).text
    assert "&lt;script&gt;" in page and "<script>" not in page and 'src="/pictures/' in page


def test_memory_is_bounded_by_dropping_files_and_old_pictures() -> None:
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


@pytest.mark.parametrize("name", [None, "drip", "endless_body"])
def test_it_stops_promptly_while_requests_hang(name: str | None) -> None:
    def swallow() -> None:
        with pytest.raises(requests.RequestException):
            generate(emulator, SMALL)

    with Emulator(models=("dall-e-2",), delay_s=0.0 if name else 60.0) as emulator:
        if name:
            emulator.fail(Fault(name, times=None))
        thread = threading.Thread(target=swallow)
        thread.start()
        while not emulator.posts or not emulator.posts[0].fields:
            time.sleep(0.01)
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 1
    thread.join(5)
    assert not thread.is_alive()


def test_a_taken_port_and_an_unknown_server_are_errors(openai: Emulator) -> None:
    with pytest.raises(OSError, match=str(openai.port)):
        Emulator(port=openai.port).start()
    with pytest.raises(ValueError, match="unknown server 'dalle'"):
        Emulator("dalle")


def test_it_runs_on_its_own_and_says_what_to_set() -> None:
    options = ["--port", "0", "--delay", "0", "--model", "dall-e-3", "--fail", "quota"]
    command = [sys.executable, "-m", "development.emulator", *options]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        lines = [run.stdout.readline().strip() for _ in range(4)]
        base_url = lines[2].removeprefix("OPENAI_BASE_URL=")
        listed = requests.get(f"{base_url}/models", headers=KEY, timeout=5).json()["data"]
        refused = requests.post(f"{base_url}/images/generations", json=GENERATION, headers=KEY, timeout=5)
        run.terminate()
        # Windows ends it on the spot.
        assert run.wait(10) == (1 if sys.platform == "win32" else 0)
    assert "development server" in lines[0] and [model["id"] for model in listed] == ["dall-e-3"]
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
