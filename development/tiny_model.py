"""A Stable Diffusion pipeline of one megabyte: every part of a real one, with random weights. It draws noise."""

from __future__ import annotations

import importlib
import json
import warnings
from pathlib import Path


def make_model(folder: Path) -> None:
    """Write a pipeline: CLIP's text model, a U-Net with attention, and a VAE that divides the size by eight."""
    warnings.filterwarnings("ignore", module="diffusers")  # it wants a GPU
    # Not imported by name: only this session's environment has them, and mypy runs in another.
    diffusers, transformers = importlib.import_module("diffusers"), importlib.import_module("transformers")
    words = make_vocabulary(folder / "words")
    tokenizer = transformers.CLIPTokenizer(*words, model_max_length=77)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = transformers.CLIPTextConfig(len(tokenizer), **sizes, **ends)
    unet = diffusers.UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(8, 8, 32),
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=32,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )
    encoder, scheduler = transformers.CLIPTextModel(text), diffusers.DDIMScheduler(clip_sample=False, steps_offset=1)
    no_checker = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    diffusers.StableDiffusionPipeline(vae, encoder, tokenizer, unet, scheduler, **no_checker).save_pretrained(folder)


def make_vocabulary(folder: Path) -> tuple[str, str]:
    """Write the two files of CLIP's tokenizer, with every byte as a word, alone or at the end of a longer one."""
    letters = importlib.import_module("transformers.models.clip.tokenization_clip").bytes_to_unicode().values()
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    folder.mkdir(parents=True)
    vocabulary.write_text(json.dumps({word: index for index, word in enumerate(words)}), encoding="utf-8")
    merges.write_text("#version: 0.2\n", encoding="utf-8")
    return str(vocabulary), str(merges)
