"""DALL·E 2's promises, seen by somebody who runs a workflow: in a real ComfyUI, from its queue to the saved file."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from development.comfyui import problem
from development.emulator import Fault
from development.workflows import Workflow, inpainting, text_to_image
from tests.pictures import noise
from tests.stage import Stage, png, told


def photo(height: int, width: int, *, seed: int = 1) -> NDArray[np.uint8]:
    """An RGBA image of noise, transparent (to be painted anew) in its left third."""
    pixels = noise(height, width, 4, seed=seed)
    pixels[..., 3] = 255
    pixels[:, : width // 3, 3] = 0
    return pixels


def kept(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where nothing is to be painted."""
    return np.equal(pixels[..., 3], 255)


def test_a_picture_that_is_not_square_keeps_its_shape_and_what_is_not_masked(own_key: Stage) -> None:
    pixels = photo(171, 256)
    own_key.comfyui.upload("wide.png", png(pixels))
    pictures = own_key.pictures(inpainting("a wide lake", "wide.png", size="256x256", n=2))
    assert [picture.shape for picture in pictures] == [(171, 256, 3)] * 2
    for picture in pictures:
        assert (picture[kept(pixels)] == pixels[kept(pixels), :3]).all()
        assert (picture[~kept(pixels)] != pixels[~kept(pixels), :3]).any()


def batch_of(names: list[str]) -> Workflow:
    """A graph that edits a batch of images with a batch of masks: those of the LoadImage nodes of these files."""
    graph = inpainting("a lake", names[0], size="256x256", n=2)
    del graph["3"]
    for place, name in enumerate(names):
        graph[f"load{place}"] = {"class_type": "LoadImage", "inputs": {"image": name}}
        graph[f"mask{place}"] = {"class_type": "MaskToImage", "inputs": {"mask": [f"load{place}", 1]}}
    graph["masks"] = {
        "class_type": "ImageToMask",
        "inputs": {"image": joined(graph, "mask", len(names)), "channel": "red"},
    }
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


def test_a_batch_of_images_comes_back_in_order_each_with_its_own_mask(own_key: Stage) -> None:
    batch = [photo(256, 256, seed=seed) for seed in range(3)]
    for place, pixels in enumerate(batch):
        pixels[:, :, 3] = np.roll(pixels[:, :, 3], 80 * place, axis=1)
        own_key.comfyui.upload(f"batch-{place}.png", png(pixels))
    with own_key.comfyui.listen() as listener:
        graph = batch_of([f"batch-{place}.png" for place in range(3)])
        pictures = own_key.pictures(graph, client_id=listener.client_id)
        texts = told(listener, "1")
    assert len(pictures) == 6 and len(own_key.paid()) == 3
    for place, picture in enumerate(pictures):
        pixels = batch[place // 2]
        assert (picture[kept(pixels)] == pixels[kept(pixels), :3]).all()
    assert sum("in place of dall-e-2" in text for text in texts) == 1


def test_fewer_and_transparent_pictures_are_used_as_they_come(own_key: Stage) -> None:
    own_key.emulator.fewer_by, own_key.emulator.transparent = 1, True
    with own_key.comfyui.listen() as listener:
        graph = text_to_image("a cloud", size="256x256", n=3)
        pictures = own_key.pictures(graph, client_id=listener.client_id)
        texts = told(listener, "1")
    assert [picture.shape for picture in pictures] == [(256, 256, 4)] * 2
    assert texts[-1].startswith("2 of 3 pictures came by gpt-image-2")


@pytest.mark.parametrize("habit", ["ignore_mask", "redraws"])
def test_what_is_not_masked_is_kept_whatever_the_server_does_with_it(own_key: Stage, habit: str) -> None:
    setattr(own_key.emulator, habit, True)
    pixels = photo(256, 256, seed=9)
    own_key.comfyui.upload("ignored.png", png(pixels))
    (picture,) = own_key.pictures(inpainting(f"a lake, {habit}", "ignored.png", size="256x256"))
    assert (picture[kept(pixels)] == pixels[kept(pixels), :3]).all()


def test_the_size_asked_for_comes_from_a_server_that_draws_another(own_key: Stage) -> None:
    own_key.emulator.answer_size = (640, 384)
    (picture,) = own_key.pictures(text_to_image("a narrow sea", size="512x512"))
    assert picture.shape == (512, 512, 3)


def test_when_a_model_is_retired_the_next_draws_and_the_node_says_so(own_key: Stage) -> None:
    own_key.emulator.fail(Fault("model_not_found"))
    with own_key.comfyui.listen() as listener:
        graph = text_to_image("after the retirement", size="256x256")
        own_key.pictures(graph, client_id=listener.client_id)
        assert "by gpt-image-2.5-flare, in place of dall-e-2" in told(listener, "1")[-1]
        own_key.emulator.fail(Fault("model_not_found"))
        graph["1"]["inputs"]["seed"] = 1
        own_key.pictures(graph, client_id=listener.client_id)
        assert "by gpt-image-2, in place of dall-e-2" in told(listener, "1", runs=2)[-1]
    assert [call.fields["model"] for call in own_key.paid()] == ["gpt-image-2.5-flare", "gpt-image-2"]


def test_an_image_too_small_to_edit_is_refused_before_anything_is_paid_for(own_key: Stage) -> None:
    own_key.comfyui.upload("tiny.png", png(photo(8, 12)))
    entry = own_key.comfyui.run(inpainting("a lake", "tiny.png"))
    assert "too small or too narrow" in (problem(entry) or "")
    assert not own_key.emulator.requests


def test_a_field_that_the_server_refuses_by_name_is_left_out(own_key: Stage) -> None:
    own_key.comfyui.set_up(DALLE2_MODEL="gpt-image-2.5-sunburst")  # for what is remembered of it matters nowhere else
    own_key.emulator.fail(Fault("unknown_parameter", param="quality"))
    try:
        own_key.pictures(text_to_image("without quality", size="256x256"))
    finally:
        own_key.comfyui.set_up()
    refused, drawn = own_key.emulator.posts
    assert ("quality" in refused.fields, "quality" in drawn.fields) == (True, False)
