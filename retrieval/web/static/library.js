// The start: the library's latest videos, what can be found in it, and the work on it.

import { createLibraryCard } from "./cards.js";
import {
  button, byId, count, createKindMark, element, fetchJson, formatDuration, splitPath,
} from "./dom.js";

const POLL_MS = { working: 2000, watching: 10000 };
const FOUND_BY = "find.py goes on with it when it is started again";

export class Library {
  // handlers: {onLoad(library), onOpen(video), onSearch(text), onListAll()}
  constructor(handlers) {
    this.handlers = handlers;
    this.shown = ""; // what the lists show, to leave them alone while nothing has changed
    this.problem = ""; // why there is nothing to show
    byId("all-videos").addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      handlers.onListAll();
    });
  }

  async load() {
    let library;
    try {
      library = await fetchJson("/api/library");
    } catch (error) {
      if (this.shown) this.poll("watching"); // the server may come back
      else this.problem = error.message;
      return;
    }
    this.handlers.onLoad(library);
    this.showVideos(library);
    showWork(library.work);
    if (library.work) this.poll(library.work.state);
  }

  poll(state) {
    const wait = POLL_MS[state];
    if (wait) setTimeout(() => this.load(), wait);
  }

  showVideos(library) {
    const { latest, examples, num_videos: number, duration_s: seconds, roots, work } = library;
    const content = JSON.stringify([latest, examples, number, seconds]);
    if (content === this.shown) return;
    this.shown = content;
    byId("empty").hidden = number > 0 || Boolean(work);
    byId("filled").hidden = !number;
    byId("intro").open = !number;
    const where = roots?.length ? ` from ${roots.join(", ")}` : "";
    byId("counts").textContent = `${count(number, "video")}, ${formatDuration(seconds)}${where}`;
    byId("try").hidden = !examples.length;
    replace(byId("try-list"), examples.map((example) => this.createExample(example)));
    replace(byId("latest"), latest.map((video) =>
      createLibraryCard(video, () => this.handlers.onOpen(video))));
  }

  createExample({ text, track_kind: kind }) {
    const label = `Search for ${text}`;
    const parts = [element("span", { dir: "auto", text })];
    if (kind === "spoken") parts.unshift(createKindMark(kind));
    const search = () => this.handlers.onSearch(text);
    return element("li", { "data-id": text }, button({ "aria-label": label }, search, ...parts));
  }
}

// New items in place of the old ones; the focus stays where it is.
function replace(list, items) {
  const focused = document.activeElement.closest("li");
  const id = focused?.parentElement === list ? focused.dataset.id : undefined;
  list.replaceChildren(...items);
  items.find((item) => item.dataset.id === id)?.querySelector("button").focus();
}

function showWork(work) {
  const panel = byId("work");
  const isOver = !work || work.state === "watching" || work.state === "done";
  panel.hidden = !work || (isOver && !work.num_failed && !work.message);
  if (panel.hidden) return;
  panel.dataset.state = work.state;
  const { num_done: done, num_total: total, share = 0, remaining_s: seconds } = work;
  byId("work-step").replaceChildren(...describeStep(work));
  byId("work-bar").hidden = isOver;
  byId("work-bar").value = total ? Math.min(1, (done + (share ?? 0)) / total) : 0;
  const left = !isOver && typeof seconds === "number" ? `, ${formatDuration(seconds)} left` : "";
  const progress = `${done.toLocaleString("en")} of ${count(total, "video")}${left}`;
  byId("work-count").textContent = isOver ? "" : progress;
  const failed = byId("work-failed");
  failed.hidden = !work.num_failed;
  failed.querySelector("summary").textContent = `${work.num_failed.toLocaleString("en")} failed`;
  failed.querySelector("ul").replaceChildren(...work.failed.map(({ video, reason }) =>
    element("li", {}, element("b", { dir: "auto", text: video }), ` ${reason}`)));
}

function describeStep({ state, step, video, message }) {
  const said = message ? ` ${message}` : "";
  if (state === "stopped") return [`Stopped: ${FOUND_BY}.${said}`];
  if (state !== "working") return [`Done.${said}`];
  const name = step ? step[0].toUpperCase() + step.slice(1) : "Working";
  if (!video) return [`${name} …${said}`];
  return [`${name}: `, element("b", { dir: "auto", title: video, text: splitPath(video)[1] }), said];
}
