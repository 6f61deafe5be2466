"""What a configuration says of a loader: ``data_loader.args.video_params`` and ``text_params``."""

from typing import Annotated, Literal

from pydantic import Field

from base.config import NO_EFFECT, ConfigModel


class LoaderVideoParams(ConfigModel):
    """Which frames are read, and at what size."""

    input_res: int = Field(224, ge=1, description="Side of the frames given to the model, pixels.")
    num_frames: int = Field(4, ge=1, description="Frames of a clip.")
    loading: Literal["strict", "lax"] = Field(
        "strict",
        description="strict: an unreadable video stops the run; lax: a black clip stands in, "
        "listed in the run's report and counted in the metrics file.",
    )
    extraction_fps: Annotated[int | None, NO_EFFECT] = Field(None, description="Published key.")
    extraction_res: Annotated[int | None, NO_EFFECT] = Field(None, description="Published key.")
    stride: Annotated[int | None, NO_EFFECT] = Field(None, description="Published key.")


class LoaderTextParams(ConfigModel):
    """Which caption of a video is the query."""

    input: Literal["text"] = Field("text", description="Published key; queries are texts.")
    caption_sample: Literal["rand", "first"] = Field(
        "rand",
        description="Training: a random caption of the video, or its first. "
        "Validation and test always use all captions.",
    )
    max_tokens: int | None = Field(
        None, ge=3, description="Queries are cut to this many tokens; null: the tokenizer's limit."
    )
