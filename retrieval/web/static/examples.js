// What is searched with beside words: moments of videos, and a picture. Each is a chip.

import { byId, element, fetchJson, formatTime, splitPath } from "./dom.js";

const MAX_PICTURE_BYTES = 33554432; // as the server's limit
const pictures = []; // of this page, by the numbers that its history keeps

export class Examples {
  // onChange is called when someone has changed a chip.
  constructor(onChange) {
    this.list = byId("examples");
    this.onChange = onChange;
    this.items = []; // {id, label, minus} of a moment, {picture, label, minus} of a picture
  }

  get picture() {
    return this.items.find((item) => item.picture !== undefined);
  }

  get wanted() {
    return this.items.filter((item) => !item.minus);
  }

  get unwanted() {
    return this.items.filter((item) => item.minus);
  }

  // The picture's file, where there is one: the body of a search.
  get file() {
    return this.picture && pictures[this.picture.picture];
  }

  like(hit) {
    this.items = [{ id: hit.id, label: labelMoment(hit), minus: false }];
    this.render();
  }

  // Takes the place of another picture. Throws an error that says what is wrong with the file.
  add(file) {
    if (!file.type.startsWith("image/")) throw new Error(`${file.name} is no picture.`);
    if (file.size > MAX_PICTURE_BYTES) {
      const most = MAX_PICTURE_BYTES / 2 ** 20;
      throw new Error(`${file.name} is too large: a picture may have ${most} MiB.`);
    }
    const picture = pictures.push(file) - 1;
    this.items = this.items.filter((item) => item.picture === undefined);
    this.items.push({ picture, label: file.name || "picture", minus: false });
    this.render();
  }

  write(values) {
    for (const { id, minus } of this.items) {
      if (id !== undefined) values.append(minus ? "minus_like" : "like", id);
    }
  }

  // What the address can't hold; null without a picture.
  get state() {
    return this.picture ? { picture: this.picture.picture, minus: this.picture.minus } : null;
  }

  read(values, state) {
    this.items = [false, true].flatMap((minus) =>
      values.getAll(minus ? "minus_like" : "like").map((id) => ({ id, label: id, minus })));
    const file = pictures[state?.picture];
    if (file) this.items.push({ picture: state.picture, label: file.name, minus: state.minus });
    this.render();
    return Promise.all(this.items.map((item) => this.nameMoment(item)));
  }

  // An address has numbers of entries, and perhaps moments as people write them.
  async nameMoment(item) {
    if (!/^\d+$/.test(item.id ?? "")) return;
    try {
      item.label = labelMoment(await fetchJson(`/api/entries/${item.id}`));
    } catch {
      return; // the search says what is wrong
    }
    if (this.items.includes(item)) this.render();
  }

  render() {
    this.list.replaceChildren(...this.items.map((item, index) => this.createChip(item, index)));
    this.list.hidden = !this.items.length;
  }

  createChip(item, index) {
    const sign = element("button", {
      type: "button", class: "sign", "aria-pressed": String(item.minus),
      "aria-label": `Not wanted: ${item.label}`, title: "Wanted (+) or not (−)",
      text: item.minus ? "−" : "+",
    });
    sign.addEventListener("click", () => {
      item.minus = !item.minus;
      this.render();
      this.list.children[index].querySelector(".sign").focus();
      this.onChange();
    });
    const remove = element("button", {
      type: "button", class: "remove", "aria-label": `Remove ${item.label}`, text: "×",
    });
    remove.addEventListener("click", () => {
      this.items = this.items.filter((one) => one !== item);
      this.render();
      byId("query").focus();
      this.onChange();
    });
    const label = element("span", { class: "label", dir: "auto", text: item.label });
    const parts = [sign, createThumbnail(item), label, remove];
    return element("li", item.minus ? { class: "minus" } : {}, ...parts);
  }
}

const labelMoment = (part) => `${splitPath(part.video)[1]}, ${formatTime(part.start_s)}`;

// A canvas in place of an address of the file, which the page's security policy knows nothing of.
function createThumbnail({ id, picture }) {
  if (picture === undefined) {
    const shown = element("img", { src: `/api/entries/${id}/thumbnail`, alt: "" });
    shown.addEventListener("error", () => shown.remove());
    return shown;
  }
  const canvas = element("canvas", { width: 64, height: 40, "aria-hidden": "true" });
  createImageBitmap(pictures[picture]).then(
    (image) => {
      const scale = Math.min(canvas.width / image.width, canvas.height / image.height);
      const [width, height] = [image.width * scale, image.height * scale];
      const place = [(canvas.width - width) / 2, (canvas.height - height) / 2, width, height];
      canvas.getContext("2d").drawImage(image, ...place);
      image.close();
    },
    () => canvas.remove(), // the browser can't show it; the server may be able to read it
  );
  return canvas;
}
