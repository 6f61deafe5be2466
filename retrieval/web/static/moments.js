// The moments of a video that was found: one for each line that matched, at the line's own time.

import { groupByLine } from "./dom.js";

const MIN_APART_S = 1; // lines that come nearer together are one moment

export const isLine = (word) => word.track_kind !== "name";

// An answer has a moment for each window, with all words in it. A line that goes on in the next
// window is one moment; a name is of the whole video and has no time. Best first.
export function listMoments(video) {
  const moments = [];
  const known = new Set();
  for (const moment of video.moments ?? []) {
    if (!moment.words.length) moments.push({ ...moment, words: [] });
    const words = moment.words.filter(isLine);
    for (const [index, [key, line]] of [...groupByLine(words)].entries()) {
      if (known.has(key)) continue;
      known.add(key);
      const time = index ? Math.max(line.start_s, moment.start_s) : moment.time_s;
      const own = words.filter((word) => word.start_s === line.start_s && word.text === line.text);
      const near = moments.find((other) => Math.abs(other.time_s - time) < MIN_APART_S);
      if (near) near.words.push(...own);
      else moments.push({ ...moment, time_s: time, words: own, box: index ? line.box : moment.box });
    }
  }
  return moments;
}

// Where the words that matched a name stand in a path, in characters: [{first, end, kind, query}].
// The name of an answer is the path's words, without what stands between them.
export function markPath(path, words) {
  const letters = [...path].map(fold);
  const names = words.filter((word) => !isLine(word));
  return names.flatMap(({ word, kind, query }) => word.split(" ").flatMap((part) => {
    const wanted = [...fold(part)];
    const isAt = (first) => wanted.every((letter, index) => letters[first + index] === letter)
      && !isLetter(letters[first - 1]) && !isLetter(letters[first + wanted.length]);
    const found = letters.findIndex((_, first) => isAt(first));
    return found < 0 ? [] : [{ first: found, end: found + wanted.length, kind, query }];
  }));
}

const fold = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
const isLetter = (letter) => letter !== undefined && /[\p{L}\p{N}]/u.test(letter);
