"""Image-text towers at their published sizes, with random weights: time, memory, parameters.

    python -m benchmarks.towers                         # on a CPU: one thread, as many as --threads
    python -m benchmarks.towers --device cuda           # also training steps of the recipe
    python -m benchmarks.towers --tower open_clip:PE-Core-L-14-336 --device cuda

A query has as many tokens as a caption, padded where the tower wants it. A training step is that of
configs/TextVR_clip.json: 12 frames, 50 OCR words a video, in bf16. No files are needed but those of
the packages.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch

import model.registrations  # noqa: F401
from base.batch import Tokens
from benchmarks import measuring
from benchmarks.inputs import load_texts, make_batch
from benchmarks.one_step import build_step
from model.towers import describe_tower, load_tower
from parse_config import load_config
from trainer.build import build_model
from utils.cli import positive_int, run_cli
from utils.launch import configure_cuda
from utils.precision import Precision

CONFIG = measuring.ROOT / "configs/TextVR_clip.json"
TOWERS = (
    "openai/clip-vit-base-patch32", "openai/clip-vit-base-patch16",
    "google/siglip2-base-patch16-224", "open_clip:PE-Core-T-16-384",
    "open_clip:PE-Core-S-16-384", "open_clip:PE-Core-B-16",
)  # fmt: skip
FRAMES, WORDS, QUERY_TOKENS = 12, 50, 16
STEPS = 5
MANY = 8  # frames, or queries, that are encoded together
LORA = 'arch.args.lora={"rank": 16}'
# Ways to train: name -> changes of the configuration.
WAYS = {
    "whole": (),
    "recomputed": ("trainer.activation_checkpointing=true",),
    "LoRA": (LORA, "arch.args.freeze=all"),
}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--tower", action="append", metavar="NAME", help="may be repeated")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--threads", type=positive_int, default=1, help="of the CPU (%(default)s)")
    parser.add_argument("--batch", type=positive_int, default=32, help="videos of a training step")
    return parser.parse_args()


def measure_tower(name: str, device: torch.device) -> measuring.Result:
    """Return a tower's size, and the milliseconds of a frame and of a query, alone and of many."""
    tower = load_tower(name, pretrained=False).to(device).eval()
    side = describe_tower(name).frame_size
    precision = Precision("bf16" if device.type == "cuda" else "fp32", device)
    found: measuring.Result = {
        "tower": name,
        "parameters": sum(weight.numel() for weight in tower.parameters()),
        "of texts": sum(weight.numel() for weight in tower.list_text_parameters()),
        "side": side,
    }
    for count in (1, MANY):
        images = torch.randn(count, 3, side, side, device=device)
        ids = torch.randint(3, 1000, (count, QUERY_TOKENS), device=device)
        tokens = Tokens(ids, torch.ones_like(ids))
        works: dict[str, Callable[[], Any]] = {
            "frame": lambda images=images: tower.encode_images(images),
            "query": lambda t=tokens: tower.encode_texts(t.input_ids, t.attention_mask),
        }
        for part, work in works.items():
            with torch.inference_mode(), precision.autocast():
                seconds = measuring.time_median(work, device)
            found[f"{part}, {count}"] = 1000 * seconds / count
    return found


def measure_training(name: str, way: str, batch_size: int, device: torch.device) -> dict[str, Any]:
    """Return clips a second and the peak of training steps."""
    changes = [f"arch.args.tower={name}", "arch.args.pretrained=false", *WAYS[way]]
    if name.startswith("open_clip:"):
        changes = [change.replace('"rank": 16', '"rank": 16, "match": ["*in_proj_weight"]')
                   for change in changes]  # fmt: skip
    config = load_config(CONFIG, changes)
    network = build_model(config, device).train()
    for weight in network.parameters_without_gradient():
        weight.requires_grad_(False)
    if config.trainer.activation_checkpointing:
        network.recompute_activations()
    taken = describe_tower(name)
    batch = make_batch(load_texts(None), batch_size, WORDS, FRAMES, taken.frame_size, device)
    batch.query = cut_texts(batch.query, taken.max_tokens)
    step = build_step(config, network, batch)
    try:
        step()
        torch.cuda.reset_peak_memory_stats()
        seconds = measuring.time_call(lambda: [step() for _ in range(STEPS)], device) / STEPS
    except torch.OutOfMemoryError:
        return {"tower": name, "way": way, "clips/s": None, "GiB": None}
    peak = torch.cuda.max_memory_allocated() / 2**30
    return {"tower": name, "way": way, "clips/s": batch_size / seconds, "GiB": peak}


def cut_texts(tokens: Tokens, length: int) -> Tokens:
    """Return texts that have no more tokens than a tower takes."""
    return Tokens(tokens.input_ids[:, :length], tokens.attention_mask[:, :length])


def make_table(result: measuring.Result) -> str:
    """Return the tables in Markdown."""
    lines = [measuring.format_head(result), ""]
    names = ["tower", "parameters, M", "of texts, M", "side"]
    columns = [*names, "ms a frame", f"… of {MANY}", "ms a query", f"… of {MANY}"]
    rows = [
        [found["tower"], f"{found['parameters'] / 1e6:.0f}", f"{found['of texts'] / 1e6:.0f}",
         str(found["side"]), *(f"{found[key]:.2f}" for key in (
             "frame, 1", f"frame, {MANY}", "query, 1", f"query, {MANY}"))]
        for found in result["towers"]
    ]  # fmt: skip
    lines.append(measuring.format_table(columns, rows))
    if result["training"]:
        rows = [
            [found["tower"], found["way"], *(
                "does not fit" if found[key] is None else f"{found[key]:.1f}"
                for key in ("clips/s", "GiB"))]
            for found in result["training"]
        ]  # fmt: skip
        head = f"training, {result['batch']} clips"
        table = measuring.format_table([head, "way", "clips/s", "peak GiB"], rows, num_names=2)
        lines += ["", table]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the command."""
    asked = parse_arguments()
    device = torch.device(asked.device)
    torch.set_num_threads(asked.threads)
    if device.type == "cuda":
        configure_cuda()
    names = asked.tower or TOWERS
    result = measuring.describe_machine() | {"batch": asked.batch, "training": []}
    result["towers"] = [measure_tower(name, device) for name in names]
    if device.type == "cuda":
        result["training"] = [
            measure_training(name, way, asked.batch, device) for name in names for way in WAYS
        ]
    measuring.write_result(result, asked.json, make_table)


if __name__ == "__main__":
    run_cli(main)
