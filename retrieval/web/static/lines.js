// The list of a video's lines of text, read and said; those that matched are marked.

import { button, byId, createKindMark, element, formatTenths, markText } from "./dom.js";

export class Lines {
  constructor(seek) {
    this.seek = seek;
    this.list = byId("lines");
    this.clear();
  }

  clear() {
    this.tracks = [];
    this.buttons = [];
    this.seen = [];
    this.list.replaceChildren();
    byId("no-lines").hidden = true;
  }

  // marksOf: track -> its marks, or undefined
  show(tracks, marksOf) {
    this.tracks = tracks;
    this.marksOf = marksOf;
    this.buttons = tracks.map((track) => {
      const marks = marksOf(track);
      const time = element("span", { class: "time", text: formatTenths(track.start_s) });
      const text = element(
        "span", { dir: "auto" }, createKindMark(track.kind), ...markText(track.text, marks ?? []),
      );
      const attributes = marks ? { class: "matched" } : {};
      return button(attributes, () => this.seek(track.start_s), time, text);
    });
    this.list.replaceChildren(...this.buttons.map((line) => element("li", {}, line)));
    byId("no-lines").hidden = tracks.length > 0;
  }

  draw(seen) {
    this.seen = seen;
    for (const [number, line] of this.buttons.entries()) {
      if (line.hasAttribute("data-seen") !== seen[number]) {
        line.toggleAttribute("data-seen", seen[number]);
      }
    }
  }

  // Scrolls, within the list, to the matched line that is nearest to a time.
  scrollTo(time) {
    const distance = (track) => Math.max(track.start_s - time, time - track.end_s, 0);
    const matched = this.tracks.map((track, index) => ({ track, index }))
      .filter(({ track }) => this.marksOf(track));
    if (!matched.length) return;
    const best = matched.reduce((a, b) => (distance(b.track) < distance(a.track) ? b : a));
    const line = this.buttons[best.index];
    const top = line.offsetTop - this.list.offsetTop;
    this.list.scrollTop = top - (this.list.clientHeight - line.offsetHeight) / 2;
  }

  // The lines at this time, or else all of them.
  get text() {
    const now = this.tracks.filter((_, index) => this.seen[index]);
    return (now.length ? now : this.tracks).map((track) => track.text).join("\n");
  }
}
