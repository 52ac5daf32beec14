// The form of a new take: prompt, model, preset, size, and every other field that the model has.

import { $, h, setAttribute, setText } from "./dom.js";
import { clearErrors, fieldEntry, readFields, showDefaults, showError, writeFields } from "./fields.js";
import { fieldName } from "./format.js";
import { submit } from "./jobs.js";
import { storage } from "./key.js";
import { defaultsOf, FIRST_FIELDS, SIZE_FIELDS } from "./models.js";

const DRAFT = "rushes.draft";
const PREVIEW_EVERY = 1;
const MODES = [
  { value: "", content: "Whole clip", title: "All frames are denoised together" },
  { value: "causal", content: "Frame by frame", title: "The first frame comes early" },
];

let models = [];
let model = null;

export const currentModel = id => models.find(other => other.id === id) ?? model;

const form = () => $("slate");
const preset = () => form().querySelector("input[name=preset]:checked")?.value ?? "";
const size = () => form().querySelector("input[name=size]:checked")?.value ?? "";

export function buildSlate(found) {
  models = found;
  const draft = JSON.parse(storage.get(DRAFT) ?? "{}");
  model = models.find(other => other.id === draft.model) ?? models.find(other => other.isServed) ?? models[0];
  build();
  write(draft);
  form().addEventListener("submit", event => { event.preventDefault(); roll(); });
  form().addEventListener("input", () => { keepDraft(); describe(); });
}

function build() {
  const { fields } = model;
  const rest = Object.values(fields).filter(({ name }) => ![...FIRST_FIELDS, ...SIZE_FIELDS].includes(name));
  const first = FIRST_FIELDS.filter(name => fields[name]);
  $("settings").replaceChildren(...[
    models.length > 1 ? modelChoice() : null,
    presetChoice(),
    sizeChoice(),
    h("div.trio", {}, first.map(name => fieldEntry(fields[name], { hasHelp: false }))),
    h("p.readout", { id: "readout" }),
    h("details.further", {},
      h("summary", {}, "More settings"),
      avoidEntry(),
      model.modes.length ? radios("Mode", "mode", MODES, "") : null,
      h("div.duo", {}, rest.map(field => fieldEntry(field))),
      extras()),
  ].filter(Boolean));
  describe();
}

function modelChoice() {
  const options = models.map(({ id, isServed }) =>
    h("option", { value: id, selected: id === model.id }, isServed ? id : `${id} (no worker)`));
  const change = event => {
    const values = read();
    model = models.find(({ id }) => id === event.target.value);
    build();
    write({ ...values, model: model.id });
    keepDraft();
  };
  return h("div.entry", { "data-field": "model" }, h("label", { for: "model" }, "Model"),
    h("select", { id: "model", name: "model", onchange: change }, options), h("p.wrong"));
}

function radios(legend, field, options, checked) {
  return h("fieldset.entry.chips", { "data-field": field }, h("legend", {}, legend),
    h("div.chip-row", {}, options.map(({ value, content, title }) => h("label.chip", { title },
      h("input", { type: "radio", name: field.split(" ")[0], value, checked: value === checked }),
      h("span", {}, content)))),
    h("p.wrong"));
}

function presetChoice() {
  const options = Object.entries(model.presets).map(([name, { title }]) => ({ value: name, content: words(name), title }));
  return options.length ? radios("Preset", "preset", options, model.defaultPreset) : null;
}

const words = name => name[0].toUpperCase() + name.slice(1).replaceAll("-", " ");

function sizeChoice() {
  const known = model.sizes.map(([width, height]) =>
    ({ value: `${width}x${height}`, content: [shape(width, height), `${width} × ${height}`] }));
  const options = [...known, { value: "", content: "Other" }];
  const entry = radios("Size", "size", options, options[0].value);
  const sides = SIZE_FIELDS.filter(name => model.fields[name]).map(name => fieldEntry(model.fields[name], { hasHelp: false }));
  entry.append(h("div.duo.sides", { id: "sides", hidden: true }, sides));
  return entry;
}

// A small frame of the size's proportions.
function shape(width, height) {
  const scale = 14 / Math.max(width, height);
  const frame = h("i.shape", { "aria-hidden": "true" });
  frame.style.width = `${Math.round(width * scale)}px`;
  frame.style.height = `${Math.round(height * scale)}px`;
  return frame;
}

function avoidEntry() {
  return h("div.entry", { "data-field": "negative_prompt" }, h("label", { for: "negative" }, fieldName("negative_prompt")),
    h("textarea", { id: "negative", name: "negative_prompt", rows: 2, placeholder: "The model's own list" }), h("p.wrong"));
}

function extras() {
  const tick = (name, label, help) => h("div.entry.tick", { "data-field": name },
    h("label", {}, h("input", { type: "checkbox", name }), h("span", {}, label)), h("p.help", {}, help), h("p.wrong"));
  return h("div.extras", {},
    tick("batch", "Batch lane", "Waits for idle time; never refused for a long queue of others."),
    tick("degrade", "May be made smaller", "Fewer frames, a smaller size or fewer steps, rather than a refusal."));
}

function describe() {
  const defaults = defaultsOf(model, preset());
  showDefaults(form(), defaults);
  const isOther = size() === "";
  $("sides").hidden = !isOther;
  const given = read();
  const frames = given.num_frames ?? defaults.num_frames;
  const fps = given.fps ?? defaults.fps;
  const seconds = Number(frames) / Number(fps);
  const title = model.presets[preset()]?.title ?? "";
  setText($("readout"), [Number.isFinite(seconds) ? `${seconds.toFixed(1)} s of film at ${fps} fps` : "", title].filter(Boolean).join(" · "));
  setAttribute($("field-seed"), "title", "Empty: a new one every time");
}

// The request as the form says it.
export function read() {
  const { negative, prompt } = { negative: $("negative"), prompt: $("prompt") };
  const request = { prompt: prompt.value.trim(), model: model.id };
  if (preset()) request.preset = preset();
  if (size()) [request.width, request.height] = size().split("x").map(Number);
  const fields = readFields(form(), model.fields);
  if (size()) for (const name of SIZE_FIELDS) delete fields[name];
  Object.assign(request, fields);
  const mode = form().querySelector("input[name=mode]:checked")?.value;
  if (mode) request.mode = mode;
  if (negative.value.trim()) request.negative_prompt = negative.value.trim();
  if (form().elements.degrade.checked) request.degrade = true;
  if (form().elements.batch.checked) request.priority = "batch";
  return request;
}

// Fill the form from a request, or from what a take was made with.
export function write(values) {
  if (values.model && values.model !== model.id && models.some(({ id }) => id === values.model)) {
    model = models.find(({ id }) => id === values.model);
    build();
  }
  $("prompt").value = values.prompt ?? $("prompt").value;
  if (values.negative_prompt !== undefined) $("negative").value = values.negative_prompt ?? "";
  check("preset", values.preset ?? preset());
  check("mode", values.mode === "causal" ? "causal" : "");
  if (values.width) {
    const known = `${values.width}x${values.height}`;
    check("size", [...form().querySelectorAll("input[name=size]")].some(({ value }) => value === known) ? known : "");
  }
  writeFields($("settings"), Object.fromEntries(Object.keys(model.fields).map(name => [name, values[name] ?? ""])));
  form().elements.degrade.checked = Boolean(values.degrade);
  form().elements.batch.checked = values.priority === "batch";
  describe();
}

function check(name, value) {
  for (const input of form().querySelectorAll(`input[name=${name}]`)) input.checked = input.value === value;
}

// Settings of a take, to be changed before the next one.
export function tune(request) {
  clearErrors(form());
  write(request);
  keepDraft();
  $("prompt").focus();
  $("prompt").select();
}

function keepDraft() {
  storage.set(DRAFT, JSON.stringify(read()));
}

async function roll() {
  clearErrors(form());
  setText($("slate-error"), "");
  form().classList.remove("is-clapped");
  void form().offsetWidth; // so that the stroke is played again
  form().classList.add("is-clapped");
  const sending = submit({ ...read(), preview_every: PREVIEW_EVERY });
  $("sheet").scrollIntoView({ block: "nearest" });
  try {
    await sending;
  } catch (error) {
    refuse(error);
  }
}

export function refuse(error) {
  const rule = error.field && error.rule ? `${fieldName(error.field)} ${error.rule}` : error.message;
  if (error.field && showError(form(), error.field, error.rule ? `${rule}.`.replace("..", ".") : error.message)) return;
  const later = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  setText($("slate-error"), error.message + later);
}
