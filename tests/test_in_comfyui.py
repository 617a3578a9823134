"""The node in a real ComfyUI, through its real queue, against the emulator."""

from __future__ import annotations

import io
import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from development.comfyui import ComfyUI, QueueRefused, problem
from development.comfyui_source import comfyui_source
from development.emulator import Fault
from development.events import Listener
from development.package import ROOT
from development.workflows import Workflow, example_photo, inpainting, text_to_image
from tests.loopback import full_port, overlap
from tests.stage import KEY, Stage, as_queued, png, saved_workflow, told

TOKEN = "comfy-account-token-0123456789"
API_KEY = "comfyui-0123456789abcdef"


def side_by_side(prompts: list[str], **options: Any) -> Workflow:
    """A graph of one node and one SaveImage for each prompt, none of which needs another."""
    graph: Workflow = {}
    for place, prompt in enumerate(prompts):
        graph |= renamed(text_to_image(prompt, prefix=f"graph-{place}", **options), f"{place}-")
    return graph


def renamed(graph: Workflow, prefix: str) -> Workflow:
    """The same graph with a prefix before the names of its nodes, so that it can be a part of another."""
    return {
        prefix + node_id: {
            **node,
            "inputs": {name: [prefix + v[0], v[1]] if isinstance(v, list) else v for name, v in node["inputs"].items()},
        }
        for node_id, node in graph.items()
    }


def queue_and_wait_for_call(stage: Stage, graph: Workflow, listener: Listener, calls: int = 1) -> str:
    """Queue a graph and return its id when so many of its calls have reached the API."""
    prompt_id = stage.comfyui.queue(graph, client_id=listener.client_id)
    wait_until(lambda: sum(record.path.endswith("generations") for record in stage.emulator.posts) >= calls)
    return prompt_id


def wait_until(happened: Callable[[], bool]) -> None:
    """Wait for something that takes its time, and fail when it does not happen."""
    end_s = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < end_s
        time.sleep(0.01)


@pytest.mark.parametrize("size", ["256x256", "512x512", "1024x1024"])
@pytest.mark.parametrize("n", [1, 3])
def test_a_prompt_becomes_n_pictures_of_the_size(own_key: Stage, size: str, n: int) -> None:
    pictures = own_key.pictures(text_to_image(f"a lighthouse, {size}, {n}", size=size, n=n))
    side = int(size.split("x")[0])
    assert [picture.shape for picture in pictures] == [(side, side, 3)] * n
    assert len({picture.tobytes() for picture in pictures}) == n
    (call,) = own_key.paid()
    assert call.fields == {
        "model": "gpt-image-2",
        "prompt": f"a lighthouse, {size}, {n}",
        "n": n,
        "size": "1024x1024",
        "quality": "low",
    }
    assert call.headers["authorization"] == f"Bearer {KEY}"


def test_an_edit_sends_rgba_files_and_changes_only_what_is_masked(own_key: Stage) -> None:
    own_key.emulator.redraws = True
    photo = Image.open(io.BytesIO(example_photo()))
    name = own_key.comfyui.upload("photo.png", example_photo())
    (picture,) = own_key.pictures(inpainting("a red hot-air balloon", name))
    (call,) = own_key.paid()
    image = Image.open(io.BytesIO(call.file("image").data))
    mask = Image.open(io.BytesIO(call.file("mask").data))
    assert (call.file("image").filename, call.file("image").content_type) == ("image.png", "image/png")
    assert (image.mode, mask.mode, image.size) == ("RGBA", "RGBA", mask.size)
    hole = np.asarray(photo)[..., 3] < 255
    sent = np.asarray(mask)
    assert (sent[hole] == (255, 255, 255, 0)).all() and (sent[~hole] == (0, 0, 0, 255)).all()
    assert (picture[~hole] == np.asarray(photo.convert("RGB"))[~hole]).all()
    clear = np.asarray(photo)[..., 3] == 0
    assert (picture[clear] != np.asarray(photo.convert("RGB"))[clear]).any(axis=-1).mean() > 0.9


def test_four_nodes_of_one_graph_call_at_the_same_time(own_key: Stage) -> None:
    own_key.emulator.delay_s = 0.7
    pictures = own_key.pictures(side_by_side([f"picture {i}" for i in range(4)], size="256x256"))
    assert len(pictures) == 4
    assert overlap(own_key.paid())


def test_the_items_of_a_list_input_are_drawn_at_the_same_time(own_key: Stage) -> None:
    own_key.emulator.delay_s = 0.7
    own_key.comfyui.upload("photo.png", example_photo(256))
    graph = inpainting("a balloon", "photo.png", size="256x256")
    graph["1"]["inputs"] |= {"image": ["4", 0], "mask": ["5", 0]}
    graph["4"] = {"class_type": "RebatchImages", "inputs": {"images": ["6", 0], "batch_size": 1}}
    graph["5"] = {"class_type": "InvertMask", "inputs": {"mask": ["7", 0]}}
    graph["7"] = {"class_type": "InvertMask", "inputs": {"mask": ["3", 1]}}
    graph["6"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["3", 0], "amount": 3}}
    assert len(own_key.pictures(graph)) == 3
    assert len(own_key.paid()) == 3 and overlap(own_key.paid())


def test_a_saved_workflow_runs_with_its_values_in_the_old_positions(own_key: Stage) -> None:
    own_key.comfyui.upload("hills-with-a-hole.png", example_photo(512))
    saved = saved_workflow()
    info = {node["type"]: own_key.comfyui.object_info(node["type"]) for node in saved["nodes"]}
    graph = as_queued(saved, info)
    assert graph["3"]["inputs"] == {
        "image": ["2", 0],
        "mask": ["2", 1],
        "prompt": "A red hot-air balloon",
        "seed": 1547204331,
        "size": "512x512",
        "n": 2,
    }
    assert [picture.shape for picture in own_key.pictures(graph)] == [(512, 512, 3)] * 2


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t"])
def test_a_blank_prompt_is_refused_on_the_node_when_it_is_queued(own_key: Stage, prompt: str) -> None:
    with pytest.raises(QueueRefused, match=r"Field 'prompt' cannot be empty\.") as refused:
        own_key.comfyui.queue(text_to_image(prompt))
    assert list(refused.value.node_errors) == ["1"]
    assert not own_key.emulator.requests


def test_a_blank_prompt_that_comes_over_a_link_is_refused_when_it_runs(own_key: Stage) -> None:
    graph = text_to_image("")
    graph["3"] = {"class_type": "PrimitiveString", "inputs": {"value": "  "}}
    graph["1"]["inputs"]["prompt"] = ["3", 0]
    assert problem(own_key.comfyui.run(graph)) == "OpenAIDalle2: Field 'prompt' cannot be empty."
    assert not own_key.emulator.requests


def test_what_cannot_work_is_refused_before_anything_is_sent(own_key: Stage) -> None:
    def said(graph: Workflow) -> str:
        return problem(own_key.comfyui.run(graph)) or ""

    opaque = own_key.comfyui.upload("opaque.png", png(np.full((96, 96, 3), 200, np.uint8)))
    graph = inpainting("a hat", opaque)
    assert "The mask is empty" in said(graph) and "MaskEditor" in said(graph)
    del graph["1"]["inputs"]["mask"]
    assert "Dall-E 2 image editing requires an image AND a mask" in said(graph)
    graph = inpainting("a hat", opaque)
    graph["4"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 32}}
    graph["1"]["inputs"]["mask"] = ["4", 0]
    assert "Mask and Image must be the same size: the mask is 64x32, the image 96x96" in said(graph)
    assert not own_key.emulator.requests


def test_a_comfy_org_token_goes_out_as_a_bearer_and_wins_over_a_key(account: Stage) -> None:
    tokens = {"auth_token_comfy_org": TOKEN, "api_key_comfy_org": API_KEY}
    account.pictures(text_to_image("a bridge", size="256x256"), extra_data=tokens)
    (call,) = account.paid()
    assert call.path == "/proxy/openai/images/generations"
    assert call.headers["authorization"] == f"Bearer {TOKEN}"
    assert "x-api-key" not in call.headers


def test_a_comfy_org_key_goes_out_as_x_api_key(account: Stage) -> None:
    photo = account.comfyui.upload("photo.png", example_photo(256))
    account.pictures(inpainting("a bridge", photo, size="256x256"), extra_data={"api_key_comfy_org": API_KEY})
    (call,) = account.paid()
    assert call.path == "/proxy/openai/images/edits"
    assert call.headers["x-api-key"] == API_KEY
    assert "authorization" not in call.headers


def test_without_an_account_and_a_key_the_error_says_what_would_work(account: Stage) -> None:
    said = problem(account.comfyui.run(text_to_image("a bridge"))) or ""
    assert "Unauthorized: Please login first to use this node." in said
    assert "OPENAI_API_KEY" in said and ".env" in said and "OPENAI_BASE_URL" in said
    assert not account.emulator.requests


def test_the_editor_is_told_that_an_account_is_needed_exactly_when_it_is(own_key: Stage, account: Stage) -> None:
    assert account.comfyui.object_info("OpenAIDalle2")["api_node"] is True
    assert own_key.comfyui.object_info("OpenAIDalle2")["api_node"] is False


def test_the_face_of_the_node_is_the_one_that_saved_workflows_count_on(own_key: Stage) -> None:
    info = own_key.comfyui.object_info("OpenAIDalle2")
    assert info["display_name"] == "OpenAI DALL·E 2"
    assert info["category"] == "api node/image/openai"
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


FAILURES = [
    "moderation",
    "unauthorized",
    "quota",
    "server_error",
    "html",
    "truncated_json",
    "drop_after",
    "not_an_image",
]


def is_told(stage: Stage, entry: dict[str, Any], listener: Listener, *secrets: str) -> bool:
    """Whether a secret is in the history, in the log, or in anything that was sent to the browser."""
    told = [json.dumps(entry).encode(), stage.comfyui.log().encode(), *(event.raw for event in listener.events)]
    return any(secret.encode() in text for text in told for secret in secrets)


@pytest.mark.parametrize("fault", FAILURES)
def test_a_failing_node_tells_nobody_the_key(own_key: Stage, fault: str) -> None:
    own_key.emulator.fail(Fault(fault, times=None))
    with own_key.comfyui.listen() as listener:
        entry = own_key.comfyui.run(text_to_image(f"{fault}, own key"), client_id=listener.client_id)
        assert listener.wait_for(lambda event: event.kind == "execution_error")
    assert problem(entry) and not is_told(own_key, entry, listener, KEY)


@pytest.mark.parametrize("fault", FAILURES)
def test_a_failing_node_tells_nobody_the_token(account: Stage, fault: str) -> None:
    account.emulator.fail(Fault(fault, times=None))
    tokens = {"auth_token_comfy_org": TOKEN, "api_key_comfy_org": API_KEY}
    with account.comfyui.listen() as listener:
        entry = account.comfyui.run(text_to_image(fault), extra_data=tokens, client_id=listener.client_id)
        assert listener.wait_for(lambda event: event.kind == "execution_error")
    assert problem(entry)
    assert not is_told(account, entry, listener, TOKEN, API_KEY)
    # The place where ComfyUI would have shown them.
    (error,) = [details for kind, details in entry["status"]["messages"] if kind == "execution_error"]
    assert error["current_inputs"] == {}
    account.emulator.clear()
    assert account.pictures(text_to_image("the next one", size="256x256"), extra_data=tokens)


def test_a_run_that_goes_well_tells_nobody_a_secret(own_key: Stage, account: Stage) -> None:
    tokens = {"auth_token_comfy_org": TOKEN, "api_key_comfy_org": API_KEY}
    for stage, secrets, extra_data in ((own_key, [KEY], {}), (account, [TOKEN, API_KEY], tokens)):
        with stage.comfyui.listen() as listener:
            graph = text_to_image("a harbour", size="256x256")
            entry = stage.comfyui.run(graph, extra_data=extra_data, client_id=listener.client_id)
            assert listener.wait_for(lambda event: event.kind == "execution_success")
        (path,) = stage.comfyui.pictures(entry)
        assert not any(secret.encode() in path.read_bytes() for secret in secrets)
        assert not is_told(stage, entry, listener, *secrets)


def test_an_error_reaches_the_dialog_in_the_words_that_were_meant(own_key: Stage) -> None:
    own_key.emulator.fail(Fault("moderation"))
    entry = own_key.comfyui.run(text_to_image("something bad"))
    said = problem(entry) or ""
    (error,) = [details for kind, details in entry["status"]["messages"] if kind == "execution_error"]
    assert error["exception_type"] == "OpenAIDalle2.StatusError"
    assert said.startswith("OpenAIDalle2: Your request was flagged by our content moderation system")
    assert "Nothing was charged." in said and "Request id: req_" in said
    assert own_key.pictures(text_to_image("something good", size="256x256"))


def collect_garbage(stage: Stage) -> None:
    """Let ComfyUI do it now: it does after a prompt if the last time is 10 s ago, and says nothing meanwhile."""
    blank = {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 0}}
    stage.comfyui.run({"1": blank, "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}})


@pytest.mark.parametrize("state", ["connecting", "waiting", "downloading", "backing off"])
def test_a_cancel_ends_the_prompt_within_a_quarter_of_a_second(account: Stage, state: str) -> None:
    collect_garbage(account)
    with ExitStack() as stack, account.comfyui.listen() as listener:
        address = (
            f"http://127.0.0.1:{full_port(stack)}/v1" if state == "connecting" else f"{account.emulator.origin}/v1"
        )
        account.comfyui.set_up(OPENAI_BASE_URL=address, OPENAI_API_KEY="sk-emulated")
        stack.callback(account.comfyui.set_up)
        account.emulator.delay_s = 20 if state == "waiting" else 0
        account.emulator.result, account.emulator.picture_delay_s = "url", 20
        if state == "backing off":
            account.emulator.fail(Fault("rate_limit", retry_after_s=60))
        prompt_id = account.comfyui.queue(text_to_image(f"cancelled while {state}"), client_id=listener.client_id)
        if state == "downloading":
            wait_until(lambda: any(record.path.startswith("/pictures") for record in account.emulator.requests))
        elif state == "backing off":
            wait_until(lambda: any("trying again in 60 s" in text for text in listener.texts()))
        else:
            wait_until(lambda: any(text.startswith("Waiting for") for text in listener.texts()))
        time.sleep(0.1)
        clicked_s = time.monotonic()
        account.comfyui.interrupt()
        interrupted = listener.wait_for(lambda event: event.kind == "execution_interrupted")
        assert interrupted is not None and interrupted.time_s - clicked_s < 0.25
        assert problem(account.comfyui.wait(prompt_id)) == "interrupted"


def test_a_workflow_cannot_change_host_key_or_model(own_key: Stage) -> None:
    graph = text_to_image("from elsewhere", size="256x256")
    names = (
        "auth_token",
        "comfy_api_key",
        "api_key",
        "base_url",
        "model",
        "backend",
        "OPENAI_BASE_URL",
        "DALLE2_MODEL",
    )
    graph["1"]["inputs"] |= dict.fromkeys(names, "http://127.0.0.1:1/strange")
    strange = {"auth_token_comfy_org": "strange", "OPENAI_BASE_URL": "http://127.0.0.1:1"}
    own_key.pictures(graph, extra_data=strange)
    (call,) = own_key.paid()
    assert call.headers["authorization"] == f"Bearer {KEY}"
    assert call.fields["model"] == "gpt-image-2"
    assert "strange" not in json.dumps([call.headers, call.fields, call.query])


@pytest.mark.parametrize("nodes", [1, 4])
def test_a_cancel_ends_the_prompt_as_interrupted_and_the_queue_goes_on(own_key: Stage, nodes: int) -> None:
    collect_garbage(own_key)
    own_key.emulator.delay_s = 30
    with own_key.comfyui.listen() as listener:
        graph = side_by_side([f"slow {i} of {nodes}" for i in range(nodes)])
        prompt_id = queue_and_wait_for_call(own_key, graph, listener, calls=nodes)
        own_key.emulator.delay_s = 0
        behind = own_key.comfyui.queue(text_to_image("behind", size="256x256"), client_id=listener.client_id)
        clicked_s = time.monotonic()
        own_key.comfyui.interrupt()
        interrupted = listener.wait_for(lambda event: event.kind == "execution_interrupted")
        assert interrupted is not None and interrupted.time_s - clicked_s < 0.25
        assert problem(own_key.comfyui.wait(prompt_id)) == "interrupted"
        assert problem(own_key.comfyui.wait(behind)) is None
        assert time.monotonic() - clicked_s < 10


@pytest.mark.parametrize("waits", [False, True])
def test_a_picture_that_a_cancelled_run_ordered_comes_with_the_next_at_no_cost(own_key: Stage, waits: bool) -> None:
    prompt = f"cancelled, {waits}"
    own_key.emulator.delay_s = 1.5
    with own_key.comfyui.listen() as listener:
        prompt_id = queue_and_wait_for_call(own_key, text_to_image(prompt, size="256x256"), listener)
        own_key.comfyui.interrupt()
        assert problem(own_key.comfyui.wait(prompt_id)) == "interrupted"
        if waits:
            wait_until(lambda: bool(own_key.paid()) and own_key.paid()[0].answered is not None)
        again = text_to_image(prompt, size="256x256", seed=7)
        assert problem(own_key.comfyui.run(again, client_id=listener.client_id)) is None
        assert own_key.emulator.paid_pictures == 1
        assert "nothing was charged for it again" in told(listener, "1", runs=2)[-1]
        another = text_to_image(prompt, size="256x256", seed=8)
        assert problem(own_key.comfyui.run(another)) is None
        assert own_key.emulator.paid_pictures == 2


def test_when_one_item_of_a_list_fails_the_others_are_not_paid_for_again(own_key: Stage) -> None:
    own_key.comfyui.upload("photo.png", example_photo(256))
    graph = inpainting("a balloon in a list", "photo.png", size="256x256")
    graph["1"]["inputs"]["image"] = ["4", 0]
    graph["4"] = {"class_type": "RebatchImages", "inputs": {"images": ["6", 0], "batch_size": 1}}
    graph["6"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["3", 0], "amount": 3}}
    own_key.emulator.delay_s = 0.3
    own_key.emulator.fail(Fault("moderation"))
    assert "moderation" in (problem(own_key.comfyui.run(graph)) or "")
    assert own_key.emulator.paid_pictures == 2
    graph["1"]["inputs"]["seed"] = 1
    assert len(own_key.pictures(graph)) == 3
    assert own_key.emulator.paid_pictures == 3


def test_what_another_node_s_failure_keeps_from_comfyui_comes_with_the_next_run_at_no_cost(own_key: Stage) -> None:
    """Both calls end while a third node keeps ComfyUI busy; the failed one is looked at first, and ends the prompt."""
    own_key.emulator.delay_s = 0.3
    own_key.emulator.fail(Fault("moderation", "edits", delay_s=0.3))
    own_key.comfyui.upload("photo.png", example_photo(256))
    drawn = text_to_image("safe", size="256x256")
    failing = inpainting("refused", "photo.png", size="256x256")
    graph = renamed(drawn, "a") | renamed(failing, "b")
    larger = {"image": ["b3", 0], "upscale_method": "bilinear", "width": 1600, "height": 1600, "crop": "disabled"}
    graph["c1"] = {"class_type": "ImageScale", "inputs": larger}
    blur = {"image": ["c1", 0], "blur_radius": 31, "sigma": 9.0}  # takes a second and more
    graph["c2"] = {"class_type": "ImageBlur", "inputs": blur}
    graph["c3"] = {"class_type": "PreviewImage", "inputs": {"images": ["c2", 0]}}
    assert "moderation" in (problem(own_key.comfyui.run(graph)) or "")
    assert own_key.emulator.paid_pictures == 1 and overlap(list(own_key.emulator.posts[-2:]))
    assert problem(own_key.comfyui.run(graph)) is None
    assert own_key.emulator.paid_pictures == 2


def test_the_items_of_a_list_have_one_progress_bar_and_one_outcome(own_key: Stage) -> None:
    template = json.loads((ROOT / "example_workflows" / "several-prompts.json").read_text(encoding="utf-8"))
    info = {node["type"]: own_key.comfyui.object_info(node["type"]) for node in template["nodes"][1:]}
    graph = as_queued({**template, "nodes": template["nodes"][1:]}, info)
    own_key.emulator.delay_s = 0.7
    with own_key.comfyui.listen() as listener:
        assert len(own_key.pictures(graph, client_id=listener.client_id)) == 2
        texts = told(listener, "7")
        steps = [event.data for event in listener.of_kind("progress") if event.data["node"] == "7"]
    assert [call.fields["prompt"] for call in sorted(own_key.paid(), key=lambda call: str(call.fields["prompt"]))] == [
        "A desert at noon",
        "The coast in the evening light",
    ]
    assert overlap(own_key.paid())
    assert [(step["value"], step["max"]) for step in steps] == [(1, 2), (2, 2)]
    assert texts[-1].startswith("2 pictures by gpt-image-2, in place of dall-e-2, ")


def test_each_picture_is_shown_as_soon_as_it_is_there(own_key: Stage) -> None:
    own_key.emulator.result, own_key.emulator.picture_delay_s = "url", [0, 1.5]
    with own_key.comfyui.listen() as listener:
        own_key.comfyui.run(text_to_image("a mill, at once", size="256x256", n=2), client_id=listener.client_id)
        told(listener, "1")
    first, second = [event.time_s for event in listener.of_kind("preview") if event.picture]
    assert second - first > 1


def test_the_node_tells_what_it_does_and_shows_each_picture(own_key: Stage) -> None:
    own_key.emulator.delay_s = 1.2
    with own_key.comfyui.listen() as listener:
        own_key.comfyui.run(text_to_image("a mill", size="256x256", n=2), client_id=listener.client_id)
        texts = told(listener, "1")
        steps = [event.data for event in listener.of_kind("progress")]
    assert any(text.startswith("Waiting for ") and text.endswith(", 1 s") for text in texts)
    assert texts[-1].startswith("2 pictures by gpt-image-2, in place of dall-e-2, ")
    assert [(step["value"], step["max"]) for step in steps] == [(1, 2), (2, 2)]
    assert len([event for event in listener.of_kind("preview") if event.picture]) == 2


@pytest.fixture(scope="module")
def other_comfyui(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, float]:
    """The log of a ComfyUI that has partner nodes of its own, and the seconds it takes to stop when idle."""
    with ComfyUI(tmp_path_factory.mktemp("api-nodes"), api_nodes=True) as comfyui:
        return comfyui.log(), comfyui.stop(signal.SIGINT)


def test_comfyui_stops_within_a_second_of_ctrl_c_while_a_call_is_out_and_ends_as_soon_as_an_idle_one(
    tmp_path: Path, own_key: Stage, other_comfyui: tuple[str, float]
) -> None:
    own_key.emulator.delay_s = 30
    env = {"OPENAI_BASE_URL": own_key.emulator.base_url, "OPENAI_API_KEY": KEY}
    with ComfyUI(tmp_path, env=env) as comfyui, comfyui.listen() as listener:
        queue_and_wait_for_call(Stage(comfyui, own_key.emulator), text_to_image("never"), listener)
        with ThreadPoolExecutor() as pool:
            pressed_s = time.monotonic()
            stopping = pool.submit(comfyui.stop, signal.SIGINT)
            wait_until(lambda: "Stopped server" in comfyui.log())
            assert time.monotonic() - pressed_s < 1
            # What is left is Python taking ComfyUI down, which takes its time without a call too.
            assert stopping.result() - other_comfyui[1] < 1


def has_a_node_of_its_own() -> bool:
    """Whether the ComfyUI that is tested is one from before the node was removed."""
    file = comfyui_source() / "comfy_api_nodes" / "nodes_openai.py"
    return file.is_file() and "OpenAIDalle2" in file.read_text(encoding="utf-8")


def test_a_comfyui_with_a_node_of_its_own_says_so_once_with_the_way_out(
    own_key: Stage, other_comfyui: tuple[str, float]
) -> None:
    lines = [line for line in other_comfyui[0].splitlines() if "OpenAIDalle2" in line]
    assert len(lines) == has_a_node_of_its_own() and all("--disable-api-nodes" in line for line in lines)
    assert "OpenAIDalle2" not in own_key.comfyui.log().split("Starting server")[0]


def test_the_package_loads_without_a_warning(own_key: Stage) -> None:
    start = own_key.comfyui.log().split("Starting server")[0]
    # Other lines may hold the name of the folder that this repository is in.
    ours = (str(own_key.comfyui.package_dir), "pyproject")
    about_us = [line for line in start.splitlines() if any(name in line for name in ours)]
    assert len(about_us) == 1 and "seconds: " in about_us[0] and "IMPORT FAILED" not in about_us[0]
