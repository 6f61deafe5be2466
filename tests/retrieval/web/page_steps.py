"""What tests of the page do with it: search, read what it shows, drop a file."""

import base64
import json

from headless_browser import Page

CARDS = "[...document.querySelectorAll('#results .play')]"
MOMENTS = "[...document.querySelectorAll('#results .moment')]"
SETTLED = "document.querySelector('#results').getAttribute('aria-busy') === 'false'"
FOCUSED = "document.activeElement"
VIDEO = "document.querySelector('#video')"
PLAYS = f"document.querySelector('#player').open && {VIDEO}.readyState >= 2"
CLOSED = "!document.querySelector('#player').open"
PICTURES = (
    "[...document.querySelectorAll('.cards img')].filter(image => image.checkVisibility())"
    ".every(image => image.naturalWidth > 100)"
)
LOADED = "['#filled', '#empty'].some(id => document.querySelector(id)?.hidden === false)"


def text(page: Page, selector: str) -> str:
    return page.value(f"document.querySelector({selector!r}).textContent")


def texts(page: Page, selector: str) -> list[str]:
    return page.value(
        f"[...document.querySelectorAll({selector!r})].map(one => one.textContent.trim())"
    )


def names(page: Page) -> list[str]:
    """What a screen reader says of the results."""
    return page.value(f"{CARDS}.map(card => card.ariaLabel)")


def choose(page: Page, selector: str, value: str) -> None:
    """Choose from a list, or set a date, as a person would."""
    page.value(
        f"{{ const field = document.querySelector({selector!r}); field.value = {value!r};"
        "field.dispatchEvent(new Event('change', {bubbles: true})); }"
    )


def open_filters(page: Page) -> None:
    if page.value("document.querySelector('#filter-toggle').ariaExpanded") == "false":
        page.click("#filter-toggle")


def search(page: Page, query: str, mode: str = "hybrid") -> list[str]:
    """Search with the mouse; returns the names of the results, for a screen reader."""
    page.click(f"input[value={mode}]")
    page.value("document.querySelector('#query').value = ''")
    page.click("#query")
    page.type(query)
    page.click("#submit")
    page.wait_for(f"document.title.startsWith({query!r}) && {SETTLED}")
    return names(page)


def play(page: Page, selector: str = "#results .play") -> None:
    """Click on a card or a moment and wait for its picture."""
    page.click(selector)
    page.wait_for(f"{PLAYS} && !{VIDEO}.seeking")


def stop_playing(page: Page) -> None:
    """Videos stay where they begin, from now on."""
    page.value("HTMLMediaElement.prototype.play = () => Promise.resolve(); 0")


def wait_for_status(page: Page, start: str) -> None:
    page.wait_for(f"document.querySelector('#status').textContent.includes({json.dumps(start)}) "
                  f"&& {SETTLED}")  # fmt: skip


def hand_over(page: Page, content: bytes, name: str, kind: str, event: str = "drop") -> None:
    """Drop a file on the search field, or paste it."""
    data = json.dumps(base64.b64encode(content).decode())
    start = (
        "new DragEvent('drop', {dataTransfer: data,"
        if event == "drop"
        else ("new ClipboardEvent('paste', {clipboardData: data,")
    )
    page.value(
        f"{{ const bytes = Uint8Array.from(atob({data}), c => c.charCodeAt(0));"
        "const data = new DataTransfer();"
        f"data.items.add(new File([bytes], {json.dumps(name)}, {{type: {json.dumps(kind)}}}));"
        f"document.querySelector('#query').dispatchEvent({start} bubbles: true,"
        "cancelable: true})); }"
    )


def find_overflow(page: Page, width: int) -> list[str]:
    """Return what stands out of a window of this width; also where the page can be scrolled."""
    assert page.value("document.documentElement.scrollWidth") <= width
    return page.value(
        "[...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && "
        f"e.getBoundingClientRect().right > {width} + 0.5 && !e.closest('#strip'))"
        ".map(e => e.outerHTML.slice(0, 90))"
    )


def list_controls(page: Page) -> list[tuple[str, str]]:
    """Return role and name, for a screen reader, of everything that can be used."""
    roles = {"button", "link", "textbox", "searchbox", "radio", "checkbox", "combobox", "dialog",
             "slider", "Video", "Date", "DisclosureTriangle"}  # fmt: skip
    return [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in page.ask("Accessibility.getFullAXTree")["nodes"]
        if not node["ignored"] and node["role"]["value"] in roles
    ]
