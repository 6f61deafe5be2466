"""A reader of a report's page, which refuses HTML whose elements do not close in order."""

from html.parser import HTMLParser

VOID = {"meta", "link"}


class ReportReader(HTMLParser):
    """What is on a page.

    Attributes:
        elements: (name, attributes, text within) of each element, in the order of their ends; line
            ends at the beginning and end of a piece of text are the template's and left out.
    """

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict, str]] = []
        self._open: list[tuple[str, dict, list[str]]] = []
        self.feed(page)
        self.close()
        assert not self._open, f"not closed: {[name for name, _, _ in self._open]}"

    def handle_starttag(self, name, attributes):
        if name in VOID:
            self.elements.append((name, dict(attributes), ""))
            return
        self._open.append((name, dict(attributes), []))

    def handle_endtag(self, name):
        opened, attributes, parts = self._open.pop()
        assert opened == name, f"<{opened}> ends as </{name}>"
        text = "".join(parts)
        self.elements.append((name, attributes, text))
        if self._open:
            self._open[-1][2].append(text if name not in ("script", "style") else "")

    def handle_data(self, data):
        if self._open and (data.strip() or "\n" not in data):  # not the line ends between elements
            self._open[-1][2].append(data.strip("\n"))

    def texts(self, name: str, of_class: str | None = None) -> list[str]:
        """Return the texts of the elements of a name, and class."""
        return [
            text
            for found, attributes, text in self.elements
            if found == name and (of_class is None or of_class in classes(attributes))
        ]

    def tables(self) -> dict[str, list[list[str]]]:
        """Return caption -> rows of cells, the head first; equal captions are numbered."""
        found: dict[str, list[list[str]]] = {}
        cells, rows, caption = [], [], ""
        for name, _, text in self.elements:
            if name in ("td", "th"):
                cells.append(text)
            elif name == "tr":
                rows.append(cells)
                cells = []
            elif name == "caption":
                caption = text
            elif name == "table":
                while caption in found:
                    caption += "'"
                found[caption], rows = rows, []
        return found


def classes(attributes: dict) -> list[str]:
    return (attributes.get("class") or "").split()
