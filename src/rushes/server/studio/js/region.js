// A part of a take, drawn as a box on its poster: where an edit may change it.

import { mediaUrl, partUrl } from "./api.js";
import { h } from "./dom.js";

const WIDTH = 320;
const LEAST = 4; // less is a click

// `element` to be shown; `mask()` is a PNG as a data URL, null where no box is drawn.
export function regionPicker(video) {
  const canvas = h("canvas", {
    width: WIDTH, height: Math.round(WIDTH * video.height / video.width),
    role: "img", "aria-label": "The take's first frame; drag a box over what may change",
  });
  const image = h("img", { alt: "", draggable: "false" });
  mediaUrl(partUrl(video, "thumbnail")).then(url => { image.src = url; }, () => {});
  const pen = canvas.getContext("2d");
  let box = null, from = null;

  const at = event => {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    const inside = (value, most) => Math.min(most, Math.max(0, value));
    return [inside((event.clientX - left) / width, 1) * canvas.width, inside((event.clientY - top) / height, 1) * canvas.height];
  };
  const draw = () => {
    pen.clearRect(0, 0, canvas.width, canvas.height);
    clear.hidden = !box;
    if (!box) return;
    pen.fillStyle = "#0a0908a8";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.clearRect(...box);
    pen.strokeStyle = "#f2b566";
    pen.lineWidth = 2;
    pen.strokeRect(...box);
  };
  const clear = h("button.quiet", { type: "button", hidden: true, onclick: () => { box = null; draw(); } }, "Change all of it");
  canvas.onpointerdown = event => { canvas.setPointerCapture(event.pointerId); from = at(event); };
  canvas.onpointermove = event => {
    if (!from) return;
    const to = at(event);
    const [x, y] = [0, 1].map(axis => Math.min(from[axis], to[axis]));
    const [width, height] = [0, 1].map(axis => Math.abs(from[axis] - to[axis]));
    box = width < LEAST || height < LEAST ? null : [x, y, width, height];
    draw();
  };
  canvas.onpointerup = canvas.onpointercancel = () => { from = null; };

  const mask = () => {
    if (!box) return null;
    const sheet = h("canvas", { width: canvas.width, height: canvas.height });
    const paint = sheet.getContext("2d");
    paint.fillStyle = "#000";
    paint.fillRect(0, 0, sheet.width, sheet.height);
    paint.fillStyle = "#fff";
    paint.fillRect(...box);
    return sheet.toDataURL("image/png");
  };
  return { element: h("div.region", {}, h("div.region-frame", {}, image, canvas), clear), mask };
}
