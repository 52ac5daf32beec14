// The dialog in which a starter's slots are filled and its clips are queued.

import { $, h, setText, toast } from "./dom.js";
import { closeDialog, openDialog } from "./dialogs.js";
import { count } from "./format.js";
import { submit } from "./jobs.js";
import { read, refuse } from "./slate.js";
import { prompts, STARTERS } from "./starter_list.js";

const MOST_CLIPS = 12;

export function openStarters() {
  const body = h("div.starter-body");
  const tabs = STARTERS.map((starter, i) => h("label.chip", {},
    h("input", { type: "radio", name: "starter", value: starter.id, checked: i === 0, onchange: () => body.replaceChildren(form(starter)) }),
    h("span", {}, starter.title)));
  body.append(form(STARTERS[0]));
  openDialog("Starters", h("div.column", {}, h("fieldset.entry", {}, h("legend.hidden", {}, "Starter"), h("div.chip-row", {}, tabs)), body), { kind: "middle" });
}

function form(starter) {
  const inputs = starter.slots.map(slot => h("input", { id: `slot-${slot.name}`, name: slot.name, value: slot.value, autocomplete: "off" }));
  const list = h("ol.shots");
  const button = h("button.action", { type: "submit" });
  const made = () => prompts(starter, Object.fromEntries(inputs.map(input => [input.name, input.value]))).slice(0, MOST_CLIPS);
  const draw = () => {
    list.replaceChildren(...made().map(prompt => h("li", {}, prompt)));
    setText(button, `Queue ${count(made().length, "clip")}`);
    button.disabled = !made().length;
  };
  draw();
  const send = event => { event.preventDefault(); closeDialog(); queue(starter, made()); };
  return h("form.column", { oninput: draw, onsubmit: send },
    h("p.muted", {}, starter.about),
    h("div.slots", {}, starter.slots.map((slot, i) => h("div.entry", {}, h("label", { for: `slot-${slot.name}` }, slot.label), inputs[i]))),
    list,
    h("div.row-end", {}, h("p.muted", {}, `With the form's settings, in the batch lane${starter.hasOneSeed ? ", all with one seed" : ""}.`), button));
}

async function queue(starter, list) {
  const settings = { ...read(), priority: "batch", preview_every: 1 };
  if (starter.hasOneSeed && settings.seed === undefined) settings.seed = Math.floor(Math.random() * 2 ** 31);
  const sent = list.map((prompt, i) => submit({ ...settings, prompt }, { isShown: i === 0 }));
  const refused = (await Promise.allSettled(sent)).filter(({ status }) => status === "rejected");
  if (!refused.length) return;
  refuse(refused[0].reason);
  toast(`${count(refused.length, "clip")} of ${list.length} not taken: ${refused[0].reason.message}`);
  $("slate").scrollIntoView({ block: "nearest" });
}
