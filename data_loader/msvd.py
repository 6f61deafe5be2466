"""MSVD: 1,970 short clips of about 40 captions each, annotated in the TextVR form."""

from base.registry import DATASETS
from data_loader.annotated import AnnotatedVideos


@DATASETS.register("MSVD", provided=("data_dir", "options", "transform"))
class MSVD(AnnotatedVideos):
    """The MSVD data set; the test set stands for the validation set where there is none."""

    stem = "MSVD"
