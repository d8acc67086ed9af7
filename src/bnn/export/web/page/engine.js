// The network: the C engine as WebAssembly, in two builds, and the weights, which lie in the page once.

const about = JSON.parse(document.getElementById("about").textContent);
const pixelCount = about.channels * about.height * about.width;

/** The bytes of an element whose text is base64. */
function bytesOf(id) {
  return Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
}

const builds = { simd: bytesOf("simd"), scalar: bytesOf("scalar") };
const constants = bytesOf("constants");
const modules = {}; // compiled, by build

/** The build that this browser can run: with SIMD if it takes that module for a valid one. */
function bestBuild() {
  return WebAssembly.validate(builds.simd) ? "simd" : "scalar";
}

/**
 * A network of one build, in a memory of its own.
 *
 * predict(pixels) takes pixels from 0 to 255, channel by channel, each row by row, and gives
 * { label, name, scores }: the class with the largest score, its name, and the scores of all.
 */
async function networkOf(build) {
  modules[build] ??= WebAssembly.compile(builds[build]); // once: what is optimized stays so
  const { exports } = await WebAssembly.instantiate(await modules[build]);
  const { memory, image, scores, predict } = exports;
  let taken = 0;
  for (const [address, length] of about.spans) {
    new Uint8Array(memory.buffer, address).set(constants.subarray(taken, (taken += length)));
  }
  const pixels = new Uint8Array(memory.buffer, image(), pixelCount);
  const results = new Float64Array(memory.buffer, scores(), about.labels.length);
  return {
    build,
    labels: about.labels,
    shape: [about.channels, about.height, about.width],
    predict(image) {
      if (image.length !== pixelCount) {
        throw new RangeError(`${image.length} pixels, where the network takes ${pixelCount}`);
      }
      pixels.set(image);
      const label = predict();
      return { label, name: about.labels[label], scores: Array.from(results) };
    },
    measure: () => measure(predict),
  };
}

const pause = (milliseconds = 0) => new Promise((resolve) => setTimeout(resolve, milliseconds));

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length / 2;
  return (sorted[Math.floor(half)] + sorted[Math.ceil(half) - 1]) / 2;
}

const WARM_UP = 300; // milliseconds

/**
 * Microseconds that a call takes: the median of blocks of calls.
 *
 * Browsers let their clock tick in steps of 5 microseconds to a millisecond or more, so one call cannot be timed. A
 * block has as many as fill twenty ticks, and is then short enough that seldom another program comes between.
 */
async function measure(call, blocks = 31) {
  const tick = clockTick();
  const long = Math.min(Math.max(20 * tick, 2), 200); // milliseconds
  const timed = (runs) => {
    const start = performance.now();
    for (let i = 0; i < runs; i++) call();
    return performance.now() - start;
  };
  // A browser first runs code as it is, and replaces it by optimized code when another thread has made that.
  const warm = performance.now() + WARM_UP;
  while (performance.now() < warm) {
    const slice = performance.now() + 5;
    while (performance.now() < slice) call();
    await pause(15);
  }
  let runs = 1;
  while (Math.min(timed(runs), timed(runs)) < long) { // twice: one may have been interrupted
    runs *= 2;
    await pause();
  }
  const times = [];
  for (let i = 0; i < blocks; i++) {
    times.push((1000 * timed(runs)) / runs);
    await pause();
  }
  return { microseconds: median(times), blocks, runs, tick: 1000 * tick };
}

/** The smallest step of the clock that is seen, in milliseconds. */
function clockTick() {
  const end = performance.now() + 20;
  let step = 20;
  for (let last = performance.now(), now = last; now < end; now = performance.now()) {
    if (now > last) step = Math.min(step, now - last);
    last = now;
  }
  return step;
}
