// @ts-check
/**
 * Draws the series of a table: the element `<time-series>` of templates/charts.html. The table is the only source: when it
 * changes, the pictures follow. Without this module the table is what there is.
 */

import { Colours } from "./colours.js";
import { steps, text } from "./numbers.js";

/** @type {any} */
let uPlot;

/** Wait for the library, which only a page with pictures fetches. */
const library = () =>
  (uPlot ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = new URL("../vendor/uPlot.iife.min.js", import.meta.url).href;
    script.onload = () => resolve(/** @type {any} */ (window).uPlot);
    script.onerror = reject;
    document.head.append(script);
  }));

/**
 * @typedef {object} Column
 * @property {string} name
 * @property {string} plot
 * @property {string} unit
 * @property {number | null} asked
 * @property {string} askedText
 * @property {(number | null)[]} values
 */

/**
 * The columns of a table, the one that goes from left to right first.
 * @param {HTMLTableElement} table
 * @returns {Column[]}
 */
function columnsOf(table) {
  const rows = [...(table.tBodies[0]?.rows ?? [])];
  return [...(table.tHead?.rows[0]?.cells ?? [])].map((head, place) => ({
    name: head.textContent ?? "",
    plot: head.dataset.plot ?? "",
    unit: head.dataset.unit ?? "",
    asked: head.dataset.asked ? Number(head.dataset.asked) : null,
    askedText: head.dataset.askedText ?? "",
    values: rows.map((row) => {
      const cell = row.cells[place];
      const said = cell?.dataset.v ?? cell?.textContent ?? "";
      return said === "" ? null : Number(said);
    }),
  }));
}

/** One picture: its columns as lines, its values where the pointer or the arrow keys are. */
class Plot {
  /** @type {Column[]} */
  columns = [];
  #isLog = false;
  /** @type {any} */
  #drawn = null;
  #isZoomed = false;

  /**
   * @param {HTMLElement} figure
   * @param {TimeSeries} around
   */
  constructor(figure, around) {
    this.figure = figure;
    this.around = around;
    this.canvas = /** @type {HTMLElement} */ (figure.querySelector(".canvas"));
    this.keys = document.createElement("span");
    this.keys.className = "keys";
    this.log = document.createElement("button");
    Object.assign(this.log, { type: "button", className: "plain", textContent: "log" });
    this.log.setAttribute("aria-label", `log scale of ${figure.dataset.plot}`);
    this.log.setAttribute("aria-pressed", "false");
    this.log.addEventListener("click", () => {
      this.#isLog = !this.#isLog;
      this.log.setAttribute("aria-pressed", String(this.#isLog));
      this.draw();
    });
    figure.querySelector("figcaption")?.append(this.keys, this.log);
    const slider = { role: "slider", tabindex: "0", "aria-label": `${figure.dataset.plot} over ${around.dataset.along}` };
    for (const [name, value] of Object.entries(slider)) this.canvas.setAttribute(name, value);
    this.canvas.addEventListener("keydown", (event) => this.#onKey(event));
    this.canvas.addEventListener("focus", () => this.#drawn && this.#goTo(this.#drawn.data[0].length - 1));
    this.canvas.addEventListener("blur", () => this.#drawn?.setCursor({ left: -10, top: -10 }));
    new ResizeObserver(() => this.#drawn?.setSize(this.#size)).observe(this.canvas);
  }

  get #size() {
    return { width: this.canvas.clientWidth || 300, height: this.canvas.clientHeight || 180 };
  }

  get #data() {
    const shown = (/** @type {number | null} */ value) => (this.#isLog && value !== null && value <= 0 ? null : value);
    const lines = this.columns.map((column) => (this.#isLog ? column.values.map(shown) : column.values));
    return [this.around.along.values, ...lines];
  }

  /** The table has changed: the same columns get their new values where they are, others are drawn anew. */
  update(/** @type {Column[]} */ columns) {
    const isSame = this.#drawn && columns.map((each) => each.name).join("\n") === this.columns.map((each) => each.name).join("\n");
    this.columns = columns;
    if (!isSame) {
      this.draw();
      return;
    }
    this.#drawn.setData(this.#data, !this.#isZoomed);
    if (this.#isZoomed) this.#drawn.redraw();
    this.#say(this.#drawn.cursor.idx);
  }

  draw() {
    this.#drawn?.destroy();
    this.#isZoomed = false;
    const { unit } = this.columns[0];
    const asked = this.columns.find((column) => column.asked !== null);
    const around = this.around;
    const colour = (/** @type {number} */ place) => () => around.colour(`line-${(place % 6) + 1}`);
    const axis = (/** @type {string} */ unit) => ({
      stroke: () => around.colour("axis"),
      grid: { stroke: () => around.colour("grid"), width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
      gap: 4,
      incrs: steps(unit),
      values: (/** @type {any} */ _, /** @type {number[]} */ values) => values.map((value) => (value == null ? "" : text(value, unit))),
    });
    this.#drawn = new uPlot(
      {
        ...this.#size,
        legend: { show: false },
        padding: [8, 12, 0, 0],
        scales: {
          x: { time: false },
          y: this.#isLog
            ? { distr: 3 }
            : { range: { min: { pad: 0.1, soft: 0, mode: 2 }, max: { pad: 0.1, soft: asked ? 1.08 * (asked.asked ?? 0) : undefined, mode: asked ? 1 : 0 } } },
        },
        axes: [{ ...axis(around.along.unit), size: 24, space: 70 }, { ...axis(unit), size: 60, space: 30 }],
        cursor: { y: false, sync: { key: around.id, setSeries: false }, points: { size: 7 }, drag: { x: true, y: false } },
        series: [
          {},
          ...this.columns.map((column, place) => ({
            label: column.name,
            stroke: colour(place),
            width: 1.5,
            dash: place < 6 ? undefined : [6, 3],
            spanGaps: "spansGaps" in around.dataset,
            paths: "stepped" in around.dataset ? uPlot.paths.stepped({ align: 1 }) : undefined,
            points: { size: 4 },
          })),
        ],
        hooks: {
          setCursor: [(/** @type {any} */ plot) => this.#say(plot.cursor.idx)],
          setSelect: [(/** @type {any} */ plot) => (this.#isZoomed = plot.select.width > 0)],
          draw: [(/** @type {any} */ plot) => asked && this.#drawAsked(plot, /** @type {number} */ (asked.asked))],
        },
      },
      this.#data,
      this.canvas,
    );
    this.#drawn.over.addEventListener("dblclick", () => (this.#isZoomed = false));
    this.#say(null);
  }

  /** The line of what was asked for. */
  #drawAsked(/** @type {any} */ plot, /** @type {number} */ asked) {
    const { left, width, top, height } = plot.bbox;
    const y = Math.round(plot.valToPos(asked, "y", true));
    if (y < top || y > top + height) return;
    const { ctx } = plot;
    ctx.save();
    ctx.strokeStyle = this.around.colour("asked");
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(left, y);
    ctx.lineTo(left + width, y);
    ctx.stroke();
    ctx.restore();
  }

  /** The values at a place, and the last known ones without a place. */
  #say(/** @type {number | null | undefined} */ place) {
    const along = this.around.along;
    const isAt = place !== null && place !== undefined;
    const values = this.columns.map((column) => ({
      name: column.name,
      said: text(this.#valueAt(column, isAt ? place : along.values.length - 1), column.unit),
    }));
    const parts = values.map(({ name, said }, number) => {
      const key = document.createElement("span");
      key.className = `key line-${(number % 6) + 1}`;
      const value = document.createElement("b");
      value.textContent = said;
      key.append(this.columns.length > 1 ? `${name} ` : "", value);
      return key;
    });
    const asked = this.columns.find((column) => column.askedText);
    if (asked) {
      const key = document.createElement("span");
      key.className = "key asked";
      key.textContent = asked.askedText;
      parts.push(key);
    }
    if (isAt) {
      const at = document.createElement("span");
      at.textContent = `at ${along.name} ${text(along.values[place], along.unit)}`;
      parts.push(at);
    }
    this.keys.replaceChildren(...parts);
    const last = Math.max(0, along.values.length - 1);
    const at = isAt ? place : last;
    const slider = {
      "aria-valuemin": "0",
      "aria-valuemax": String(last),
      "aria-valuenow": String(at),
      "aria-valuetext": `${along.name} ${text(along.values[at], along.unit)}: ${values.map(({ name, said }) => `${name} ${said}`).join(", ")}`,
    };
    for (const [name, value] of Object.entries(slider)) this.canvas.setAttribute(name, value);
  }

  /** The value that the line has there: where a line goes on over gaps, the last one that was told. */
  #valueAt(/** @type {Column} */ column, /** @type {number} */ place) {
    if (!("spansGaps" in this.around.dataset)) return column.values[place];
    return column.values.slice(0, place + 1).findLast((value) => value !== null);
  }

  #goTo(/** @type {number} */ place) {
    const plot = this.#drawn;
    const x = plot.data[0][place];
    if (x === undefined) return;
    const y = plot.data.slice(1).map((/** @type {any} */ line) => line[place]).find((/** @type {any} */ value) => value != null);
    plot.setCursor({ left: plot.valToPos(x, "x"), top: y === undefined ? 0 : plot.valToPos(y, "y") });
  }

  #onKey(/** @type {KeyboardEvent} */ event) {
    const plot = this.#drawn;
    const last = plot ? plot.data[0].length - 1 : -1;
    if (last < 0) return;
    const at = plot.cursor.idx ?? last;
    const far = Math.max(1, Math.round(last / 10));
    /** @type {Record<string, number>} */
    const places = { ArrowLeft: at - 1, ArrowRight: at + 1, PageDown: at - far, PageUp: at + far, Home: 0, End: last };
    if (!(event.key in places) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    this.#goTo(Math.min(last, Math.max(0, places[event.key])));
  }

  /** The colours are other ones now. */
  recolour() {
    this.#drawn?.redraw(true, true);
  }

  destroy() {
    this.#drawn?.destroy();
    this.figure.remove();
  }
}

let count = 0;

class TimeSeries extends HTMLElement {
  /** @type {Column} */
  along = { name: "", plot: "", unit: "", asked: null, askedText: "", values: [] };
  /** @type {Map<string, Plot>} */
  #plots = new Map();
  /** @type {MutationObserver | undefined} */
  #watch;
  /** @type {Colours | undefined} */
  #colours;
  #isWaiting = false;

  async connectedCallback() {
    this.id ||= `series-${++count}`;
    uPlot = await library();
    const figures = this.querySelector(".figures");
    if (!this.isConnected || !figures || this.#watch) return;
    this.#colours = new Colours(this, () => this.#plots.forEach((plot) => plot.recolour()));
    // Many cells change at once.
    this.#watch = new MutationObserver(() => {
      if (this.#isWaiting) return;
      this.#isWaiting = true;
      requestAnimationFrame(() => {
        this.#isWaiting = false;
        this.#read();
      });
    });
    this.#watch.observe(figures, { childList: true, subtree: true, characterData: true });
    this.#read();
  }

  disconnectedCallback() {
    this.#watch?.disconnect();
    this.#watch = undefined;
    this.#colours?.stop();
  }

  /** @param {string} name */
  colour(name) {
    return this.#colours?.get(name) ?? "";
  }

  #read() {
    const table = this.querySelector("table");
    if (!table) return;
    const [along, ...columns] = columnsOf(table);
    if (!along) return;
    this.along = along;
    const names = [...new Set(columns.map((column) => column.plot))];
    for (const [name, plot] of this.#plots) {
      if (names.includes(name)) continue;
      plot.destroy();
      this.#plots.delete(name);
    }
    for (const name of names) {
      let plot = this.#plots.get(name);
      if (!plot) this.#plots.set(name, (plot = new Plot(this.#figure(name), this)));
      plot.update(columns.filter((column) => column.plot === name));
    }
  }

  /**
   * The place of a picture, which the page has but for a metric that is new.
   * @param {string} name
   */
  #figure(name) {
    const plots = /** @type {HTMLElement} */ (this.querySelector(".plots"));
    const known = [...plots.children].find((each) => /** @type {HTMLElement} */ (each).dataset.plot === name);
    if (known) return /** @type {HTMLElement} */ (known);
    const figure = document.createElement("figure");
    figure.className = "plot";
    figure.dataset.plot = name;
    const [caption, title, canvas] = [document.createElement("figcaption"), document.createElement("b"), document.createElement("div")];
    title.textContent = name;
    caption.append(title);
    canvas.className = "canvas";
    figure.append(caption, canvas);
    plots.append(figure);
    return figure;
  }
}

customElements.define("time-series", TimeSeries);
