// @ts-check
/**
 * Keys: an element with `data-key="g r"` is pressed, or entered if it is a field, by these keys in turn; `data-says`
 * is its line in the list of keys. Rows with `data-row` are walked with j and k, opened with Enter, selected with x.
 */

/** Milliseconds for the second of two keys. */
const PAUSE_MS = 1200;

export function listenToKeys() {
  let first = "";
  /** @type {number | undefined} */ let timer;
  document.querySelector("[data-keys-help]")?.addEventListener("click", showKeys);

  document.addEventListener("keydown", (event) => {
    const target = event.target instanceof HTMLElement ? event.target : document.body;
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (target.matches("input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable]")) {
      if (event.key === "Escape") target.blur();
      return;
    }
    const keys = first ? `${first} ${event.key}` : event.key;
    const found = find(keys) ?? find(event.key);
    clearTimeout(timer);
    first = "";
    if (found) {
      event.preventDefault();
      press(found);
    } else if (["j", "k"].includes(event.key)) {
      step(event.key === "j" ? 1 : -1);
    } else if (event.key === "x") {
      const box = row()?.querySelector("input[type=checkbox]");
      if (box instanceof HTMLElement) box.click();
    } else if (event.key === "Enter" && target.matches("[data-row]")) {
      const link = target.querySelector("a[href]");
      if (link instanceof HTMLElement) link.click();
    } else {
      first = event.key.length === 1 ? event.key : "";
      timer = setTimeout(() => (first = ""), PAUSE_MS);
    }
  });
}

/** @param {string} keys */
function find(keys) {
  for (const one of document.querySelectorAll("[data-key]")) {
    if (one instanceof HTMLElement && one.dataset.key === keys && !one.hidden) return one;
  }
  return null;
}

/** @param {HTMLElement} element */
function press(element) {
  if (element.matches("input, textarea, select, details > summary")) element.focus();
  if (!element.matches("input, textarea, select")) element.click();
}

function row() {
  return document.activeElement?.closest("[data-row]") ?? null;
}

/** @param {number} by */
function step(by) {
  const rows = [...document.querySelectorAll("[data-row]")];
  const at = rows.findIndex((one) => one === row());
  const next = rows[Math.min(rows.length - 1, Math.max(0, at + by))];
  if (!(next instanceof HTMLElement)) return;
  next.tabIndex = -1;
  next.focus();
  next.scrollIntoView({ block: "nearest" });
}

function showKeys() {
  document.getElementById("keys")?.remove();
  const dialog = document.createElement("dialog");
  dialog.id = "keys";
  dialog.setAttribute("aria-labelledby", "keys-title");
  const title = document.createElement("h1");
  title.id = "keys-title";
  title.textContent = "Keys";
  const list = document.createElement("dl");
  const lines = [...document.querySelectorAll("[data-key]")]
    .filter((one) => one instanceof HTMLElement && one.dataset.key)
    .map((one) => [/** @type {HTMLElement} */ (one).dataset.key ?? "", label(/** @type {HTMLElement} */ (one))]);
  if (document.querySelector("[data-row]")) {
    lines.push(["j", "Next row"], ["k", "Row before"], ["Enter", "Open the row"]);
    if (document.querySelector("[data-row] input[type=checkbox]")) lines.push(["x", "Select the row"]);
  }
  for (const [keys, says] of lines) {
    const term = document.createElement("dt");
    for (const key of keys.split(" ")) {
      const shown = document.createElement("kbd");
      shown.textContent = key;
      term.append(shown, " ");
    }
    const value = document.createElement("dd");
    value.textContent = says;
    list.append(term, value);
  }
  const close = document.createElement("button");
  close.textContent = "Close";
  close.addEventListener("click", () => dialog.close());
  const acts = document.createElement("p");
  acts.append(close);
  dialog.append(title, list, acts);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

/** @param {HTMLElement} element */
function label(element) {
  return element.dataset.says || element.getAttribute("aria-label") || element.textContent?.trim() || "";
}
