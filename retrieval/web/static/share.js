// What can be taken along from the player: text, an address of the moment, a clip.

import { byId, element, formatTenths, parseTime } from "./dom.js";

const SAID_MS = 2500;

export class Share {
  // source: {text, link, time, duration, entry} as they are at the moment
  constructor(source) {
    this.source = source;
    byId("copy-text").addEventListener("click", () => copy(source.text, "Text copied"));
    byId("copy-link").addEventListener("click", () => copy(source.link, "Link copied"));
    for (const id of ["clip-from", "clip-to"]) {
      byId(id).addEventListener("input", () => this.updateClip());
    }
    for (const [id, field] of [["from-now", "clip-from"], ["to-now", "clip-to"]]) {
      byId(id).addEventListener("click", () => {
        byId(field).value = formatTenths(source.time);
        this.updateClip();
      });
    }
  }

  // Begins with the moment's span.
  setClip(start, end) {
    byId("clip-from").value = formatTenths(start);
    byId("clip-to").value = formatTenths(end);
    this.updateClip();
  }

  updateClip() {
    const [start, end] = ["clip-from", "clip-to"].map((id) => parseTime(byId(id).value));
    const { entry } = this.source;
    const problem = findProblem(start, end, this.source.duration);
    const isMissing = entry?.playback.kind === "missing";
    byId("clip").hidden = isMissing || !entry;
    byId("clip-error").textContent = problem;
    byId("clip-error").hidden = !problem;
    for (const id of ["clip-from", "clip-to"]) byId(id).ariaInvalid = String(Boolean(problem));
    const link = byId("clip-link");
    if (problem || !entry) link.removeAttribute("href");
    else link.href = `/api/videos/${entry.id}/clip?start=${start.toFixed(3)}&end=${end.toFixed(3)}`;
  }
}

function findProblem(start, end, duration) {
  if (Number.isNaN(start) || Number.isNaN(end)) return "Give times as 1:23.4, or in seconds.";
  if (start >= end) return "The end must be after the start.";
  if (start >= duration) return `The video ends at ${formatTenths(duration)}.`;
  return "";
}

async function copy(text, said) {
  const isDone = await write(text);
  byId("copied").textContent = isDone ? said : "The browser did not allow it.";
  setTimeout(() => {
    byId("copied").textContent = "";
  }, SAID_MS);
}

// Only pages of this machine, or behind TLS, may use the clipboard's own interface.
async function write(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = element("textarea", { class: "hidden", "aria-hidden": "true" });
    field.value = text;
    byId("player").append(field);
    const { activeElement: before } = document;
    field.select();
    const isDone = document.execCommand("copy");
    field.remove();
    before?.focus();
    return isDone;
  }
}
