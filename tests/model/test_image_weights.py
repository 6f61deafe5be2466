import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from model.initialization import build_space_time_vit, load_image_weights
from model.params import PUBLISHED_VIT_TAG, VideoParams
from model.space_time_vit import SpaceTimeTransformer
from utils.errors import UserError

TINY = "tiny_patch16_224"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No network, and no truncated normal distributions: they take most of a model's time."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", torch.nn.init.normal_)
    monkeypatch.setattr("timm.models.vision_transformer.trunc_normal_", torch.nn.init.normal_)


@pytest.fixture(scope="module")
def weights():
    """Of a real timm ViT of plain layout."""
    with torch.device("meta"):
        shapes = timm.create_model(f"vit_{TINY}").state_dict()
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(w.shape, generator=generator) * 0.1 for n, w in shapes.items()}


def saved(folder, weights, name="model.safetensors"):
    folder.mkdir(exist_ok=True)
    if name.endswith(".safetensors"):
        save_file(weights, folder / name)
    else:
        torch.save(weights, folder / name)
    return folder


def build(**options):
    return build_space_time_vit(VideoParams(**({"arch_config": TINY} | options)))


def refused(**options):
    with pytest.raises(UserError) as caught:
        build(**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("as_file", [False, True])
def test_local_weights_are_loaded_to_the_last(tmp_path, weights, name, as_file):
    folder = saved(tmp_path, weights, name)
    model = build(vit_init=str(folder / name if as_file else folder), num_frames=2)
    own = model.state_dict()
    images = {n for n in own if not {"timeattn", "norm3", "temporal_embed"} & set(n.split("."))}
    assert images == {n for n in weights if not n.startswith("head")}
    assert all(own[n].equal(weights[n]) for n in images)
    assert own["blocks.5.timeattn.qkv.weight"].eq(0).all() and own["temporal_embed"].eq(0).all()
    assert (model.input_res, model.embed_dim, model.num_frames) == (224, 192, 2)


def test_another_input_res_interpolates_the_positions(tmp_path, weights):
    model = build(vit_init=str(saved(tmp_path, weights)), input_res=64)
    own = model.state_dict()
    assert model.input_res == 64 and own["pos_embed"].shape == (1, 17, 192)
    expected = resample_abs_pos_embed(weights["pos_embed"], [4, 4])
    torch.testing.assert_close(own["pos_embed"], expected)
    assert own["pos_embed"][:, 0].equal(weights["pos_embed"][:, 0])
    assert own["patch_embed.proj.weight"].equal(weights["patch_embed.proj.weight"])


def test_a_head_of_another_size_does_no_harm(tmp_path, weights):
    other = weights | {"head.weight": torch.zeros(7, 192), "head.bias": torch.zeros(7)}
    model = build(vit_init=str(saved(tmp_path, other)))
    assert model.norm.weight.equal(weights["norm.weight"])


def test_weights_that_do_not_fit_are_all_listed(tmp_path, weights):
    some = {n: w for n, w in weights.items() if "blocks.3.attn" not in n} | {"x": torch.ones(1)}
    some["norm.bias"] = torch.zeros(5)
    message = refused(vit_init=str(saved(tmp_path, some)))
    for text in (
        "missing blocks.3.attn.proj.bias; missing blocks.3.attn.proj.weight; missing "
        "blocks.3.attn.qkv.bias; missing blocks.3.attn.qkv.weight",
        "unexpected x",
        "norm.bias is (5,), the model's (192,)",
    ):
        assert text in message
    assert message.count("missing") == 4


def test_sizes_that_the_weights_have_not_are_errors(tmp_path, weights):
    folder = str(saved(tmp_path, weights))
    assert "unexpected blocks.11" in refused(vit_init=folder, depth=11)
    assert "missing blocks.12" in refused(vit_init=folder, depth=13)
    assert "num_heads" in refused(vit_init=folder, num_heads=6)  # same shapes, other meaning
    assert build(num_heads=6, pretrained=False, depth=1).blocks[0].attn.num_heads == 6


def test_load_image_weights_leaves_what_belongs_to_time():
    model = SpaceTimeTransformer(8, 4, embed_dim=8, depth=1, num_heads=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    time = [n for n in before if "timeattn" in n or "norm3" in n or n == "temporal_embed"]
    images = {n: w + 1 for n, w in before.items() if n not in time}
    load_image_weights(model, images, "test")
    after = model.state_dict()
    assert len(time) == 7 and all(after[n].equal(before[n]) for n in time)
    assert all(after[n].equal(images[n]) for n in images)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"no weights"),
        ("pytorch_model.bin", b"no weights"),
        ("model.safetensors", b""),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    message = refused(vit_init=str(tmp_path))
    assert str(tmp_path) in message and "state dict of timm's vit_tiny" in message


class Trap:
    def __reduce__(self):
        return print, ("executed",)


def test_nothing_in_a_pickle_is_executed(tmp_path, capsys):
    torch.save({"norm.weight": Trap()}, tmp_path / "pytorch_model.bin")
    refused(vit_init=str(tmp_path))
    torch.save([1], tmp_path / "pytorch_model.bin")
    refused(vit_init=str(tmp_path))
    assert "executed" not in capsys.readouterr().out


def test_a_folder_or_path_without_weights(tmp_path):
    assert "neither model.safetensors nor pytorch_model.bin" in refused(vit_init=str(tmp_path))
    assert "no such file or folder" in refused(vit_init=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("vit_base_patch14_dinov2", "ls1.gamma"),  # layer scale
        ("vit_so150m_patch16_reg4_gap_256", "reg_token"),
        ("vit_base_patch16_siglip_224", "attn_pool"),
        ("vit_base_patch16_clip_224", "norm_pre"),
        ("vit_giant_patch16_gap_224", "cls_token"),  # has none
        ("vit_base_patch16_224_miil", "qkv.bias"),  # has none
        ("vit_base_patch16_rpn_224", "blocks are of another kind"),  # all names alike
        ("vit_base_patch16_xp_224", "blocks are of another kind"),
        ("vit_base_patch32_clip_quickgelu_224", "QuickGELU"),
    ],
)
def test_a_vit_that_is_not_plain_is_refused_even_without_weights(name, what):
    message = refused(arch_config=name, pretrained=False)
    assert f'arch_config: "{name}" is not a ViT of plain layout' in message and what in message


def test_unknown_names():
    message = refused(arch_config="tiny_patch16_225", pretrained=False)
    assert 'unknown ViT "vit_tiny_patch16_225"; timm has vit_tiny_patch16_224' in message
    assert "deit" not in message and "swin" not in message
    assert 'unknown ViT "vit_resnet18"' in refused(arch_config="resnet18", pretrained=False)


def test_names_and_tags():
    assert VideoParams().timm_name == "vit_base_patch16_224"
    assert VideoParams(arch_config="vit_small_patch16_224").timm_name == "vit_small_patch16_224"
    assert VideoParams(vit_init="imagenet-21k").vit_tag == PUBLISHED_VIT_TAG
    assert VideoParams(vit_init="mine").vit_tag == "mine"


def test_without_network_the_message_says_which_file_to_put_where():
    message = refused()
    assert f"put model.safetensors of timm/vit_{TINY}.{PUBLISHED_VIT_TAG} into a folder" in message
    assert "arch.args.video_params.vit_init" in message and '"pretrained": false' in message
    assert "Invalid pretrained tag (nonsense)" in refused(vit_init="nonsense")


def test_sizes_of_the_configuration_win():
    sizes = {"input_res": 32, "patch_size": 8, "embed_dim": 12, "depth": 2, "mlp_ratio": 3.0}
    model = build(pretrained=False, num_heads=2, **sizes)
    assert model.pos_embed.shape == (1, 17, 12) and len(model.blocks) == 2
    assert model.blocks[0].mlp.fc1.out_features == 36 and model.blocks[0].attn.num_heads == 2
    assert "not a multiple of patch size" in refused(pretrained=False, input_res=65)
