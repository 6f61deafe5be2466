// Elements from data: only ever as text and attributes, never as markup.

export const byId = (id) => document.getElementById(id);

// element("p", {class: "soft", text: "…"}, child, …)
export function element(name, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

// A button that does something when it is pressed.
export function button(attributes, onClick, ...children) {
  const made = element("button", { type: "button", ...attributes }, ...children);
  made.addEventListener("click", onClick);
  return made;
}

const PATHS = {
  // an eye, and a balloon
  read: "M12 6c-5 0-8.5 4-10 6 1.5 2 5 6 10 6s8.5-4 10-6c-1.5-2-5-6-10-6zm0 9a3 3 0 1 1 0-6 3 3 0 0 1 0 6z",
  spoken: "M4 4h16a1 1 0 0 1 1 1v10a1 1 0 0 1-1 1h-8l-5 4v-4H4a1 1 0 0 1-1-1V5a1 1 0 0 1 1-1z",
};
const SVG = "http://www.w3.org/2000/svg";

// How a line came about: an icon and a word.
export function createKindMark(kind) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 24 24");
  drawing.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[kind]);
  path.setAttribute("fill-rule", "evenodd");
  drawing.append(path);
  const text = element("span", { text: nameKind(kind) });
  return element("span", { class: `kind ${kind}` }, drawing, text);
}

export const nameKind = (kind) => (kind === "spoken" ? "said" : "read");

const two = (number) => String(number).padStart(2, "0");

// 75.25 -> "1:15", 3675 -> "1:01:15"
export function formatTime(seconds) {
  const whole = Math.floor(seconds + 0.001);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

// 75.25 -> "1:15.2"
export function formatTenths(seconds) {
  const tenths = Math.floor(seconds * 10 + 0.01);
  return `${formatTime(Math.floor(tenths / 10))}.${tenths % 10}`;
}

// "1:15.2" or "75.2" -> 75.2; what is no time -> NaN
export function parseTime(text) {
  if (!/^\s*(\d+:){0,2}\d+([.,]\d+)?\s*$/.test(text)) return NaN;
  return text.replace(",", ".").split(":").reduce((sum, part) => 60 * sum + Number(part), 0);
}

// 75 -> "1 min", 5400 -> "1 h 30 min"
export function formatDuration(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const rest = minutes % 60;
  const hours = Math.floor(minutes / 60).toLocaleString("en");
  return rest && minutes < 6000 ? `${hours} h ${rest} min` : `${hours} h`;
}

export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

// "a/b/c.mp4" -> ["a/b", "c.mp4"]
export function splitPath(path) {
  const end = path.lastIndexOf("/");
  return end < 0 ? ["", path] : [path.slice(0, end), path.slice(end + 1)];
}

export const lineKey = (line) => `${line.start_s} ${line.text}`;

// The distinct lines of matched words by their keys, each with all of its marks. The parts of a
// path are marked where the path stands.
export function groupByLine(words) {
  const lines = new Map();
  for (const word of words) {
    const key = lineKey(word);
    if (!lines.has(key)) lines.set(key, { ...word, marks: [] });
    const { kind, query } = word;
    lines.get(key).marks.push(...word.marks.map(([first, end]) => ({ first, end, kind, query })));
  }
  return lines;
}

const isSign = (letter) => /[\p{P}\p{S}]/u.test(letter);

// A line with its marks; they count characters, not the halves that a string is made of. Marks go
// from blank to blank: what stands around the word is not part of it.
export function markText(text, marks) {
  const letters = [...text];
  const parts = [];
  let done = 0;
  for (const { first, end: last, kind, query } of [...marks].sort((a, b) => a.first - b.first)) {
    if (last <= done || first >= letters.length) continue;
    let [start, end] = [Math.max(first, done), Math.min(last, letters.length)];
    while (start < end - 1 && isSign(letters[start])) start += 1;
    while (end > start + 1 && isSign(letters[end - 1])) end -= 1;
    parts.push(letters.slice(done, start).join(""));
    const about = kind === "fuzzy" ? { class: "fuzzy", title: `Similar to “${query}”` } : {};
    parts.push(element("mark", { ...about, text: letters.slice(start, end).join("") }));
    done = end;
  }
  return [...parts, letters.slice(done).join("")];
}

// A rectangle in shares of what it lies in.
export function placeBox(frame, box) {
  frame.style.left = `${100 * box.left}%`;
  frame.style.top = `${100 * box.top}%`;
  frame.style.width = `${100 * (box.right - box.left)}%`;
  frame.style.height = `${100 * (box.bottom - box.top)}%`;
}

export const frameAddress = (id, seconds, width) =>
  `/api/videos/${id}/frame?t=${Math.max(0, seconds).toFixed(3)}&width=${width}`;

// With the ending of the video's name: Safari plays nothing whose address has none.
export const fileAddress = ({ id, name }) =>
  `/api/videos/${id}/file${name.match(/\.\w+$/)?.[0].toLowerCase() ?? ""}`;

// The JSON at an address of this server, or an error that says what to do.
// With a picture, it is sent.
export async function fetchJson(address, signal, picture) {
  const sent = picture && {
    method: "POST", body: picture, headers: { "Content-Type": picture.type },
  };
  let answer;
  try {
    answer = await fetch(address, { signal, ...sent });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is its command still running?");
  }
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.detail ?? `The server failed (${answer.status}).`);
  return body;
}
