// The dialog that plays an entry from its start, with the text's boxes over the picture.

import { BoxLayer } from "./boxes.js";
import {
  byId, clock, element, fetched, lineKey, marked, matchedLines, pathParts, span,
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
    this.video.addEventListener("loadedmetadata", () => this.begin());
    this.video.addEventListener("error", () => this.unplayable());
  }

  async open(hit) {
    const [folder, name] = pathParts(hit.video);
    this.hit = hit;
    this.address = `/api/entries/${hit.id}/video`;
    byId("player-title").textContent = name;
    byId("player-place").textContent = folder ? `${span(hit)} · ${folder}` : span(hit);
    this.video.setAttribute("aria-label", `${name}, plays from ${clock(hit.start_s)}`);
    byId("player-error").hidden = true;
    byId("no-lines").hidden = true;
    this.video.src = this.address;
    this.dialog.showModal();
    this.loading = new AbortController();
    try {
      const entry = await fetched(`/api/entries/${hit.id}`, this.loading.signal);
      this.shape(entry.width, entry.height);
      this.list(entry.tracks);
      this.follow();
    } catch (error) {
      if (error.name !== "AbortError") this.showError(error.message);
    }
  }

  begin() {
    const { videoWidth, videoHeight } = this.video;
    if (!videoWidth) return this.unplayable(); // the sound is known, the pictures are not
    this.shape(videoWidth, videoHeight);
    this.video.currentTime = this.hit.start_s;
    this.video.play().catch(() => {
      // Some browsers want a second click; the controls are there for it.
    });
  }

  // The stage has the picture's shape, so that shares of one are shares of the other.
  shape(width, height) {
    byId("stage").style.setProperty("--ratio", width / height);
  }

  list(tracks) {
    const matched = matchedLines(this.hit.words);
    const marksOf = (track) => matched.get(lineKey(track))?.marks;
    this.layer.show(tracks, marksOf);
    this.buttons = tracks.map((track) => {
      const text = element("span", { dir: "auto" }, ...marked(track.text, marksOf(track) ?? []));
      const time = element("span", { class: "time", text: clock(track.start_s) });
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
  follow() {
    const seen = this.layer.draw(this.video.currentTime);
    this.buttons.forEach((button, place) => button.toggleAttribute("data-seen", seen[place]));
    this.frame = requestAnimationFrame(() => this.follow());
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

  unplayable() {
    if (!this.video.hasAttribute("src")) return;
    const link = element("a", { href: this.address, download: "", text: "Download the file" });
    this.showError("This browser can’t play the video: its kind is unknown to it, or it is damaged. ");
    byId("player-error").append(link);
  }

  showError(text) {
    byId("player-error").textContent = text;
    byId("player-error").hidden = false;
  }
}
