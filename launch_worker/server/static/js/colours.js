// @ts-check
/** The colours that pictures take from the style sheet, in the theme of now: a class says which. */

export class Colours {
  /** @type {Map<string, string>} */
  #known = new Map();
  #probe = document.createElement("i");
  #dark = matchMedia("(prefers-color-scheme: dark)");

  /**
   * @param {HTMLElement} host
   * @param {() => void} changed Called when the theme has changed.
   */
  constructor(host, changed) {
    this.#probe.hidden = true;
    host.append(this.#probe);
    this.onChange = () => {
      this.#known.clear();
      changed();
    };
    this.#dark.addEventListener("change", this.onChange);
  }

  /** @param {string} name */
  get(name) {
    let found = this.#known.get(name);
    if (found === undefined) {
      this.#probe.className = name;
      found = getComputedStyle(this.#probe).color;
      this.#known.set(name, found);
    }
    return found;
  }

  /** @param {string} name @returns {[number, number, number]} */
  rgb(name) {
    const [red = 0, green = 0, blue = 0] = (this.get(name).match(/[\d.]+/g) ?? []).map(Number);
    return [red, green, blue];
  }

  stop() {
    this.#dark.removeEventListener("change", this.onChange);
    this.#probe.remove();
  }
}
