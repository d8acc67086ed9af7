// The page: what is drawn or chosen goes to the network, its scores to the bars.

const element = (id) => document.getElementById(id);
const MOST_BARS = 12; // of more classes, the ten with the largest scores are shown

function complain(text) {
  element("trouble").textContent = text;
  element("trouble").hidden = false;
}

// --- scores -------------------------------------------------------------------------------------------------------

function makeBars() {
  const count = about.labels.length > MOST_BARS ? 10 : about.labels.length;
  return Array.from({ length: count }, () => {
    const row = document.createElement("li");
    row.innerHTML =
      '<span class="label" aria-hidden="true"></span><div class="bar" role="img"><span></span></div>' +
      '<span class="score" aria-hidden="true"></span>';
    element("scores").append(row);
    const [label, bar, score] = row.children;
    return { row, label, bar, fill: bar.firstChild, score };
  });
}

const bars = makeBars();
const range = { low: 0, high: about.probabilities ? 1 : 0 }; // of all scores seen: so that bars can be compared
const text = (score) => (about.probabilities ? `${(100 * score).toFixed(1)} %` : score.toFixed(2).replace("-", "−"));

/** Shows a prediction, or that there is none. */
function showScores(prediction) {
  const scores = prediction?.scores ?? about.labels.map(() => 0);
  const order = scores.map((_, k) => k);
  if (bars.length < order.length) order.sort((a, b) => scores[b] - scores[a] || a - b);
  range.low = Math.min(range.low, ...scores);
  range.high = Math.max(range.high, ...scores);
  const percent = (value) => (100 * value) / (range.high - range.low || 1);
  bars.forEach(({ row, label, bar, fill, score }, k) => {
    const value = scores[order[k]];
    row.classList.toggle("best", order[k] === prediction?.label);
    label.textContent = about.labels[order[k]];
    score.textContent = prediction ? text(value) : "–";
    bar.setAttribute("aria-label", `${about.labels[order[k]]}: ${prediction ? text(value) : "no score"}`);
    fill.style.left = `${percent(Math.min(value, 0) - range.low)}%`;
    fill.style.width = `${percent(Math.abs(value))}%`;
  });
  element("answer").textContent = prediction?.name ?? "–";
  element("answer").classList.toggle("word", (prediction?.name ?? "").length > 2);
  announce(prediction);
}

let announcement;

/** For screen readers, once the drawing rests: while it grows, the answer changes too often to be read out. */
function announce(prediction) {
  clearTimeout(announcement);
  announcement = setTimeout(() => {
    element("said").textContent = prediction
      ? `The network says ${prediction.name}, with ${text(prediction.scores[prediction.label])}.`
      : "";
  }, 600);
}

// --- what the network sees ----------------------------------------------------------------------------------------

/** Pixels, channel by channel, or null for none. */
function showPixels(pixels) {
  const canvas = element("seen");
  const context = canvas.getContext("2d");
  const image = context.createImageData(about.width, about.height);
  const plane = about.width * about.height;
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = pixels?.[(c % about.channels) * plane + i] ?? 0;
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  canvas.setAttribute("aria-label", pixels ? "What you made, as the network sees it" : "Nothing yet");
}

function look(network, pixels) {
  showPixels(pixels);
  showScores(pixels && network.predict(pixels));
}

// --- inputs -------------------------------------------------------------------------------------------------------

const LARGEST = 2048; // pixels of a picture on a side: larger ones the browser scales before

/** The pixels of an image file, RGBA. */
async function decode(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const scale = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((size) => Math.max(1, Math.round(size * scale)));
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

/** Shows a picture as it was given, or the invitation to give one. */
function showPicture(picture) {
  const canvas = element("picture");
  canvas.hidden = !picture;
  element("invitation").hidden = !canvas.hidden;
  if (!picture) return;
  [canvas.width, canvas.height] = [picture.width, picture.height];
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

function takePictures(paper, network) {
  async function take(file) {
    if (!file) return;
    try {
      const picture = await decode(file);
      element("trouble").hidden = true;
      paper?.clear();
      await new Promise(requestAnimationFrame); // in which the paper shows that it is empty
      showPicture(picture);
      look(network, pictured(picture, about));
    } catch {
      complain(`${file.name} is no picture that this browser can read.`);
    }
  }
  element("file").addEventListener("change", (event) => {
    take(event.target.files[0]);
    event.target.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
  const target = paper ? element("paper") : element("drop");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    target.classList.add("over");
  });
  document.addEventListener("dragleave", () => target.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    target.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
}

function takeDrawings(network) {
  let waiting = false;
  const paper = paperOn(element("paper"), () => {
    if (waiting) return; // at most once a frame
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      look(network, framed(paper.ink(), about));
    });
  });
  element("undo").addEventListener("click", paper.undo);
  for (const id of ["drawing", "undo", "keyboard"]) element(id).hidden = false;
  return paper;
}

// --- facts --------------------------------------------------------------------------------------------------------

const engines = {
  simd: ["SIMD", "WebAssembly with vectors of 128 bits"],
  scalar: ["scalar", "WebAssembly without SIMD: this browser has none, or the address ends in #scalar"],
};

async function showTime(network) {
  element("measure").disabled = true;
  const { microseconds, blocks, runs, tick } = await network.measure();
  const digits = microseconds < 100 ? 1 : 0;
  element("time").textContent = `${microseconds.toFixed(digits)} µs`;
  element("time-how").textContent =
    `median of ${blocks} blocks of ${runs} ${runs > 1 ? "runs" : "run"}; this browser's clock ticks every ` +
    `${tick.toFixed(0)} µs`;
  element("measure").disabled = false;
}

async function main() {
  const build = location.hash === "#scalar" ? "scalar" : bestBuild();
  const network = await networkOf(build);
  [element("engine").textContent, element("engine-how").textContent] = engines[build];
  const paper = about.channels === 1 ? takeDrawings(network) : null;
  element("drop").hidden = paper !== null;
  takePictures(paper, network);
  element("clear").addEventListener("click", () => {
    paper?.clear();
    showPicture(null);
    look(network, null);
  });
  element("measure").addEventListener("click", () => showTime(network));
  look(network, null);
  // For programs: predict(pixels), measure(), and networkOf("simd" or "scalar") for a second one.
  window.network = { ...network, networkOf, framed, pictured };
  await showTime(network);
}

main().catch((error) => complain(`The network could not be started: ${error.message}`));
