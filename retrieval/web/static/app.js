// The page's state: what is searched for, which moment is played, and the address that holds both.

import { byId, fetchJson } from "./dom.js";
import { Examples } from "./examples.js";
import { SearchForm } from "./form.js";
import { listCards, onKey } from "./keys.js";
import { Library } from "./library.js";
import { listMoments } from "./moments.js";
import { Player } from "./player.js";
import { Results } from "./results.js";

const PAGE = 24; // videos at a time
const MAX_HITS = 100; // as the server’s limit

const field = byId("field");
const file = byId("file");
const examples = new Examples(searchAnew);
const form = new SearchForm(examples);
const results = new Results(form, examples, { open: openMoment, like: searchAlike });
const player = new Player({ onMoment: replaceMoment, onClose: leaveMoment, linkTo });
const library = new Library({
  onLoad({ folders, modes, num_videos: number }) {
    form.setFolders(folders);
    form.setModes(modes);
    const many = number === 1 ? "video" : "videos";
    form.query.placeholder = `Search ${number.toLocaleString("en")} ${many}`;
  },
  onOpen: (video) => openMoment(video, null),
  onSearch(text) {
    form.query.value = text;
    searchAnew();
  },
  onListAll() {
    byId("sort").value = "newest";
    searchAnew();
  },
});
let running = null; // the AbortController of the search that is under way
let searched = null; // what the results are of
let leaving = null; // a promise, while the browser goes back because the player was closed

// ------------------------------------------------------------------------------ searching

async function search() {
  running?.abort();
  running = null;
  searched = describeState();
  form.markFilters();
  updateTitle();
  showError(form.isEmpty ? library.problem : "");
  results.clear();
  byId("start").hidden = !form.isEmpty;
  if (form.isEmpty) return setBusy(false);
  if (!form.isSearch && examples.items.length) {
    setBusy(false);
    return showError("Say what to look for, too: words, a moment, or a picture.");
  }
  await load(0);
}

async function load(offset) {
  const controller = (running = new AbortController());
  setBusy(true);
  try {
    const address = form.buildRequest(offset, PAGE);
    results.show(await fetchJson(address, controller.signal, examples.file), offset > 0);
  } catch (error) {
    if (error.name === "AbortError") return;
    showError(error.message);
  }
  setBusy(false);
}

function searchAnew() {
  pushAddress();
  search();
}

function searchByExample() {
  if (form.mode === "keyword") form.mode = "hybrid"; // an example has no words
  searchAnew();
  form.query.focus({ preventScroll: true });
}

function searchAlike(video, moment) {
  form.clear();
  examples.like({ id: moment.entry_id, video: video.video, start_s: moment.start_s });
  searchByExample();
  scrollTo(0, 0);
}

function addPicture(files) {
  try {
    examples.add(files[0]);
  } catch (error) {
    return showError(error.message);
  }
  searchByExample();
}

function showError(text) {
  byId("error").textContent = text;
  byId("error").hidden = !text;
}

function setBusy(isBusy) {
  results.list.setAttribute("aria-busy", String(isBusy));
  byId("progress").hidden = !isBusy;
}

// ------------------------------------------------------------------------------ the address

// The address holds what is searched for, and the moment that is played: it can be kept, and the
// browser's Back goes back. A picture is in the history alone, as long as the page is open.
const buildAddress = (values) => (values.size ? `/?${values}` : "/");
const describeState = () => JSON.stringify([String(form.write()), examples.state]);

async function pushAddress() {
  const [address, state] = [buildAddress(form.write()), { picture: examples.state }];
  await leaving;
  const isNew = JSON.stringify(state.picture) !== JSON.stringify(history.state?.picture ?? null);
  if (isNew || address !== location.pathname + location.search) {
    history.pushState(state, "", address);
  }
}

function updateTitle() {
  const [first] = examples.wanted;
  const text = form.text || (first ? `Like ${first.label}` : "");
  document.title = text ? `${text} – Search your videos` : "Search your videos";
}

async function readAddress() {
  const values = new URLSearchParams(location.search);
  await form.read(values, history.state?.picture);
  if (describeState() !== searched) await search();
  else updateTitle();
  const path = values.get("v");
  if (!path) return player.close();
  if (player.shows(path)) return player.goTo(Number(values.get("t") ?? 0));
  await playAddress(path, values.get("t"));
}

// ------------------------------------------------------------------------------ playing

function linkTo(path, seconds) {
  const values = form.write();
  values.set("v", path);
  if (seconds !== null) values.set("t", String(Math.round(seconds * 1000) / 1000));
  return buildAddress(values);
}

async function openMoment(video, moment) {
  const state = { picture: examples.state, isOpened: true };
  const address = linkTo(video.video, moment?.time_s ?? null);
  player.open(video, moment?.time_s ?? 0, listMoments(video));
  await leaving;
  history.pushState(state, "", address);
}

async function replaceMoment(path, seconds) {
  const address = linkTo(path, seconds);
  await leaving;
  history.replaceState(history.state, "", address);
}

// The player was closed by its button or a key: the address is that of the results again.
function leaveMoment() {
  // Back has closed it, or is on its way.
  if (leaving || !new URLSearchParams(location.search).has("v")) return;
  if (history.state?.isOpened) goBack();
  else history.replaceState({ picture: examples.state }, "", buildAddress(form.write()));
}

// The browser takes its time; the results are there already, and what is typed meanwhile stays.
function goBack() {
  leaving = new Promise((resolve) => addEventListener("popstate", resolve, { once: true }));
  history.back();
}

// Plays what an address says, with the matches of its query.
async function playAddress(path, seconds) {
  const video = results.videos.find((one) => one.video === path) ?? (await findVideo(path));
  const moments = listMoments(video);
  await player.open(video, Number(seconds ?? moments[0]?.time_s ?? 0), moments);
}

// A video that is not among the first results, with its moments where the search has them.
async function findVideo(path) {
  if (form.isSearch) {
    const address = new URL(form.buildRequest(0, MAX_HITS), location.origin);
    const end = path.lastIndexOf("/");
    if (end > 0) address.searchParams.set("folder", path.slice(0, end));
    const answer = await fetchJson(address.href, undefined, examples.file).catch(() => null);
    const found = answer?.videos.find((video) => video.video === path);
    if (found) return found;
  }
  return { video: path, moments: [] };
}

// ------------------------------------------------------------------------------ events

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  searchAnew();
});
document.addEventListener("change", (event) => {
  const { target } = event;
  if (target.form !== byId("form") || target === file) return;
  if (target === form.query || target === form.minus) return; // Enter submits them
  searchAnew();
});
byId("more").addEventListener("click", async () => {
  const before = listCards().length;
  await load(results.videos.length);
  listCards()[before]?.focus();
});
byId("choose").addEventListener("click", () => file.click());
file.addEventListener("change", () => {
  if (file.files.length) addPicture(file.files);
  file.value = ""; // so that the same one can be chosen again
});

// A picture may be dropped anywhere: beside the field, the browser would leave the page for it.
const holdsFiles = (event) => event.dataTransfer?.types.includes("Files") && !player.isOpen;
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
  if (!event.clipboardData?.files.length || player.isOpen) return;
  event.preventDefault();
  addPicture(event.clipboardData.files);
});
document.addEventListener("keydown", (event) => {
  if (!player.isOpen) onKey(event);
});
addEventListener("popstate", () => {
  if (!leaving) return readAddress();
  leaving = null;
});

await library.load();
await readAddress();
