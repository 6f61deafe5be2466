"""Weights of another run as the start of a model: which parts of it, and other sizes of clips.

Frozen in Time (arXiv 2104.00650) trains on more and more frames: the temporal embeddings of the
run before then have to be stretched. Shapes: F frames, N patches a frame, D width.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from base.base_model import RetrievalModel
from base.registry import nearest
from utils.checkpoint.files import CheckpointError, load_checkpoint
from utils.checkpoint.weights import fit_weights, weights_of
from utils.errors import UserError

logger = logging.getLogger(__name__)

Part = Literal[
    "text_model",
    "ocr_model",
    "fusion_model",
    "query_token",
    "type_embedding",
    "ocr_pos_embeds",
    "video_model",
    "video_to_fusion",
    "txt_proj",
    "vid_proj",
    "fusion_proj",
]
TemporalFix = Literal["zeros", "interp", "bilinear"]
TIME, POSITION = "video_model.temporal_embed", "video_model.pos_embed"
PATCHES = "video_model.patch_embed.proj.weight"
# torch's names for what load_temporal_fix says. Corners are not aligned, as in the published code.
_MODES = {"interp": "nearest", "bilinear": "bilinear"}


def check_parts(parts: Sequence[str] | None, path: str | None) -> None:
    """Check what ``load_parts`` says by itself, before anything is built.

    Raises:
        UserError: it names nothing, or a part twice, or there is no checkpoint to take it from.
    """
    if parts is None:
        return
    if not parts:
        raise UserError("arch.args.load_parts: names no part; null takes the whole checkpoint")
    if len(set(parts)) < len(parts):
        raise UserError(f"arch.args.load_parts: {list(parts)} names one twice")
    if not path:
        raise UserError(
            "arch.args.load_parts: there is no checkpoint to take parts from; "
            "set arch.args.load_checkpoint, or leave load_parts out"
        )


def load_initial_weights(
    model: RetrievalModel, path: str | Path, parts: Sequence[str] | None = None
) -> None:
    """Load the weights of a checkpoint file strictly, and report what was taken.

    Args:
        model: the model; what is not taken keeps its weights.
        path: the checkpoint.
        parts: modules and parameters of the model's top level to take, each in full; None takes
            everything, and nothing may be missing or left over.

    Raises:
        CheckpointError: the file can't be read, or does not fit; the names are listed.
        UserError: the model has no such part.
    """
    weights = weights_of(load_checkpoint(path), path)
    own = model.state_dict()
    taken = weights if parts is None else choose_parts(weights, own, parts, path)
    taken, notes = model.adapted(taken, path)
    kept = {name: value for name, value in own.items() if parts and part_of(name) not in parts}
    try:
        fit_weights(model, kept | taken, path)
    except CheckpointError as error:
        remedy = "" if parts else _remedy(parts_of(own), parts_of(weights))
        raise CheckpointError(f"{error}{remedy}") from error
    logger.info("weights of %s: %s", path, report(taken, own, weights))
    for note in notes:
        logger.info("weights of %s: %s", path, note)


def choose_parts(
    weights: Mapping[str, Tensor], own: Iterable[str], parts: Sequence[str], source: str | Path
) -> dict[str, Tensor]:
    """Return the weights of ``parts``.

    Args:
        weights: those of the file.
        own: names of the model's weights.
        parts: names of the model's top level.
        source: the file's name, for messages.

    Raises:
        UserError: the model has no such part.
        CheckpointError: the file has nothing of it.
    """
    in_model, in_file = parts_of(own), parts_of(weights)
    for part in (part for part in parts if part not in in_model):
        known = part in get_args(Part)
        remedy = "; look at modalities and projection" if known else nearest(part, in_model)
        raise UserError(f'arch.args.load_parts: the model has no "{part}"{remedy}')
    absent = [part for part in parts if part not in in_file]
    if absent:
        raise CheckpointError(
            f"{source}: has no {', '.join(absent)}, which arch.args.load_parts asks for; "
            f"it has {', '.join(in_file)}"
        )
    return {name: value for name, value in weights.items() if part_of(name) in parts}


def part_of(name: str) -> str:
    """Return the top-level module or parameter of a weight's name."""
    return name.split(".")[0]


def parts_of(names: Iterable[str]) -> list[str]:
    """Return the top-level modules and parameters of weights, each once, in their order."""
    return list(dict.fromkeys(map(part_of, names)))


def report(taken: Iterable[str], own: Iterable[str], given: Iterable[str]) -> str:
    """Say what was taken, what of the model starts fresh, and what of the file is not used.

    Args:
        taken: names of the weights that were taken.
        own: names of the model's weights.
        given: names of the file's weights.
    """
    counts: dict[str, int] = {}
    for name in taken:
        counts[part_of(name)] = counts.get(part_of(name), 0) + 1
    plural = {part: "tensor" if count == 1 else "tensors" for part, count in counts.items()}
    sections = {
        "taken": [f"{part} ({count} {plural[part]})" for part, count in counts.items()],
        "start fresh": [part for part in parts_of(own) if part not in counts],
        "not used": [part for part in parts_of(given) if part not in counts],
    }
    return "; ".join(f"{title}: {', '.join(parts)}" for title, parts in sections.items() if parts)


def _remedy(own: Sequence[str], given: Sequence[str]) -> str:
    """What to do where whole parts are missing or left over; the texts of an error's last lines."""
    shared = [part for part in own if part in given]
    missing = [part for part in own if part not in given]
    left_over = [part for part in given if part not in own]
    lines = []
    if missing and shared:
        names = ", ".join(f'"{part}"' for part in shared)
        lines.append(
            f"The file has no {', '.join(missing)}: to start these fresh, set "
            f"arch.args.load_parts to [{names}]"
        )
    if left_over:
        lines.append(
            f"The model has no {', '.join(left_over)}: look at arch.args.modalities, or name what "
            "to take in arch.args.load_parts"
        )
    return "".join(f"\n{line}" for line in lines)


def adapt(
    weights: Mapping[str, Tensor],
    shapes: Mapping[str, Sequence[int]],
    temporal_fix: TemporalFix,
    source: str | Path,
) -> tuple[dict[str, Tensor], list[str]]:
    """Fit temporal and position embeddings of other clips to the model's.

    What differs in more than the number of frames or patches is left as it is, for the strict
    check to refuse.

    Args:
        weights: those of the file; ``video_model.temporal_embed`` is (1, F, D) and
            ``video_model.pos_embed`` (1, 1 + N, D).
        shapes: of the model's weights.
        temporal_fix: where the model takes more frames than the file knows.
        source: the file's name, for messages.

    Returns:
        The weights, and one note for each that was changed.

    Raises:
        CheckpointError: the file's patches are no square.
    """
    adapted, notes = dict(weights), []
    if _differs_in_count(weights.get(TIME), shapes.get(TIME)):
        frames, own_frames = weights[TIME].shape[1], shapes[TIME][1]
        adapted[TIME] = fit_frames(weights[TIME], own_frames, temporal_fix)
        how = temporal_fix if frames < own_frames else f"the first {own_frames} kept"
        notes.append(
            f"temporal embeddings: {frames} frames in the file, {own_frames} in the model: {how}"
        )
    same_patches = PATCHES in weights and tuple(weights[PATCHES].shape) == tuple(shapes[PATCHES])
    if _differs_in_count(weights.get(POSITION), shapes.get(POSITION)) and same_patches:
        old, new = weights[POSITION].shape[1] - 1, shapes[POSITION][1] - 1
        if old < 1 or math.isqrt(old) ** 2 != old:
            raise CheckpointError(
                f"{source}: {POSITION} is of {old} patches, which are no square, so that it can't "
                f"be brought to the {new} of the model"
            )
        old, new = math.isqrt(old), math.isqrt(new)
        adapted[POSITION] = fit_positions(weights[POSITION], old, new)
        notes.append(
            f"position embeddings: {old}x{old} patches in the file, {new}x{new} in the model: "
            "interpolated (bicubic)"
        )
    return adapted, notes


def _differs_in_count(value: Tensor | None, shape: Sequence[int] | None) -> bool:
    """Say whether an embedding (1, count, D) differs from the model's in its count alone."""
    if value is None or shape is None or value.ndim != 3 or value.shape[1] == 0:
        return False
    return value.shape[1] != shape[1] and (value.shape[0], value.shape[2]) == (shape[0], shape[2])


def fit_frames(embed: Tensor, frames: int, fix: TemporalFix) -> Tensor:
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
    stretched = F.interpolate(image, size=(frames, embed.shape[2]), mode=_MODES[fix])
    return stretched[0].to(embed.dtype)


def fit_positions(embed: Tensor, old: int, new: int) -> Tensor:
    """Position embeddings (1, 1 + ``old``², D) -> (1, 1 + ``new``², D), bicubic, CLS as it is."""
    from timm.layers import resample_abs_pos_embed

    return resample_abs_pos_embed(embed, new_size=[new, new], old_size=[old, old])
