"""YouCook2: cooking videos with captions and OCR documents, annotated in the TextVR form."""

from base.registry import DATASETS
from data_loader.annotated import AnnotatedVideos


@DATASETS.register("YouCook2", provided=("data_dir", "options", "transform"))
class YouCook2(AnnotatedVideos):
    """The YouCook2 data set; the validation set stands for the test set, which has no captions."""

    stem = "YouCook2"
