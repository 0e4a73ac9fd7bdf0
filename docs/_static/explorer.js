/* The explorer of the moving average: P ← ρP + (1 − ρ)B, its start, its lag, its noise.
   The closed forms are those of bnref.moving_average; a test compares the two. */
(function () {
  "use strict";
  const root = document.getElementById("explorer");
  if (!root) return;

  // Unit: the standard deviation of one example. The true mean is 0 when training begins.
  const CONTROLS = [
    { id: "momentum", label: "Momentum ρ", start: 6,
      values: [0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999] },
    { id: "steps", label: "Training steps t", start: 5,
      values: [10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000] },
    { id: "origin", label: "Start value, away from the mean", start: 4,
      values: [-2, -1, -0.5, 0, 0.5, 1, 2, 5, 10] },
    { id: "batch", label: "Batch size N", start: 5,
      values: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] },
    { id: "within", label: "Correlation c within a batch", start: 0,
      values: [0, 0.01, 0.03, 0.1, 0.3, 0.55, 0.8, 1] },
    { id: "correlation", label: "Correlation φ of neighbouring batches", start: 0,
      values: [0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99] },
    { id: "drift", label: "Drift of the mean, in all steps", start: 0,
      values: [0, 0.1, 0.2, 0.5, 1, 2, 5] },
  ];
  const WIDTH = 640, HEIGHT = 300, LEFT = 66, RIGHT = 8, TOP = 10, BOTTOM = 30, POINTS = 320;
  const MOST = 50000;

  // ---- The closed forms ----
  const startWeight = (rho, t) => Math.pow(rho, t);
  const lag = (rho) => rho / (1 - rho);
  const fluctuation = (rho, phi) =>
    Math.sqrt(((1 - rho) / (1 + rho)) * ((1 + rho * phi) / (1 - rho * phi)));

  /* So many independent examples have a mean as steady as that of a batch whose examples are alike. */
  const worth = (batch, within) => batch / (1 + (batch - 1) * within);

  /* For each step: the mean's mean, the average's expectation and its standard deviation. */
  function curves({ momentum: rho, steps, origin, batch, within, correlation: phi, drift }) {
    const slope = drift / steps, v = 1 / worth(batch, within);
    let expected = origin, variance = 0, covariance = 0;
    const rows = [{ t: 0, truth: 0, expected, deviation: 0 }];
    const each = Math.max(1, Math.round(steps / POINTS));
    for (let t = 1; t <= steps; t++) {
      expected = rho * expected + (1 - rho) * slope * t;
      variance = rho * rho * variance + (1 - rho) ** 2 * v + 2 * rho * (1 - rho) * phi * covariance;
      covariance = rho * phi * covariance + (1 - rho) * v;
      if (t % each === 0 || t === steps)
        rows.push({ t, truth: slope * t, expected, deviation: Math.sqrt(variance) });
    }
    return rows;
  }

  // ---- One run: the same normal numbers for every setting, so that only the setting changes it ----
  const noise = new Float32Array(MOST);
  let seed = 20151105;
  const uniform = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  for (let i = 0; i < MOST; i++)
    noise[i] = Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());

  function run({ momentum: rho, steps, origin, batch, within, correlation: phi, drift }) {
    const slope = drift / steps, v = 1 / Math.sqrt(worth(batch, within));
    const fresh = Math.sqrt(1 - phi * phi);
    const each = Math.max(1, Math.round(steps / POINTS));
    let average = origin, common = noise[0];
    const rows = [{ t: 0, average }];
    for (let t = 1; t <= steps; t++) {
      if (t > 1) common = phi * common + fresh * noise[t - 1];
      average = rho * average + (1 - rho) * (slope * t + v * common);
      if (t % each === 0 || t === steps) rows.push({ t, average });
    }
    return rows;
  }

  // ---- The page ----
  const form = document.createElement("form");
  form.className = "explorer-controls";
  for (const control of CONTROLS) {
    const { id, label, values, start } = control;
    const line = document.createElement("p");
    line.innerHTML =
      `<label for="explorer-${id}">${label}</label>` +
      `<input type="range" id="explorer-${id}" min="0" max="${values.length - 1}" step="1" ` +
      `value="${start}"><output for="explorer-${id}"></output>`;
    form.append(line);
    control.input = line.querySelector("input");
    control.output = line.querySelector("output");
  }
  const figure = document.createElement("figure");
  figure.innerHTML =
    `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-labelledby="explorer-title">` +
    `<title id="explorer-title"></title><g class="axes"></g><path class="band"></path>` +
    `<path class="run"></path><path class="truth"></path><path class="expected"></path></svg>` +
    `<figcaption><span class="key expected">the average, expected</span> ` +
    `<span class="key band">± 2 of its standard deviations</span> ` +
    `<span class="key run">one run</span> <span class="key truth">the true mean</span>` +
    `</figcaption>`;
  const facts = document.createElement("dl");
  facts.className = "explorer-facts";
  root.replaceChildren(form, figure, facts);
  const svg = figure.querySelector("svg");

  const digits = (x, n = 3) =>
    x === 0 ? "0" : Math.abs(x) < 1e-9 ? "less than 0.000000001" : String(Number(x.toPrecision(n)));
  const percent = (x) => (x > 0 && x < 5e-5 ? "less than 0.01 %" : `${digits(100 * x)} %`);
  const many = (x) => Number(x).toLocaleString("en").replace(/,/g, " ");

  function read() {
    const setting = {};
    for (const { id, input, output, values } of CONTROLS) {
      setting[id] = values[Number(input.value)];
      output.textContent = many(setting[id]).includes(".") ? String(setting[id]) : many(setting[id]);
      input.setAttribute("aria-valuetext", String(setting[id]));
    }
    return setting;
  }

  function draw() {
    const setting = read();
    const theory = curves(setting), one = run(setting);
    const { momentum: rho, steps, origin, batch, within, correlation: phi, drift } = setting;
    const all = theory.flatMap((r) => [r.truth, r.expected - 2 * r.deviation, r.expected + 2 * r.deviation]);
    all.push(...one.map((r) => r.average));
    let low = Math.min(...all), high = Math.max(...all);
    const room = 0.05 * (high - low) || 0.5;
    low -= room;
    high += room;
    const x = (t) => LEFT + (t / steps) * (WIDTH - LEFT - RIGHT);
    const y = (value) => TOP + ((high - value) / (high - low)) * (HEIGHT - TOP - BOTTOM);
    const line = (rows, key) =>
      rows.map((r, i) => `${i ? "L" : "M"}${x(r.t).toFixed(1)} ${y(r[key]).toFixed(1)}`).join("");
    const edge = (sign) => theory.map((r) => ({ t: r.t, edge: r.expected + sign * 2 * r.deviation }));
    svg.querySelector(".band").setAttribute(
      "d", line(edge(1), "edge") + line(edge(-1).reverse(), "edge").replace("M", "L") + "Z");
    svg.querySelector(".run").setAttribute("d", line(one, "average"));
    svg.querySelector(".truth").setAttribute("d", line(theory, "truth"));
    svg.querySelector(".expected").setAttribute("d", line(theory, "expected"));
    axes(low, high, steps, x, y);

    const kept = startWeight(rho, steps), noisy = fluctuation(rho, phi);
    const end = theory[theory.length - 1];
    const found = [
      ["Start value still in it", percent(kept), "start"],
      ["Error from start and lag at the end", digits(end.expected - end.truth), "error"],
      ["Lag behind a drift", `${digits(lag(rho))} steps`, "lag"],
      ["A batch is worth", `${digits(worth(batch, within))} independent examples`, "worth"],
      ["Noise at the end", digits(end.deviation), "noise"],
      ["Noise after many steps, in that of one batch", percent(noisy), "fluctuation"],
      ["As steady as the mean of", `${digits(noisy ** -2)} independent batches`, "independent"],
    ];
    facts.innerHTML = found
      .map(([name, value, id]) => `<div><dt>${name}</dt><dd id="explorer-${id}">${value}</dd></div>`)
      .join("");
    svg.querySelector("title").textContent =
      `Average and true mean over ${steps} steps, momentum ${rho}, batches of ${batch}, correlation ` +
      `${within} within them and ${phi} between neighbours, start ${origin}, drift ${drift}: ends ${digits(end.expected - end.truth)} away, ` +
      `plus or minus ${digits(end.deviation)}.`;
  }

  function axes(low, high, steps, x, y) {
    const nice = (span) => {
      const power = 10 ** Math.floor(Math.log10(span / 4));
      return [1, 2, 5, 10].map((k) => k * power).find((step) => span / step <= 5);
    };
    const step = nice(high - low);
    let text = "";
    for (let k = Math.ceil(low / step); k * step <= high; k++) {
      const at = y(k * step).toFixed(1);
      text += `<path class="grid" d="M${LEFT} ${at}H${WIDTH - RIGHT}"/>` +
        `<text x="${LEFT - 6}" y="${at}" dy="0.35em" text-anchor="end">${digits(k * step)}</text>`;
    }
    for (const share of [0, 0.5, 1])
      text += `<text x="${x(share * steps).toFixed(1)}" y="${HEIGHT - 10}" text-anchor=` +
        `"${["start", "middle", "end"][2 * share]}">${many(share * steps)}${share === 0.5 ? " steps" : ""}</text>`;
    svg.querySelector(".axes").innerHTML = text;
  }

  form.addEventListener("input", draw);
  form.addEventListener("submit", (event) => event.preventDefault());
  draw();
})();
