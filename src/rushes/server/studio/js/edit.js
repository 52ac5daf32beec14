// A finished take again, with other words: its latents are taken up, and what was is shown beside what came of it.

import { api } from "./api.js";
import { openPair } from "./compare.js";
import { closeDialog, openDialog } from "./dialogs.js";
import { h, setText, toast } from "./dom.js";
import { submit } from "./jobs.js";
import { regionPicker } from "./region.js";
import { currentModel } from "./slate.js";
import { store } from "./store.js";

export function openEdit(take) {
  const prompt = h("textarea", { id: "edit-prompt", rows: 3, required: true, maxlength: 20_000 });
  prompt.value = take.video.prompt;
  const strength = h("input", { id: "edit-strength", type: "range", "aria-describedby": "edit-ends", min: 0, max: 1, step: 0.01, value: currentModel(take.video.model).editStrength, oninput: () => draw() });
  const told = h("output", { for: "edit-strength" });
  const draw = () => { setText(told, Number(strength.value).toFixed(2)); strength.style.setProperty("--at", strength.value); };
  const region = regionPicker(take.video);
  const wrong = h("p.wrong", { role: "alert" });
  const given = event => {
    event.preventDefault();
    send(take, prompt.value, Number(strength.value), region.mask()).then(closeDialog, error => setText(wrong, error.message));
  };
  openDialog("Edit this take", h("form.column", { onsubmit: given },
    h("div.entry", {}, h("label", { for: "edit-prompt" }, "What it shall show now"), prompt),
    h("div.entry", {}, h("label", { for: "edit-strength" }, "How much may change: ", told),
      h("div.track", {}, strength), h("p.ends", { id: "edit-ends" }, h("span", {}, "0: little"), h("span", {}, "1: a new clip"))),
    h("div.entry", {}, h("p.hint", {}, "Where: drag a box, or leave it for all of it"), region.element),
    wrong,
    h("div.row-end", {}, h("button.action", { type: "submit" }, "Roll the edit"))), { kind: "narrow" });
  draw();
  prompt.focus();
  prompt.select();
}

// Stands on the page as what it was asked for; the rest of its settings are the take's.
async function send(take, prompt, strength, mask) {
  const { width, height, num_frames, fps, model } = take.video;
  const asked = { prompt, model, width, height, num_frames, fps };
  const ask = { prompt, strength, preview_every: 1, ...(mask && { mask }) };
  await submit(asked, { send: (_, key) => api.remix(take.id, ask, key) });
}

export const isEdit = take => Boolean(take.video.remixed_from_video_id);

export function openBefore(take) {
  const before = store.takes.get(take.video.remixed_from_video_id);
  if (before) openPair([before, take]);
  else toast("The take that this is an edit of is not on the page any more");
}
