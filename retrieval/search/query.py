"""A query as the words that are looked for; anything a user types is plain text."""

import re
from dataclasses import dataclass

from retrieval.index.words import get_words

# Words that make a sentence and name nothing; they count where a query has no other, or in quotes.
FUNCTION_WORDS = frozenset(
    "a an the and or but nor so as at by for from in into of on onto over to under with without "
    "is are was were be been being am do does did has have had can could will would it its "
    "he she they we you i his her their our your my me him them us this that these those there "
    "here which who whom whose what when where while how".split()
)
_QUOTED = re.compile(r'"([^"]*)"|“([^”]*)”|„([^“”]*)[“”]|«([^»]*)»')


@dataclass(frozen=True)
class Term:
    """A word that is looked for, or a quoted phrase."""

    text: str  # folded; the words of a phrase are one blank apart
    quoted: bool = False  # whether it is found only as it stands

    @property
    def words(self) -> list[str]:
        """The words of a phrase, or the one word."""
        return self.text.split(" ")

    @property
    def max_distance(self) -> int:
        """How many letters of a fuzzy match may be other ones, missing, extra, or swapped.

        None in short words, and in numbers: a number with another digit is another number.
        """
        if self.quoted or self.text.isdecimal() or len(self.text) < 4:
            return 0
        return 1 if len(self.text) < 8 else 2


def parse_terms(query: str) -> list[Term]:
    """Return the words and quoted phrases of a query, each once.

    A quotation mark without a partner is punctuation. A query of punctuation has no term.
    """
    phrases = [Term(" ".join(get_words("".join(found))), True) for found in _QUOTED.findall(query)]
    words = [Term(word) for word in get_words(_QUOTED.sub(" ", query))]
    phrases = [phrase for phrase in phrases if phrase.text]
    naming = [word for word in words if word.text not in FUNCTION_WORDS]
    return list(dict.fromkeys(phrases + (naming or ([] if phrases else words))))
