"""DiDeMo: 10k unedited videos, their captions joined to a paragraph, in the TextVR form."""

from base.registry import DATASETS
from data_loader.annotated import AnnotatedVideos


@DATASETS.register("DiDeMo", provided=("data_dir", "options", "transform"))
class DiDeMo(AnnotatedVideos):
    """The DiDeMo data set; the test set stands for the validation set where there is none."""

    stem = "DiDeMo"
