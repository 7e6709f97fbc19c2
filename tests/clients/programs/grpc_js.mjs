// @grpc/grpc-js with the .proto file of this repository: node grpc_js.mjs HOST:PORT PROTO MODULES
import { createRequire } from "node:module";

const [target, proto, modules] = process.argv.slice(2);
const load = createRequire(`${modules}/`);
const grpc = load("@grpc/grpc-js");
const definition = load("@grpc/proto-loader").loadSync(proto, { keepCase: true, longs: Number, defaults: true });
const { inference } = grpc.loadPackageDefinition(definition);
const client = new inference.GRPCInferenceService(target, grpc.credentials.createInsecure());

const raw = Buffer.from(new Int32Array([1, 2, 3, 4]).buffer);
const request = {
  model_name: "addsub",
  inputs: ["INPUT0", "INPUT1"].map((name) => ({ name, datatype: "INT32", shape: [1, 4] })),
  raw_input_contents: [raw, raw],
};
const counting = (number) => ({
  model_name: "counter",
  inputs: [{ name: "COUNT", datatype: "INT32", shape: [1], contents: { int_contents: [number] } }],
});

function called(method, message) {
  const deadline = Date.now() + 20_000;
  return new Promise((resolve, reject) =>
    client[method](message, { deadline }, (error, answer) => (error ? reject(error) : resolve(answer))),
  );
}

async function infer() {
  const answer = await called("ModelInfer", request);
  return answer.raw_output_contents.map((part) => [...new Int32Array(new Uint8Array(part).buffer)]);
}

async function refused() {
  const error = await called("ModelInfer", { ...request, model_name: "no" }).then(() => null, (error) => error);
  return [error.code, error.details];
}

function stream() {
  return new Promise((resolve, reject) => {
    const numbers = [];
    const call = client.ModelStreamInfer();
    call.on("data", (answer) => numbers.push(answer.infer_response.raw_output_contents[0].readInt32LE()));
    call.on("error", reject);
    call.on("end", () => resolve(numbers));
    call.write(counting(3));
    call.end();
  });
}

const scenarios = {
  ready: async () => (await called("ModelReady", { name: "addsub" })).ready,
  metadata: async () => (await called("ModelMetadata", { name: "addsub" })).inputs[0].shape,
  infer,
  refused,
  stream,
};
const seen = {};
for (const [name, scenario] of Object.entries(scenarios)) {
  try {
    seen[name] = { saw: await scenario() };
  } catch (error) {
    seen[name] = { raised: error.stack };
  }
}
console.log(JSON.stringify(seen));
client.close();
