// @ts-check
/**
 * Draws the runs of a sweep: the element `<sweep-pictures>` of templates/sweep.html. Each run is a line through its values
 * on parallel axes, and a dot by one parameter and the metric. What is picked on the axes is the form of the page, which
 * picks the rows of its table as well.
 */

import { Colours } from "./colours.js";
import { text } from "./numbers.js";
import { Raster } from "./raster.js";

/** Milliseconds that a frame may draw: the rest of many lines comes with the next frames. */
const FRAME_MS = 10;
/** Lines that are drawn between two looks at the clock. */
const STRIDE = 50;
/** Lines that are drawn at once while somebody drags; the others follow when they stop. */
const AT_ONCE = 600;
/** Number of colours from the worst run to the best. */
const SHADES = 12;
/** Pixels around an axis in which it is touched. */
const REACH = 24;
/** Pixels left and right of the axes, and between two of them at least. */
const [LEFT, RIGHT, APART] = [70, 60, 70];
const FONT = "11px system-ui, sans-serif";

/**
 * @typedef {{ name: string, kind: "number" | "log" | "word", words: string[] }} Axis
 * @typedef {{ axes: Axis[], columns: (number | null)[][], has_metric: boolean, maximize: boolean }} Points
 * @typedef {{ low: number, high: number }} Share A part of an axis, of 0 (bottom) to 1 (top).
 */

/** One axis with the place of each run on it, from 0 at the bottom to 1 at the top; -1 for none. */
class Scale {
  /**
   * @param {Axis} axis
   * @param {(number | null)[]} values
   */
  constructor(axis, values) {
    this.axis = axis;
    const known = /** @type {number[]} */ (values.filter((value) => value !== null));
    const isWord = axis.kind === "word";
    this.low = isWord ? -0.5 : known.reduce((least, value) => Math.min(least, value), Infinity);
    this.high = isWord ? axis.words.length - 0.5 : known.reduce((most, value) => Math.max(most, value), -Infinity);
    this.isLog = axis.kind === "log" && this.low > 0;
    this.isEmpty = !known.length;
    if (this.isEmpty && !isWord) [this.low, this.high] = [0, 1];
    this.shares = Float32Array.from(values, (value) => (value === null ? -1 : this.share(value)));
  }

  #turned(/** @type {number} */ value) {
    return this.isLog ? Math.log(value) : value;
  }

  /** @param {number} value */
  share(value) {
    const [low, high] = [this.#turned(this.low), this.#turned(this.high)];
    return high === low ? 0.5 : (this.#turned(value) - low) / (high - low);
  }

  /** @param {number} share */
  value(share) {
    const [low, high] = [this.#turned(this.low), this.#turned(this.high)];
    const value = low + share * (high - low);
    return this.isLog ? Math.exp(value) : value;
  }

  /** Places with their names: all words where there is room, else some round numbers. @param {number} most */
  ticks(most) {
    if (this.axis.kind === "word") {
      const every = Math.ceil(this.axis.words.length / most);
      return this.axis.words.map((word, place) => ({ share: this.share(place), word })).filter((_, place) => place % every === 0);
    }
    return this.isEmpty ? [] : this.#round(Math.min(most, 6)).map((value) => ({ share: this.share(value), word: text(value) }));
  }

  /** Round numbers between both ends. @param {number} most */
  #round(most) {
    if (this.high === this.low) return [this.low];
    if (this.isLog) {
      const powers = Array.from({ length: 700 }, (_, place) => 10 ** (place - 350)).filter((value) => value >= this.low && value <= this.high);
      const every = Math.ceil(powers.length / most);
      if (powers.length > 1) return powers.filter((_, place) => place % every === 0);
    }
    const rough = (this.high - this.low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * (/** @type {number} */ ([1, 2, 5, 10].find((each) => each * power >= rough)) ?? 10);
    const first = Math.ceil(this.low / step);
    const count = Math.floor(this.high / step) - first + 1;
    return Array.from({ length: Math.max(1, count) }, (_, place) => +((first + place) * step).toPrecision(12));
  }
}

/** A canvas of the size of its box, in pixels of the screen. */
class Board {
  /** @param {HTMLElement} box */
  constructor(box) {
    this.canvas = document.createElement("canvas");
    box.append(this.canvas);
    this.context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
  }

  width = 0;
  height = 0;
  #ratio = 0;

  /** Make it empty, and as large as its box is now, but so wide at least. @param {HTMLElement} box @param {number} least */
  clear(box, least = 0) {
    const ratio = devicePixelRatio || 1;
    const [width, height] = [Math.max(least, box.clientWidth), box.clientHeight];
    if (width === this.width && height === this.height && ratio === this.#ratio) {
      this.context.clearRect(0, 0, width, height);
      return;
    }
    [this.width, this.height, this.#ratio] = [width, height, ratio];
    [this.canvas.width, this.canvas.height] = [width * ratio, height * ratio];
    this.canvas.style.width = `${width}px`;
    this.context.scale(ratio, ratio);
  }
}

class SweepPictures extends HTMLElement {
  /** @type {Points | undefined} */
  #points;
  /** @type {Scale[]} */
  #scales = [];
  /** Numbers of the runs in the order of drawing: the best one last. @type {Uint32Array} */
  #order = new Uint32Array();
  /** Number of its colour, by run. @type {Uint8Array} */
  #shade = new Uint8Array();
  /** Whether it is picked, by run. @type {Uint8Array} */
  #isPicked = new Uint8Array();
  /** Number of runs that are picked. */
  #count = 0;
  /** What is picked by dragging or by the form, by number of the axis. @type {Map<number, Share[]>} */
  #picks = new Map();
  /** @type {number | undefined} */
  #frame;
  /** @type {{ axis: number, from: number } | null} */
  #drag = null;
  /** @type {Board | undefined} */
  board;
  /** What lies over the lines: the axes, what is picked, and the run of a row. @type {Board | undefined} */
  over;
  /** What the server said last. */
  said = "";
  /** Number of the run that is shown for its row; -1 for none. */
  shown = -1;

  connectedCallback() {
    const lines = /** @type {HTMLElement} */ (this.querySelector(".lines .canvas"));
    const dots = /** @type {HTMLElement | null} */ (this.querySelector(".dots .canvas"));
    this.form = /** @type {HTMLFormElement | null} */ (document.getElementById(this.dataset.form ?? ""));
    if (!lines || lines.querySelector("canvas")) return;
    this.box = lines;
    this.dots = dots;
    for (const box of [lines, dots]) box?.setAttribute("role", "img");
    [this.board, this.over] = [new Board(lines), new Board(lines)];
    this.dotBoard = dots && new Board(dots);
    this.colours = new Colours(this, () => this.draw());
    this.choice = /** @type {HTMLSelectElement | null} */ (this.querySelector(".dots select"));
    this.choice?.addEventListener("change", () => this.draw());
    lines.addEventListener("pointerdown", (event) => this.#begin(event));
    lines.addEventListener("pointermove", (event) => this.#move(event));
    lines.addEventListener("pointerup", () => this.#end());
    lines.addEventListener("pointercancel", () => this.#end());
    this.form?.addEventListener("change", this.#onForm);
    document.addEventListener("click", this.#onClick);
    document.body.addEventListener("ring", this.#onRing);
    for (const name of ["mouseover", "focusin"]) document.addEventListener(name, this.#onRow);
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this);
    this.#fetch();
  }

  disconnectedCallback() {
    cancelAnimationFrame(this.#frame ?? 0);
    this.colours?.stop();
    this.resized?.disconnect();
    document.removeEventListener("click", this.#onClick);
    document.body.removeEventListener("ring", this.#onRing);
    for (const name of ["mouseover", "focusin"]) document.removeEventListener(name, this.#onRow);
  }

  // -- what there is ---------------------------------------------------------------------------------------------------

  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #soon;

  #onRing = () => {
    this.#soon ??= setTimeout(() => {
      this.#soon = undefined;
      if (!this.#drag) this.#fetch();
    }, 5000);
  };

  async #fetch() {
    // The browser asks with the tag of what it has.
    const answer = await fetch(this.dataset.src ?? "").catch(() => null);
    if (!answer?.ok || !this.isConnected) return;
    const said = await answer.text();
    if (said === this.said) return;
    this.said = said;
    this.show(JSON.parse(said));
  }

  /** @param {Points} points */
  show(points) {
    this.#points = points;
    this.#scales = points.axes.map((axis, place) => new Scale(axis, points.columns[place]));
    const count = points.columns[0]?.length ?? 0;
    const values = points.has_metric ? points.columns[points.columns.length - 1] : new Array(count).fill(null);
    const worst = points.maximize ? -Infinity : Infinity;
    const sign = points.maximize ? 1 : -1;
    const rank = (/** @type {number} */ run) => values[run] ?? worst;
    this.#order = Uint32Array.from({ length: count }, (_, run) => run).sort((one, other) => sign * (rank(one) - rank(other)) || 0);
    const known = values.filter((value) => value !== null).length;
    this.#shade = new Uint8Array(count);
    let place = 0;
    for (const run of this.#order) if (values[run] !== null) this.#shade[run] = 1 + Math.floor(((SHADES - 1) * place++) / Math.max(1, known));
    const label = `${count} runs by ${points.axes.map((axis) => axis.name).join(", ")}. The table of runs says the same.`;
    this.box?.setAttribute("aria-label", `Parallel axes: ${label}`);
    this.dots?.setAttribute("aria-label", `Dots: ${label}`);
    this.#readForm();
    this.draw();
  }

  /** @param {number} shade @returns {[number, number, number]} */
  #shadeOf(shade) {
    if (!shade || !this.colours) return this.colours?.rgb("ramp-none") ?? [128, 128, 128];
    const [worst, best] = [this.colours.rgb("ramp-worst"), this.colours.rgb("ramp-best")];
    const mixed = worst.map((value, place) => Math.round(value + ((best[place] - value) * (shade - 1)) / (SHADES - 2)));
    return /** @type {[number, number, number]} */ (mixed);
  }

  // -- what is picked --------------------------------------------------------------------------------------------------

  #onForm = () => {
    this.#readForm();
    this.draw();
  };

  /** The link that shows all runs again. */
  #onClick = (/** @type {Event} */ event) => {
    if (!(event.target instanceof Element) || !event.target.closest("[data-unpick]") || !this.form) return;
    event.preventDefault();
    for (const field of this.form.elements) if (field instanceof HTMLInputElement && field.type !== "hidden") this.#fill(field, "");
    this.form.dispatchEvent(new Event("change", { bubbles: true }));
  };

  /** @param {HTMLInputElement} field @param {string} value */
  #fill(field, value) {
    if (field.type === "checkbox") field.checked = value !== "";
    else field.value = value;
  }

  /** @param {number} axis */
  #fields(axis) {
    const name = this.#scales[axis].axis.name;
    const all = /** @type {HTMLInputElement[]} */ ([...(this.form?.elements ?? [])]);
    const of = (/** @type {string} */ way) => all.filter((field) => field.name === `${way}:${name}`);
    return { from: of("from")[0], to: of("to")[0], words: of("in") };
  }

  #readForm() {
    this.#picks.clear();
    this.#scales.forEach((scale, axis) => {
      const { from, to, words } = this.#fields(axis);
      const chosen = words.filter((field) => field.checked).map((field) => scale.axis.words.indexOf(field.value));
      if (chosen.length) {
        const half = 0.5 / scale.axis.words.length;
        this.#picks.set(axis, chosen.map((word) => ({ low: scale.share(word) - half, high: scale.share(word) + half })));
        return;
      }
      const number = (/** @type {HTMLInputElement | undefined} */ field) => (field?.value.trim() ? Number(field.value) : NaN);
      const [low, high] = [number(from), number(to)];
      if (Number.isNaN(low) && Number.isNaN(high)) return;
      const share = (/** @type {number} */ value, /** @type {number} */ none) =>
        Number.isNaN(value) ? none : scale.isLog && value <= 0 ? 0 : scale.share(value);
      // A value is written shorter than it is.
      this.#picks.set(axis, [{ low: share(low, -1) - 1e-6, high: share(high, 2) + 1e-6 }]);
    });
    this.#choose();
  }

  /** Find the runs that are in all that is picked. */
  #choose() {
    const picks = [...this.#picks];
    this.#isPicked = Uint8Array.from({ length: this.#order.length }, (_, run) =>
      Number(picks.every(([axis, shares]) => {
        const at = this.#scales[axis].shares[run];
        return at >= 0 && shares.some(({ low, high }) => at >= low && at <= high);
      })),
    );
    this.#count = this.#isPicked.reduce((sum, one) => sum + one, 0);
  }

  /** Write what was dragged into the form, which shows the rows. @param {number} axis @param {Share | null} share */
  #write(axis, share) {
    const scale = this.#scales[axis];
    const { from, to, words } = this.#fields(axis);
    for (const field of words) {
      const at = scale.share(scale.axis.words.indexOf(field.value));
      this.#fill(field, share && at >= share.low && at <= share.high ? "on" : "");
    }
    if (from) this.#fill(from, share && share.low > 0 ? String(+scale.value(share.low).toPrecision(4)) : "");
    if (to) this.#fill(to, share && share.high < 1 ? String(+scale.value(share.high).toPrecision(4)) : "");
    this.form?.dispatchEvent(new Event("change", { bubbles: true }));
  }

  #begin(/** @type {PointerEvent} */ event) {
    const axis = this.#scales.findIndex((_, place) => Math.abs(this.#x(place) - event.offsetX) <= REACH);
    if (axis < 0 || event.button) return;
    this.#drag = { axis, from: this.#shareAt(event.offsetY) };
    this.box?.setPointerCapture(event.pointerId);
  }

  #move(/** @type {PointerEvent} */ event) {
    if (!this.#drag) {
      const isNear = this.#scales.some((_, place) => Math.abs(this.#x(place) - event.offsetX) <= REACH);
      this.box?.classList.toggle("on-axis", isNear);
      return;
    }
    const to = this.#shareAt(event.offsetY);
    const [low, high] = [Math.min(this.#drag.from, to), Math.max(this.#drag.from, to)];
    this.#picks.set(this.#drag.axis, [{ low, high }]);
    this.#choose();
    this.draw();
  }

  #end() {
    if (!this.#drag) return;
    const { axis } = this.#drag;
    this.#drag = null;
    const [share] = this.#picks.get(axis) ?? [];
    // A click lets all of the axis through again.
    this.#write(axis, share && share.high - share.low > 0.01 ? share : null);
  }

  // -- drawing ---------------------------------------------------------------------------------------------------------

  /** @param {number} axis */
  #x(axis) {
    const width = (this.over?.width ?? 0) - LEFT - RIGHT;
    return LEFT + (this.#scales.length < 2 ? 0 : (width * axis) / (this.#scales.length - 1));
  }

  /** @param {number} share */
  #y(share) {
    const height = this.over?.height ?? 0;
    return 24 + (1 - share) * (height - 36);
  }

  /** @param {number} y */
  #shareAt(y) {
    return Math.min(1, Math.max(0, 1 - (y - 24) / ((this.over?.height ?? 0) - 36)));
  }

  /** Draw all anew: the axes at once, the runs in parts. */
  draw() {
    const { board, over, box, dots, dotBoard } = this;
    if (!this.#points || !board || !over || !box) return;
    const least = LEFT + RIGHT + APART * (this.#scales.length - 1);
    over.clear(box, least);
    this.#drawAxes(over);
    this.#say();
    const picked = this.#order.filter((run) => this.#isPicked[run]);
    if (this.#drag) {
      // A part of them, in their order, until the pointer rests.
      const every = Math.ceil(picked.length / AT_ONCE);
      this.#drawRuns(board, least, every > 1 ? picked.filter((_, place) => place % every === 0) : picked);
      clearTimeout(this.#rest);
      this.#rest = setTimeout(() => this.#drag && this.#drawRuns(board, least, picked), 120);
      return;
    }
    clearTimeout(this.#rest);
    if (dots && dotBoard) {
      dotBoard.clear(dots);
      this.#drawDots(dotBoard);
    }
    this.#drawRuns(board, least, picked);
  }

  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #rest;
  /** @type {Raster | undefined} */
  #raster;
  /** All runs as they are behind those that are picked, and for what it was drawn. @type {{ raster: Raster, of: string } | undefined} */
  #behind;

  /**
   * Draw these runs over all others, which are dim; shown when it is whole.
   * @param {Board} board
   * @param {number} least
   * @param {Uint32Array} runs
   */
  #drawRuns(board, least, runs) {
    cancelAnimationFrame(this.#frame ?? 0);
    const box = /** @type {HTMLElement} */ (this.box);
    const ratio = devicePixelRatio || 1;
    const [width, height] = [Math.round(Math.max(least, box.clientWidth) * ratio), Math.round(box.clientHeight * ratio)];
    const panel = this.colours?.rgb("ramp-panel") ?? [255, 255, 255];
    if (this.#raster?.width !== width || this.#raster.height !== height) this.#raster = new Raster(width, height);
    const raster = this.#raster;
    const xs = this.#scales.map((_, axis) => this.#x(axis) * ratio);
    const hasPicks = this.#picks.size > 0;
    const of = `${width} ${height} ${panel} ${this.said.length}`;
    const isBehindNew = hasPicks && this.#behind?.of !== of;
    const behind = isBehindNew ? new Raster(width, height) : this.#behind?.raster;
    if (isBehindNew) behind?.fill(panel);
    const shades = Array.from({ length: SHADES + 1 }, (_, shade) => this.#shadeOf(shade));
    const dim = this.colours?.rgb("ramp-out") ?? panel;
    /** Lines to draw: all of them dim where that is not there yet, then these. */
    const before = isBehindNew ? this.#order.length : 0;
    const alpha = Math.min(0.85, Math.max(0.08, 8 / Math.sqrt(runs.length + 1)));
    let place = 0;
    const step = () => {
      const began = performance.now();
      for (; place < before + runs.length; place++) {
        if (place % STRIDE === 0 && place && performance.now() - began > FRAME_MS) {
          this.#frame = requestAnimationFrame(step);
          return;
        }
        if (place < before) {
          this.#trace(this.#order[place], xs, ratio, (x0, y0, x1, y1) => behind?.line(x0, y0, x1, y1, dim, 0.4));
          continue;
        }
        if (place === before) hasPicks && behind ? raster.copy(behind) : raster.fill(panel);
        const run = runs[place - before];
        // The best ones can be seen among many.
        const strong = before + runs.length - place <= 20 ? 0.9 : alpha;
        const colour = shades[this.#shade[run]];
        this.#trace(run, xs, ratio, (x0, y0, x1, y1) => raster.line(x0, y0, x1, y1, colour, strong));
      }
      if (!runs.length) hasPicks && behind ? raster.copy(behind) : raster.fill(panel);
      if (behind && hasPicks) this.#behind = { raster: behind, of };
      board.clear(box, least);
      board.context.putImageData(raster.image, 0, 0);
      this.dispatchEvent(new Event("drawn", { bubbles: true }));
    };
    this.#frame = requestAnimationFrame(step);
  }

  /**
   * The lines of a run from each of its values to the next; none where it lacks one.
   * @param {number} run
   * @param {number[]} xs
   * @param {number} ratio
   * @param {(x0: number, y0: number, x1: number, y1: number) => void} draw
   */
  #trace(run, xs, ratio, draw) {
    for (let axis = 1; axis < xs.length; axis++) {
      const [from, to] = [this.#scales[axis - 1].shares[run], this.#scales[axis].shares[run]];
      if (from >= 0 && to >= 0) draw(xs[axis - 1], this.#y(from) * ratio, xs[axis], this.#y(to) * ratio);
    }
  }

  /** @param {Board} board */
  #drawAxes(board) {
    const { context } = board;
    context.font = FONT;
    this.#scales.forEach((scale, axis) => {
      const x = this.#x(axis);
      context.strokeStyle = this.colours?.get("ramp-axis") ?? "";
      context.beginPath();
      context.moveTo(x, this.#y(0));
      context.lineTo(x, this.#y(1));
      context.stroke();
      const isLast = axis === this.#scales.length - 1 && axis > 0;
      context.textAlign = isLast ? "left" : "right";
      context.textBaseline = "middle";
      for (const { share, word } of scale.ticks(9)) this.#letter(context, this.#cut(context, word, 60), isLast ? x + 5 : x - 5, this.#y(share), false);
      context.textAlign = axis === 0 ? "left" : isLast ? "right" : "center";
      this.#letter(context, this.#cut(context, scale.axis.name, 110), axis === 0 ? x - 40 : isLast ? x + 40 : x, 8, true);
      for (const { low, high } of this.#picks.get(axis) ?? []) {
        const [top, bottom] = [this.#y(Math.min(1, high)), this.#y(Math.max(0, low))];
        context.fillStyle = this.colours?.get("ramp-best") ?? "";
        context.globalAlpha = 0.35;
        context.fillRect(x - 6, top, 12, Math.max(2, bottom - top));
        context.globalAlpha = 1;
      }
    });
  }

  /**
   * Text that can be read on lines.
   * @param {CanvasRenderingContext2D} context
   * @param {string} word
   * @param {number} x
   * @param {number} y
   * @param {boolean} isName
   */
  #letter(context, word, x, y, isName) {
    context.lineWidth = 4;
    context.lineJoin = "round";
    context.strokeStyle = this.colours?.get("ramp-panel") ?? "";
    context.strokeText(word, x, y);
    context.fillStyle = this.colours?.get(isName ? "ramp-ink" : "axis") ?? "";
    context.fillText(word, x, y);
    context.lineWidth = 1;
  }

  /** @param {CanvasRenderingContext2D} context @param {string} word @param {number} most */
  #cut(context, word, most) {
    if (context.measureText(word).width <= most) return word;
    let end = word.length;
    while (end > 1 && context.measureText(`${word.slice(0, end)}…`).width > most) end--;
    return `${word.slice(0, end)}…`;
  }

  /** The metric by a parameter. @param {Board} board */
  #drawDots(board) {
    const along = this.#scales[this.choice?.selectedIndex ?? 0];
    const up = this.#scales[this.#scales.length - 1];
    const { context, width, height } = board;
    if (!along || !up) return;
    if (up.isEmpty) {
      context.font = FONT;
      context.fillStyle = this.colours?.get("axis") ?? "";
      context.fillText("No run has a value yet.", 60, height / 2);
      return;
    }
    const x = (/** @type {number} */ share) => 60 + share * (width - 90);
    const y = (/** @type {number} */ share) => 10 + (1 - share) * (height - 36);
    context.font = FONT;
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (const { share, word } of up.ticks(5)) {
      context.fillStyle = this.colours?.get("grid") ?? "";
      context.fillRect(x(0), y(share), width - 90, 1);
      context.fillStyle = this.colours?.get("axis") ?? "";
      context.fillText(word, 54, y(share));
    }
    context.textAlign = "center";
    for (const { share, word } of along.ticks(6)) context.fillText(this.#cut(context, word, 80), x(share), height - 10);
    const hasPicks = this.#picks.size > 0;
    const size = this.#order.length > 1000 ? 2 : 4;
    for (const run of this.#order) {
      const [at, value] = [along.shares[run], up.shares[run]];
      if (at < 0 || value < 0) continue;
      const isDim = hasPicks && !this.#isPicked[run];
      context.globalAlpha = isDim ? 0.3 : 0.8;
      context.fillStyle = isDim ? (this.colours?.get("ramp-out") ?? "") : `rgb(${this.#shadeOf(this.#shade[run])})`;
      context.fillRect(x(at) - size / 2, y(value) - size / 2, size, size);
    }
    context.globalAlpha = 1;
  }

  #say() {
    const keys = this.querySelector(".lines .picked");
    if (!keys) return;
    const all = this.#isPicked.length.toLocaleString("en");
    keys.textContent = this.#picks.size ? `${this.#count.toLocaleString("en")} of ${all} runs are picked` : "";
  }

  /** The run of the row that is under the pointer, or has the focus. */
  #onRow = (/** @type {Event} */ event) => {
    const target = event.target instanceof Element ? event.target : null;
    const row = /** @type {HTMLElement | null} */ (target?.closest(`#${this.dataset.rows} [data-place]`) ?? null);
    const run = row ? Number(row.dataset.place) : -1;
    if (run === this.shown || !this.over || !this.#points) return;
    this.shown = run;
    this.over.clear(this.box ?? this.over.canvas, this.over.width);
    if (run >= 0 && run < this.#order.length) {
      const { context } = this.over;
      context.strokeStyle = this.colours?.get("ramp-ink") ?? "";
      context.lineWidth = 2;
      context.beginPath();
      const xs = this.#scales.map((_, axis) => this.#x(axis));
      this.#trace(run, xs, 1, (x0, y0, x1, y1) => {
        context.moveTo(x0, y0);
        context.lineTo(x1, y1);
      });
      context.stroke();
    }
    this.#drawAxes(this.over);
  };
}

customElements.define("sweep-pictures", SweepPictures);
