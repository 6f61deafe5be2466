"""WebVid (arXiv 2104.00650): 2.5M or 10M web videos with alt texts, or the TextVR form of some."""

from collections.abc import Sequence

from base.base_dataset import VideoEntry
from base.registry import DATASETS
from data_loader.annotated import DEFAULT_CUT, AnnotatedVideos
from data_loader.annotations import AnnotationError
from data_loader.table import read_table, table_entries

MAX_CAPTION = 350  # characters, as published


@DATASETS.register("WebVid", provided=("data_dir", "options", "transform"))
class WebVid(AnnotatedVideos):
    """The WebVid data set.

    ``cut`` ``2M``, ``10M`` or that of another file: ``metadata/results_{cut}_{split}.csv`` with
    the columns videoid, page_dir and name (the caption), videos ``videos/PAGE_DIR/VIDEOID.mp4``,
    OCR documents, where there are any, ``Kwai_VideoOCR/PAGE_DIR/VIDEOID.json``. Of a longer
    validation file 1000 rows are drawn, those of the published code.
    ``cut`` ``split``, or an ``annotation_file`` in JSON: the form of TextVR, see
    ``AnnotatedVideos``.
    """

    stem = "WebVid"

    def default_annotation(self) -> str:
        """Return the file of the cut and split."""
        if self.cut is None:
            raise AnnotationError(
                'WebVid has several cuts; set data_loader.args.cut to "2M" or "10M" for '
                'metadata/results_{cut}_{split}.csv, to "split" for the TextVR form'
            )
        if self.cut == DEFAULT_CUT:
            return super().default_annotation()
        return f"metadata/results_{self.cut}_{self.options.split}.csv"

    def load_entries(self) -> Sequence[VideoEntry]:
        """Read the annotations.

        Raises:
            AnnotationError: no cut is given, or a file is missing or faulty.
        """
        file = self.annotation_file
        if file.suffix.lower() == ".json":
            return self.annotated_entries()
        draw = self.options.split == "val" and self.subsample == 1
        table = read_table(file, ("videoid", "page_dir", "name"), draw)
        names = table["page_dir"] + "/" + table["videoid"] + ".mp4"
        captions = table["name"].str[:MAX_CAPTION]
        ocr_dir = self.ocr_dir if self.ocr_dir.is_dir() else None
        return table_entries(file, names, captions, self.data_dir / "videos", ocr_dir)
