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

// 75.25 -> "1:15", 3675 -> "1:01:15"
export function formatTime(seconds) {
  const whole = Math.floor(seconds + 0.001);
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

export const formatSpan = (part) => `${formatTime(part.start_s)} – ${formatTime(part.end_s)}`;

// When a hit is at its best, in seconds; without frame vectors its start.
export const getMoment = (hit) => hit.time_s ?? hit.start_s;

// "a/b/c.mp4" -> ["a/b", "c.mp4"]
export function splitPath(path) {
  const end = path.lastIndexOf("/");
  return end < 0 ? ["", path] : [path.slice(0, end), path.slice(end + 1)];
}

// The distinct lines of a hit's matched words by their keys, each with all of its marks.
export function groupByLine(words) {
  const lines = new Map();
  for (const word of words) {
    const key = lineKey(word);
    if (!lines.has(key)) lines.set(key, { ...word, marks: [] });
    lines.get(key).marks.push(...word.marks);
  }
  return lines;
}

export const lineKey = (line) => `${line.start_s} ${line.text}`;

// A line with its marks; they count characters, not the halves that a string is made of.
export function markText(text, marks) {
  const letters = [...text];
  const parts = [];
  let done = 0;
  for (const [first, end] of [...marks].sort((a, b) => a[0] - b[0])) {
    if (end <= done) continue;
    const start = Math.max(first, done);
    parts.push(letters.slice(done, start).join(""));
    parts.push(element("mark", { text: letters.slice(start, end).join("") }));
    done = end;
  }
  return [...parts, letters.slice(done).join("")];
}

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
    throw new Error("The server does not answer. Is serve.py still running?");
  }
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.detail ?? `The server failed (${answer.status}).`);
  return body;
}
