// The least of LiteRT (Google's TensorFlow Lite, as WebAssembly) that three small networks need. It wants
// 'wasm-unsafe-eval' from the policy of the page or worker, and nothing else: no eval, no other origin, no threads.
//
// The package's loader is a script from before modules; it hands its factory to `module.exports` where that exists.

const LOADER = "litert_wasm_compat_internal.js"; // plain SIMD: what every browser of the last years runs

let runtime = null;

/** Load the runtime once from `folder`, an absolute address that ends with a slash. */
export function loadRuntime(folder) {
  runtime ??= load(folder).catch((error) => {
    runtime = null;
    throw error;
  });
  return runtime;
}

async function load(folder) {
  const before = [globalThis.exports, globalThis.module];
  globalThis.exports = {};
  globalThis.module = { exports: {} };
  let factory;
  try {
    await import(`${folder}${LOADER}`);
    factory = globalThis.module.exports;
  } finally {
    [globalThis.exports, globalThis.module] = before;
  }
  const wasm = await factory({
    locateFile: (file) => `${folder}${file}`,
    print: () => {},
    printErr: () => {}, // it tells of every delegate it tries
  });
  return { wasm, environment: wasm.LiteRtEnvironment.create(null) };
}

/** One network with one input. Not for two runs at once. */
export class Network {
  #wasm;
  #compiled;
  #input;
  #inputLength;

  /** bytes: Uint8Array of a .tflite file. */
  static async load(folder, bytes) {
    const { wasm, environment } = await loadRuntime(folder);
    const pointer = wasm._malloc(bytes.byteLength); // belongs to the network for as long as it lives
    wasm.HEAPU8.set(bytes, pointer);
    const model = wasm.loadModel(environment, pointer, bytes.byteLength);
    const compiled = await wasm.compileModel(environment, model, {
      environment,
      accelerator: "wasm",
      cpuOptions: { numThreads: 1 },
      gpuOptions: {},
      webNNOptions: {},
    });
    const type = model.getInputTensorType(0, 0);
    const input = wasm.LiteRtTensorBuffer.createManaged(
      environment,
      wasm.LiteRtTensorBufferType.HOST_MEMORY,
      type,
      type.bytes(),
    );
    return new Network(wasm, compiled, input, type.bytes() / 4);
  }

  constructor(wasm, compiled, input, inputLength) {
    this.#wasm = wasm;
    this.#compiled = compiled;
    this.#input = input;
    this.#inputLength = inputLength;
  }

  /** values: Float32Array in the network's own order (row, column, colour). Returns its outputs, smallest first. */
  async run(values) {
    if (values.length !== this.#inputLength) throw new Error(`this network takes ${this.#inputLength} numbers`);
    this.#write(values);
    const buffers = await this.#compiled.run(0, [this.#input]);
    const outputs = buffers.map((buffer) => this.#read(buffer));
    this.#overwrite();
    return outputs.sort((first, second) => first.length - second.length);
  }

  #write(values) {
    const pointer = this.#input.lock(this.#wasm.LiteRtTensorBufferLockMode.WRITE);
    this.#wasm.HEAPU8.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), pointer);
    this.#input.unlock();
  }

  /** The input is a picture: it is not kept between frames. */
  #overwrite() {
    const pointer = this.#input.lock(this.#wasm.LiteRtTensorBufferLockMode.WRITE);
    this.#wasm.HEAPU8.fill(0, pointer, pointer + this.#inputLength * 4);
    this.#input.unlock();
  }

  #read(buffer) {
    const pointer = buffer.lock(this.#wasm.LiteRtTensorBufferLockMode.READ);
    const copy = this.#wasm.HEAPU8.slice(pointer, pointer + buffer.packedSize());
    buffer.unlock();
    buffer.delete();
    return new Float32Array(copy.buffer);
  }
}
