"""Sizes and initial weights of the image model: any timm ViT of plain layout."""

from pathlib import Path

import torch
from torch import Tensor, nn

from model.params import VideoParams
from model.video_transformer import LAYER_NORM_EPS, SpaceTimeTransformer
from utils.errors import UserError

# What the space-time model has and an image model has not.
TIME_ONLY = ("temporal_embed", "timeattn", "norm3")


def build_video_model(params: VideoParams) -> SpaceTimeTransformer:
    """Build the video encoder, with the image weights that ``params`` names.

    Raises:
        UserError: the ViT is unknown, not of plain layout, or its weights are not to be had.
    """
    name, vit = timm_name(params), _image_model(params)
    _check_layout(vit, name)
    own = _sizes(vit)
    sizes = own | params.sizes()
    if params.pretrained and sizes["num_heads"] != own["num_heads"]:
        raise UserError(
            f"arch.args.video_params.num_heads: the image weights of {name} are of "
            f'{own["num_heads"]} heads; leave it out, or set "pretrained": false'
        )
    try:
        model = SpaceTimeTransformer(
            **sizes, num_frames=params.num_frames, time_init=params.time_init
        )
    except ValueError as error:
        raise UserError(f"arch.args.video_params: {error}") from error
    if params.pretrained:
        load_image_weights(model, _image_weights(params), name)
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
        close = timm.list_models(f"vit_{name.removeprefix('vit_').split('_')[0]}_patch*")
        hint = f"; timm has {', '.join(close[:8])} …" if close else ""
        raise UserError(f'arch.args.video_params.arch_config: unknown ViT "{name}"{hint}')
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False)


def _sizes(vit: nn.Module) -> dict[str, int | float]:
    return {
        "input_res": vit.patch_embed.img_size[0],
        "patch_size": vit.patch_embed.patch_size[0],
        "embed_dim": vit.embed_dim,
        "depth": len(vit.blocks),
        "num_heads": vit.blocks[0].attn.num_heads,
        "mlp_ratio": vit.blocks[0].mlp.fc1.out_features / vit.embed_dim,
    }


def _check_layout(vit: nn.Module, name: str) -> None:
    """Refuse a ViT that computes something else than ``SpaceTimeTransformer`` without time."""
    odd = _odd_parts(vit)
    if odd:
        raise UserError(
            f'arch.args.video_params.arch_config: "{name}" is not a ViT of plain layout: '
            + ", ".join(odd)
        )


def _odd_parts(vit: nn.Module) -> list[str]:
    """What of a timm model is not plain; layers of one function may bear another's names."""
    from timm.models.vision_transformer import Block

    if not all(type(block) is Block for block in getattr(vit, "blocks", [None])):
        return ["its blocks are of another kind"]
    with torch.device("meta"):
        plain = SpaceTimeTransformer(**_sizes(vit))
    shapes = [
        {name: value.shape for name, value in model.state_dict().items() if _is_of_images(name)}
        for model in (vit, plain)
    ]
    differing = sorted(n for n in shapes[0] | shapes[1] if shapes[0].get(n) != shapes[1].get(n))
    odd = [f"{', '.join(differing[:4])} …"] if differing else []
    act = vit.blocks[0].mlp.act
    if not isinstance(act, nn.GELU) or act.approximate != "none":
        odd.append(f"its MLP has {act}")
    eps = vit.blocks[0].norm1.eps
    if eps != LAYER_NORM_EPS:
        odd.append(f"its norms have eps {eps}")
    return odd


def _is_of_images(name: str) -> bool:
    return not name.startswith("head") and not _is_time_only(name)


def _image_weights(params: VideoParams) -> dict[str, Tensor]:
    """Pretrained weights by timm tag, or of a local file, resized to the model's ``input_res``."""
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    options = {"img_size": params.input_res} if params.input_res else {}
    name, local = timm_name(params), Path(params.vit_init)
    if "/" in params.vit_init and not local.exists():
        raise UserError(f"arch.args.video_params.vit_init: {local}: no such file or folder")
    if local.exists():
        remedy = f"give a state dict of timm's {name} (safetensors, or a torch file of tensors)"
    else:
        name = f"{name}.{params.vit_tag}"
        remedy = (
            f"without network put model.safetensors of timm/{name} into a folder and give that "
            'folder as arch.args.video_params.vit_init, or set "pretrained": false'
        )
    try:
        if not local.exists():
            return timm.create_model(name, pretrained=True, **options).state_dict()
        with torch.device("meta"):
            vit = timm.create_model(name, pretrained=False, **options)
        weights = timm.models.load_state_dict(str(_weight_file(local)), weights_only=True)
        return checkpoint_filter_fn(weights, vit)  # timm's own: position embeddings resized
    except UserError:
        raise
    except Exception as error:  # of hub, safetensors, pickle: the types share no base class
        detail = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"image weights {params.vit_init}: {detail}; {remedy}") from error


def _weight_file(path: Path) -> Path:
    """A file, or the weight file of a folder."""
    if path.is_file():
        return path
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return path / name
    raise UserError(f"{path}: holds neither model.safetensors nor pytorch_model.bin")
