// A clip in a <video>: while it is made (fetch feeds MediaSource) or finished (one address).

import { ApiError, call, mediaUrl } from "./api.js";
import { readInit } from "./mp4.js";
import { pause } from "./sse.js";

const Source = window.ManagedMediaSource ?? window.MediaSource;
const RETRY_MS = 600;
const MOST_BREAKS = 8; // of a stream that had begun
const EDGE_S = 0.08; // closer to the end of what is there than this counts as having reached it

export class Player {
  constructor(video, onPicture) {
    this.video = video;
    this.onPicture = onPicture;
    this.isGrowing = false;
    this.stops = null;
    this.address = null;
    // What is there so far is shown again until there is more, rather than a picture that stands still.
    const atEdge = () => {
      if (!this.isGrowing || video.paused || video.seeking || !this.loops) return;
      if (video.currentTime > 0.2 && this.madeUntil - video.currentTime < EDGE_S) video.currentTime = 0;
    };
    video.addEventListener("waiting", atEdge);
    video.addEventListener("ended", () => { if (this.isGrowing) video.play().catch(() => {}); });
  }

  get loops() {
    return !matchMedia("(prefers-reduced-motion: reduce)").matches;
  }

  // Seconds that can be played.
  get madeUntil() {
    const { buffered } = this.video;
    return buffered.length ? buffered.end(buffered.length - 1) : 0;
  }

  // Play what `path` delivers while it grows; returns when all of it is there.
  async grow(path) {
    const signal = this.#begin();
    this.isGrowing = true;
    this.video.loop = false;
    let breaks = 0;
    while (!signal.aborted) {
      try {
        await (Source ? this.#stream(path, signal) : this.#whole(path, signal));
        this.isGrowing = false;
        this.video.loop = this.loops;
        if (this.video.ended) this.#play();
        return;
      } catch (error) {
        if (signal.aborted) return;
        if ([401, 403, 404, 410].includes(error.status)) return;
        // 409: its first frame is not there yet. Anything else is a lost connection, and the clip starts over.
        if (!(error instanceof ApiError) && ++breaks > MOST_BREAKS) return;
        await pause(RETRY_MS, signal);
      }
    }
  }

  // Play a finished clip. `hold` keeps the place where the one before it stood.
  async finished(path, { hold = false } = {}) {
    const at = hold ? this.video.currentTime : 0;
    const signal = this.#begin();
    const address = await mediaUrl(path, { signal });
    if (signal.aborted) return;
    this.video.loop = this.loops;
    this.#show(address);
    if (at) this.video.currentTime = at;
    this.#play();
  }

  stop() {
    this.stops?.abort();
    this.stops = null;
    this.isGrowing = false;
    if (this.video.hasAttribute("src")) {
      this.video.removeAttribute("src");
      this.video.load();
    }
    if (this.address) URL.revokeObjectURL(this.address);
    this.address = null;
  }

  #begin() {
    this.stop();
    this.stops = new AbortController();
    return this.stops.signal;
  }

  #show(address) {
    const { video, stops } = this;
    video.src = address;
    const tell = () => { if (this.stops === stops) this.onPicture(); };
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(tell);
    else video.addEventListener("loadeddata", tell, { once: true });
  }

  #play() {
    this.video.play().catch(() => { /* the browser wants a gesture first; the button is there */ });
  }

  async #stream(path, signal) {
    const response = await call(path, { signal, cache: "no-store" });
    const reader = response.body.getReader();
    let head = new Uint8Array();
    let init = null;
    while (!init) {
      const { done, value } = await reader.read();
      if (done) throw new ApiError(409);
      head = joined(head, value);
      init = readInit(head);
    }
    const { source, buffer } = await this.#open(`video/mp4; codecs="${init.codec}"`, signal);
    await append(buffer, head);
    this.#play();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      await append(buffer, value);
    }
    if (source.readyState === "open") source.endOfStream();
  }

  async #open(type, signal) {
    if (!Source.isTypeSupported(type)) throw new Error(`this browser cannot play ${type}`);
    const source = new Source();
    if (window.ManagedMediaSource) this.video.disableRemotePlayback = true;
    if (this.address) URL.revokeObjectURL(this.address);
    this.address = URL.createObjectURL(source);
    const opened = new Promise(resolve => source.addEventListener("sourceopen", resolve, { once: true }));
    this.#show(this.address);
    await opened;
    signal.throwIfAborted();
    return { source, buffer: source.addSourceBuffer(type) };
  }

  // Without MediaSource: all of it first, then play.
  async #whole(path, signal) {
    const response = await call(path, { signal, cache: "no-store" });
    const blob = await response.blob();
    signal.throwIfAborted();
    this.address = URL.createObjectURL(new Blob([blob], { type: "video/mp4" }));
    this.#show(this.address);
    this.#play();
  }
}

function append(buffer, bytes) {
  return new Promise((resolve, reject) => {
    buffer.addEventListener("updateend", resolve, { once: true });
    buffer.addEventListener("error", () => reject(new Error("the clip cannot be decoded")), { once: true });
    buffer.appendBuffer(bytes);
  });
}

function joined(first, second) {
  const bytes = new Uint8Array(first.length + second.length);
  bytes.set(first);
  bytes.set(second, first.length);
  return bytes;
}
