// @ts-check
/**
 * Lines drawn pixel by pixel. A canvas draws ten thousand lines in one go at the end of a frame, for half a second without
 * a GPU; here who draws can look at the clock between two lines.
 */

/** @typedef {[number, number, number]} Rgb */

export class Raster {
  /**
   * @param {number} width
   * @param {number} height
   */
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.image = new ImageData(Math.max(1, width), Math.max(1, height));
    this.pixels = this.image.data;
  }

  /** @param {Rgb} colour */
  fill([red, green, blue]) {
    new Uint32Array(this.pixels.buffer).fill((255 << 24) | (blue << 16) | (green << 8) | red);
  }

  /** @param {Raster} other */
  copy(other) {
    this.pixels.set(other.pixels);
  }

  /**
   * A line between two points, one pixel wide, with soft edges.
   * @param {number} x0
   * @param {number} y0
   * @param {number} x1
   * @param {number} y1
   * @param {Rgb} colour
   * @param {number} alpha From 0 to 1.
   */
  line(x0, y0, x1, y1, colour, alpha) {
    const { pixels, width, height } = this;
    const [red, green, blue] = colour;
    const isSteep = Math.abs(y1 - y0) > Math.abs(x1 - x0);
    let [from, to, at, end] = isSteep ? [y0, y1, x0, x1] : [x0, x1, y0, y1];
    if (from > to) [from, to, at, end] = [to, from, end, at];
    const slope = to === from ? 0 : (end - at) / (to - from);
    const first = Math.max(0, Math.round(from));
    const last = Math.min((isSteep ? height : width) - 1, Math.round(to));
    const most = (isSteep ? width : height) - 1;
    const [along, across] = isSteep ? [width * 4, 4] : [4, width * 4];
    at += slope * (first - from);
    for (let place = first; place <= last; place++, at += slope) {
      const lower = Math.floor(at);
      const part = at - lower;
      let pixel = place * along + lower * across;
      if (lower >= 0 && lower <= most) {
        const share = (1 - part) * alpha;
        pixels[pixel] += (red - pixels[pixel]) * share;
        pixels[pixel + 1] += (green - pixels[pixel + 1]) * share;
        pixels[pixel + 2] += (blue - pixels[pixel + 2]) * share;
      }
      pixel += across;
      if (lower + 1 >= 0 && lower + 1 <= most) {
        const share = part * alpha;
        pixels[pixel] += (red - pixels[pixel]) * share;
        pixels[pixel + 1] += (green - pixels[pixel + 1]) * share;
        pixels[pixel + 2] += (blue - pixels[pixel + 2]) * share;
      }
    }
  }
}
