// The page's one <dialog>: whoever opens it fills it; Esc and the cross close it.

import { $, h, icon } from "./dom.js";

let onClose = () => {};

export function openDialog(title, content, { kind = "", closed = () => {}, isForced = false } = {}) {
  const dialog = $("dialog");
  if (dialog.open) dialog.close();
  onClose = closed;
  dialog.className = kind;
  dialog.replaceChildren(
    h("header.dialog-head", {},
      h("h2", { id: "dialog-name" }, title),
      isForced ? null : h("button.quiet.icon", { type: "button", "aria-label": "Close", onclick: () => dialog.close() }, icon("close"))),
    content);
  dialog.oncancel = event => { if (isForced) event.preventDefault(); };
  dialog.onclick = event => { if (event.target === dialog && !isForced) dialog.close(); };
  dialog.onclose = () => { const tell = onClose; onClose = () => {}; tell(); };
  dialog.showModal();
  return dialog;
}

export const closeDialog = () => { if ($("dialog").open) $("dialog").close(); };

export const isDialogOpen = () => $("dialog").open;

// Asks for the API key until it is given. Resolves with it.
export function askForKey(message) {
  return new Promise(resolve => {
    const input = h("input", { id: "key", name: "key", type: "password", autocomplete: "current-password", required: true, spellcheck: "false", "aria-describedby": "key-error" });
    const given = event => {
      event.preventDefault();
      if (!input.value.trim()) return;
      closeDialog();
      resolve(input.value.trim());
    };
    openDialog("Your key, please", h("form.column", { onsubmit: given },
      h("p", {}, "This house asks for an API key. It is kept in this browser only; ", h("code", {}, "rushes serve"), " prints the first one."),
      h("div.entry", {}, h("label", { for: "key" }, "API key"), input, h("p.wrong", { id: "key-error" }, message ?? "")),
      h("div.row-end", {}, h("button.action", { type: "submit" }, "Come in"))), { kind: "narrow", isForced: true });
    input.focus();
  });
}
