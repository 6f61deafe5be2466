"""HTML from data: everything is escaped but what was made here."""

import html


class Html(str):
    """Text that is HTML already."""


def escaped(text: object) -> Html:
    """Escape a text; characters that no file can hold become question marks."""
    clean = str(text).encode("utf-8", "replace").decode("utf-8")
    return Html(html.escape(clean, quote=True))


def joined(*children: object) -> Html:
    """Join HTML and texts, of which the texts are escaped; None is left out."""
    return Html(
        "".join(
            child if isinstance(child, Html) else escaped(child)
            for child in children
            if child is not None
        )
    )


def tag(name: str, *children: object, **attributes: object) -> Html:
    """Return an element.

    Args:
        name: of the element.
        children: HTML, or texts that are escaped; None is left out.
        attributes: ``class_`` is class, and ``_`` inside a name is ``-``; None is left out, True
            is an attribute without a value.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(key if value is True else f'{key}="{escaped(value)}"')
    return Html(f"<{' '.join(parts)}>{joined(*children)}</{name}>")


def table(
    caption: str, names: list[object], rows: list[list[object]], **attributes: object
) -> Html:
    """Return a table whose first column names its rows.

    On a narrow screen a row becomes a card, in which each value stands under its column's name.

    Args:
        caption: what it is.
        names: of the columns.
        rows: values; HTML, or texts that are escaped.
        attributes: of the table.
    """
    head = tag("tr", *(tag("th", name, scope="col") for name in names))
    body = []
    for row in rows:
        cells = [tag("th", row[0], scope="row")]
        for name, value in zip(names[1:], row[1:], strict=True):
            cells.append(tag("td", value, data_name=name))
        body.append(tag("tr", *cells))
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", head),
        tag("tbody", *body),
        **attributes,
    )
