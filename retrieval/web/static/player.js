// The dialog that plays a video from a moment of it, with the text's boxes over the picture.

import { BoxLayer } from "./boxes.js";
import { Controls } from "./controls.js";
import {
  byId, element, fetchJson, fileAddress, formatTenths, groupByLine, lineKey, splitPath,
} from "./dom.js";
import { Lines } from "./lines.js";
import { Media } from "./media.js";
import { Share } from "./share.js";
import { Timeline } from "./timeline.js";

const CLIP_S = 5; // of a clip where there is no moment
const TALL = 0.8; // shape of a picture below which it is a portrait

export class Player {
  // handlers: onMoment(path, time) when another moment is played, onClose(), and
  // linkTo(path, time), the address of a moment.
  constructor(handlers) {
    this.handlers = handlers;
    this.dialog = byId("player");
    this.layer = new BoxLayer(byId("boxes"));
    this.media = new Media((problem) => this.showProblem(problem));
    this.timeline = new Timeline((time) => this.media.seek(time), (moment) => this.onMatch(moment));
    this.controls = new Controls(this.media, this.timeline);
    this.lines = new Lines((time) => this.media.seek(time));
    this.share = new Share(this);
    this.video = null;
    byId("player-close").addEventListener("click", () => this.close());
    byId("draw").addEventListener("change", (event) => {
      byId("boxes").hidden = !event.target.checked;
    });
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.close(); // beside the player
    });
    this.dialog.addEventListener("close", () => {
      // Escape closes it, too. The event comes late: it may be open again, by Forward.
      if (this.video && !this.isOpen) this.stop();
    });
    this.media.video.addEventListener("loadedmetadata", () => {
      this.setRatio(this.media.video.videoWidth, this.media.video.videoHeight);
    });
  }

  get isOpen() {
    return this.dialog.open;
  }

  shows(path) {
    return this.isOpen && this.video?.video === path;
  }

  // video: {video} at least, {id} where it is known; moments: those of the query in it.
  async open(video, time, moments) {
    if (this.isOpen) this.reset();
    this.video = video;
    this.entry = null;
    const [folder, name] = splitPath(video.video);
    byId("player-title").textContent = name;
    byId("player-place").textContent = folder;
    byId("player-error").hidden = true;
    if (video.width) this.setRatio(video.width, video.height);
    this.timeline.show(moments, video.duration_s ?? 0);
    if (!this.isOpen) this.dialog.showModal();
    this.loading = new AbortController();
    const path = new URLSearchParams({ path: video.video });
    const address = video.id ? `/api/videos/${video.id}` : `/api/videos/lookup?${path}`;
    try {
      const entry = await fetchJson(address, this.loading.signal);
      await this.show(entry, time, moments);
    } catch (error) {
      if (error.name !== "AbortError") this.showError(error.message);
    }
  }

  async show(entry, time, moments) {
    this.entry = entry;
    const { width, height, duration_s: duration, playback } = entry;
    this.setRatio(width, height);
    byId("player-box").dataset.kind = playback.kind;
    const matched = groupByLine(moments.flatMap((moment) => moment.words));
    const marksOf = (track) => matched.get(lineKey(track))?.marks;
    const tracks = entry.tracks.filter((track) => track.kind !== "name");
    this.layer.show(tracks, marksOf);
    this.lines.show(tracks, marksOf);
    this.timeline.show(moments, duration);
    const index = this.timeline.find(time);
    this.timeline.select(index);
    const { start_s: start, end_s: end } = this.timeline.moments[index] ?? {
      start_s: time, end_s: Math.min(time + CLIP_S, duration),
    };
    const label = `${splitPath(entry.video)[1]}, plays from ${formatTenths(time)}`;
    this.media.video.setAttribute("aria-label", label);
    if (playback.kind === "missing") this.showProblem("missing");
    if (playback.kind === "pictures") this.showProblem("pictures");
    const opened = this.media.open(entry, time);
    this.share.setClip(start, end);
    this.lines.scrollTo(time);
    this.controls.show();
    this.draw();
    await opened;
  }

  // Another moment of the video that is shown, as Back and Forward go to it.
  goTo(time) {
    this.media.seek(time);
    this.timeline.select(this.timeline.find(time));
    this.lines.scrollTo(time);
  }

  onMatch(moment) {
    this.lines.scrollTo(moment.time_s);
    this.share.setClip(moment.start_s, moment.end_s);
    this.handlers.onMoment(this.video.video, moment.time_s);
  }

  // The stage has the picture's shape, so that shares of one are shares of the other.
  setRatio(width, height) {
    if (!width || !height) return;
    const box = byId("player-box");
    box.style.setProperty("--ratio", width / height);
    box.dataset.shape = width / height < TALL ? "tall" : "wide";
  }

  // Draws with every frame of the screen until the dialog is closed.
  draw() {
    cancelAnimationFrame(this.frame);
    this.lines.draw(this.layer.draw(this.media.time));
    this.controls.draw();
    this.frame = requestAnimationFrame(() => this.draw());
  }

  get text() {
    return this.lines.text;
  }

  get link() {
    return location.origin + this.handlers.linkTo(this.video.video, this.time);
  }

  get time() {
    return this.media.time;
  }

  get duration() {
    return this.media.duration;
  }

  close() {
    if (document.fullscreenElement) document.exitFullscreen();
    if (!this.isOpen) return;
    this.dialog.close();
    this.stop();
  }

  reset() {
    this.loading?.abort();
    cancelAnimationFrame(this.frame);
    this.media.close();
    this.layer.show([], () => undefined);
    this.lines.clear();
  }

  stop() {
    this.reset();
    this.video = this.entry = null;
    this.handlers.onClose();
  }

  showProblem(problem) {
    if (!this.entry) return; // closed meanwhile
    const { reason: given } = this.entry.playback;
    const reason = given ? ` (${given})` : "";
    if (problem === "missing" && given) {
      return this.showError(`This video can’t be read now${reason}.`);
    }
    if (problem === "missing") {
      return this.showError("The file of this video is missing: it was moved, renamed or "
        + "deleted. It is found again when the library is next brought up to date.");
    }
    if (problem === "pictures") {
      return this.showError(`No browser can play this video${reason}: pictures of it are shown.`);
    }
    const why = "its kind is unknown to it, or it is damaged";
    this.showError(`This browser can’t play the video: ${why}. `);
    const href = fileAddress(this.entry);
    byId("player-error").append(element("a", { href, download: "", text: "Download the file" }));
  }

  showError(text) {
    byId("player-error").textContent = text;
    byId("player-error").hidden = false;
  }
}
