// The control bar below the picture, and the player's keys.

import { byId } from "./dom.js";

const STEP_S = 5;
const SMALL_STEP_S = 0.1; // with Shift

export class Controls {
  constructor(media, timeline) {
    this.media = media;
    this.timeline = timeline;
    const { video } = media;
    byId("play").addEventListener("click", () => media.toggle());
    video.addEventListener("click", () => media.toggle());
    byId("mute").addEventListener("click", () => {
      video.muted = !video.muted;
    });
    byId("volume").addEventListener("input", ({ target }) => {
      video.volume = Number(target.value);
      video.muted = video.volume === 0;
    });
    byId("speed").addEventListener("change", ({ target }) => {
      video.playbackRate = video.defaultPlaybackRate = Number(target.value);
    });
    byId("full").addEventListener("click", () => toggleFullScreen());
    byId("full").hidden = !document.fullscreenEnabled;
    byId("player").addEventListener("keydown", (event) => this.onKey(event));
  }

  show() {
    for (const id of ["play", "mute", "volume", "speed"]) byId(id).disabled = !this.media.isMoving;
    this.draw();
  }

  draw() {
    const { media } = this;
    setState("play", media.isPaused, "Play", "Pause");
    setState("mute", !media.video.muted, "Mute", "Sound on");
    byId("mute").ariaPressed = String(media.video.muted);
    this.timeline.draw(media.time, media.duration);
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const { target, key } = event;
    if (target.matches("select, #volume, input:not([type=range]):not([type=checkbox])")) return;
    const isPressed = target.matches("button, a, summary, [type=checkbox]"); // by Space itself
    if (key === " " && isPressed && target.id !== "play") return;
    const action = this.findAction(key, event.shiftKey);
    if (!action) return;
    event.preventDefault();
    action();
  }

  findAction(key, isSmall) {
    const { media, timeline } = this;
    const step = isSmall ? SMALL_STEP_S : STEP_S;
    const actions = {
      " ": () => media.toggle(),
      k: () => media.toggle(),
      ArrowLeft: () => media.seek(media.time - step),
      ArrowRight: () => media.seek(media.time + step),
      Home: () => media.seek(0),
      End: () => media.seek(media.duration),
      n: () => timeline.step(1),
      ".": () => timeline.step(1),
      p: () => timeline.step(-1),
      ",": () => timeline.step(-1),
      f: toggleFullScreen,
      m: () => byId("mute").click(),
    };
    return actions[key];
  }
}

// One of a button's two states, as its icon and its name show it.
function setState(id, isOn, whenOn, whenOff) {
  const label = isOn ? whenOn : whenOff;
  const button = byId(id);
  if (button.ariaLabel === label) return;
  button.ariaLabel = label;
  button.classList.toggle("is-off", !isOn);
}

function toggleFullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else byId("theatre").requestFullscreen?.().catch(() => {}); // the browser refuses: as it was
}
