// Where lines of text stand on the frame at a time, and drawing them there.

import { element, placeBox } from "./dom.js";

const SLACK_S = 0.25; // text is looked for in some frames only: it was there before, and stays

const isOver = (track, time) =>
  time < track.start_s - SLACK_S || time > track.end_s + SLACK_S;

// The box of a track at a time, between the frames in which it was spotted; null: not seen.
export function interpolateBox(track, time) {
  if (isOver(track, time) || !track.boxes.length) return null;
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

  // marksOf: track -> its marks, or undefined where nothing in it was looked for.
  show(tracks, marksOf) {
    this.drawn = tracks.map((track) => {
      const marks = marksOf(track);
      const isFuzzy = marks?.every((mark) => mark.kind === "fuzzy");
      const name = marks ? `box matched${isFuzzy ? " fuzzy" : ""}` : "box";
      return { track, frame: element("div", { class: name }) };
    });
    this.layer.replaceChildren(...this.drawn.map(({ frame }) => frame));
  }

  // Draws the boxes at a time; returns for each track whether it is seen, or heard.
  draw(time) {
    return this.drawn.map(({ track, frame }) => {
      const box = interpolateBox(track, time);
      frame.hidden = box === null;
      if (box) placeBox(frame, box);
      return !isOver(track, time);
    });
  }
}
