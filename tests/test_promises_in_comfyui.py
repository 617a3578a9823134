"""What users of the old node count on, in a real ComfyUI: its place, their workflows, and the files that are saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from development.comfyui import QueueRefused
from development.workflows import Workflow, example_photo, inpainting, text_to_image
from tests.pictures import file_of, noise
from tests.stage import (
    KEY,
    SAVED_DALLE_3_WORKFLOW,
    SAVED_WORKFLOW,
    TOKENS,
    Stage,
    as_queued,
    has_nodes_of_its_own,
    saved_workflow,
)

NODES = ("OpenAIDalle2", "OpenAIDalle3")
TAKES_OVER = "INFO The node {} of this package replaces ComfyUI's own, which no longer works."


@pytest.fixture(params=["own_key", "account"])
def stage(request: pytest.FixtureRequest) -> Stage:
    """Both ways to pay, one after the other."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Stage)
    return found


def test_the_package_takes_the_place_of_comfyuis_own_nodes(stage: Stage) -> None:
    for node_id in NODES:
        info = stage.comfyui.object_info(node_id)
        assert "OpenAI has shut that model down; a current model replaces it." in info["description"]
        assert info["python_module"] == f"custom_nodes.{stage.comfyui.package_dir.name}"
    said = [TAKES_OVER.format(node_id) for node_id in NODES] if has_nodes_of_its_own() else []
    assert list(stage.loading) == said  # and no warning


def queued(stage: Stage, file: Path) -> Workflow:
    saved = saved_workflow(file)
    return as_queued(saved, {node["type"]: stage.comfyui.object_info(node["type"]) for node in saved["nodes"]})


def test_a_saved_workflow_runs_with_its_values_in_their_old_positions(stage: Stage) -> None:
    stage.comfyui.upload("hills-with-a-hole.png", example_photo(512))
    graph = queued(stage, SAVED_WORKFLOW)
    assert graph["3"]["inputs"] == {
        "image": ["2", 0],
        "mask": ["2", 1],
        "prompt": "A red hot-air balloon",
        "seed": 1547204331,
        "size": "512x512",
        "n": 2,
    }
    assert [image.shape for image in stage.pictures(graph, extra_data=TOKENS)] == [(512, 512, 3)] * 2
    (call,) = stage.paid()
    assert call.path.endswith("/images/edits") and call.fields["model"] == "gpt-image-2"  # the old node's is gone


def test_a_saved_dall_e_3_workflow_runs_with_its_values_in_place(stage: Stage) -> None:
    graph = queued(stage, SAVED_DALLE_3_WORKFLOW)
    assert graph["1"]["inputs"] == {
        "prompt": "Mountains at sunset",
        "seed": 7,
        "quality": "hd",
        "style": "vivid",
        "size": "1024x1792",
    }
    assert [image.shape for image in stage.pictures(graph, extra_data=TOKENS)] == [(1792, 1024, 3)]
    (call,) = stage.paid()
    assert (call.fields["model"], call.fields["quality"]) == ("gpt-image-2", "medium")


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


@pytest.mark.parametrize("prompt", ["", " \n\t"])
def test_a_blank_prompt_is_refused_when_it_is_queued(own_key: Stage, prompt: str) -> None:
    with pytest.raises(QueueRefused, match=r"Field 'prompt' cannot be empty\.") as refused:
        own_key.comfyui.queue(text_to_image(prompt))
    assert list(refused.value.node_errors) == ["1"]


@pytest.mark.parametrize(("side", "n"), [(256, 3), (512, 1), (1024, 2)])
def test_a_prompt_becomes_n_images_of_the_size(own_key: Stage, side: int, n: int) -> None:
    prompt = f"a lighthouse, {side}"
    images = own_key.pictures(text_to_image(prompt, size=f"{side}x{side}", n=n))
    assert [image.shape for image in images] == [(side, side, 3)] * n
    assert len({image.tobytes() for image in images}) == n
    (call,) = own_key.paid()
    assert call.fields == {"model": "gpt-image-2", "prompt": prompt, "n": n, "size": "1024x1024", "quality": "low"}
    assert call.headers["authorization"] == f"Bearer {KEY}"


def photo(height: int, width: int, *, seed: int = 1) -> NDArray[np.uint8]:
    """An RGBA image of noise, transparent (to be repainted) in its left third."""
    pixels = noise(height, width, 4, seed=seed)
    pixels[..., 3] = 255
    pixels[:, : width // 3, 3] = 0
    return pixels


def is_kept(image: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> bool:
    """Whether a saved image is bit for bit the original where that is opaque, and another where it is not."""
    opaque = pixels[..., 3] == 255
    is_same = (image == pixels[..., :3]).all(axis=-1)
    return bool(is_same[opaque].all() and is_same[~opaque].mean() < 0.1)


def test_the_saved_file_is_the_original_where_nothing_is_masked(own_key: Stage) -> None:
    pixels = photo(171, 256)
    own_key.comfyui.upload("wide.png", file_of(Image.fromarray(pixels)))
    images = own_key.pictures(inpainting("a wide lake", "wide.png", size="256x256", n=2))
    assert [image.shape for image in images] == [(171, 256, 3)] * 2
    assert all(is_kept(image, pixels) for image in images)


def batch_of(names: list[str]) -> Workflow:
    """A graph that edits a batch of images with a batch of masks: those of the LoadImage nodes of these files."""
    graph = inpainting("a lake", names[0], size="256x256", n=2)
    del graph["3"]
    for place, name in enumerate(names):
        graph[f"load{place}"] = {"class_type": "LoadImage", "inputs": {"image": name}}
        graph[f"mask{place}"] = {"class_type": "MaskToImage", "inputs": {"mask": [f"load{place}", 1]}}
    masks = {"image": joined(graph, "mask", len(names)), "channel": "red"}
    graph["masks"] = {"class_type": "ImageToMask", "inputs": masks}
    graph["1"]["inputs"] |= {"image": joined(graph, "load", len(names)), "mask": ["masks", 0]}
    return graph


def joined(graph: Workflow, name: str, count: int) -> list[object]:
    """A link to the batch of what the nodes `name`0, `name`1, ... put out first."""
    link: list[object] = [f"{name}0", 0]
    for place in range(1, count):
        inputs = {"image1": link, "image2": [f"{name}{place}", 0]}
        graph[f"{name}s{place}"] = {"class_type": "ImageBatch", "inputs": inputs}
        link = [f"{name}s{place}", 0]
    return link


def test_a_batch_comes_back_in_order_each_image_with_its_own_mask(own_key: Stage) -> None:
    batch = [photo(256, 256, seed=seed) for seed in range(3)]
    for place, pixels in enumerate(batch):
        pixels[:, :, 3] = np.roll(pixels[:, :, 3], 80 * place, axis=1)
        own_key.comfyui.upload(f"batch-{place}.png", file_of(Image.fromarray(pixels)))
    images = own_key.pictures(batch_of([f"batch-{place}.png" for place in range(3)]))
    assert len(images) == 6 and len(own_key.paid()) == 3
    assert all(is_kept(image, batch[place // 2]) for place, image in enumerate(images))
