// Where lines of text stand on the frame at a time, and drawing them there.

import { element } from "./dom.js";

const SLACK_S = 0.25; // text is looked for in some frames only: it was there before, and stays

// The box of a track at a time, between the frames in which it was spotted; null: not seen.
export function interpolateBox(track, time) {
  if (!track.boxes.length) return null; // said, not shown
  if (time < track.start_s - SLACK_S || time > track.end_s + SLACK_S) return null;
  const next = track.boxes.findIndex((box) => box.time_s >= time);
  if (next < 0) return track.boxes.at(-1);
  if (next === 0) return track.boxes[0];
  const [before, after] = [track.boxes[next - 1], track.boxes[next]];
  const share = (time - before.time_s) / (after.time_s - before.time_s);
  const between = (side) => before[side] + share * (after[side] - before[side]);
  return {
    left: between("left"),
    top: between("top"),
    right: between("right"),
    bottom: between("bottom"),
  };
}

// A layer over the video that shows the boxes of tracks; shares of the frame become per cent.
export class BoxLayer {
  constructor(layer) {
    this.layer = layer;
    this.drawn = [];
  }

  show(tracks, isMatched) {
    this.drawn = tracks.map((track) => ({
      track,
      frame: element("div", { class: isMatched(track) ? "box matched" : "box" }),
    }));
    this.layer.replaceChildren(...this.drawn.map(({ frame }) => frame));
  }

  // Draws the boxes at a time; returns for each track whether it is seen.
  draw(time) {
    return this.drawn.map(({ track, frame }) => {
      const box = interpolateBox(track, time);
      frame.hidden = box === null;
      if (box === null) return false;
      frame.style.left = `${100 * box.left}%`;
      frame.style.top = `${100 * box.top}%`;
      frame.style.width = `${100 * (box.right - box.left)}%`;
      frame.style.height = `${100 * (box.bottom - box.top)}%`;
      return true;
    });
  }
}
