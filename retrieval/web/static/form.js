// The search form: what is asked for, as addresses and requests hold it.

import { byId, element } from "./dom.js";

const OLD_MODES = { fused: "hybrid", meaning: "semantic", words: "keyword" }; // in kept addresses
const DEFAULTS = { mode: "hybrid", sort: "relevance" };

export class SearchForm {
  constructor(examples) {
    this.examples = examples;
    this.form = byId("form");
    this.query = byId("query");
    this.minus = byId("minus");
    this.all = byId("all");
    this.folder = byId("folder");
    const toggle = byId("filter-toggle");
    toggle.addEventListener("click", () => this.unfold(toggle.ariaExpanded === "false"));
  }

  get mode() {
    return this.form.elements.mode.value;
  }

  set mode(name) {
    for (const radio of this.form.elements.mode) radio.checked = radio.value === name;
  }

  get text() {
    return this.query.value.trim();
  }

  get sort() {
    return byId("sort").value;
  }

  // Whether something is looked for; filters alone list the library.
  get isSearch() {
    return Boolean(this.text || this.examples.wanted.length);
  }

  // What limits the videos, by the names of the request.
  get filters() {
    const [least, most] = byId("length").value.split("-");
    const values = {
      folder: this.folder.value, after: byId("after").value, before: byId("before").value,
      min_length: least ?? "", max_length: most ?? "", has_text: byId("has-text").value,
    };
    return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== ""));
  }

  get isEmpty() {
    const isListed = this.sort !== DEFAULTS.sort || Object.keys(this.filters).length;
    return !this.isSearch && !this.examples.items.length && !isListed;
  }

  // Everything but the defaults.
  write() {
    const { mode, sort } = this;
    const values = new URLSearchParams();
    if (this.text) values.set("q", this.text);
    if (mode !== DEFAULTS.mode) values.set("mode", mode);
    const minus = this.minus.value.trim();
    if (minus) values.set("minus", minus);
    for (const [name, value] of Object.entries(this.filters)) values.set(name, value);
    if (sort !== DEFAULTS.sort) values.set("sort", sort);
    this.examples.write(values);
    if (this.all.checked) values.set("all", "1");
    return values;
  }

  buildRequest(offset, count) {
    const values = this.write();
    values.delete("all");
    if (!values.has("mode")) values.set("mode", this.mode);
    if (!values.has("sort") && !this.isSearch) values.set("sort", "newest");
    if (this.examples.picture?.minus) values.set("minus_image", "true");
    values.set("offset", offset);
    values.set("k", count);
    return `/api/videos/search?${values}`;
  }

  async read(values, state) {
    this.query.value = values.get("q") ?? "";
    this.minus.value = values.get("minus") ?? "";
    this.all.checked = values.has("all");
    const name = values.get("mode") ?? DEFAULTS.mode;
    this.mode = OLD_MODES[name] ?? name;
    for (const id of ["after", "before"]) byId(id).value = values.get(id) ?? "";
    choose(byId("sort"), values.get("sort") ?? DEFAULTS.sort);
    choose(byId("has-text"), values.get("has_text") ?? "");
    // The server says that there is no such folder.
    choose(this.folder, values.get("folder") ?? "");
    const [least, most] = ["min_length", "max_length"].map((key) => values.get(key) ?? "");
    const text = most ? `${least || 0} to ${most} s` : `${least} s or longer`;
    choose(byId("length"), least || most ? `${least}-${most}` : "", text);
    this.markFilters();
    await this.examples.read(values, state);
  }

  // How many filters there are is said where they are folded away.
  markFilters() {
    const others = [this.minus.value.trim(), this.all.checked].filter(Boolean);
    const number = Object.keys(this.filters).length + others.length;
    byId("filter-toggle").textContent = number ? `Filters (${number})` : "Filters";
  }

  unfold(isOpen) {
    byId("filters").classList.toggle("open", isOpen);
    byId("filter-toggle").ariaExpanded = String(isOpen);
  }

  clear() {
    this.query.value = this.minus.value = "";
  }

  setFolders(names) {
    const known = new Set([...this.folder.options].map((option) => option.value));
    const added = names.filter((name) => !known.has(name));
    this.folder.append(...added.map((name) => element("option", { value: name, text: name })));
    byId("folder-choice").hidden = !names.length;
  }

  setModes(modes) {
    const hasModel = modes.includes("semantic");
    byId("modes").hidden = !hasModel;
    byId("words-only").hidden = hasModel;
  }
}

// An address may hold what the list does not.
function choose(list, value, text = value) {
  list.value = value;
  if (list.value === value) return;
  list.append(element("option", { value, text }));
  list.value = value;
}
