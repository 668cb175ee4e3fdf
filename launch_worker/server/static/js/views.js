// @ts-check
/** Lists that a person has named, kept by this browser: a name and the query of an address. */

/** Most views that are kept, and most letters of a name. */
const MOST = 50;
const MOST_NAME = 60;

/** @typedef {{ name: string, query: string }} View */

/** @param {string} key @returns {View[]} */
function read(key) {
  try {
    const found = JSON.parse(localStorage.getItem(key) ?? "[]");
    if (!Array.isArray(found)) return [];
    return found.filter((one) => typeof one?.name === "string" && typeof one?.query === "string").slice(0, MOST);
  } catch {
    return [];
  }
}

/** The query of this list, without the place in it. */
function here() {
  const query = new URLSearchParams(location.search);
  for (const name of ["after", "past", "rows"]) query.delete(name);
  return query.toString();
}

/** Fill `[data-views]` with the views of a page, and with a field that saves the list which is shown. @param {string} page */
export function showViews(page) {
  const part = document.querySelector("[data-views]");
  if (!(part instanceof HTMLElement)) return;
  const key = `launch_worker.views.${page}`;

  /** @param {View[]} views */
  function write(views) {
    try {
      localStorage.setItem(key, JSON.stringify(views.slice(-MOST)));
    } catch {
      // A browser may refuse to keep anything; then nothing is saved.
    }
    show();
  }

  function show() {
    const views = read(key);
    const lines = views.map((view) => {
      const line = document.createElement("div");
      line.className = "facet";
      const link = document.createElement("a");
      link.className = "cut";
      link.href = `${location.pathname}${view.query ? `?${view.query}` : ""}`;
      link.textContent = view.name;
      link.title = view.name;
      if (view.query === here()) line.setAttribute("aria-current", "true");
      const drop = document.createElement("button");
      drop.type = "button";
      drop.className = "plain";
      drop.textContent = "forget";
      drop.setAttribute("aria-label", `Forget ${view.name}`);
      drop.addEventListener("click", () => write(read(key).filter((one) => one.name !== view.name)));
      line.append(link, drop);
      return line;
    });
    const form = document.createElement("form");
    form.className = "save-view";
    const field = document.createElement("input");
    field.placeholder = "name this list";
    field.setAttribute("aria-label", "Name of this list");
    field.maxLength = MOST_NAME;
    field.required = true;
    const save = document.createElement("button");
    save.textContent = "Save";
    form.append(field, save);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const name = field.value.trim();
      if (name) write([...read(key).filter((one) => one.name !== name), { name, query: here() }]);
    });
    /** @type {HTMLElement} */ (part).replaceChildren(...lines, form);
  }

  part.hidden = false;
  show();
}
