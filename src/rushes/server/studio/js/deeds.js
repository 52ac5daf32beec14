// What can be done with the take on screen.

import { download } from "./api.js";
import { $, h, icon, say, setAttribute, toast } from "./dom.js";
import { isEdit, openBefore, openEdit } from "./edit.js";
import { cancel, remove, requestOf, submit } from "./jobs.js";
import { currentModel, refuse, tune } from "./slate.js";
import { store } from "./store.js";
import { isDone, isEnded } from "./take.js";

export const DEEDS = [
  { key: "r", icon: "again", label: "Same again", hint: "with the same seed", can: () => true, act: again },
  { key: "e", icon: "tune", label: "Use settings", hint: "in the form", can: () => true, act: take => tune(requestOf(take, currentModel(take.video.model))) },
  { key: "c", icon: "pair", label: "Compare", hint: "mark for comparison", can: isDone, act: take => store.compare(take.id) },
  { key: "m", icon: "pen", label: "Edit", hint: "other words, from its latents", can: isDone, act: openEdit },
  { key: "b", icon: "pair", label: "Before, after", hint: "beside what it is an edit of", can: take => isDone(take) && isEdit(take), act: openBefore },
  { key: "d", icon: "down", label: "Download", hint: "as mp4", can: isDone, act: take => download(take.video).catch(error => toast(error.message)) },
  { key: "x", icon: "stop", label: "Cancel", hint: "stop making it", can: take => !isEnded(take), act: cancel },
  { key: "Delete", icon: "bin", label: "Delete", hint: "take and files", can: isEnded, act: remove },
];

export async function again(take) {
  try {
    await submit({ ...requestOf(take, currentModel(take.video.model)), preview_every: 1, cache: "off" });
    say("The same take again, with the same seed");
  } catch (error) {
    if (error.status) refuse(error);
    else toast(error.message);
  }
}

export function doDeed(key) {
  const take = store.screened;
  const deed = DEEDS.find(other => other.key === key);
  if (!deed || !take || take.isPending || !deed.can(take)) return false;
  deed.act(take);
  return true;
}

export function buildDeeds() {
  const buttons = DEEDS.map(deed => h("button.quiet.deed", {
    type: "button", title: `${deed.label}, ${deed.hint} (${deed.key === "Delete" ? "Del" : deed.key.toUpperCase()})`,
    onclick: () => doDeed(deed.key),
  }, icon(deed.icon), h("span", {}, deed.label)));
  $("deeds").prepend(...buttons);
  const draw = () => {
    const take = store.screened;
    DEEDS.forEach((deed, i) => { buttons[i].disabled = !take || take.isPending || !deed.can(take); });
    setAttribute(buttons[2], "aria-pressed", String(Boolean(take && store.compared.includes(take.id))));
  };
  store.on("screen compare", draw);
  store.on("take", id => { if (id === store.onScreen) draw(); });
  draw();
}
