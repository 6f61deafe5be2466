// The dialog that plays an entry from its best frame, or its start, with the text's boxes over the
// picture.

import { BoxLayer } from "./boxes.js";
import {
  byId, element, fetchJson, formatSpan, formatTime, getMoment, groupByLine, lineKey, markText,
  splitPath,
} from "./dom.js";

export class Player {
  constructor() {
    this.dialog = byId("player");
    this.video = byId("video");
    this.layer = new BoxLayer(byId("boxes"));
    this.buttons = [];
    this.loading = null;
    byId("player-close").addEventListener("click", () => this.dialog.close());
    byId("draw").addEventListener("change", (event) => {
      byId("boxes").hidden = !event.target.checked;
    });
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close(); // beside the player
    });
    this.dialog.addEventListener("close", () => this.stop());
    this.video.addEventListener("loadedmetadata", () => this.startPlayback());
    this.video.addEventListener("error", () => this.showUnplayable());
  }

  async open(hit) {
    const [folder, name] = splitPath(hit.video);
    this.hit = hit;
    this.address = `/api/entries/${hit.id}/video`;
    byId("player-title").textContent = name;
    byId("player-place").textContent = folder ? `${formatSpan(hit)} · ${folder}` : formatSpan(hit);
    this.video.setAttribute("aria-label", `${name}, plays from ${formatTime(getMoment(hit))}`);
    byId("player-error").hidden = true;
    byId("no-lines").hidden = true;
    this.video.src = this.address;
    this.dialog.showModal();
    this.loading = new AbortController();
    try {
      const entry = await fetchJson(`/api/entries/${hit.id}`, this.loading.signal);
      this.setRatio(entry.width, entry.height);
      this.listLines(entry.tracks);
      this.drawBoxes();
    } catch (error) {
      if (error.name !== "AbortError") this.showError(error.message);
    }
  }

  startPlayback() {
    const { videoWidth, videoHeight } = this.video;
    if (!videoWidth) return this.showUnplayable(); // the sound is known, the pictures are not
    this.setRatio(videoWidth, videoHeight);
    this.video.currentTime = getMoment(this.hit);
    this.video.play().catch(() => {
      // Some browsers want a second click; the controls are there for it.
    });
  }

  // The stage has the picture's shape, so that shares of one are shares of the other.
  setRatio(width, height) {
    byId("stage").style.setProperty("--ratio", width / height);
  }

  listLines(tracks) {
    const matched = groupByLine(this.hit.words);
    const marksOf = (track) => matched.get(lineKey(track))?.marks;
    this.layer.show(tracks, marksOf);
    this.buttons = tracks.map((track) => {
      const text = element("span", { dir: "auto" }, ...markText(track.text, marksOf(track) ?? []));
      const time = element("span", { class: "time", text: formatTime(track.start_s) });
      const button = element("button", { type: "button" }, time, text);
      button.addEventListener("click", () => {
        this.video.currentTime = track.start_s;
      });
      return button;
    });
    byId("lines").replaceChildren(...this.buttons.map((button) => element("li", {}, button)));
    byId("no-lines").hidden = tracks.length > 0;
  }

  // Draws with every frame of the screen until the dialog is closed.
  drawBoxes() {
    const seen = this.layer.draw(this.video.currentTime);
    this.buttons.forEach((button, number) => button.toggleAttribute("data-seen", seen[number]));
    this.frame = requestAnimationFrame(() => this.drawBoxes());
  }

  stop() {
    this.loading.abort();
    cancelAnimationFrame(this.frame);
    this.video.pause();
    this.video.removeAttribute("src"); // or it would go on loading
    this.video.load();
    this.layer.show([]);
    byId("lines").replaceChildren();
  }

  showUnplayable() {
    if (!this.video.hasAttribute("src")) return;
    const link = element("a", { href: this.address, download: "", text: "Download the file" });
    const reason = "its kind is unknown to it, or it is damaged";
    this.showError(`This browser can’t play the video: ${reason}. `);
    byId("player-error").append(link);
  }

  showError(text) {
    byId("player-error").textContent = text;
    byId("player-error").hidden = false;
  }
}
