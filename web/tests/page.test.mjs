// The page in a real browser, with both engines: every view opened and used, and its pictures compared with those that the
// program writes. `SCREENSHOTS=FOLDER` keeps a picture of each view, `ENGINE=FOLDER` has an engine to test besides.

import assert from "node:assert/strict";
import { copyFileSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { furthest, kiln, look, openBrowser, openPage, pixels, pixelsOfFiles, place, play, serve, settled } from "./stage.mjs";

const SCREENSHOTS = process.env.SCREENSHOTS;

/** Models of digits: the one inside the program, and one that draws in many steps. */
const [STUDENT, TEACHER] = ["mnist-few-steps", "mnist-many-steps"].map((name) => new URL(`../../pretrained/${name}`, import.meta.url).pathname);

let browser;
before(async () => {
  kiln("model", "guide", TEACHER, "--by", STUDENT, "--to", "guided", "--guidance", "2");
  browser = await openBrowser();
});
after(async () => {
  await browser?.close();
  rmSync(place, { recursive: true, force: true });
});

const ENGINES = {
  native: () => {
    // Whose nearest ones are searched: the data of a model without a run must be named.
    kiln("sample", "--count", "40", "--files", "--out", "near");
    return play("--data", "near", STUDENT, TEACHER, "guided");
  },
  wasm: () => {
    kiln("web", "--out", "wasm-site", STUDENT, TEACHER, "guided");
    return serve(join(place, "wasm-site"));
  },
};
// The engine of these sources, where there is one: the program's own may be older.
if (process.env.ENGINE) {
  ENGINES["new-wasm"] = () => {
    kiln("web", "--out", "new-site", STUDENT, TEACHER, "guided");
    for (const file of ["engine.js", "engine.wasm"]) copyFileSync(join(process.env.ENGINE, file), join(place, "new-site", file));
    return serve(join(place, "new-site"));
  };
}

for (const [name, begin] of Object.entries(ENGINES)) {
  describe(`the ${name} engine`, () => {
    let served, page, problems;
    before(async () => {
      served = await begin();
      ({ page, problems } = await openPage(browser));
    });
    after(() => served?.end());

    const teacher = name === "native" ? TEACHER : "mnist-many-steps";

    const see = async (view, state) => {
      problems.length = 0;
      await look(page, served.address, { view, ...state });
    };
    const seen = async (view) => {
      assert.deepEqual(problems, []);
      if (SCREENSHOTS) await page.screenshot({ path: join(SCREENSHOTS, `${name}-${view}.png`), fullPage: true });
    };

    test("draws what kiln sample draws", async () => {
      await see("draw", { seed: 5, count: 4, steps: 3 });
      for (const seed of ["5", "6"]) {
        const drawn = await pixels(page, ".grid canvas");
        const folder = `${name}-${seed}`;
        kiln("sample", "--seed", seed, "--count", "4", "--steps", "3", "--precision", "f32", "--files", "--out", folder);
        const files = readdirSync(join(place, folder), { recursive: true }).map(String);
        const single = files.filter((file) => /images|\d{3,}\.png$/.test(file) && file.endsWith(".png") && file.includes("/")).sort();
        const native = await pixelsOfFiles(page, single.map((file) => join(place, folder, file)));
        assert.equal(drawn.length, 4);
        // 8 bits round a difference of 1e-3 up to one.
        assert.ok(furthest(drawn, native) <= 1, `${furthest(drawn, native)} of 255 apart with seed ${seed}`);
        await seen("draw");
        // In a browser, workers share the second drawing.
        const workers = name === "native" ? 0 : Math.min(4, await page.evaluate(() => navigator.hardwareConcurrency));
        for (const until = Date.now() + 20_000; page.workers().length < workers && Date.now() < until; ) await page.waitForTimeout(100);
        assert.equal(page.workers().length, workers);
        await page.getByRole("button", { name: "Next seed" }).click();
        await page.waitForFunction((seed) => document.querySelector(`canvas[aria-label$="seed ${seed}"]`), Number(seed) + 1);
        await settled(page);
      }
    });

    test("shows all images, even if they are drawn in batches", async () => {
      await see("draw", { count: 70, steps: 1 });
      assert.equal(await page.locator(".grid canvas").count(), 70);
    });

    test("shows the walk of an image, step by step", async () => {
      await see("draw", { count: 4, steps: 5, image: 2, step: 0 });
      await page.waitForSelector(".walk canvas");
      const [noise] = await pixels(page, ".walk canvas");
      await page.locator(".walk input[type=range]").fill("5");
      await page.waitForFunction(() => document.querySelector(".walk .slider span").textContent.includes("step 5 of 5"));
      const [clean] = await pixels(page, ".walk canvas");
      const [, , third] = await pixels(page, ".grid canvas");
      assert.ok(furthest([noise], [clean]) > 50);
      assert.ok(furthest([clean], [third]) <= 1);
      await seen("walk");
    });

    test("races step counts from the same noises", async () => {
      await see("race", { lanes: "1 2 4", steps: "" });
      const pictures = await pixels(page, "canvas");
      assert.ok(pictures.length >= 3, `${pictures.length} pictures`);
      assert.match(await page.locator("main").textContent(), /2 network calls/);
      await seen("race");
    });

    test("shows any schedule with an image in its noise", async () => {
      await see("schedule", {});
      const curve = () => page.locator("polyline.signal").getAttribute("points");
      const own = await curve();
      await page.locator("label", { hasText: /^Schedule/ }).locator("select").selectOption("linear");
      await page.waitForFunction((own) => document.querySelector("polyline.signal").getAttribute("points") !== own, own);
      await page.waitForSelector("figure canvas");
      const drawn = await pixels(page, "figure canvas");
      await page.locator("input[type=file]").setInputFiles(new URL("../../examples/images/digit.png", import.meta.url).pathname);
      await page.waitForFunction((drawn) => {
        const canvas = document.querySelector("figure canvas");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return data.some((value, at) => Math.abs(value - drawn[at]) > 30);
      }, drawn[0]);
      assert.match(page.url(), /kind=linear/);
      const linear = await curve();
      await page.locator("label", { hasText: "beta_end" }).locator("input").fill("0.04");
      await page.waitForFunction((linear) => document.querySelector("polyline.signal").getAttribute("points") !== linear, linear);
      assert.match(page.url(), /beta_end=0.04/);
      await seen("schedule");
    });

    test("encodes an image, and decodes painted codes", async () => {
      await see("first-stage", {});
      await page.waitForSelector(".code");
      assert.match(await page.locator(".status").textContent(), /\d+\.\d dB/);
      const back = async () => (await pixels(page, ".figures canvas")).at(-2);
      const before = await back();
      await page.locator(".codebook").click({ position: { x: 41, y: 21 } });
      assert.match(page.url(), /code=330/);
      await page.locator(".code").nth(20).click();
      await page.getByText("what the decoder makes of these codes").waitFor();
      assert.ok(furthest([before], [await back()]) > 0);
      await seen("first-stage");
    });

    test("fills in a hole and leaves the rest as it is", async () => {
      await see("edit", { how: "inpaint", steps: 4 });
      await page.getByRole("button", { name: "The lower half" }).click();
      await page.waitForSelector(".grid canvas", { timeout: 120_000 });
      await settled(page);
      await page.getByRole("button", { name: "No hole" }).click();
      const [original] = await pixels(page, ".canvas canvas");
      await page.getByRole("button", { name: "The lower half" }).click();
      await page.waitForSelector(".grid canvas", { timeout: 120_000 });
      await settled(page);
      const filled = await pixels(page, ".grid canvas");
      assert.equal(filled.length, 6);
      for (const picture of filled) {
        const half = original.length / 2;
        assert.deepEqual(picture.slice(0, half), original.slice(0, half));
        assert.notDeepEqual(picture.slice(half), original.slice(half));
      }
      await seen("inpaint");
    });

    test("draws an image again, and images between noises", async () => {
      await see("edit", { steps: 4 });
      await page.waitForSelector(".grid canvas", { timeout: 120_000 });
      await settled(page);
      await seen("redraw");
      const before = await pixels(page, ".grid canvas");
      await page.getByRole("button", { name: "A blank sheet" }).click();
      const sheet = await page.locator(".canvas canvas").boundingBox();
      await page.mouse.move(sheet.x + sheet.width / 2, sheet.y + sheet.height / 5);
      await page.mouse.down();
      await page.mouse.move(sheet.x + sheet.width / 2, sheet.y + (4 * sheet.height) / 5, { steps: 5 });
      await page.mouse.up();
      await settled(page);
      const [sketched] = await pixels(page, ".canvas canvas");
      const white = sketched.filter((value, at) => at % 4 === 0 && value === 255).length;
      assert.ok(white > 20 && white < 200, `${white} pixels are painted`);
      assert.ok(furthest(before, await pixels(page, ".grid canvas")) > 100);
      await seen("sketch");
      await page.locator(".easel").focus();
      await page.keyboard.down("Space");
      for (let stroke = 0; stroke < 8; stroke++) await page.keyboard.press("ArrowRight");
      await page.keyboard.up("Space");
      await page.keyboard.press("ArrowDown");
      await settled(page);
      const [longer] = await pixels(page, ".easel canvas");
      const more = longer.filter((value, at) => at % 4 === 0 && value === 255).length;
      assert.ok(more > white + 10 && more < white + 100, `${more - white} pixels are painted by keys`);

      await see("edit", { how: "between", steps: 3, at: "0 0" });
      await page.waitForSelector(".grid canvas", { timeout: 120_000 });
      await settled(page);
      const grid = await pixels(page, ".grid canvas");
      assert.equal(grid.length, 25);
      assert.ok(furthest(grid.slice(0, 1), await pixels(page, "figure canvas")) <= 1);
      // To the lower right corner.
      const box = await page.locator(".canvas .grid").boundingBox();
      await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
      await page.mouse.down();
      await page.mouse.move(box.x + box.width - 5, box.y + box.height - 5, { steps: 5 });
      await page.mouse.up();
      await settled(page);
      assert.match(page.url(), /at=1\.00/);
      // The pointer's last place may be asked for after the page was at rest.
      const apart = async () => furthest(grid.slice(-1), await pixels(page, "figure canvas"));
      for (const until = Date.now() + 10_000; (await apart()) > 1 && Date.now() < until; ) await page.waitForTimeout(100);
      assert.ok((await apart()) <= 1);
      await seen("between");
    });

    test("takes an image back to its noise", async () => {
      await see("edit", { how: "invert", steps: 20, model: teacher });
      await page.getByText("drawn again with").waitFor();
      const said = await page.locator(".status").textContent();
      const [, psnr, deviation] = said.match(/with ([\d.]+) dB.*deviation of ([\d.]+)/);
      assert.ok(Number(psnr) > 20, said);
      assert.ok(Math.abs(Number(deviation) - 1) < 0.3, said);
      assert.equal(await page.locator(".figures canvas").count(), 3);
      await seen("invert");
      await see("edit", { how: "invert" });
      assert.match(await page.locator(".failure").textContent(), /few long steps/);
    });

    test("measures errors by level of noise", async () => {
      await see("learnt", { model: "guided" });
      await page.waitForSelector("polyline", { timeout: 120_000 });
      await settled(page);
      await page.getByText("the push, ").waitFor();
      await seen("learnt");
    });

    test("finds the nearest training images, where there are any", async () => {
      await see("learnt", { of: 4 });
      await settled(page);
      const told = await page.locator("section:last-of-type .status").textContent();
      if (name === "native") {
        assert.match(told, /the nearest of \d+ in /);
        const captions = await page.locator("section:last-of-type figcaption").allTextContents();
        const distances = captions.slice(1).map(Number.parseFloat);
        assert.equal(distances.length, 8);
        assert.ok(distances[0] > 0 && distances.every((distance, place) => place === 0 || distance >= distances[place - 1]), String(distances));
      } else {
        assert.match(told, /kiln play has them/);
      }
    });

    test("says in words what cannot be", async () => {
      await see("draw", { steps: 2000, count: 1 });
      assert.match(await page.locator(".status").first().textContent(), /steps/);
      await see("draw", { model: "nobody" });
      assert.match(await page.locator(".failure").textContent(), /nobody/);
    });

    test("fits a phone, in the dark, by keyboard alone", async () => {
      const phone = await openPage(browser, { viewport: { width: 375, height: 700 }, colorScheme: "dark" });
      for (const view of ["draw", "race", "schedule", "first-stage", "edit", "learnt"]) {
        await look(phone.page, served.address, { view, count: 2, steps: 2, lanes: "1 2" });
        const [wide, screen] = await phone.page.evaluate(() => [document.scrollingElement.scrollWidth, innerWidth]);
        assert.ok(wide <= screen, `${view} is ${wide} wide on a screen of ${screen}`);
        const unnamed = await phone.page.$$eval("input, select, button", (fields) =>
          fields.filter((field) => !field.labels?.length && !field.textContent && !field.title && !field.getAttribute("aria-label")).length,
        );
        assert.equal(unnamed, 0, `${view} has fields without a name`);
      }
      const dark = await phone.page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      assert.ok(dark.match(/\d+/g).slice(0, 3).every((part) => Number(part) < 90), dark);
      if (SCREENSHOTS) await phone.page.screenshot({ path: join(SCREENSHOTS, `${name}-phone.png`) });
      await look(phone.page, served.address, { count: 2, steps: 2 });
      for (let presses = 0; presses < 40; presses++) {
        await phone.page.keyboard.press("Tab");
        if (await phone.page.evaluate(() => document.activeElement.classList.contains("tile"))) break;
      }
      await phone.page.keyboard.press("Enter");
      await phone.page.waitForSelector(".walk canvas");
      await phone.page.close();
    });
  });
}

test("a training is shown with its curves, checkpoints, pictures and findings", async () => {
  kiln("sample", "--count", "32", "--steps", "1", "--files", "--out", "images");
  const short = { dataset: '"folder"', steps: 4, checkpoint_every: 2, batch_size: 8 };
  const keys = Object.entries(short).map(([key, value]) => `${key === "dataset" ? "data" : "stage_1.training"}.${key}=${value}`);
  const config = new URL("../../configs/mnist-quick.toml", import.meta.url).pathname;
  const train = ["train-vqvae", "--config", config, "--data", "images", ...keys.flatMap((key) => ["--set", key])];
  kiln(...train, "--out", "one");
  kiln(...train, "--out", "two", "--set", "seed=1");
  const served = await play("one", "two");
  const { page, problems } = await openPage(browser);
  await look(page, served.address, { view: "run", beside: "two" });
  await page.waitForSelector("polyline.beside");
  await page.getByText("; dashed: ").first().waitFor();
  assert.match(await page.locator(".status").first().textContent(), /step 4 of 4/);
  assert.ok((await page.locator("polyline.own").count()) >= 4);
  assert.ok((await page.locator("rect.checkpoint").count()) >= 2);
  const picture = () => page.locator("img.picture").getAttribute("src");
  await page.waitForSelector("img.picture");
  const last = await picture();
  await page.locator("section .slider input").fill("0");
  await page.waitForFunction((last) => document.querySelector("img.picture").src !== last, last);
  await page.getByRole("button", { name: "Examine it" }).click();
  await page.getByText("What to do:").or(page.getByText("found nothing wrong")).first().waitFor();
  // A run goes on while it is shown.
  kiln("train-vqvae", "--out", "one", "--resume", "--set", "stage_1.training.steps=6");
  await page.getByText("step 6 of 6").waitFor();
  assert.deepEqual(problems, []);
  if (SCREENSHOTS) await page.screenshot({ path: join(SCREENSHOTS, "native-run.png"), fullPage: true });
  served.end();
});

test("a program that has ended is said to be gone", async () => {
  const served = await play();
  const { page } = await openPage(browser);
  await look(page, served.address, { count: 1, steps: 1 });
  served.end();
  await page.getByRole("button", { name: "Next seed" }).click();
  await page.getByText("is it still running").waitFor();
});

test("a page without a program and without models says so", async () => {
  const served = await play();
  const { page } = await openPage(browser);
  await page.goto(served.address.split("#")[0]);
  await page.getByText("open the address that kiln play printed").waitFor();
  served.end();
});

test("a model that is damaged is told in words", async () => {
  kiln("web", "--out", "damaged");
  rmSync(join(place, "damaged/models/digits/unet/config.json"));
  const served = await serve(join(place, "damaged"));
  const { page } = await openPage(browser);
  await look(page, served.address, {});
  assert.match(await page.locator(".failure").textContent(), /unet\/config\.json is missing/);
  served.end();
});
