// What the tests stand on: a browser, the program, and a web server for the folder of `kiln web`.

import { execFileSync, spawn } from "node:child_process";
import { createServer } from "node:http";
import { existsSync, mkdtempSync, readFileSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { extname, join, normalize } from "node:path";
import { chromium } from "playwright-core";

const ROOT = new URL("../..", import.meta.url).pathname;
const KILN = process.env.KILN ?? join(ROOT, "target/release/kiln");
const CHROMIUM = process.env.CHROMIUM ?? ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);

/** A folder for these tests alone. */
export const place = mkdtempSync(join(tmpdir(), "kiln-page-"));

/** Runs the program, and gives what it says. */
export function kiln(...args) {
  return execFileSync(KILN, args, { cwd: place, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

/** `kiln play`, as far as its address. */
export function play(...args) {
  const program = spawn(KILN, ["play", "--port", "0", ...args], { cwd: place, stdio: ["ignore", "pipe", "pipe"] });
  return new Promise((resolve, reject) => {
    program.once("exit", (code) => reject(new Error(`kiln play ended with ${code}`)));
    program.stdout.once("data", (line) => resolve({ address: String(line).trim(), end: () => program.kill() }));
  });
}

const KINDS = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm", ".json": "application/json" };

/** Serves a folder, as any web server would. */
export function serve(folder) {
  const server = createServer((request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, "http://here").pathname));
    const file = join(folder, path.endsWith("/") ? `${path}index.html` : path);
    if (!file.startsWith(folder) || !existsSync(file) || !statSync(file).isFile()) return response.writeHead(404).end();
    response.writeHead(200, { "content-type": KINDS[extname(file)] ?? "application/octet-stream" }).end(readFileSync(file));
  });
  return new Promise((resolve) => {
    server.listen(0, "127.0.0.1", () => {
      const address = `http://127.0.0.1:${server.address().port}/#`;
      resolve({ address, end: () => server.close() });
    });
  });
}

export async function openBrowser() {
  if (!CHROMIUM) throw new Error("there is no Chromium here: apt-get install chromium, or set CHROMIUM");
  return chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
}

/** A page that remembers what went wrong and whom it asked. */
export async function openPage(browser, options = {}) {
  const page = await browser.newPage({ viewport: { width: 1000, height: 900 }, ...options });
  const problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  page.on("request", (request) => {
    const { protocol, hostname } = new URL(request.url());
    if (!["blob:", "data:"].includes(protocol) && hostname !== "127.0.0.1") problems.push(`asked ${request.url()}`);
  });
  return { page, problems };
}

/** Opens a state of the page, and waits until nothing is open any more. */
export async function look(page, address, state) {
  await page.goto("about:blank");
  await page.goto(`${address}${address.endsWith("#") ? "" : "&"}${new URLSearchParams(state)}`);
  await settled(page);
}

/** Waits until pictures are there and no status says that more will come. */
export async function settled(page) {
  await page.waitForFunction(
    () => {
      const said = [...document.querySelectorAll(".status")].map((status) => status.textContent);
      return document.querySelector("canvas, svg, .failure") && said.every((status) => !status.endsWith(".."));
    },
    null,
    { timeout: 120_000 },
  );
}

/** The pixels of all pictures that a selector finds, RGBA. */
export function pixels(page, selector) {
  return page.$$eval(selector, (canvases) =>
    canvases.map((canvas) => Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data)),
  );
}

/** The pixels of picture files. */
export function pixelsOfFiles(page, files) {
  const urls = files.map((file) => `data:image/png;base64,${readFileSync(file).toString("base64")}`);
  return page.evaluate(async (urls) => {
    const read = async (url) => {
      const image = new Image();
      image.src = url;
      await image.decode();
      const canvas = new OffscreenCanvas(image.width, image.height);
      canvas.getContext("2d").drawImage(image, 0, 0);
      return Array.from(canvas.getContext("2d").getImageData(0, 0, image.width, image.height).data);
    };
    return Promise.all(urls.map(read));
  }, urls);
}

/** The largest difference of two lists of pictures; NaN, which passes no check, for pictures of other sizes. */
export function furthest(one, other) {
  if (one.length !== other.length) return Infinity;
  const distances = one.flatMap((picture, index) => picture.map((value, at) => Math.abs(value - other[index][at])));
  return Math.max(...distances, 0);
}
