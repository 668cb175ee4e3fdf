// @ts-check
/** The list of runs: what is selected, the choices on a small screen, and lists that a person has saved. */
import { showViews } from "./views.js";

const form = /** @type {HTMLFormElement} */ (document.getElementById("selection"));

function boxes() {
  return /** @type {HTMLInputElement[]} */ ([...form.querySelectorAll("tbody input[type=checkbox]")]);
}

/** Say how many rows are selected, and mark them. */
function count() {
  const all = boxes();
  const chosen = all.filter((box) => box.checked);
  for (const box of all) {
    const row = box.closest("tr");
    if (box.checked) row?.setAttribute("aria-selected", "true");
    else row?.removeAttribute("aria-selected");
  }
  const said = document.querySelector("[data-selected]");
  if (said instanceof HTMLElement) {
    said.hidden = !chosen.length;
    said.textContent = `${chosen.length} selected`;
  }
  const every = form.querySelector("[data-select-all]");
  if (every instanceof HTMLInputElement) {
    every.hidden = false;
    every.checked = chosen.length > 0 && chosen.length === all.length;
    every.indeterminate = chosen.length > 0 && chosen.length < all.length;
  }
}

form.addEventListener("change", (event) => {
  if (event.target instanceof HTMLInputElement && event.target.matches("[data-select-all]")) {
    for (const box of boxes()) box.checked = event.target.checked;
  }
  count();
});
form.addEventListener("submit", () => {
  // By a key, without a selection: the row at which one is.
  if (boxes().some((box) => box.checked)) return;
  const box = document.activeElement?.closest("[data-row]")?.querySelector("input[type=checkbox]");
  if (box instanceof HTMLInputElement) box.checked = true;
});
document.addEventListener("htmx:after:swap", count);
window.addEventListener("pageshow", count);

const small = window.matchMedia("(max-width: 900px)");
const choices = document.querySelector("details.choices");
function fold() {
  choices?.toggleAttribute("open", !small.matches);
}
small.addEventListener("change", fold);
fold();
showViews("runs");
