// The time line below the picture: the place in the video, and marks of all matches.

import { button, byId, element, formatTenths, groupByLine } from "./dom.js";

const NEAR_S = 0.3; // a match is where one is, this much later or earlier

export class Timeline {
  // seek(time) shows a time; onMatch(moment) is called when a match has been gone to.
  constructor(seek, onMatch) {
    this.seek = seek;
    this.onMatch = onMatch;
    this.range = byId("seek");
    this.list = byId("marks");
    this.moments = [];
    this.range.addEventListener("input", () => {
      this.isDragged = true;
      seek(Number(this.range.value));
    });
    this.range.addEventListener("change", () => {
      this.isDragged = false;
    });
    byId("previous").addEventListener("click", () => this.step(-1));
    byId("next").addEventListener("click", () => this.step(1));
    this.list.addEventListener("keydown", (event) => this.onKey(event));
  }

  show(moments, duration) {
    this.moments = [...moments].sort((a, b) => a.time_s - b.time_s);
    this.duration = duration || 1;
    this.current = null;
    this.range.max = duration;
    this.marks = this.moments.map((moment, index) => this.createMark(moment, index));
    this.list.replaceChildren(...this.marks.map((mark) => element("li", {}, mark)));
    for (const id of ["previous", "next"]) byId(id).disabled = !this.moments.length;
    byId("match").textContent = this.moments.length ? "" : "no matches";
  }

  createMark(moment, index) {
    const lines = [...groupByLine(moment.words).values()].map((line) => line.text);
    const place = `Match ${index + 1} of ${this.moments.length}: ${formatTenths(moment.time_s)}`;
    const label = [place, ...lines].join(", ");
    const isFuzzy = moment.words.length && moment.words.every((word) => word.kind === "fuzzy");
    const mark = button(
      { class: isFuzzy ? "fuzzy" : "", "aria-label": label, title: label, tabindex: "-1" },
      () => this.goTo(index),
    );
    mark.style.left = `${100 * Math.min(1, moment.time_s / this.duration)}%`;
    return mark;
  }

  // The match that a time is at, or null.
  find(time) {
    const index = this.moments.findIndex((one) => Math.abs(one.time_s - time) < NEAR_S);
    return index < 0 ? null : index;
  }

  goTo(index) {
    const moment = this.moments[index];
    this.seek(moment.time_s);
    this.select(index);
    this.onMatch(moment);
  }

  // Marks are one stop of the Tab key; the arrow keys go from one to the next.
  select(index) {
    this.current = index;
    for (const [number, mark] of (this.marks ?? []).entries()) {
      const isCurrent = number === index;
      if (isCurrent) mark.setAttribute("aria-current", "true");
      else mark.removeAttribute("aria-current");
      mark.tabIndex = number === (index ?? 0) ? 0 : -1;
    }
    if (!this.moments.length) return;
    const many = this.moments.length.toLocaleString("en");
    byId("match").textContent = index === null ? `${many} found` : `${index + 1} of ${many}`;
  }

  // The match after or before the place in the video; from the last to the first.
  step(direction) {
    const { moments, time, current } = this;
    if (!moments.length) return;
    const isThere = current !== null && Math.abs(moments[current].time_s - time) < 1.5;
    const from = isThere ? moments[current].time_s : time;
    const last = moments.length - 1;
    let next;
    if (direction > 0) next = moments.findIndex((one) => one.time_s > from + 0.01);
    else next = moments.findLastIndex((one) => one.time_s < from - 0.01);
    if (next < 0) next = direction > 0 ? 0 : last;
    this.goTo(next);
  }

  onKey(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1 };
    const index = this.marks?.indexOf(event.target) ?? -1;
    if (!(event.key in steps) || index < 0) return;
    event.preventDefault();
    event.stopPropagation();
    const next = Math.min(this.marks.length - 1, Math.max(0, index + steps[event.key]));
    this.goTo(next);
    this.marks[next].focus();
  }

  draw(time, duration) {
    this.time = time;
    if (duration && Math.abs(duration - this.range.max) > 0.05) this.range.max = duration;
    const shown = `${formatTenths(time)} of ${formatTenths(this.duration)}`;
    if (this.range.ariaValueText === shown) return;
    if (!this.isDragged) this.range.value = time;
    this.range.ariaValueText = shown;
    this.range.style.setProperty("--done", `${(100 * time) / this.duration}%`);
    byId("now").textContent = formatTenths(time);
    byId("whole").textContent = ` / ${formatTenths(this.duration)}`;
  }
}
