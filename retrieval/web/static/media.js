// What shows a video: the browser's own player of the file or of a stream made on demand, or else
// single pictures of it.

import { button, byId, element, fileAddress, formatTenths, frameAddress } from "./dom.js";

const NUM_PICTURES = 12; // in the strip
const STRIP_WIDTH = 160; // pixels
const STILL_WIDTH = 1280;

export class Media {
  // onError(text): called with what is wrong, for a person.
  constructor(onError) {
    this.video = byId("video");
    this.still = byId("still");
    this.strip = byId("strip");
    this.onError = onError;
    this.kind = null;
    this.still.addEventListener("error", () => {
      this.still.hidden = true; // the message above says what there is not
    });
    this.video.addEventListener("loadedmetadata", () => this.startPlayback());
    this.video.addEventListener("error", () => {
      if (this.video.hasAttribute("src")) this.fail();
    });
  }

  // Plays what /api/videos/{id} has described, from a time on.
  async open(entry, time) {
    this.entry = entry;
    this.kind = entry.playback.kind;
    this.stillTime = this.startTime = time;
    this.video.hidden = !this.isMoving;
    this.still.hidden = this.isMoving;
    if (this.kind === "file") this.video.src = fileAddress(entry);
    else if (this.kind === "stream") await this.openStream();
    else this.showStill();
    if (this.kind === "pictures") this.showStrip();
  }

  async openStream() {
    const { entry } = this;
    const { StreamPlayer } = await import("./stream.js");
    if (this.entry !== entry) return; // closed in the meantime
    this.kind = "stream";
    this.stream = new StreamPlayer(this.video, () => this.onError("unplayable"));
    await this.stream.open(`/api/videos/${entry.id}`, entry.playback, this.startTime);
  }

  // A file that this browser can't play may be had as a stream, from the same time on.
  fail() {
    const canStream = this.kind === "file" && this.entry.playback.codecs;
    if (canStream) this.openStream().catch(() => this.onError("unplayable"));
    else this.onError("unplayable");
  }

  startPlayback() {
    if (!this.video.videoWidth) return this.fail(); // sound, but no pictures
    this.video.currentTime = this.startTime;
    this.video.play().catch(() => {
      // Some browsers want a click first; the button is there for it.
    });
  }

  close() {
    this.kind = this.entry = null;
    this.video.pause();
    this.stream?.close();
    this.stream = null;
    this.video.removeAttribute("src"); // or it would go on loading
    this.video.load();
    this.still.removeAttribute("src");
    this.strip.replaceChildren();
    this.strip.hidden = true;
  }

  get isMoving() {
    return this.kind === "file" || this.kind === "stream";
  }

  get duration() {
    const known = this.isMoving && Number.isFinite(this.video.duration);
    return (known && this.video.duration) || this.entry?.duration_s || 0;
  }

  get time() {
    return this.isMoving && this.video.readyState ? this.video.currentTime : this.stillTime;
  }

  seek(time) {
    const wanted = Math.min(Math.max(0, time), this.duration);
    this.stillTime = this.startTime = wanted;
    if (!this.isMoving) return this.showStill();
    if (this.video.readyState) this.video.currentTime = wanted;
  }

  get isPaused() {
    return !this.isMoving || this.video.paused;
  }

  toggle() {
    if (!this.isMoving) return;
    if (!this.video.paused) return this.video.pause();
    this.video.play().catch(() => {});
  }

  showStill() {
    this.still.src = frameAddress(this.entry.id, this.stillTime, STILL_WIDTH);
    this.still.alt = `Picture at ${formatTenths(this.stillTime)}`;
  }

  showStrip() {
    const { id, duration_s: duration, width, height } = this.entry;
    const items = Array.from({ length: NUM_PICTURES }, (_, index) => {
      const time = (duration * (index + 0.5)) / NUM_PICTURES;
      const picture = element("img", { src: frameAddress(id, time, STRIP_WIDTH), alt: "" });
      picture.style.aspectRatio = width / height;
      const label = `Show the picture at ${formatTenths(time)}`;
      const text = element("span", { class: "time", text: formatTenths(time) });
      return element(
        "li", {}, button({ "aria-label": label }, () => this.seek(time), picture, text),
      );
    });
    this.strip.replaceChildren(...items);
    this.strip.hidden = false;
  }
}
