// What a person before the camera reads and hears, one sentence at a time. The page carries the sentences of its person's
// language (enrollment/languages); codes are those of quality.js, camera.js and the server's reasons.

/** The sentences in an element of JSON, by code. */
export function readSentences(element = document.getElementById("sentences")) {
  const sentences = JSON.parse(element?.textContent || "{}");
  return (code) => sentences[code] ?? "";
}
