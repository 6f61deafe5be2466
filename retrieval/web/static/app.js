// The search form, its results, and the keys.

import {
  byId, element, fetchJson, formatSpan, formatTime, getMoment, groupByLine, markText, splitPath,
} from "./dom.js";
import { Examples } from "./examples.js";
import { Player } from "./player.js";

const FIRST_HITS = 24; // results at first
const MAX_HITS = 100; // as the server's limit
const MAX_LINES = 3; // of a card
const OLD_MODES = { fused: "hybrid", meaning: "semantic", words: "keyword" }; // in kept addresses

const [form, query, folder, results] = ["form", "query", "folder", "results"].map(byId);
const [minus, all, field, file] = ["minus", "all", "field", "file"].map(byId);
const player = new Player();
const examples = new Examples(() => {
  pushAddress();
  search();
});
let running = null; // the AbortController of the search that is under way

const mode = () => form.elements.mode.value;
const cards = () => [...results.querySelectorAll("button")];

// What is searched for, as the address holds it.
function buildParameters() {
  const [q, without] = [query.value.trim(), minus.value.trim()];
  const texts = { q, mode: mode(), folder: folder.value, minus: without };
  const values = new URLSearchParams(Object.entries(texts).filter(([, value]) => value !== ""));
  examples.write(values);
  return values;
}

function buildRequest(count) {
  const values = buildParameters();
  values.set("k", count);
  if (!all.checked) values.set("group", "true");
  if (examples.picture?.minus) values.set("minus_image", "true");
  return `/api/search?${values}`;
}

async function search(count = FIRST_HITS) {
  running?.abort();
  running = null;
  show({ error: "" });
  if (!query.value.trim() && !examples.wanted.length) {
    show({ hits: [], status: "", intro: !examples.items.length, busy: false });
    if (!examples.items.length) return;
    return show({ error: "Say what to look for, too: words, a moment, or a picture." });
  }
  const controller = (running = new AbortController());
  show({ busy: true, intro: false });
  try {
    const { hits } = await fetchJson(buildRequest(count), controller.signal, examples.file);
    const more = count < MAX_HITS && hits.length === count;
    show({ hits, more, status: describeHits(hits, count) });
  } catch (error) {
    if (error.name === "AbortError") return;
    show({ hits: [], status: "", error: error.message });
  }
  show({ busy: false });
}

function describeHits(hits, count) {
  const found = hits.filter(isFound).length;
  const text = describeSearch();
  const where = folder.value ? ` in ${folder.value}` : "";
  if (!found && (mode() === "keyword" || byId("modes").hidden)) {
    return `Nothing found: no text like ${text} was read${where}.`;
  }
  if (!found && hits.length) {
    return `Nothing found that looks like ${text}${where}; the nearest are:`;
  }
  if (!found) return `Nothing found for ${text}${where}.`;
  if (found === count) return `The best ${found} results for ${text}${where}`;
  return `${found} ${found === 1 ? "result" : "results"} for ${text}${where}`;
}

function describeSearch() {
  const name = (text, items) =>
    [...(text ? [`“${text}”`] : []), ...items.map((item) => `like ${item.label}`)];
  const without = name(minus.value.trim(), examples.unwanted);
  const wanted = name(query.value.trim(), examples.wanted).join(" and ");
  return without.length ? `${wanted} without ${without.join(" or ")}` : wanted;
}

function show({ hits, status, error, intro, busy, more }) {
  if (hits) results.replaceChildren(...createItems(hits));
  if (hits) byId("more").hidden = !more;
  if (status !== undefined) byId("status").textContent = status;
  if (error !== undefined) byId("error").textContent = error;
  if (error !== undefined) byId("error").hidden = !error;
  if (intro !== undefined) byId("intro").hidden = !intro;
  if (busy !== undefined) {
    results.setAttribute("aria-busy", String(busy));
    byId("progress").hidden = !busy;
  }
}

// False only of what is nearest without being like the query; such hits come last.
const isFound = (hit) => hit.likely !== false;

function createItems(hits) {
  const [found, others] = [hits.filter(isFound), hits.filter((hit) => !isFound(hit))];
  const heading = element("li", { class: "others" }, element("h2", { text: "Others look alike" }));
  const divider = found.length && others.length ? [heading] : [];
  return [...found.map(createCard), ...divider, ...others.map(createCard)];
}

function createCard(hit) {
  const [parent, name] = splitPath(hit.video);
  const lines = [...groupByLine(hit.words).values()];
  const picture = element("img", {
    src: `/api/entries/${hit.id}/thumbnail`, alt: "", loading: "lazy", decoding: "async",
  });
  picture.addEventListener("error", () => {
    picture.replaceWith(element("i", { text: "No picture" }));
  });
  const moment = hit.time_s === null ? "" : `${formatTime(hit.time_s)} in `;
  const time = element("span", { class: "time", text: moment + formatSpan(hit) });
  const button = element(
    "button",
    { type: "button", "aria-label": describeHit(hit, lines) },
    element("span", { class: "picture" }, picture, time),
    element("span", { class: "name", dir: "auto", text: name }),
    ...(parent ? [element("span", { class: "place", dir: "auto", text: parent })] : []),
    ...lines.slice(0, MAX_LINES).map((line) =>
      element("span", { class: "line", dir: "auto" }, ...markText(line.text, line.marks))),
    ...(lines.length > MAX_LINES
      ? [element("span", { class: "place", text: `and ${lines.length - MAX_LINES} more` })]
      : []),
    ...(hit.num_also
      ? [element("span", { class: "place also", text: `+ ${hit.num_also} alike` })]
      : []),
  );
  button.addEventListener("click", () => player.open(hit));
  return element("li", {}, button, createLink(hit));
}

// A link, so that it can be opened in another tab.
function createLink(hit) {
  const label = `More like ${hit.video} from ${formatTime(hit.start_s)}`;
  const values = { href: `/?like=${hit.id}`, "aria-label": label, text: "More like this" };
  const link = element("a", values);
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    query.value = minus.value = "";
    examples.like(hit);
    searchByExample();
    scrollTo(0, 0);
  });
  return link;
}

function searchByExample() {
  if (mode() === "keyword") form.elements.mode.value = "hybrid"; // an example has no words
  pushAddress();
  query.focus({ preventScroll: true });
  search();
}

function addPicture(files) {
  try {
    examples.add(files[0]);
  } catch (error) {
    return show({ error: error.message });
  }
  searchByExample();
}

function describeHit(hit, lines) {
  const read = lines.length ? `. Text: ${lines.map((line) => line.text).join("; ")}` : "";
  const also = hit.num_also ? `. And ${hit.num_also} alike` : "";
  const span = `from ${formatTime(getMoment(hit))} to ${formatTime(hit.end_s)}`;
  return `Play ${hit.video} ${span}${read}${also}`;
}

// The address holds what is searched for: it can be kept, and the browser's Back goes back. A
// picture is in the history alone, as long as the page is open.
function pushAddress() {
  const values = buildParameters();
  if (values.get("mode") === "hybrid") values.delete("mode");
  if (all.checked) values.set("all", "1");
  const empty = !query.value.trim() && !examples.items.length;
  const address = empty ? "/" : `/?${values}`;
  const isNew = JSON.stringify(examples.state) !== JSON.stringify(history.state);
  if (isNew || address !== location.pathname + location.search) {
    history.pushState(examples.state, "", address);
  }
  updateTitle();
}

function updateTitle() {
  const [first] = examples.wanted;
  const text = query.value.trim() || (first ? `Like ${first.label}` : "");
  document.title = text ? `${text} – Search your videos` : "Search your videos";
}

async function readAddress() {
  const values = new URLSearchParams(location.search);
  query.value = values.get("q") ?? "";
  minus.value = values.get("minus") ?? "";
  all.checked = values.has("all");
  const name = values.get("mode") ?? "hybrid";
  const chosen = OLD_MODES[name] ?? name;
  for (const radio of form.elements.mode) radio.checked = radio.value === chosen;
  chooseFolder(values.get("folder") ?? "");
  await examples.read(values, history.state);
  updateTitle();
  return search();
}

function chooseFolder(name) {
  folder.value = name;
  if (folder.value === name) return;
  // The server says that there is no such folder.
  folder.append(element("option", { value: name, text: name }));
  folder.value = name;
}

async function loadFolders() {
  const { folders, num_entries: count, modes } = await fetchJson("/api/folders");
  const hasModel = modes.includes("semantic");
  byId("modes").hidden = !hasModel;
  byId("words-only").hidden = hasModel;
  folder.append(...folders.map((name) => element("option", { value: name, text: name })));
  byId("folder-choice").hidden = !folders.length;
  const many = count === 1 ? "moment" : "moments";
  query.placeholder = `Search ${count.toLocaleString("en")} ${many}`;
}

// The card above, below or beside one; the search box is above the first row.
function findNeighbour(key, all, index) {
  if (key === "Home" || (key === "ArrowLeft" && !index)) return all[0];
  if (key === "End") return all.at(-1);
  if (key === "ArrowLeft") return all[index - 1];
  if (key === "ArrowRight") return all[Math.min(index + 1, all.length - 1)];
  const { offsetTop: top, offsetLeft: left } = all[index];
  const beyond = key === "ArrowUp"
    ? all.filter((one) => one.offsetTop < top).reverse()
    : all.filter((one) => one.offsetTop > top);
  if (!beyond.length) return key === "ArrowUp" ? query : all.at(-1);
  const row = beyond.filter((one) => one.offsetTop === beyond[0].offsetTop);
  const distance = (one) => Math.abs(one.offsetLeft - left);
  return row.reduce((best, one) => (distance(one) < distance(best) ? one : best));
}

const MOVE_KEYS = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"];

function onKey(event) {
  if (player.dialog.open || event.ctrlKey || event.metaKey || event.altKey) return;
  const { key, target } = event;
  const index = cards().indexOf(target.closest("#results li")?.querySelector("button"));
  const typing = target.matches("input[type=search], select");
  if (key === "/" && !typing) {
    query.focus();
    query.select();
  } else if (key === "ArrowDown" && target === query && cards().length) {
    cards()[0].focus();
  } else if (key === "Escape" && index >= 0) {
    query.focus();
  } else if (index >= 0 && MOVE_KEYS.includes(key)) {
    findNeighbour(key, cards(), index).focus();
  } else {
    return;
  }
  event.preventDefault();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  pushAddress();
  search();
});
form.addEventListener("change", (event) => {
  if (event.target === file) return;
  if (event.target === query || event.target === minus) return; // Enter submits them
  pushAddress();
  search();
});
byId("choose").addEventListener("click", () => file.click());
file.addEventListener("change", () => {
  if (file.files.length) addPicture(file.files);
  file.value = ""; // so that the same one can be chosen again
});

// A picture may be dropped anywhere: beside the field, the browser would leave the page for it.
const holdsFiles = (event) => event.dataTransfer?.types.includes("Files") && !player.dialog.open;
document.addEventListener("dragover", (event) => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  field.classList.add("drop");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) field.classList.remove("drop");
});
document.addEventListener("drop", (event) => {
  field.classList.remove("drop");
  if (!holdsFiles(event)) return;
  event.preventDefault();
  if (event.dataTransfer.files.length) addPicture(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (!event.clipboardData?.files.length || player.dialog.open) return;
  event.preventDefault();
  addPicture(event.clipboardData.files);
});
byId("more").addEventListener("click", async () => {
  const before = cards().length;
  await search(MAX_HITS);
  cards()[before]?.focus();
});
document.addEventListener("keydown", onKey);
addEventListener("popstate", readAddress);

try {
  await loadFolders();
} catch (error) {
  show({ error: error.message });
}
if (location.search) await readAddress();
