"""Weights that a model starts from: those of an image ViT, and those of another run.

Frozen in Time (arXiv 2104.00650) starts from image weights and trains on more and more frames: the
temporal embeddings of the run before then have to be stretched. Shapes: F frames, N patches a
frame, D width.
"""

import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from base.base_model import RetrievalModel
from base.registry import VIDEO_ENCODERS, nearest
from model.params import VideoParams
from model.space_time_vit import LAYER_NORM_EPS, SpaceTimeTransformer
from utils.checkpoint.files import CheckpointError, load_checkpoint
from utils.checkpoint.weights import fit_weights, get_weights
from utils.errors import UserError

logger = logging.getLogger(__name__)

Part = Literal[
    "text_model", "ocr_model", "fusion_model", "query_token", "type_embedding", "ocr_pos_embeds",
    "video_model", "video_to_fusion", "txt_proj", "vid_proj", "fusion_proj",
]  # fmt: skip
TemporalFix = Literal["zeros", "interp", "bilinear"]
TIME, POSITION = "video_model.temporal_embed", "video_model.pos_embed"
PATCHES = "video_model.patch_embed.proj.weight"
# What an image model does not have.
TIME_ONLY = {"temporal_embed", "timeattn", "norm3"}


@VIDEO_ENCODERS.register("SpaceTimeTransformer")
def build_space_time_vit(params: VideoParams) -> SpaceTimeTransformer:
    """Build the space-time ViT with the image weights that ``params`` names.

    Raises:
        UserError: the ViT is unknown, not of plain layout, or its weights are not to be had.
    """
    import timm

    name = params.timm_name
    if not timm.is_model(name):
        close = timm.list_models(f"vit_{name.removeprefix('vit_').split('_')[0]}_patch*")
        hint = f"; timm has {', '.join(close[:8])} …" if close else ""
        raise UserError(f'arch.args.video_params.arch_config: unknown ViT "{name}"{hint}')
    with torch.device("meta"):  # sizes and names without memory
        vit = timm.create_model(name, pretrained=False)
    if differences := _find_differences(vit):
        raise UserError(
            f'arch.args.video_params.arch_config: "{name}" is not a ViT of plain layout: '
            + ", ".join(differences)
        )
    defaults = _get_sizes(vit)
    sizes = defaults | params.sizes()
    if params.pretrained and sizes["num_heads"] != defaults["num_heads"]:
        raise UserError(
            f"arch.args.video_params.num_heads: the image weights of {name} are of "
            f'{defaults["num_heads"]} heads; leave it out, or set "pretrained": false'
        )
    try:
        model = SpaceTimeTransformer(
            **sizes, num_frames=params.num_frames, time_init=params.time_init
        )
    except ValueError as error:
        raise UserError(f"arch.args.video_params: {error}") from error
    if params.pretrained:
        load_image_weights(model, _read_image_weights(params), name)
    return model


def load_image_weights(
    model: SpaceTimeTransformer, weights: dict[str, Tensor], source: str
) -> None:
    """Copy an image ViT's weights; only what belongs to time stays as initialised.

    Raises:
        UserError: weights are missing, unexpected or of another shape; all are listed.
    """
    expected = _select_image_weights(model.state_dict())
    given = {name: w for name, w in weights.items() if not name.startswith("head")}
    problems = [f"missing {name}" for name in sorted(expected.keys() - given.keys())]
    problems += [f"unexpected {name}" for name in sorted(given.keys() - expected.keys())]
    problems += [
        f"{name} is {tuple(given[name].shape)}, the model's {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & given.keys())
        if given[name].shape != expected[name].shape
    ]
    if problems:
        raise UserError(f"image weights of {source} do not fit: " + "; ".join(problems))
    model.load_state_dict(given, strict=False)  # what is absent was checked above


def _select_image_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that an image model and the space-time model share."""
    return {
        name: weight
        for name, weight in weights.items()
        if not name.startswith("head") and TIME_ONLY.isdisjoint(name.split("."))
    }


def _get_sizes(vit: nn.Module) -> dict[str, int | float]:
    return {
        "input_res": vit.patch_embed.img_size[0],
        "patch_size": vit.patch_embed.patch_size[0],
        "embed_dim": vit.embed_dim,
        "depth": len(vit.blocks),
        "num_heads": vit.blocks[0].attn.num_heads,
        "mlp_ratio": vit.blocks[0].mlp.fc1.out_features / vit.embed_dim,
    }


def _find_differences(vit: nn.Module) -> list[str]:
    """What a timm ViT computes differently from ``SpaceTimeTransformer`` without time."""
    from timm.models.vision_transformer import Block

    if not all(type(block) is Block for block in getattr(vit, "blocks", [None])):
        return ["its blocks are of another kind"]
    with torch.device("meta"):
        plain = SpaceTimeTransformer(**_get_sizes(vit))
    given, expected = (
        {name: weight.shape for name, weight in _select_image_weights(m.state_dict()).items()}
        for m in (vit, plain)
    )
    differing = sorted(name for name in given | expected if given.get(name) != expected.get(name))
    found = [f"{', '.join(differing[:4])} …"] if differing else []
    act = vit.blocks[0].mlp.act
    if not isinstance(act, nn.GELU) or act.approximate != "none":
        found.append(f"its MLP has {act}")
    eps = vit.blocks[0].norm1.eps
    if eps != LAYER_NORM_EPS:
        found.append(f"its norms have eps {eps}")
    return found


def _read_image_weights(params: VideoParams) -> dict[str, Tensor]:
    """Pretrained weights by timm tag, or of a local file, resized to the model's ``input_res``."""
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    options = {"img_size": params.input_res} if params.input_res else {}
    name, local = params.timm_name, Path(params.vit_init)
    files = (local, local / "model.safetensors", local / "pytorch_model.bin")
    file = next((path for path in files if os.path.isfile(path)), None)
    if file is not None:
        remedy = f"give a state dict of timm's {name} (safetensors, or a torch file of tensors)"
    elif os.path.exists(local):
        raise UserError(f"{local}: holds neither {files[1].name} nor {files[2].name}")
    elif "/" in params.vit_init:
        raise UserError(f"arch.args.video_params.vit_init: {local}: no such file or folder")
    else:
        name = f"{name}.{params.vit_tag}"
        remedy = (
            f"without network put model.safetensors of timm/{name} into a folder and give that "
            'folder as arch.args.video_params.vit_init, or set "pretrained": false'
        )
    try:
        if file is None:
            return timm.create_model(name, pretrained=True, **options).state_dict()
        with torch.device("meta"):
            vit = timm.create_model(name, pretrained=False, **options)
        weights = timm.models.load_state_dict(str(file), weights_only=True)
        return checkpoint_filter_fn(weights, vit)  # resizes the position embeddings
    except Exception as error:  # of hub, safetensors, pickle: the types share no base class
        detail = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"image weights {params.vit_init}: {detail}; {remedy}") from error


def load_initial_weights(
    model: RetrievalModel, path: str | Path, parts: Sequence[str] | None = None
) -> None:
    """Load the weights of a checkpoint file strictly, and report what was taken.

    ``parts`` are the top-level modules and parameters to take, each in full; the others keep their
    weights. None takes everything.

    Raises:
        CheckpointError: the file can't be read, or does not fit; the names are listed.
        UserError: the model has no such part.
    """
    weights = get_weights(load_checkpoint(path), path)
    current = model.state_dict()
    taken = weights if parts is None else _select_parts(weights, list_parts(current), parts, path)
    taken, notes = model.adapt_weights(taken, path)
    kept = {
        name: value for name, value in current.items() if parts and _get_part(name) not in parts
    }
    try:
        fit_weights(model, kept | taken, path)
    except CheckpointError as error:
        remedy = "" if parts else _suggest_parts(list_parts(current), list_parts(weights))
        raise CheckpointError(f"{error}{remedy}") from error
    counts = Counter(map(_get_part, taken))
    sections = {
        "taken": [f"{part} ({n} tensor{'s' if n > 1 else ''})" for part, n in counts.items()],
        "start fresh": [part for part in list_parts(current) if part not in counts],
        "not used": [part for part in list_parts(weights) if part not in counts],
    }
    text = "; ".join(f"{title}: {', '.join(found)}" for title, found in sections.items() if found)
    for note in (text, *notes):
        logger.info("weights of %s: %s", path, note)


def _get_part(name: str) -> str:
    return name.split(".")[0]


def list_parts(names: Iterable[str]) -> list[str]:
    """Return the top-level modules and parameters of weights, each once, in their order."""
    return list(dict.fromkeys(map(_get_part, names)))


def _select_parts(
    weights: Mapping[str, Tensor], known: Sequence[str], parts: Sequence[str], source: str | Path
) -> dict[str, Tensor]:
    """The weights of ``parts``; ``known`` are those that the model has."""
    for part in (part for part in parts if part not in known):
        is_other = part in get_args(Part)  # of a model with other arguments
        remedy = "; look at modalities and projection" if is_other else nearest(part, known)
        raise UserError(f'arch.args.load_parts: the model has no "{part}"{remedy}')
    in_file = list_parts(weights)
    absent = [part for part in parts if part not in in_file]
    if absent:
        raise CheckpointError(
            f"{source}: has no {', '.join(absent)}, which arch.args.load_parts asks for; "
            f"it has {', '.join(in_file)}"
        )
    return {name: value for name, value in weights.items() if _get_part(name) in parts}


def _suggest_parts(known: Sequence[str], given: Sequence[str]) -> str:
    """Say what to do where whole parts are missing or unexpected: the last lines of an error."""
    shared = [part for part in known if part in given]
    missing = [part for part in known if part not in given]
    unexpected = [part for part in given if part not in known]
    lines = ""
    if missing and shared:
        names = ", ".join(f'"{part}"' for part in shared)
        lines += (
            f"\nThe file has no {', '.join(missing)}: to start these fresh, set "
            f"arch.args.load_parts to [{names}]"
        )
    if unexpected:
        lines += (
            f"\nThe model has no {', '.join(unexpected)}: look at arch.args.modalities, or name "
            "what to take in arch.args.load_parts"
        )
    return lines


def adapt_embeddings(
    weights: Mapping[str, Tensor],
    shapes: Mapping[str, Sequence[int]],
    temporal_fix: TemporalFix,
    source: str | Path,
) -> tuple[dict[str, Tensor], list[str]]:
    """Fit temporal (1, F, D) and position embeddings (1, 1 + N, D) to the model's ``shapes``.

    What differs in more than the number of frames or patches is left as it is, for the strict check
    to refuse. Returns the weights, and a note for each change.

    Raises:
        CheckpointError: the file's patches are no square.
    """
    adapted, notes = dict(weights), []
    if _differs_in_count(weights.get(TIME), shapes.get(TIME)):
        frames, own_frames = weights[TIME].shape[1], shapes[TIME][1]
        adapted[TIME] = resize_temporal_embedding(weights[TIME], own_frames, temporal_fix)
        how = temporal_fix if frames < own_frames else f"the first {own_frames} kept"
        notes.append(
            f"temporal embeddings: {frames} frames in the file, {own_frames} in the model: {how}"
        )
    same_patches = PATCHES in weights and tuple(weights[PATCHES].shape) == tuple(shapes[PATCHES])
    if _differs_in_count(weights.get(POSITION), shapes.get(POSITION)) and same_patches:
        from timm.layers import resample_abs_pos_embed

        old, new = weights[POSITION].shape[1] - 1, shapes[POSITION][1] - 1
        if old < 1 or math.isqrt(old) ** 2 != old:
            raise CheckpointError(
                f"{source}: {POSITION} is of {old} patches, which are no square, so that it can't "
                f"be brought to the {new} of the model"
            )
        old, new = math.isqrt(old), math.isqrt(new)
        # Bicubic; CLS stays as it is.
        adapted[POSITION] = resample_abs_pos_embed(weights[POSITION], [new, new], [old, old])
        notes.append(
            f"position embeddings: {old}x{old} patches in the file, {new}x{new} in the model: "
            "interpolated (bicubic)"
        )
    return adapted, notes


def _differs_in_count(value: Tensor | None, shape: Sequence[int] | None) -> bool:
    """Say whether an embedding (1, count, D) differs from the model's only in its count."""
    if value is None or shape is None or value.ndim != 3 or value.shape[1] == 0:
        return False
    return value.shape[1] != shape[1] and (value.shape[0], value.shape[2]) == (shape[0], shape[2])


def resize_temporal_embedding(embed: Tensor, frames: int, fix: TemporalFix) -> Tensor:
    """Temporal embeddings (1, F, D) -> (1, ``frames``, D).

    For fewer frames the first are kept. For more, ``zeros`` appends zeros, ``interp`` repeats the
    nearest frame's and ``bilinear`` draws lines between the frames'.
    """
    missing = frames - embed.shape[1]
    if missing <= 0:
        return embed[:, :frames]
    if fix == "zeros":
        return torch.cat((embed, embed.new_zeros(1, missing, embed.shape[2])), dim=1)
    image = embed[None].float()  # (1, 1, F, D): F rows; the columns stay as they are
    # Corners are not aligned, as in the published code.
    mode = "nearest" if fix == "interp" else "bilinear"
    stretched = F.interpolate(image, size=(frames, embed.shape[2]), mode=mode)
    return stretched[0].to(embed.dtype)
