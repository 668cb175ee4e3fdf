// @ts-check
/** What every page has: live parts, keys, and buttons that copy. */
import { followRings } from "./live.js";
import { listenToKeys } from "./keys.js";

followRings();
listenToKeys();

document.addEventListener("click", async (event) => {
  const button = /** @type {HTMLElement | null} */ (
    event.target instanceof Element ? event.target.closest("[data-copy]") : null
  );
  if (!button || button.dataset.jsSays) return;
  button.dataset.jsSays = button.textContent ?? "";
  try {
    await navigator.clipboard.writeText(button.dataset.copy ?? "");
    button.textContent = "copied";
  } catch {
    button.textContent = "not allowed here";
  }
  setTimeout(() => {
    button.textContent = button.dataset.jsSays ?? "";
    delete button.dataset.jsSays;
  }, 2000);
});

/** Show what works with a script only. @param {ParentNode} part */
function reveal(part) {
  for (const button of part.querySelectorAll("[data-copy][hidden], [data-keys-help][hidden]")) {
    button.removeAttribute("hidden");
  }
}
reveal(document);
document.addEventListener("htmx:after:swap", () => reveal(document));
// An open menu closes when one clicks elsewhere, or presses Escape.
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!(event.target instanceof Node) || !menu.contains(event.target)) menu.removeAttribute("open");
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    menu.removeAttribute("open");
    menu.querySelector("summary")?.focus();
  }
});
