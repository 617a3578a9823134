"""The package in a real ComfyUI: its place, inputs and files, its queue, cancelling, errors, start and end."""

from __future__ import annotations

import json
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from development.comfyui import ComfyUI, problem
from development.emulator import Fault
from development.events import Listener
from development.program import STOP_TIMEOUT_S
from development.workflows import Workflow, example_photo, inpainting, text_to_image
from tests.loopback import full_port, overlap, wait_for
from tests.pictures import file_of, noise, png
from tests.stage import ACCOUNT_KEY, KEY, TOKEN, TOKENS, Stage, has_nodes_of_its_own, outcome, told

NODES = ("OpenAIDalle2", "OpenAIDalle3")
TAKES_OVER = "INFO The node {} of this package replaces ComfyUI's own, which no longer works."
CANCELLED = "Cancelled. A paid answer is kept for an hour."
CANCEL_S = 0.25  # from the click to the end of the prompt


def small(prompt: str, **options: Any) -> Workflow:
    return text_to_image(prompt, size="256x256", **options)


def side_by_side(prompts: list[str]) -> Workflow:
    """A graph of one node and one SaveImage for each prompt, none of which needs another."""
    graph: Workflow = {}
    for place, prompt in enumerate(prompts):
        both = small(prompt, prefix=f"graph-{place}")
        both["2"]["inputs"]["images"] = [f"{place}-1", 0]
        graph |= {f"{place}-{node_id}": node for node_id, node in both.items()}
    return graph


def edits_of_a_list(prompt: str) -> Workflow:
    """A graph in which the node gets three images as a list, and so is called three times."""
    graph = inpainting(prompt, "photo.png", size="256x256")
    graph["1"]["inputs"]["image"] = ["4", 0]
    graph["4"] = {"class_type": "RebatchImages", "inputs": {"images": ["5", 0], "batch_size": 1}}
    graph["5"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["3", 0], "amount": 3}}
    return graph


def queue_and_wait_for_call(stage: Stage, graph: Workflow, listener: Listener, calls: int = 1) -> str:
    """Queue a graph and return its id when so many of its calls have reached the API."""
    prompt_id = stage.comfyui.queue(graph, client_id=listener.client_id)
    wait_for(lambda: len(stage.emulator.posts) >= calls)
    return prompt_id


def execution_error(entry: dict[str, Any]) -> dict[str, Any]:
    (error,) = [details for kind, details in entry["status"]["messages"] if kind == "execution_error"]
    assert isinstance(error, dict)
    return error


def test_the_package_takes_the_place_of_comfyuis_own_nodes(own_key: Stage, account: Stage) -> None:
    said = [TAKES_OVER.format(node_id) for node_id in NODES] if has_nodes_of_its_own() else []
    for stage in (own_key, account):
        for node_id in NODES:
            info = stage.comfyui.object_info(node_id)
            assert "OpenAI has shut that model down; a current model replaces it." in info["description"]
            assert info["python_module"] == f"custom_nodes.{stage.comfyui.package_dir.name}"
        assert list(stage.loading) == said  # and no warning
        start = stage.comfyui.log().split("Starting server")[0]
        (line,) = [line for line in start.splitlines() if str(stage.comfyui.package_dir) in line]
        assert "seconds: " in line and "IMPORT FAILED" not in line
        assert "Unable to parse pyproject.toml" not in start


def test_the_node_has_the_inputs_that_saved_workflows_count_on(own_key: Stage) -> None:
    info = own_key.comfyui.object_info("OpenAIDalle2")
    assert info["display_name"] == "OpenAI DALL·E 2"
    assert info["category"] == "partner/image/OpenAI"
    assert info["output"] == ["IMAGE"]
    assert info["input_order"] == {
        "required": ["prompt"],
        "optional": ["seed", "size", "n", "image", "mask"],
        "hidden": ["auth_token", "comfy_api_key", "unique_id"],
    }
    options = {name: spec[1] for group in ("required", "optional") for name, spec in info["input"][group].items()}
    assert all(option.pop("tooltip") for option in options.values())
    number = {"default": 0, "min": 0, "max": 2147483647, "step": 1, "display": "number"}
    assert options == {
        "prompt": {"multiline": True, "default": ""},
        "seed": {**number, "control_after_generate": True},
        "size": {"default": "1024x1024"},
        "n": {"default": 1, "min": 1, "max": 8, "step": 1, "display": "number"},
        "image": {},
        "mask": {},
    }


@pytest.mark.parametrize(("side", "n"), [(256, 3), (512, 1), (1024, 2)])
def test_a_prompt_becomes_n_images_of_the_size(own_key: Stage, side: int, n: int) -> None:
    prompt = f"a lighthouse, {side}"
    images = own_key.pictures(text_to_image(prompt, size=f"{side}x{side}", n=n))
    assert [image.shape for image in images] == [(side, side, 3)] * n
    assert len({image.tobytes() for image in images}) == n
    (call,) = own_key.paid()
    assert call.fields == {"model": "gpt-image-2", "prompt": prompt, "n": n, "size": "1024x1024", "quality": "low"}
    assert call.headers["authorization"] == f"Bearer {KEY}"


def test_the_saved_file_is_the_original_where_nothing_is_masked(own_key: Stage) -> None:
    pixels = noise(171, 256, 4)
    pixels[..., 3] = 255
    pixels[:, :85, 3] = 0  # to be painted anew
    own_key.comfyui.upload("wide.png", file_of(Image.fromarray(pixels)))
    images = own_key.pictures(inpainting("a wide lake", "wide.png", size="256x256", n=2))
    assert [image.shape for image in images] == [(171, 256, 3)] * 2
    for image in images:
        is_same = (image == pixels[..., :3]).all(axis=-1)
        assert is_same[:, 85:].all() and is_same[:, :85].mean() < 0.1


def test_the_images_of_a_list_share_their_time_progress_and_outcome(own_key: Stage) -> None:
    own_key.emulator.delay_s = 0.7
    own_key.comfyui.upload("photo.png", example_photo(256))
    with own_key.comfyui.listen() as listener:
        assert len(own_key.pictures(edits_of_a_list("a balloon"), client_id=listener.client_id)) == 3
        texts = told(listener, "1")
        steps = [event.data for event in listener.of_kind("progress")]
    assert len(own_key.paid()) == 3 and overlap(own_key.paid())
    assert [(step["value"], step["max"]) for step in steps if step["node"] == "1"] == [(1, 3), (2, 3), (3, 3)]
    assert texts[-1].startswith("3 pictures · gpt-image-2 · ")


def test_when_one_image_of_a_list_fails_no_other_is_paid_twice(own_key: Stage) -> None:
    own_key.comfyui.upload("photo.png", example_photo(256))
    own_key.emulator.delay_s = 0.3
    own_key.emulator.fail(Fault("moderation", "edits"))
    graph = edits_of_a_list("one is refused")
    assert "moderation" in (problem(own_key.comfyui.run(graph)) or "")
    assert own_key.emulator.paid_pictures == 2
    assert len(own_key.pictures(graph)) == 3
    assert own_key.emulator.paid_pictures == 3


def test_the_node_shows_what_it_does_and_each_image_as_it_arrives(own_key: Stage) -> None:
    own_key.emulator.delay_s = 1.2
    own_key.emulator.result, own_key.emulator.picture_delay_s = "url", [0, 1.5]
    with own_key.comfyui.listen() as listener:
        entry = own_key.comfyui.run(small("a mill", n=2), client_id=listener.client_id)
        texts = told(listener, "1")
    assert {"Waiting for gpt-image-2, 1 s", "Downloading 2 of 2, 1 s"} <= set(texts)
    assert texts[-1] == outcome(entry)
    steps = [event.data for event in listener.of_kind("progress")]
    assert [(step["value"], step["max"]) for step in steps] == [(1, 2), (2, 2)]
    first, second = [event.time_s for event in listener.of_kind("preview")]
    assert second - first > 1


def collect_garbage(stage: Stage) -> None:
    """Let ComfyUI do it now: it does after a prompt if the last time is 10 s ago, and says nothing meanwhile."""
    blank = {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 0}}
    stage.comfyui.run({"1": blank, "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}})


def check_cancel(stage: Stage, listener: Listener, prompt_id: str) -> None:
    """Cancel, and check how and when the prompt ends and what a node says then."""
    clicked_s = time.monotonic()
    stage.comfyui.interrupt()
    interrupted = listener.wait_for(lambda event: event.kind == "execution_interrupted")
    assert interrupted is not None and interrupted.time_s - clicked_s < CANCEL_S
    assert problem(stage.comfyui.wait(prompt_id)) == "interrupted"
    assert CANCELLED in listener.texts()


@pytest.mark.parametrize("state", ["connecting", "waiting", "downloading", "backing off"])
def test_a_cancel_ends_the_prompt_at_once_whatever_the_node_does(account: Stage, state: str) -> None:
    collect_garbage(account)
    emulator = account.emulator
    with ExitStack() as stack, account.comfyui.listen() as listener:
        origin = f"http://127.0.0.1:{full_port(stack)}" if state == "connecting" else emulator.origin
        account.comfyui.set_up(OPENAI_BASE_URL=f"{origin}/v1", OPENAI_API_KEY="sk-emulated")
        stack.callback(account.comfyui.set_up)
        emulator.delay_s = 20 if state == "waiting" else 0
        emulator.result, emulator.picture_delay_s = "url", 20
        if state == "backing off":
            emulator.fail(Fault("rate_limit", retry_after_s=60))
        shown = {"downloading": "Downloading 1 of 1", "backing off": "Rate limited"}.get(state, "Waiting for")
        prompt_id = account.comfyui.queue(text_to_image(f"cancelled, {state}"), client_id=listener.client_id)
        wait_for(lambda: any(text.startswith(shown) for text in listener.texts()))
        time.sleep(0.1)
        check_cancel(account, listener, prompt_id)


def test_a_cancel_ends_all_nodes_of_the_prompt_and_the_queue_goes_on(own_key: Stage) -> None:
    collect_garbage(own_key)
    own_key.emulator.delay_s = 30
    with own_key.comfyui.listen() as listener:
        graph = side_by_side([f"slow {i}" for i in range(4)])
        prompt_id = queue_and_wait_for_call(own_key, graph, listener, calls=4)
        own_key.emulator.delay_s = 0
        behind = own_key.comfyui.queue(small("behind"), client_id=listener.client_id)
        clicked_s = time.monotonic()
        check_cancel(own_key, listener, prompt_id)
        assert problem(own_key.comfyui.wait(behind)) is None
        assert time.monotonic() - clicked_s < 10


@pytest.mark.parametrize("is_there", [False, True])
def test_the_answer_to_a_cancelled_prompt_is_used_by_the_next(own_key: Stage, is_there: bool) -> None:
    prompt = f"cancelled, {is_there}"
    own_key.emulator.delay_s = 1.5
    with own_key.comfyui.listen() as listener:
        check_cancel(own_key, listener, queue_and_wait_for_call(own_key, small(prompt), listener))
    if is_there:
        wait_for(lambda: any(call.answered for call in own_key.paid()))
    entry = own_key.comfyui.run(small(prompt, seed=7))
    assert problem(entry) is None and outcome(entry).endswith(" · 1 paid for before")
    assert own_key.emulator.paid_pictures == 1
    assert problem(own_key.comfyui.run(small(prompt, seed=8))) is None
    assert own_key.emulator.paid_pictures == 2


def test_an_account_pays_by_its_token_and_is_told_the_credits(account: Stage) -> None:
    entry = account.comfyui.run(small("a bridge"), extra_data=TOKENS)
    assert outcome(entry).endswith(" credits")
    (call,) = account.paid()
    assert call.path == "/proxy/openai/images/generations"
    assert call.headers["authorization"] == f"Bearer {TOKEN}"
    assert "x-api-key" not in call.headers


def test_without_an_account_and_a_key_the_error_says_what_would_work(account: Stage) -> None:
    said = problem(account.comfyui.run(small("a bridge for nothing"))) or ""
    assert said.startswith("OpenAIDalle2: Unauthorized: Please login first to use this node.")
    assert "OPENAI_API_KEY" in said and str(account.comfyui.package_dir / ".env") in said and "OPENAI_BASE_URL" in said
    assert said.endswith("Nothing was charged.")
    assert not account.emulator.requests


def test_inputs_that_cannot_work_are_refused_before_a_request(own_key: Stage) -> None:
    own_key.comfyui.upload("opaque.png", png((96, 96), (200, 200, 200)))
    entry = own_key.comfyui.run(inpainting("a hat", "opaque.png"))
    assert (problem(entry) or "").startswith("OpenAIDalle2: The mask is empty")
    assert execution_error(entry)["exception_type"] == "ValueError"
    assert not own_key.emulator.requests


def shows(stage: Stage, entry: dict[str, Any], listener: Listener, *secrets: str) -> bool:
    """Whether a secret is in the history, in the log, or in anything that was sent to the browser."""
    seen = [json.dumps(entry).encode(), stage.comfyui.log().encode(), *(event.raw for event in listener.events)]
    return any(secret.encode() in text for text in seen for secret in secrets)


@pytest.mark.parametrize("fault", ["unauthorized", "html", "drop_after", "not_an_image"])
def test_a_node_that_fails_shows_nobody_a_secret(own_key: Stage, account: Stage, fault: str) -> None:
    for stage in (own_key, account):
        stage.emulator.fail(Fault(fault, times=None))
        with stage.comfyui.listen() as listener:
            entry = stage.comfyui.run(small(fault), extra_data=TOKENS, client_id=listener.client_id)
            assert listener.wait_for(lambda event: event.kind == "execution_error")
        error = execution_error(entry)
        assert error["current_inputs"] == {}  # the place where ComfyUI would show the token
        assert error["exception_type"] == "RuntimeError"  # of a class of this package it would be a path
        assert not shows(stage, entry, listener, KEY, TOKEN, ACCOUNT_KEY)
        stage.emulator.clear()
        assert stage.pictures(small("the next one"), extra_data=TOKENS)


def test_a_setting_that_is_refused_shows_nobody_a_secret(account: Stage) -> None:
    account.comfyui.set_up(DALLE2_QUALITY="sk-pasted-into-the-wrong-line")
    with account.comfyui.listen() as listener:
        entry = account.comfyui.run(small("a bridge"), extra_data=TOKENS, client_id=listener.client_id)
        assert listener.wait_for(lambda event: event.kind == "execution_error")
    account.comfyui.set_up()
    assert "The setting DALLE2_QUALITY" in (problem(entry) or "")
    assert execution_error(entry)["current_inputs"] == {}
    assert not shows(account, entry, listener, TOKEN, ACCOUNT_KEY, "sk-pasted")


def test_a_node_that_succeeds_shows_nobody_a_secret(own_key: Stage, account: Stage) -> None:
    for stage in (own_key, account):
        with stage.comfyui.listen() as listener:
            entry = stage.comfyui.run(small("a harbour"), extra_data=TOKENS, client_id=listener.client_id)
            assert listener.wait_for(lambda event: event.kind == "execution_success")
        (path,) = stage.comfyui.pictures(entry)
        assert not any(secret.encode() in path.read_bytes() for secret in (KEY, TOKEN, ACCOUNT_KEY))
        assert not shows(stage, entry, listener, KEY, TOKEN, ACCOUNT_KEY)


def test_a_changed_setting_makes_the_node_run_again_with_equal_inputs(own_key: Stage) -> None:
    graph = small("once more")
    models = []
    try:
        for model in ("gpt-image-2", "gpt-image-2", "gpt-image-2.5-flare"):
            own_key.comfyui.set_up(DALLE2_MODEL=model)
            assert problem(own_key.comfyui.run(graph)) is None
            models.append([call.fields["model"] for call in own_key.paid()])
    finally:
        own_key.comfyui.set_up()
    assert models == [["gpt-image-2"], ["gpt-image-2"], ["gpt-image-2", "gpt-image-2.5-flare"]]


ANOTHER_PACKAGE = """
import nodes

class AnotherDalle2:
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "another"

NODE_CLASS_MAPPINGS = {"OpenAIDalle2": AnotherDalle2}
nodes.NODE_CLASS_MAPPINGS |= NODE_CLASS_MAPPINGS
"""


@pytest.fixture(scope="module")
def another_package(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Of a ComfyUI where another package is loaded first: its OpenAIDalle2, and its log.

    ComfyUI loads the folders that a file calls default before its own.
    """
    folder = tmp_path_factory.mktemp("another")
    (folder / "nodes" / "another").mkdir(parents=True)
    (folder / "nodes" / "another" / "__init__.py").write_text(ANOTHER_PACKAGE, encoding="utf-8")
    config = {"another": {"base_path": str(folder), "is_default": True, "custom_nodes": "nodes"}}
    (folder / "paths.yaml").write_text(json.dumps(config), encoding="utf-8")
    with ComfyUI(folder / "comfyui", args=["--extra-model-paths-config", str(folder / "paths.yaml")]) as comfyui:
        return comfyui.object_info("OpenAIDalle2"), comfyui.log()


def test_the_node_of_another_package_is_never_replaced(another_package: tuple[dict[str, Any], str]) -> None:
    info, log = another_package
    assert "The node OpenAIDalle2 of this package" not in log
    # Where ComfyUI has none of its own, it takes the one that is loaded last.
    assert (info["category"] == "another") == has_nodes_of_its_own()


def test_comfyui_stops_while_a_call_is_out(tmp_path: Path, own_key: Stage) -> None:
    own_key.emulator.delay_s = 30
    env = {"OPENAI_BASE_URL": own_key.emulator.base_url, "OPENAI_API_KEY": KEY}
    with ComfyUI(tmp_path, env=env) as comfyui, comfyui.listen() as listener:
        queue_and_wait_for_call(Stage(comfyui, own_key.emulator), text_to_image("never"), listener)
        assert comfyui.stop(signal.SIGINT) < STOP_TIMEOUT_S < own_key.emulator.delay_s
