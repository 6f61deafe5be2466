"""Single queries: where their own video stands, what stands before it, which words were read."""

from collections.abc import Sequence

from utils.report.contents import Attention, Contents, Example, Hit
from utils.report.markup import Html, joined, tag

FEW_WORDS = 24  # that are shown at once, the rest on demand


def queries_section(contents: Contents, examples: Sequence[Example]) -> Html:
    """Return the cards of some queries of the first run."""
    if not examples:
        return tag("p", "None: there are too few captions.")
    run = contents.runs[0]
    said = f"Queries of {run.label}"
    if len(contents.runs) > 1:
        said += ", and where their video stands in the other runs"
    cards = (_card(contents, example) for example in examples)
    return joined(tag("p", said + "."), tag("div", *cards, class_="cards"))


def rank_text(rank: float) -> str:
    """Return a rank; one that is shared has a half."""
    return f"{rank:.1f}".removesuffix(".0")


def percent(share: float) -> str:
    """Return a share in per cent."""
    return f"{100 * share:.1f}\u00a0%"


def _card(contents: Contents, example: Example) -> Html:
    own = contents.video_of_query[example.query]
    ranks = []
    for run in contents.runs:
        said = f"{run.letter} ({' and '.join(run.modalities)})"
        what = f"rank in {said}: " if len(contents.runs) > 1 else "rank: "
        ranks.append(tag("li", what, tag("b", rank_text(run.ranks[example.query]))))
    ranks.append(tag("li", "similarity: ", tag("b", f"{example.score:.3f}")))
    hits = (_hit(contents, place, hit) for place, hit in enumerate(example.top, start=1))
    picture = thumbnail(contents, own, "its own video")
    name = tag("h4", "Its own video: ", tag("bdi", contents.ids[own]))
    shares, words = _attention(example.attention)
    about = tag("div", name, shares, class_="about")
    return tag(
        "article",
        tag("h3", tag("bdi", contents.captions[example.query])),
        tag("ul", *ranks, class_="ranks"),
        tag("div", picture, about, words, class_="own"),
        tag("h4", "Found first"),
        tag("ol", *hits, class_="top"),
        class_="card",
    )


def _hit(contents: Contents, place: int, hit: Hit) -> Html:
    said = f"place {place}" + (", the right one" if hit.is_right else "")
    mark = "\u2713 " if hit.is_right else ""
    return tag(
        "li",
        thumbnail(contents, hit.video, said),
        f"{mark}{hit.score:.3f}",
        class_="is-right" if hit.is_right else None,
    )


def thumbnail(contents: Contents, video: int, said: str) -> Html:
    """Return a video's picture, or a box that says that there is none."""
    name = f"{said}: {contents.ids[video]}"
    if contents.thumbnails.get(video) is None:
        return tag("span", "can't be read", class_="thumb none", title=name)
    return tag("span", class_=f"thumb v{video}", role="img", aria_label=name, title=name)


def _attention(attention: Attention | None) -> tuple[Html, Html | None]:
    """The shares of query token, video and words, and the words."""
    if attention is None:
        return tag("p", "The model has no fusion layer: it reads no words.", class_="soft"), None
    parts = [f"query token {percent(attention.query_token)}"]
    if attention.video is not None:
        parts.append(f"video feature {percent(attention.video)}")
    if not attention.words:
        parts.append(f"empty word {percent(attention.shares[0])}")
        said = tag("p", "Attention: ", ", ".join(parts), class_="soft")
        return said, tag("p", "No word was read in it.", class_="all-words")
    count = len(attention.words)
    parts.append(f"{count} word{'s' if count > 1 else ''} {percent(sum(attention.shares))}")
    return tag("p", "Attention: ", ", ".join(parts), class_="soft"), _words(attention)


def _words(attention: Attention) -> Html:
    """The words, most attention first; those beyond ``FEW_WORDS`` on demand."""
    pairs = sorted(zip(attention.words, attention.shares, strict=True), key=lambda pair: -pair[1])
    most = pairs[0][1] or 1.0
    chips = [_word(word, share, share / most) for word, share in pairs]
    more = None
    if len(chips) > FEW_WORDS:
        summary = tag("summary", f"{len(chips) - FEW_WORDS} more words")
        more = tag("details", summary, tag("ul", *chips[FEW_WORDS:], class_="words"))
    shown = tag("ul", *chips[:FEW_WORDS], class_="words", aria_label="words, most attention first")
    return tag("div", shown, more, class_="all-words")


def _word(word: str, share: float, shade: float) -> Html:
    return tag(
        "li",
        tag("bdi", word),
        " ",
        tag("small", percent(share)),
        class_="word",
        style=f"--a:{shade:.3f}",
    )
