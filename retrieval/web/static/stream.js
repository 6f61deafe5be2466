// Plays a video that no browser can, from segments that the server makes on demand: Media Source
// Extensions. A segment is a piece of fragmented MP4 with its own header and the video's own times.

const AHEAD_S = 18; // how much is loaded before it is played
const BEHIND_S = 30; // how much is kept after it was played
const MAX_AHEAD_S = 60; // where nothing is loaded at the time: key frames may be far apart
const LATE_S = 0.1; // that may lack at the start of a segment
const IDLE_MS = 500;

export class StreamPlayer {
  // onError(text): what is wrong, for a person. The video element gets its error event, too.
  constructor(video, onError = () => {}) {
    this.video = video;
    this.onError = onError;
    this.loading = null;
    this.wake = () => {};
    this.onSeeking = () => this.follow(this.video.currentTime);
    this.onTime = () => this.wake();
  }

  static get isSupported() {
    return Boolean(globalThis.ManagedMediaSource ?? globalThis.MediaSource);
  }

  // base: "/api/videos/7"; playback: as the server describes it; time: to begin at, in seconds.
  async open(base, playback, time = 0) {
    this.base = base;
    this.playback = playback;
    this.closed = new AbortController();
    const Source = globalThis.ManagedMediaSource ?? globalThis.MediaSource;
    if (!Source) return this.fail("This browser can’t play streams.");
    this.source = new Source();
    this.video.disableRemotePlayback = true; // or a ManagedMediaSource does not open
    this.address = URL.createObjectURL(this.source);
    this.video.src = this.address;
    const opened = { once: true, signal: this.closed.signal };
    await new Promise((resolve) => {
      this.source.addEventListener("sourceopen", resolve, opened);
      this.closed.signal.addEventListener("abort", resolve);
    });
    if (this.closed.signal.aborted) return;
    try {
      this.buffer = this.source.addSourceBuffer(`video/mp4; codecs="${playback.codecs}"`);
      this.source.duration = playback.duration_s;
    } catch (error) {
      return this.fail(`This browser can’t play the stream (${error.message}).`);
    }
    this.video.addEventListener("seeking", this.onSeeking);
    this.video.addEventListener("timeupdate", this.onTime);
    if (time > 0) this.video.currentTime = time; // as soon as the video is known
    this.start(time);
  }

  close() {
    this.closed?.abort();
    this.loading?.abort();
    this.wake();
    this.video.removeEventListener("seeking", this.onSeeking);
    this.video.removeEventListener("timeupdate", this.onTime);
    if (this.address) {
      if (this.video.src === this.address) this.video.removeAttribute("src");
      URL.revokeObjectURL(this.address);
    }
    this.address = null;
  }

  // What lacks at a time may be what is being loaded.
  follow(time) {
    const isNext = this.findEnd(time) === this.end || this.findNext(time) === this.number;
    if (isNext) this.wake();
    else this.start(time);
  }

  // Loads one segment after the other from the one of a time on; what was loading is given up.
  start(time) {
    this.loading?.abort();
    const loading = new AbortController();
    this.loading = loading;
    this.wake();
    this.load(time, loading.signal).catch((error) => {
      if (!loading.signal.aborted && !this.closed.signal.aborted) this.fail(error.message);
    });
  }

  async load(time, signal) {
    const { segment_s: length, num_segments: count } = this.playback;
    this.number = this.findNext(time);
    while (this.number < count) {
      const now = this.getTime(time);
      this.end = this.findEnd(now) ?? undefined;
      const isAhead = this.end > now + AHEAD_S || this.number * length > now + MAX_AHEAD_S;
      if (isAhead) {
        await this.wait(signal);
      } else {
        await this.append(await this.fetchSegment(this.number, signal), signal);
        this.number = Math.max(this.number + 1, this.findNext(this.getTime(time)));
      }
    }
    this.end = undefined;
    if (this.source.readyState === "open") this.source.endOfStream();
  }

  // The segment that lacks first from a time on; their number where none does.
  findNext(time) {
    const { segment_s: length, num_segments: count, duration_s: duration } = this.playback;
    const end = this.findEnd(time) ?? time;
    if (end > time && end >= duration - LATE_S) return count;
    return Math.min(Math.floor((end + LATE_S) / length), count - 1);
  }

  async fetchSegment(number, signal) {
    const answer = await fetch(`${this.base}/segments/${number}.mp4`, { signal });
    if (answer.ok) return answer.arrayBuffer();
    const { detail } = await answer.json().catch(() => ({}));
    throw new Error(detail ?? `The server failed (${answer.status}).`);
  }

  // Browsers keep about 150 MB: where there is no room as yet, what was played makes it.
  async append(content, signal) {
    if (!content.byteLength) return; // all of it belongs to a later segment
    for (let behind = BEHIND_S; ; behind = 1) {
      const kept = this.video.currentTime - behind;
      if (kept > 0) await this.change(() => this.buffer.remove(0, kept), signal);
      try {
        return await this.change(() => this.buffer.appendBuffer(content), signal);
      } catch (error) {
        if (error.name !== "QuotaExceededError") throw error;
      }
      await this.wait(signal);
    }
  }

  // Where the player is, or will be as soon as it knows the video.
  getTime(time) {
    return this.video.readyState ? this.video.currentTime : time;
  }

  // The end of what is loaded at a time without a gap; null: it is not.
  findEnd(time) {
    const ranges = this.buffer.buffered;
    for (let index = 0; index < ranges.length; index += 1) {
      if (ranges.start(index) - LATE_S <= time && time < ranges.end(index)) return ranges.end(index);
    }
    return null;
  }

  // A source buffer takes one change at a time; one that was begun is always waited for.
  async change(begin, signal) {
    await this.changed;
    signal.throwIfAborted();
    begin();
    this.changed = new Promise((resolve) => {
      this.buffer.addEventListener("updateend", resolve, { once: true });
      this.closed.signal.addEventListener("abort", resolve, { once: true });
    });
    await this.changed;
    signal.throwIfAborted();
  }

  async wait(signal) {
    await new Promise((resolve) => {
      this.wake = resolve;
      setTimeout(resolve, IDLE_MS);
    });
    signal.throwIfAborted();
  }

  fail(text) {
    if (this.source?.readyState === "open") this.source.endOfStream("decode");
    this.onError(text);
  }
}
