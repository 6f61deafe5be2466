"""Sizes and initial weights of the image model: any timm ViT of plain layout."""

from pathlib import Path

import torch
from torch import Tensor, nn

from model.params import VideoParams
from model.video_transformer import SpaceTimeTransformer
from utils.errors import UserError

# What the space-time model has and an image model has not.
TIME_ONLY = ("temporal_embed", "timeattn", "norm3")


def build_video_model(params: VideoParams) -> SpaceTimeTransformer:
    """Build the video encoder, with the image weights that ``params`` names.

    Raises:
        UserError: the ViT is unknown, not of plain layout, or its weights are not to be had.
    """
    vit = _image_model(params)
    sizes = {
        "input_res": vit.patch_embed.img_size[0],
        "patch_size": vit.patch_embed.patch_size[0],
        "embed_dim": vit.embed_dim,
        "depth": len(vit.blocks),
        "num_heads": vit.blocks[0].attn.num_heads,
        "mlp_ratio": vit.blocks[0].mlp.fc1.out_features / vit.embed_dim,
    } | params.sizes()
    try:
        model = SpaceTimeTransformer(
            **sizes, num_frames=params.num_frames, time_init=params.time_init
        )
    except ValueError as error:
        raise UserError(f"arch.args.video_params: {error}") from error
    _check_layout(vit, model, timm_name(params))
    if params.pretrained:
        load_image_weights(model, _image_weights(params), timm_name(params))
    return model


def timm_name(params: VideoParams) -> str:
    """Return timm's name of the architecture; the published ``base_patch16_224`` means a ViT."""
    name = params.arch_config
    return name if name.startswith("vit_") else f"vit_{name}"


def load_image_weights(
    model: SpaceTimeTransformer, weights: dict[str, Tensor], source: str
) -> None:
    """Copy an image ViT's weights; only what belongs to time stays as initialised.

    Raises:
        UserError: a weight is missing, left over or of another shape; all are listed.
    """
    own = model.state_dict()
    wanted = {name for name in own if not _is_time_only(name)}
    given = {name: w for name, w in weights.items() if not name.startswith("head")}
    faults = [f"missing {name}" for name in sorted(wanted - given.keys())]
    faults += [f"left over {name}" for name in sorted(given.keys() - wanted)]
    faults += [
        f"{name} is {tuple(given[name].shape)}, the model's {tuple(own[name].shape)}"
        for name in sorted(wanted & given.keys())
        if given[name].shape != own[name].shape
    ]
    if faults:
        raise UserError(f"image weights of {source} do not fit: " + "; ".join(faults))
    model.load_state_dict(given, strict=False)  # what is absent was checked above


def _is_time_only(name: str) -> bool:
    return any(part in TIME_ONLY for part in name.split("."))


def _image_model(params: VideoParams) -> nn.Module:
    """The image ViT on the meta device: sizes and names without memory."""
    import timm

    name = timm_name(params)
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.removeprefix('vit_').split('_')[0]}_patch*")
        hint = f"; timm has {', '.join(close[:8])} …" if close else ""
        raise UserError(f'arch.args.video_params.arch_config: unknown ViT "{name}"{hint}')
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False)


def _check_layout(vit: nn.Module, model: SpaceTimeTransformer, name: str) -> None:
    plain = {key.split(".", 2)[-1] for key in model.state_dict() if not _is_time_only(key)}
    odd = {
        key
        for key in vit.state_dict()
        if not key.startswith("head") and key.split(".", 2)[-1] not in plain
    }
    if odd:
        raise UserError(
            f'arch.args.video_params.arch_config: "{name}" is not a ViT of plain layout '
            f"(it also has {', '.join(sorted(odd)[:4])} …)"
        )


def _image_weights(params: VideoParams) -> dict[str, Tensor]:
    """Pretrained weights by timm tag, or of a local file, resized to the model's ``input_res``."""
    import timm

    name = timm_name(params)
    options: dict = {"img_size": params.input_res} if params.input_res else {}
    local = Path(params.vit_init)
    if local.exists():
        options["pretrained_cfg_overlay"] = {"file": str(_weight_file(local))}
    else:
        name = f"{name}.{params.vit_tag}"
    try:
        return timm.create_model(name, pretrained=True, **options).state_dict()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"image weights {name}: {str(error).splitlines()[0]}; without network put "
            f"model.safetensors of timm/{name} into a folder and give that folder as "
            f'arch.args.video_params.vit_init, or set "pretrained": false'
        ) from error


def _weight_file(path: Path) -> Path:
    """A file, or the weight file of a folder."""
    if path.is_file():
        return path
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return path / name
    raise UserError(f"{path}: holds neither model.safetensors nor pytorch_model.bin")
