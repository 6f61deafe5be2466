// The results of a search: the cards under their headings, and what is said of them.

import { createResult } from "./cards.js";
import { byId, count, element } from "./dom.js";

const KINDS = {
  variant: " (written otherwise)", pieces: " (in pieces)", prefix: " (beginnings)",
  substring: " (parts)", fuzzy: " (similar)",
};

export class Results {
  // handlers: {open(video, moment), like(video, moment)}
  constructor(form, examples, handlers) {
    this.form = form;
    this.examples = examples;
    this.handlers = handlers;
    this.list = byId("results");
    this.clear();
  }

  clear() {
    this.videos = [];
    this.answer = null;
    this.list.replaceChildren();
    for (const id of ["more", "terms", "legend"]) byId(id).hidden = true;
    byId("status").textContent = "";
  }

  // The first videos of an answer, or more of them.
  show(answer, isMore) {
    if (!isMore) this.clear();
    this.answer = answer;
    for (const video of answer.videos) {
      const heading = this.form.isSearch && this.nameGroup(video);
      if (heading) {
        this.list.append(element("li", { class: "others" }, element("h2", { text: heading })));
      }
      const { open, like } = this.handlers;
      this.list.append(createResult(video, {
        open: (moment) => open(video, moment),
        like: (moment) => like(video, moment),
        showAll: this.form.all.checked,
      }));
      this.videos.push(video);
    }
    byId("more").hidden = !answer.videos.length || this.videos.length >= answer.num_videos;
    byId("status").textContent = this.describe();
    this.showTerms(answer.terms);
    byId("legend").hidden = !this.list.querySelector("mark.fuzzy");
  }

  // A heading before the first video of a group: those with the words, those that look alike,
  // and the nearest of the rest. Only where the order is by relevance.
  nameGroup(video) {
    if (this.form.sort !== "relevance") return null;
    const before = this.videos.length ? Math.max(...this.videos.map(getGroup)) : -1;
    const group = getGroup(video);
    if (group <= before) return null;
    const { num_with_words: withWords, num_videos: all } = this.answer;
    if (group === 0) return withWords < all ? `${count(withWords, "video")} with these words` : null;
    if (before < 0) return null;
    return group === 1 ? "Others look alike" : "The nearest of the others";
  }

  describe() {
    const { num_with_words: withWords, num_likely: likely, num_videos: all } = this.answer;
    const { form } = this;
    const where = form.folder.value ? ` in ${form.folder.value}` : "";
    if (!form.isSearch) return `${count(all, "video")}${where}`;
    const text = this.describeSearch();
    const isByText = form.mode === "keyword" || byId("modes").hidden;
    if (!all && isByText) return `Nothing found: no text like ${text} was read or heard${where}.`;
    if (!all) return `Nothing found for ${text}${where}.`;
    if (!likely) return `Nothing found that looks like ${text}${where}; the nearest are:`;
    const alike = likely > withWords && withWords
      ? ` (${withWords.toLocaleString("en")} with these words)` : "";
    return `${count(likely, "video")} for ${text}${where}${alike}`;
  }

  describeSearch() {
    const name = (text, items) =>
      [...(text ? [`“${text}”`] : []), ...items.map((item) => `like ${item.label}`)];
    const without = name(this.form.minus.value.trim(), this.examples.unwanted);
    const wanted = name(this.form.text, this.examples.wanted).join(" and ");
    return without.length ? `${wanted} without ${without.join(" or ")}` : wanted;
  }

  // The query's own relevance: how many videos each of its words was found in.
  showTerms(terms) {
    const items = (terms ?? []).map(({ query, num_videos: number, kind }) => {
      const found = number ? count(number, "video") + (KINDS[kind] ?? "") : "nowhere";
      const word = element("b", { dir: "auto", text: query });
      return element("li", number ? {} : { class: "nowhere" }, word, `: ${found}`);
    });
    byId("terms").replaceChildren(...items);
    byId("terms").hidden = !items.length;
  }
}

// False only of what is nearest without being like the query; such videos come last.
const getGroup = (video) => (video.likely === false ? 2 : video.has_words ? 0 : 1);
