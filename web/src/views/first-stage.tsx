// First stage: what the autoencoder keeps of an image, and its codes to play with.

import type { JSX } from "preact";
import { useMemo, useState } from "preact/hooks";
import { useAnswer } from "../answers";
import { pictures } from "../engine";
import { Amount, Explained, Figure, Paper, Picture, Status } from "../parts";
import type { Ask } from "../protocol";
import { useImage } from "../image";
import type { ViewProps } from "../view";

export function FirstStage({ engine, model, state, change }: ViewProps): JSX.Element {
  const { image, bytes, chooser, failure: imageFailure } = useImage(engine, model, state, change);
  const encoded = useAnswer(engine, image && { what: "encode", model: model.model, given: image }, bytes);
  const told = encoded.told?.answer.what === "encoded" ? encoded.told.answer : undefined;
  // The codes as the user has painted them, until another image comes.
  const [painted, setPainted] = useState<{ of: unknown; codes: number[] }>();
  const codes = painted && painted.of === told ? painted.codes : told?.codes;
  const isPainted = codes !== undefined && codes !== told?.codes;
  const brush = Number(state["code"] ?? 0) || 0;
  const ask: Ask | undefined = codes && codes.length > 0 && isPainted ? { what: "decode-codes", model: model.model, codes } : undefined;
  const decoded = useAnswer(engine, ask);
  const shown = useMemo(() => {
    if (!told || !encoded.told) return undefined;
    const of = (sheet: typeof told.latents) => pictures(sheet, encoded.told!.bytes)[0];
    return {
      latents: of(told.latents),
      back: of(told.reconstruction),
      difference: of(told.difference),
      codebook: told.colours ? of(told.colours) : undefined,
    };
  }, [told]);
  const repainted = useMemo(
    () => (isPainted && decoded.told?.answer.what === "pictures" ? pictures(decoded.told.answer.images, decoded.told.bytes)[0] : undefined),
    [decoded.told, isPainted],
  );
  const original = useMemo(() => (image && bytes ? pictures(image, bytes)[0] : undefined), [image, bytes]);
  if (!model.first_stage) return <Status failure="This model denoises pixels: it has no first stage." />;
  const scale = Math.max(1, Math.round(140 / model.width));
  const columns = model.latents[2];
  const latentScale = Math.max(1, Math.round(64 / model.latents[1]));
  return (
    <>
      <form class="settings" onSubmit={(event) => event.preventDefault()}>
        {chooser}
        {told && told.codes.length > 0 && (
          <Amount
            name={`Code to paint with (of ${told.codebook})`}
            min={0}
            max={told.codebook - 1}
            step={1}
            value={state["code"] ?? ""}
            placeholder="0"
            change={(code) => change({ code })}
          />
        )}
        {isPainted && (
          <button type="button" onClick={() => setPainted(undefined)}>
            The image's own codes
          </button>
        )}
      </form>
      <Status failure={imageFailure ?? encoded.failure ?? decoded.failure}>
        {told ? `the reconstruction has ${told.psnr.toFixed(1)} dB` : "encoding .."}
      </Status>
      {told && shown && (
        <div class="figures">
          <Figure pixels={original} title="the image" scale={scale} />
          <Figure pixels={shown.latents} title={`its latents: ${model.latents.join(" x ")}, channel by channel`} scale={latentScale} />
          {codes && codes.length > 0 && shown.codebook && (
            <figure>
              <div class="codes" style={{ gridTemplateColumns: `repeat(${columns}, 1fr)` }}>
                {codes.map((code, place) => (
                  <button
                    type="button"
                    class={code === told.codes[place] ? "code" : "code painted"}
                    style={{ background: colour(shown.codebook!, code) }}
                    title={`code ${code}: click to paint code ${brush}`}
                    aria-label={`Row ${Math.floor(place / columns)}, column ${place % columns}: code ${code}`}
                    onClick={() => setPainted({ of: told, codes: codes.map((old, other) => (other === place ? brush : old)) })}
                  >
                    {code}
                  </button>
                ))}
              </div>
              <figcaption>its codes: click one to paint it</figcaption>
            </figure>
          )}
          {codes && shown.codebook && (
            <Codebook codebook={shown.codebook} count={told.codebook} codes={codes} brush={brush} choose={(code) => change({ code: String(code) })} />
          )}
          <Figure pixels={repainted ?? shown.back} title={repainted ? "what the decoder makes of these codes" : "the reconstruction"} scale={scale} />
          <Figure pixels={shown.difference} title={`the difference, ${told.amplified} times as strong`} scale={scale} />
        </div>
      )}
      <Explained>
        The first stage squeezes an image into latents, and the diffusion model only ever sees those (
        <Paper arxiv="2112.10752">Rombach et al. 2021</Paper>). A VQ-VAE replaces each latent by the nearest of its codes (
        <Paper arxiv="1711.00937">van den Oord et al. 2017</Paper>): small errors of the diffusion model vanish, and so do
        fine details of the image. What the first stage throws away, no sampler brings back.
      </Explained>
    </>
  );
}

/** All codes, to choose one to paint with. */
function Codebook(props: { codebook: ImageData; count: number; codes: number[]; brush: number; choose: (code: number) => void }): JSX.Element {
  const { codebook, count, codes, brush, choose } = props;
  const scale = Math.max(2, Math.round(256 / codebook.width));
  const pick = (event: MouseEvent & { currentTarget: HTMLElement }) => {
    const box = event.currentTarget.getBoundingClientRect();
    const [column, row] = [event.clientX - box.left, event.clientY - box.top].map((at) => Math.floor(at / scale)) as [number, number];
    choose(Math.min(count - 1, row * codebook.width + column));
  };
  return (
    <figure>
      <div class="codebook" onClick={pick}>
        <Picture pixels={codebook} scale={scale} label={`The codebook: ${count} codes`} />
        <span
          class="brush"
          style={{
            left: `${(brush % codebook.width) * scale}px`,
            top: `${Math.floor(brush / codebook.width) * scale}px`,
            width: `${scale}px`,
            height: `${scale}px`,
          }}
        />
      </div>
      <figcaption>
        the codebook: the image uses {new Set(codes).size} of {count} codes; click one to paint with it
      </figcaption>
    </figure>
  );
}

function colour(codebook: ImageData, code: number): string {
  const [red = 0, green = 0, blue = 0] = codebook.data.slice(code * 4, code * 4 + 3);
  return `rgb(${red} ${green} ${blue})`;
}
