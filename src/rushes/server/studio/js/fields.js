// One control for one field of `/v1/models`: label, input, help, and the place of its error.

import { h, setAttribute, setText } from "./dom.js";
import { fieldName } from "./format.js";

// An empty control means the default, which its placeholder shows; it is written in one place, the service.
export function fieldEntry(field, { label = fieldName(field.name), hasHelp = true, after = null } = {}) {
  const id = `field-${field.name}`;
  const described = [hasHelp ? `${id}-help` : null, `${id}-error`].filter(Boolean).join(" ");
  const control = field.choices?.length ? choice(field, id, described) : number(field, id, described);
  return h("div.entry", { "data-field": field.name },
    h("label", { for: id }, label),
    h("div.with", {}, control, after),
    hasHelp ? h("p.help", { id: `${id}-help` }, field.help ?? "") : null,
    h("p.wrong", { id: `${id}-error` }));
}

function choice(field, id, described) {
  return h("select", { id, name: field.name, "aria-describedby": described },
    h("option", { value: "" }, "Default"),
    field.choices.map(name => h("option", { value: name }, name)));
}

function number(field, id, described) {
  const isWhole = isInt(field);
  return h("input", {
    id, name: field.name, type: "number", inputmode: isWhole ? "numeric" : "decimal", "aria-describedby": described,
    min: field.minimum, max: field.maximum, step: isWhole ? field.multiple || 1 : "any", autocomplete: "off",
  });
}

const isInt = field => field.type === "int" || field.type === "integer";

// What is in the controls of a form part, by field name; empty ones are left out. Text stays text: the service
// checks it, and says what is wrong with it.
export function readFields(root, fields) {
  const given = {};
  for (const control of root.querySelectorAll("input[name], select[name], textarea[name]")) {
    const field = fields[control.name];
    if (!field) continue;
    const text = control.type === "number" && control.validity.badInput ? "not a number" : control.value.trim();
    if (text === "") continue;
    const isNumber = !field.choices?.length && field.type !== "str" && text !== "" && !Number.isNaN(Number(text));
    given[control.name] = isNumber ? Number(text) : text;
  }
  return given;
}

export function writeFields(root, values) {
  for (const control of root.querySelectorAll("input[name], select[name], textarea[name]")) {
    if (control.name in values) control.value = values[control.name] ?? "";
  }
}

export function showDefaults(root, defaults) {
  for (const control of root.querySelectorAll("input[type=number][name]")) {
    const value = defaults[control.name];
    setAttribute(control, "placeholder", value ?? (control.name === "seed" ? "drawn anew" : ""));
  }
  for (const control of root.querySelectorAll("select[name]")) {
    const value = defaults[control.name];
    if (control.options[0]?.value === "") setText(control.options[0], value ? `Default (${value})` : "Default");
  }
}

export function clearErrors(form) {
  for (const entry of form.querySelectorAll(".entry.is-wrong")) {
    entry.classList.remove("is-wrong");
    setText(entry.querySelector(".wrong"), "");
    for (const control of entry.querySelectorAll("[aria-invalid]")) control.removeAttribute("aria-invalid");
  }
}

// Put an error beside its field and the cursor into it; false where there is no such field.
export function showError(form, name, message) {
  const entry = form.querySelector(`.entry[data-field~="${CSS.escape(name)}"]`);
  if (!entry) return false;
  for (let folded = entry.closest("details"); folded; folded = folded.parentElement.closest("details")) folded.open = true;
  entry.hidden = false;
  entry.classList.add("is-wrong");
  setText(entry.querySelector(".wrong"), message);
  const control = entry.querySelector(`[name="${CSS.escape(name)}"]`) ?? entry.querySelector("input, select, textarea");
  control.setAttribute("aria-invalid", "true");
  control.focus();
  return true;
}
