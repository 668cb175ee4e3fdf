// @ts-check
// Shows a run's output: <log-view run="ID" attempt="2">what is shown without JavaScript</log-view>. However long the
// output is, only the rows in view are elements, and a few pages of lines are held.

import { shownLine } from "./log-text.js";
import { LogSource } from "./log-source.js";

/**
 * What a row shows: a line, or a sentence about missing output.
 * @typedef {{number: number, missing: string}} Row
 * @typedef {{row: number, first: number, lines: number, missing: string}} Span
 * @typedef {import('./log-source.js').Line} Line
 */

/** Pixels of a row, as in the style sheet. */
const ROW = 18;
/** Pixels of the tallest element; beyond that the scroll bar is scaled. Browsers differ in what they can. */
const TALLEST = 8_000_000;
/** Pixels by which the scroll bar may stand beside its true place before it is set. */
const DRIFT = 2000;
/** Rows that are made above and below those in view. */
const OVERSCAN = 2;
/** Marks of a row at most: each is an element. */
const MOST_MARKS = 100;
/** Rows of a wrapped output that are all elements at most, and so have their own heights. */
const MOST_FLOWING = 50;
const HIGHLIGHT = "log-sought";
const SAVED = "launch_worker.log";

const count = new Intl.NumberFormat("en");

/**
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Partial<HTMLElementTagNameMap[T]> & {'aria-label'?: string}} given
 * @param {...(Node | string)} inside
 * @returns {HTMLElementTagNameMap[T]}
 */
function make(tag, given = {}, ...inside) {
  const made = document.createElement(tag);
  const { "aria-label": label, ...properties } = given;
  Object.assign(made, properties);
  if (label) made.setAttribute("aria-label", label);
  made.append(...inside);
  return made;
}

/**
 * @param {Node | string} label
 * @param {string} title
 * @param {() => void} act
 */
const button = (label, title, act) => make("button", { type: "button", title, onclick: act }, label);

/** Signs as of the macro `icon`. */
const UP = "M8 3v10M4 7l4-4 4 4";
const DOWN = "M8 13V3M4 9l4 4 4-4";

/** @param {string} path */
function sign(path) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const drawn = document.createElementNS("http://www.w3.org/2000/svg", "path");
  const of = { class: "sign", viewBox: "0 0 16 16", "aria-hidden": "true", fill: "none" };
  for (const [name, value] of Object.entries(of)) svg.setAttribute(name, value);
  for (const [name, value] of Object.entries({ d: path, stroke: "currentColor", "stroke-width": "2", fill: "none" })) {
    drawn.setAttribute(name, value);
  }
  svg.append(drawn);
  return svg;
}

/**
 * Have the page press an element, or enter it, by a key.
 * @param {HTMLElement} element
 * @param {string} key
 * @param {string} says
 */
function haveKey(element, key, says) {
  element.dataset.key = key;
  element.dataset.says = says;
}

export class LogView extends HTMLElement {
  source = new LogSource("", 0);
  attemptMenu = make("select", {
    "aria-label": "Attempt",
    onchange: () => this._open(Number(this.attemptMenu.value), 0),
  });
  searchField = make("input", {
    type: "search",
    placeholder: "Search, or :line",
    "aria-label": "Search the log; a colon and a number go to a line",
    autocomplete: "off",
    spellcheck: false,
    maxLength: 1000,
    oninput: () => this._typed(),
  });
  found = make("output", { className: "log-found" });
  previous = button(sign(UP), "Previous hit (Shift+Enter, N)", () => this._step(-1));
  next = button(sign(DOWN), "Next hit (Enter, n)", () => this._step(1));
  counted = make("span", { className: "log-count" });
  followButton = button("Follow", "Stay at the end (f)", () => this._follow(!this.isFollowing));
  wrapButton = button("Wrap", "Wrap long lines (w)", () => this._choose("isWrapped"));
  timesButton = button("Time", "Show when each line came (t)", () => this._choose("hasTimes"));
  download = make("a", { title: "All of the output, as it is" }, "Download");
  rows = make("div", { className: "log-rows" });
  sizer = make("div", { className: "log-sizer" }, this.rows);
  view = make("div", { className: "log-lines", tabIndex: 0, role: "log" }, this.sizer);
  back = button("Newest lines", "Go to the end and follow (f)", () => this._follow(true));
  said = make("p", { className: "log-said", role: "status" });
  /** Virtual pixel at the top of the view, and its distance from the place of the scroll bar. */
  y = 0;
  offset = 0;
  lastTop = 0;
  ownTop = -1;
  viewHeight = 0;
  isFollowing = true;
  isWrapped = false;
  isFlowing = false;
  hasTimes = false;
  /** Number of the line that the address names, or that was found. */
  marked = 0;
  /** Line that is shown as soon as it is known. */
  goal = 0;
  widest = 0;
  isDue = false;
  sought = "";
  /** @type {import('./log-source.js').Hits} */
  hits = { count: 0, before: 0, lines: [] };
  hitAt = -1;
  /** @type {Span[]} */
  spans = [];
  rowCount = 0;
  /** @type {WeakMap<Element, {line: Line | null | undefined, row: Row, isMarked: boolean}>} */
  filled = new WeakMap();
  /** @type {AbortController | null} */
  leaving = null;
  searching = new AbortController();
  typing = 0;

  connectedCallback() {
    if (this.leaving) return;
    this.leaving = new AbortController();
    const { signal } = this.leaving;
    const told = this.querySelector("script")?.textContent;
    this._build();
    const saved = readSaved();
    this._set("isWrapped", saved.isWrapped);
    this._set("hasTimes", saved.hasTimes);
    this.view.addEventListener("scroll", () => this._scrolled(), { passive: true, signal });
    this.addEventListener("keydown", (event) => this._pressed(event), { signal });
    this.rows.addEventListener("click", (event) => this._clicked(event), { signal });
    addEventListener("hashchange", () => this._goToAddress(), { signal });
    document.addEventListener(
      "visibilitychange",
      () => (document.hidden ? this.source.pause() : this.source.resume()),
      { signal },
    );
    document.body.addEventListener("ring", () => this.source.look(), { signal });
    addEventListener("pagehide", () => this.source.pause(), { signal });
    addEventListener("pageshow", () => this.source.resume(), { signal });
    const resized = new ResizeObserver(() => this._resized());
    resized.observe(this.view);
    signal.addEventListener("abort", () => resized.disconnect());
    this.viewHeight = this.view.clientHeight;
    this.marked = lineOfAddress();
    const given = Number(this.getAttribute("attempt")) || 0;
    const attempt = Number(new URLSearchParams(location.search).get("attempt")) || given;
    this._open(attempt, this.marked, told && attempt === given && !this.marked ? JSON.parse(told) : null);
  }

  disconnectedCallback() {
    // It may have been moved only.
    queueMicrotask(() => {
      if (this.isConnected) return;
      this.leaving?.abort();
      this.leaving = null;
      this.searching.abort();
      this.source.close();
    });
  }

  // -- parts ---------------------------------------------------------------------------------------------------------

  _build() {
    this.previous.ariaLabel = "Previous hit";
    this.next.ariaLabel = "Next hit";
    this.previous.disabled = this.next.disabled = true;
    // Read aloud line by line, a job that prints much would never let its reader go.
    this.view.ariaLive = "off";
    this.back.className = "log-to-end";
    this.back.prepend(sign(DOWN));
    this.back.hidden = true;
    haveKey(this.searchField, "/", "Search the log");
    haveKey(this.followButton, "f", "Follow the log");
    haveKey(this.wrapButton, "w", "Wrap the log's lines");
    haveKey(this.timesButton, "t", "Show when the log's lines came");
    const hits = make("span", { className: "log-hits" }, this.previous, this.next, this.found);
    const choices = make("span", { className: "log-choices" }, this.followButton, this.wrapButton, this.timesButton);
    const bar = make("div", { className: "log-bar", role: "group", "aria-label": "Log" });
    bar.append(this.attemptMenu, this.searchField, hits, this.counted, choices, this.download);
    this.replaceChildren(bar, this.view, this.back, this.said);
  }

  /**
   * @param {number} attempt
   * @param {number} around
   * @param {import("./log-source.js").Answer | null} [told] What the page has brought.
   */
  _open(attempt, around, told) {
    this.source.close();
    this.source = new LogSource(`/api/v1/runs/${encodeURIComponent(this.getAttribute("run") ?? "")}/logs`, attempt);
    const { source } = this;
    source.addEventListener("change", () => this._due());
    // Somebody waits for these lines; the next frame would be late.
    source.addEventListener("attempt", () => {
      const isHeld = source !== this.source || !this.isFollowing || source.isGrowing;
      if (source.attempts > source.attempt && source.attempt && !isHeld) this._open(source.attempts, 0);
    });
    source.addEventListener("filled", () => source === this.source && this._changed());
    this._follow(!around);
    this.goal = around;
    this.widest = 0;
    this.filled = new WeakMap();
    this._forgetHits();
    if (told) {
      source.take(told);
      this._changed();
    } else source.open(around);
  }

  _due() {
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => {
      this.isDue = false;
      if (this.isConnected) this._changed();
    });
  }

  /** Show what the source has now. */
  _changed() {
    const { source } = this;
    this._measure();
    if (this.goal && source.isReady) {
      const { goal } = this;
      this.goal = 0;
      this.goTo(goal);
    } else if (this.isFollowing || this.y > this._lastY) {
      this._moveTo(this._lastY);
    }
    this._render();
    if (this.isFlowing && this.isFollowing) this._moveTo(this._lastY);
    this._tell();
  }

  _tell() {
    const { source } = this;
    const { attempt, attempts } = source;
    if (this.attemptMenu.length !== attempts || Number(this.attemptMenu.value) !== attempt) {
      const numbers = Array.from({ length: attempts }, (_, at) => at + 1);
      this.attemptMenu.replaceChildren(
        ...numbers.map((one) => new Option(`attempt ${one} of ${attempts}`, String(one), false, one === attempt)),
      );
      this.attemptMenu.hidden = attempts < 2;
    }
    const href = source.download();
    if (this.download.getAttribute("href") !== href) {
      this.download.href = href;
      this.download.download = `${this.getAttribute("run")}-${attempt}.log`;
    }
    const lines = `${count.format(source.count)} ${source.count === 1 ? "line" : "lines"}`;
    this.counted.textContent = source.isReady ? lines : "";
    const label = attempts > 1 ? `Log of attempt ${attempt}` : "Log";
    if (this.view.ariaLabel !== label) this.view.ariaLabel = label;
    const empty = source.isGrowing ? "Nothing was printed yet." : "Nothing was printed.";
    this._say(source.problem || (source.isReady && !this.rowCount ? empty : this.notice));
    this.back.hidden = this.isFollowing || !source.isGrowing;
    this.toggleAttribute("live", source.isGrowing);
  }

  notice = "";

  /** @param {string} text */
  _say(text) {
    if (this.said.textContent !== text) this.said.textContent = text;
  }

  // -- rows and places -----------------------------------------------------------------------------------------------

  /** Find how many rows there are; a row is a line, or a sentence about missing output. */
  _measure() {
    let row = 0;
    this.spans = this.source.kept.map(({ first, lines, missing }) => {
      const span = { row, first, lines, missing };
      row += lines + (missing ? 1 : 0);
      return span;
    });
    this.rowCount = row;
    this.isFlowing = this.isWrapped && row <= MOST_FLOWING;
    this.toggleAttribute("flowing", this.isFlowing);
    const height = this.isFlowing ? "auto" : `${Math.min(row * ROW, TALLEST)}px`;
    if (this.sizer.style.height !== height) this.sizer.style.height = height;
  }

  /**
   * @param {number} row
   * @returns {Row}
   */
  _rowAt(row) {
    let low = 0;
    let high = this.spans.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.spans[middle].row <= row) low = middle;
      else high = middle - 1;
    }
    const span = this.spans[low];
    const inside = row - span.row - (span.missing ? 1 : 0);
    return inside < 0 ? { number: 0, missing: span.missing } : { number: span.first + inside, missing: "" };
  }

  /** @param {number} number */
  _rowOf(number) {
    let found = 0;
    for (const span of this.spans) {
      if (span.first > number) break;
      found = span.row + (span.missing ? 1 : 0) + Math.min(number - span.first, Math.max(0, span.lines - 1));
    }
    return found;
  }

  get _height() {
    return this.rowCount * ROW;
  }

  get _lastY() {
    if (this.isFlowing) return Math.max(0, this.view.scrollHeight - this.viewHeight);
    return Math.max(0, this._height - this.viewHeight);
  }

  /**
   * Where the scroll bar stands for a virtual pixel.
   * @param {number} y
   */
  _topFor(y) {
    if (this._height <= TALLEST) return y;
    return (y / Math.max(1, this._lastY)) * (TALLEST - this.viewHeight);
  }

  /** @param {number} y */
  _moveTo(y) {
    this.y = Math.min(Math.max(0, y), this._lastY);
    const top = Math.round(this._topFor(this.y));
    if (this.view.scrollTop !== top) this.view.scrollTop = top;
    this.lastTop = this.ownTop = this.view.scrollTop;
    this.offset = this.y - this.lastTop;
  }

  _scrolled() {
    const top = this.view.scrollTop;
    if (top === this.ownTop) return;
    this.ownTop = -1;
    const moved = top - this.lastTop;
    this.lastTop = top;
    const isScaled = this._height > TALLEST;
    if (isScaled && Math.abs(moved) >= this.viewHeight) {
      // Somebody drags the bar.
      this.y = (top / (TALLEST - this.viewHeight)) * this._lastY;
    } else {
      this.y = top + this.offset;
    }
    this.y = Math.min(Math.max(0, this.y), this._lastY);
    this.offset = this.y - top;
    const isAtEdge = top <= 0 || top >= TALLEST - this.viewHeight - 1;
    if (isScaled && (Math.abs(this._topFor(this.y) - top) > DRIFT || isAtEdge)) this._moveTo(this.y);
    const isAtEnd = this.y >= this._lastY - ROW / 2;
    if (isAtEnd !== this.isFollowing && (isAtEnd || moved < 0)) this._showFollowing(isAtEnd);
    this._render();
    this.back.hidden = this.isFollowing || !this.source.isGrowing;
  }

  _resized() {
    this.viewHeight = this.view.clientHeight;
    this._due();
  }

  /** @param {number} number */
  goTo(number) {
    this._showFollowing(false);
    const row = this._rowOf(number);
    if (this.isFlowing) this.rows.children[row]?.scrollIntoView({ block: "center" });
    else this._moveTo((row + 0.5) * ROW - this.viewHeight / 2);
    this._due();
  }

  /** Number of the line at the top of the view. */
  _topLine() {
    if (!this.rowCount) return 0;
    return this._rowAt(Math.min(this.rowCount - 1, Math.floor(this.y / ROW))).number;
  }

  /** @param {boolean} isFollowing */
  _follow(isFollowing) {
    this._showFollowing(isFollowing);
    this._due();
  }

  /** @param {boolean} isFollowing */
  _showFollowing(isFollowing) {
    this.isFollowing = isFollowing;
    this.followButton.ariaPressed = String(isFollowing);
  }

  // -- drawing -------------------------------------------------------------------------------------------------------

  _render() {
    const inView = Math.ceil(this.viewHeight / ROW) + 1;
    const over = this.isWrapped ? 0 : OVERSCAN;
    const top = Math.floor(this.y / ROW);
    const first = this.isFlowing ? 0 : Math.max(0, Math.min(top - over, this.rowCount - inView - over));
    const last = this.isFlowing ? this.rowCount : Math.min(this.rowCount, Math.max(top, first) + inView + over);
    const shown = Array.from({ length: Math.max(0, last - first) }, (_, at) => this._rowAt(first + at));
    this.source.want(shown.filter((row) => row.number).map((row) => row.number));
    this._recycle(shown);
    shown.forEach((row, at) => this._fill(/** @type {HTMLElement} */ (this.rows.children[at]), row));
    let place = first * ROW - this.offset;
    if (this.isFlowing) place = 0;
    else if (this.isWrapped) place -= this._wrappedShift(top - first);
    this.rows.style.transform = `translateY(${place}px)`;
    this._highlight();
  }

  /**
   * Have as many elements as rows, and each row where its line was, so that a selection in it stays.
   * @param {Row[]} shown
   */
  _recycle(shown) {
    const { rows } = this;
    while (rows.childElementCount > shown.length) rows.lastElementChild?.remove();
    while (rows.childElementCount < shown.length) rows.append(make("div", { className: "log-row" }));
    const now = rows.firstElementChild && this.filled.get(rows.firstElementChild)?.row.number;
    const moved = now && shown[0]?.number ? shown[0].number - now : 0;
    if (Math.abs(moved) >= shown.length) return;
    for (let at = 0; at < moved; at++) rows.append(/** @type {Element} */ (rows.firstElementChild));
    for (let at = 0; at > moved; at--) rows.prepend(/** @type {Element} */ (rows.lastElementChild));
  }

  /**
   * How far wrapped rows, which are taller, stand above their places: all at the end, so that the last one is seen.
   * @param {number} above Rows before the one at the top.
   */
  _wrappedShift(above) {
    const { rows, viewHeight } = this;
    const tall = rows.offsetHeight;
    const toEnd = viewHeight ? Math.min(1, Math.max(0, 1 - (this._lastY - this.y) / viewHeight)) : 1;
    const atTop = rows.children[above];
    const inRow =
      atTop instanceof HTMLElement ? atTop.offsetTop + ((this.y / ROW) % 1) * (atTop.offsetHeight - ROW) : 0;
    const spare = Math.max(0, tall - rows.childElementCount * ROW);
    return inRow - above * ROW + toEnd * Math.max(0, spare - Math.max(0, inRow - above * ROW));
  }

  /**
   * @param {HTMLElement} element
   * @param {Row} row
   */
  _fill(element, row) {
    const line = row.number ? this.source.line(row.number) : null;
    const isMarked = row.number > 0 && row.number === this.marked;
    const before = this.filled.get(element);
    if (before && before.line === line && before.row.number === row.number && before.row.missing === row.missing) {
      if (before.isMarked !== isMarked) element.classList.toggle("log-marked", (before.isMarked = isMarked));
      return;
    }
    this.filled.set(element, { line, row, isMarked });
    element.className = `log-row${isMarked ? " log-marked" : ""}${row.missing ? " log-missing" : ""}`;
    if (!row.number) {
      element.replaceChildren(row.missing);
      return;
    }
    const anchor = make("a", { href: this._addressOf(row.number) }, String(row.number));
    anchor.tabIndex = -1;
    anchor.dataset.time = line ? shortTime(line) : "";
    anchor.title = line ? exactTime(line) : "";
    element.replaceChildren(anchor);
    if (line === undefined) {
      element.classList.add("log-missing");
      element.append("not kept any more, or it cannot be read");
    } else if (line) {
      this._write(element, line, row.number);
    }
  }

  /**
   * @param {HTMLElement} element
   * @param {Line} line
   * @param {number} number
   */
  _write(element, line, number) {
    const { text, marks } = shownLine(line.text);
    let place = 0;
    for (const [from, to, style] of marks.slice(0, MOST_MARKS)) {
      if (from > place) element.append(text.slice(place, from));
      element.append(make("span", { className: style }, text.slice(from, to)));
      place = to;
    }
    if (place < text.length) element.append(text.slice(place));
    if (line.more) {
      const more = make(
        "a",
        { className: "log-more", href: this.source.download(number) },
        `… ${count.format(line.more)} more characters`,
      );
      more.download = `${this.getAttribute("run")}-${this.source.attempt}-line-${number}.log`;
      element.append(more);
    }
    if (text.length > this.widest) {
      // The width only grows, so that nothing jumps while lines pass.
      this.widest = text.length;
      this.rows.style.minWidth = `max(100%, ${this.widest + 16}ch)`;
    }
  }

  _highlight() {
    if (!("highlights" in CSS)) return;
    CSS.highlights.delete(HIGHLIGHT);
    if (!this.sought) return;
    const isExact = this.sought !== this.sought.toLowerCase();
    const ranges = [];
    for (const element of this.rows.children) {
      /** @type {Text[]} */
      const texts = [];
      const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
      while (walker.nextNode()) {
        const node = /** @type {Text} */ (walker.currentNode);
        if (!(node.parentElement instanceof HTMLAnchorElement)) texts.push(node);
      }
      const whole = texts.map((node) => node.data).join("");
      const text = isExact ? whole : whole.toLowerCase();
      for (let at = text.indexOf(this.sought); at >= 0; at = text.indexOf(this.sought, at + this.sought.length)) {
        ranges.push(rangeIn(texts, at, at + this.sought.length));
      }
    }
    CSS.highlights.set(HIGHLIGHT, new Highlight(...ranges));
  }

  // -- search --------------------------------------------------------------------------------------------------------

  _typed() {
    clearTimeout(this.typing);
    this.typing = window.setTimeout(() => this._soughtAnew(), 200);
  }

  async _soughtAnew() {
    clearTimeout(this.typing);
    const text = this.searchField.value;
    if (text === this.sought || /^:\d*$/.test(text)) return;
    this._forgetHits();
    this.sought = text;
    this._render();
    if (!text) return;
    const top = this._topLine();
    const lines = await this._ask(top);
    if (!lines) return;
    const at = lines.findIndex((line) => line >= top);
    this._showHit(at < 0 ? lines.length - 1 : at);
  }

  _forgetHits() {
    this.searching.abort();
    this.sought = "";
    this.hits = { count: 0, before: 0, lines: [] };
    this.hitAt = -1;
    this.found.textContent = "";
    this.previous.disabled = this.next.disabled = true;
  }

  /**
   * Ask for the hits around a line; null when that failed, or nobody waits for it any more.
   * @param {number} near
   */
  async _ask(near) {
    this.searching.abort();
    const { signal } = (this.searching = new AbortController());
    this.found.textContent = "…";
    try {
      this.hits = await this.source.search(this.sought, near, signal);
    } catch (error) {
      if (!signal.aborted) this.found.textContent = String(/** @type {Error} */ (error).message);
      return null;
    }
    this.previous.disabled = this.next.disabled = !this.hits.count;
    return this.hits.lines;
  }

  /** @param {number} at */
  _showHit(at) {
    const { hits } = this;
    this.hitAt = at;
    this.found.textContent = hits.count
      ? `${count.format(hits.before + at + 1)} of ${count.format(hits.count)}`
      : "not found";
    if (!hits.count) return;
    this._mark(hits.lines[at]);
    this.goTo(hits.lines[at]);
  }

  /**
   * Go to the next hit, or the previous one; behind the last one comes the first.
   * @param {1 | -1} by
   */
  async _step(by) {
    const { hits, hitAt } = this;
    if (!hits.count) return;
    if (hits.lines[hitAt + by] !== undefined) {
      this._showHit(hitAt + by);
      return;
    }
    const now = hits.lines[hitAt];
    let lines = await this._ask(now);
    let at = (by > 0 ? lines?.findIndex((line) => line > now) : lines?.findLastIndex((line) => line < now)) ?? -1;
    if (lines && at < 0) {
      lines = await this._ask(by > 0 ? 0 : this.source.count);
      at = by > 0 ? 0 : (lines?.length ?? 0) - 1;
    }
    if (lines) this._showHit(at);
  }

  // -- hands ---------------------------------------------------------------------------------------------------------

  /** @param {KeyboardEvent} event */
  _pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === this.searchField) {
      if (event.key === "Enter") this._entered(event.shiftKey ? -1 : 1);
      else if (event.key === "Escape") {
        this.searchField.value = "";
        this._forgetHits();
        this._render();
        this.view.focus();
      } else return;
      event.preventDefault();
      return;
    }
    if (event.target instanceof HTMLSelectElement) return;
    const act = {
      n: () => this._step(1),
      N: () => this._step(-1),
      Home: () => this._jump(0),
      End: () => this._follow(true),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  }

  /** @param {number} y */
  _jump(y) {
    this._showFollowing(false);
    this._moveTo(y);
    this._due();
  }

  /** @param {1 | -1} by */
  _entered(by) {
    const line = /^:(\d+)$/.exec(this.searchField.value);
    if (line) {
      const number = Math.min(Math.max(1, Number(line[1])), this.source.count);
      this._link(number);
      this.goTo(number);
    } else if (this.searchField.value !== this.sought) this._soughtAnew();
    else this._step(by);
  }

  /** @param {MouseEvent} event */
  _clicked(event) {
    const anchor = event.target instanceof HTMLAnchorElement && event.target;
    if (!anchor || anchor.className || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    this._link(Number(anchor.textContent), true);
  }

  /**
   * Mark a line, and have the address name it.
   * @param {number} number
   * @param {boolean} [isCopied]
   */
  async _link(number, isCopied = false) {
    history.replaceState(history.state, "", this._addressOf(number));
    this._mark(number);
    this.notice = `Line ${number} is in the address`;
    if (isCopied) {
      // Only a page of https or of this machine may write there.
      await navigator.clipboard?.writeText(location.href).then(
        () => (this.notice = `The link to line ${number} is copied`),
        () => {},
      );
    }
    this._tell();
  }

  /** @param {number} number */
  _mark(number) {
    this.marked = number;
    this._render();
  }

  /** @param {number} number */
  _addressOf(number) {
    const address = new URL(location.href);
    if (this.source.attempts > 1) address.searchParams.set("attempt", String(this.source.attempt));
    return `${address.search}#L${number}`;
  }

  _goToAddress() {
    const number = lineOfAddress();
    if (!number) return;
    this._mark(number);
    this.goTo(number);
  }

  /** @param {'isWrapped' | 'hasTimes'} what */
  _choose(what) {
    this._set(what, !this[what]);
    try {
      localStorage.setItem(SAVED, JSON.stringify({ isWrapped: this.isWrapped, hasTimes: this.hasTimes }));
    } catch {
      // A browser may forbid it; the choice lasts as long as the page.
    }
    this._due();
  }

  /**
   * @param {'isWrapped' | 'hasTimes'} what
   * @param {boolean} value
   */
  _set(what, value) {
    this[what] = value;
    this.toggleAttribute(what === "isWrapped" ? "wrapped" : "times", value);
    (what === "isWrapped" ? this.wrapButton : this.timesButton).ariaPressed = String(value);
  }
}

/**
 * A range of a text that is in several nodes.
 * @param {Text[]} texts
 * @param {number} from
 * @param {number} to
 */
function rangeIn(texts, from, to) {
  const [startContainer, startOffset] = placeIn(texts, from);
  const [endContainer, endOffset] = placeIn(texts, to);
  return new StaticRange({ startContainer, startOffset, endContainer, endOffset });
}

/**
 * @param {Text[]} texts
 * @param {number} place
 * @returns {[Text, number]}
 */
function placeIn(texts, place) {
  for (const text of texts) {
    if (place <= text.length) return [text, place];
    place -= text.length;
  }
  const last = /** @type {Text} */ (texts.at(-1));
  return [last, last.length];
}

function lineOfAddress() {
  return Number(/^#L(\d{1,15})$/.exec(location.hash)?.[1] ?? 0);
}

/** What this browser's user has chosen. */
function readSaved() {
  try {
    const { isWrapped, hasTimes } = JSON.parse(localStorage.getItem(SAVED) ?? "{}");
    return { isWrapped: isWrapped === true, hasTimes: hasTimes === true };
  } catch {
    return { isWrapped: false, hasTimes: false };
  }
}

/** @param {number} number */
const two = (number) => String(number).padStart(2, "0");

/**
 * The time of day at which a line came; "≥" where its block of the output began then.
 * @param {Line} line
 */
function shortTime({ atMs, isLater }) {
  const at = new Date(atMs);
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  return `${isLater ? "≥" : "\u2007"}${time}`;
}

/** @param {Line} line */
function exactTime({ atMs, isLater }) {
  const at = new Date(atMs);
  return `${isLater ? "not before " : ""}${at.toLocaleString()} (${at.toISOString()})`;
}

customElements.define("log-view", LogView);
