"""TextVR (arXiv 2305.03347): 10.5k videos of eight categories with captions and OCR documents."""

import logging

from base.base_dataset import VideoEntry
from base.registry import DATASETS
from data_loader.annotated import AnnotatedVideos
from data_loader.annotations import AnnotationError, textvr_entries
from data_loader.shuffled import is_shuffled

logger = logging.getLogger(__name__)

ANNOTATIONS = {
    "train": "TextVR_train.json",
    "val": "TextVR_test.json",
    "test": "TextVR_test.json",
}
SHUFFLED = "TextVR_test_rand.json"
README_HINT = "README.md, section “Get the TextVR data”, says where the files are"


@DATASETS.register("TextVR", provided=("data_dir", "options", "transform"))
class TextVR(AnnotatedVideos):
    """The TextVR data set, and every data set in its layout."""

    recipe = "textvr"

    def default_annotation(self) -> str:
        """Return the split's file; there is no separate validation set, as published."""
        return ANNOTATIONS[self.options.split]

    def load_entries(self) -> list[VideoEntry]:
        """Read the annotations.

        Raises:
            AnnotationError: the annotation file or the video folder is missing or faulty.
        """
        self._check_files()
        return textvr_entries(self.annotation_file, self.video_dir(README_HINT), self.ocr_dir)

    def _check_files(self) -> None:
        file = self.annotation_file
        if not file.is_file():
            shuffled = file.with_name(SHUFFLED)
            hint = (
                f"; {shuffled.name} lies beside it, but its videos are shuffled: every metric on "
                "it is chance. Name it as data_loader.args.annotation_file only to make a matrix "
                "for the challenge server"
                if shuffled.is_file()
                else ""
            )
            raise AnnotationError(f"{file}: no such annotation file; {README_HINT}{hint}")
        reason = is_shuffled(file)
        self.shuffled = reason is not None
        if reason is not None:
            logger.warning(
                "%s: this is the SHUFFLED test file (%s). Metrics on it are chance, whatever the "
                "model is worth; only the similarity matrix has a meaning",
                file,
                reason,
            )
