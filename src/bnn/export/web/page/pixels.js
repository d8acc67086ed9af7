// From ink or a picture to the pixels that a network was trained with. Plain arrays in, plain arrays out.

/**
 * A rectangle of a plane, resized: a pixel of the result is the mean of the area that it covers.
 *
 * plane is { data, width, height }, its values row by row; from is { x, y, width, height } in it.
 */
function resized(plane, from, width, height) {
  const data = new Float32Array(width * height);
  const columns = overlaps(from.x, from.width, width, plane.width);
  const rows = overlaps(from.y, from.height, height, plane.height);
  rows.forEach((row, y) => {
    columns.forEach((column, x) => {
      let sum = 0;
      for (const [i, high] of row) {
        for (const [j, wide] of column) sum += high * wide * plane.data[i * plane.width + j];
      }
      data[y * width + x] = sum;
    });
  });
  return { data, width, height };
}

/** For each of `count` equal parts of [from, from + length): the cells it covers, and what share of it each is. */
function overlaps(from, length, count, cells) {
  const part = length / count;
  return Array.from({ length: count }, (_, k) => {
    const start = from + k * part;
    const end = start + part;
    const covered = [];
    for (let i = Math.max(0, Math.floor(start)); i < Math.min(cells, end); i++) {
      const share = (Math.min(i + 1, end) - Math.max(i, start)) / part;
      if (share > 0) covered.push([i, share]);
    }
    return covered;
  });
}

/** The smallest rectangle with all that is not 0, or null. */
function bounds({ data, width, height }) {
  let [left, right, top, bottom] = [width, -1, height, -1];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!data[y * width + x]) continue;
      left = Math.min(left, x);
      right = Math.max(right, x);
      top = Math.min(top, y);
      bottom = y;
    }
  }
  return right < 0 ? null : { x: left, y: top, width: right + 1 - left, height: bottom + 1 - top };
}

/** Where the weight of a plane lies: the mean column and row of its ink. */
function centreOfMass({ data, width, height }) {
  let [sum, sumX, sumY] = [0, 0, 0];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const ink = data[y * width + x];
      sum += ink;
      sumX += ink * x;
      sumY += ink * y;
    }
  }
  return { x: sumX / sum, y: sumY / sum };
}

/**
 * Ink as MNIST's makers framed theirs: scaled to fit a box, its proportions kept, grey where its edges are smoothed,
 * and moved by whole pixels until its centre of mass lies in the middle: in column and row 14 of 28, as theirs does.
 *
 * ink is a plane of values from 0 to 255; null if there is none on it. For `centred` = "box" it lies in the middle as
 * a whole.
 */
function framed(ink, { width, height, box, centred }) {
  const from = bounds(ink);
  if (!from) return null;
  const scale = box / Math.max(from.width, from.height);
  const fit = (size) => Math.max(1, Math.round(size * scale));
  const small = resized(ink, from, fit(from.width), fit(from.height));
  const middle = centred === "mass" ? centreOfMass(small) : { x: small.width / 2, y: small.height / 2 };
  const left = Math.round(Math.floor(width / 2) - middle.x);
  const top = Math.round(Math.floor(height / 2) - middle.y);
  const pixels = new Uint8Array(width * height);
  for (let y = 0; y < small.height; y++) {
    for (let x = 0; x < small.width; x++) {
      const inside = y + top >= 0 && y + top < height && x + left >= 0 && x + left < width;
      if (inside) pixels[(y + top) * width + x + left] = Math.round(small.data[y * small.width + x]);
    }
  }
  return pixels;
}

/**
 * A picture as `bnn predict` reads it: scaled to fit, its own background around it; for one channel grey, and inverted
 * if it is dark on a light ground where the training images were light on a dark one.
 *
 * picture is { data, width, height } with RGBA, row by row; the result has `channels` planes, one after the other.
 */
function pictured(picture, { channels, width, height, dark }) {
  const planes = planesOf(picture, channels);
  const scale = Math.min(width / picture.width, height / picture.height);
  const fit = (size) => Math.max(1, Math.round(size * scale));
  const [w, h] = [fit(picture.width), fit(picture.height)];
  const [left, top] = [Math.floor((width - w) / 2), Math.floor((height - h) / 2)];
  const pixels = new Uint8Array(channels * width * height);
  planes.forEach((plane, channel) => {
    const ground = Math.floor(median(border(plane)));
    const whole = { x: 0, y: 0, width: plane.width, height: plane.height };
    const small = w === plane.width && h === plane.height ? plane : resized(plane, whole, w, h);
    const image = pixels.subarray(channel * width * height, (channel + 1) * width * height).fill(ground);
    for (let y = 0; y < h; y++) {
      for (let x = 0; x < w; x++) image[(y + top) * width + x + left] = Math.round(small.data[y * w + x]);
    }
    if (channels === 1 && dark && ground > 127) image.forEach((value, i) => (image[i] = 255 - value));
  });
  return pixels;
}

/** Red, green and blue as planes, or one of grey; what is transparent lies on white. */
function planesOf({ data, width, height }, channels) {
  const planes = Array.from({ length: channels }, () => ({ data: new Uint8Array(width * height), width, height }));
  for (let i = 0; i < width * height; i++) {
    const alpha = data[4 * i + 3] / 255;
    const [red, green, blue] = [0, 1, 2].map((c) => Math.round(alpha * data[4 * i + c] + (1 - alpha) * 255));
    const values = channels === 3 ? [red, green, blue] : [Math.round(0.299 * red + 0.587 * green + 0.114 * blue)];
    values.forEach((value, c) => (planes[c].data[i] = value));
  }
  return planes;
}

/** The values along a plane's edge. */
function border({ data, width, height }) {
  const values = [];
  for (let x = 0; x < width; x++) values.push(data[x], data[(height - 1) * width + x]);
  for (let y = 0; y < height; y++) values.push(data[y * width], data[y * width + width - 1]);
  return values;
}
