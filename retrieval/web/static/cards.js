// Cards of videos: a picture with the matched word in a box, the name, and the moments.

import {
  button, count, createKindMark, element, formatTenths, formatTime, frameAddress, groupByLine,
  markText, nameKind, placeBox, splitPath,
} from "./dom.js";
import { isLine, listMoments, markPath } from "./moments.js";

const MAX_MOMENTS = 3; // of a card, at first
const MAX_LINES = 2; // of a moment
const WIDTH = 480; // of a picture, pixels
const WIDE = 16 / 9; // shape of a card's picture

// A video that was found. open(moment) plays it; like(moment) searches for more like it.
export function createResult(video, { open, like, showAll }) {
  const moments = listMoments(video);
  const best = moments[0] ?? video.moments[0]; // or found by its name alone
  const items = moments.map((moment, index) => {
    const item = element("li", {}, createMoment(video, moment, () => open(moment)));
    item.hidden = !showAll && index >= MAX_MOMENTS;
    return item;
  });
  const play = button(
    { class: "play", "aria-label": describeVideo(video, best, moments.length) },
    () => open(best),
    createPicture(video, best),
    ...nameVideo(video),
  );
  const parts = [play];
  if (items.length) {
    parts.push(element("ol", { class: "moments", "aria-label": "Moments" }, ...items));
  }
  const foot = [];
  const hidden = items.filter((item) => item.hidden);
  if (hidden.length) foot.push(createUnfold(video, hidden));
  if (best) foot.push(createLink(video, best, like));
  return element("li", {}, ...parts, element("p", { class: "foot" }, ...foot));
}

// One of the library's videos, with some of what can be read in it.
export function createLibraryCard(video, open) {
  const texts = (video.texts ?? []).slice(0, MAX_LINES);
  const read = texts.length ? `. Read: ${texts.join("; ")}` : "";
  const label = `Play ${video.video}, ${formatTime(video.duration_s)}${read}`;
  const play = button(
    { class: "play", "aria-label": label },
    open,
    createPicture(video),
    ...nameVideo(video),
    ...texts.map((text) => element("span", { class: "line", dir: "auto", text })),
  );
  return element("li", { "data-id": video.id }, play);
}

function createPicture(video, moment) {
  const ratio = video.width / video.height;
  const frame = element("span", { class: ratio >= WIDE ? "frame wide" : "frame tall" });
  frame.style.setProperty("--ratio", ratio);
  const time = moment?.time_s ?? video.duration_s / 3;
  const image = element("img", {
    src: frameAddress(video.id, time, WIDTH), alt: "", loading: "lazy", decoding: "async",
  });
  image.addEventListener("error", () => {
    const entry = moment && `/api/entries/${moment.entry_id}/thumbnail`;
    if (entry && !image.src.endsWith(entry)) image.src = entry;
    else image.replaceWith(element("i", { text: "No picture" }));
  });
  frame.append(image);
  if (moment?.box) {
    const isFuzzy = moment.words.every((word) => word.kind === "fuzzy");
    const box = element("span", { class: `box matched${isFuzzy ? " fuzzy" : ""}` });
    placeBox(box, moment.box);
    frame.append(box);
  }
  return element("span", { class: "picture" }, frame);
}

// Tenths where they matter: a second is little of a long video.
const showTime = (video, seconds) =>
  video.duration_s < 60 ? formatTenths(seconds) : formatTime(seconds);

// The name, the folder and the length, with what matched in them. Nothing stands over the picture,
// in whose corners there may be scores and subtitles.
function nameVideo(video) {
  const [folder, name] = splitPath(video.video);
  const words = (video.moments ?? []).flatMap((moment) => moment.words);
  const marks = markPath(video.video, words);
  const start = folder ? [...folder].length + 1 : 0;
  const ofName = marks.map((mark) => ({ ...mark, first: mark.first - start, end: mark.end - start }));
  const shown = ofName.map((mark) => ({ ...mark, first: Math.max(0, mark.first) }));
  const length = element("span", { class: "length", text: formatTime(video.duration_s) });
  const place = element("span", { class: "folder", dir: "auto" }, ...markText(folder, marks));
  return [
    element("span", { class: "name", dir: "auto" }, ...markText(name, shown)),
    element("span", { class: "place" }, place, length),
  ];
}

function createMoment(video, moment, open) {
  const lines = listLines(moment);
  const time = element("span", { class: "time", text: showTime(video, moment.time_s) });
  const shown = lines.slice(0, MAX_LINES).map((line) =>
    element(
      "span", { class: "line", dir: "auto" },
      createKindMark(line.track_kind), ...markText(line.text, line.marks),
    ));
  const label = `Play from ${formatTenths(moment.time_s)}${describeLines(lines)}`;
  const name = lines.length ? "moment" : "moment plain";
  return button({ class: name, "aria-label": label }, open, time, ...shown);
}

const listLines = (moment) => [...groupByLine(moment.words.filter(isLine)).values()];

function describeLines(lines) {
  const texts = lines.map((line) => {
    const isFuzzy = line.marks.every((mark) => mark.kind === "fuzzy");
    return `${nameKind(line.track_kind)}${isFuzzy ? ", similar" : ""}: ${line.text}`;
  });
  return texts.length ? `. ${texts.join("; ")}` : "";
}

function describeVideo(video, best, number) {
  if (!best) return `Play ${video.video}, ${formatTime(video.duration_s)}`;
  const all = number > 1 ? `. ${count(number, "moment")}` : "";
  const lines = describeLines(listLines(best));
  return `Play ${video.video} from ${formatTenths(best.time_s)}${lines}${all}`;
}

function createUnfold(video, hidden) {
  const label = `Show ${count(hidden.length, "more moment")} of ${video.video}`;
  const text = count(hidden.length, "more moment");
  const unfold = button({ class: "unfold", "aria-label": label, text }, () => {
    for (const item of hidden) item.hidden = false;
    hidden[0].querySelector("button").focus();
    unfold.remove();
  });
  return unfold;
}

// A link, so that it can be opened in another tab.
function createLink(video, moment, like) {
  const label = `More like ${video.video} from ${formatTime(moment.time_s)}`;
  const values = { href: `/?like=${moment.entry_id}`, "aria-label": label, text: "More like this" };
  const link = element("a", values);
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    like(moment);
  });
  return link;
}
