// fetch, as every browser and Node has it: node fetch.mjs HOST:PORT
const url = `http://${process.argv[2]}`;

async function json(path, body) {
  const answer = await fetch(url + path, body && { method: "POST", body: JSON.stringify(body) });
  return [answer.status, await answer.json()];
}

async function binary() {
  const values = new Int32Array([1, 2, 3, 4]);
  const raw = new Uint8Array(values.buffer);
  const described = (name) => ({ name, shape: [1, 4], datatype: "INT32", parameters: { binary_data_size: raw.length } });
  const head = new TextEncoder().encode(
    JSON.stringify({ inputs: [described("INPUT0"), described("INPUT1")], parameters: { binary_data_output: true } }),
  );
  const answer = await fetch(`${url}/v2/models/addsub/infer`, {
    method: "POST",
    headers: { "Inference-Header-Content-Length": String(head.length) },
    body: new Blob([head, raw, raw]),
  });
  const length = Number(answer.headers.get("Inference-Header-Content-Length"));
  const body = await answer.arrayBuffer();
  return [...new Int32Array(body.slice(length))];
}

async function events() {
  const answer = await fetch(`${url}/v2/models/counter/generate_stream`, {
    method: "POST",
    body: JSON.stringify({ COUNT: 3 }),
  });
  const text = await answer.text();
  const told = text.split("\n\n").filter((event) => event.startsWith("data: "));
  return [answer.headers.get("content-type"), told.map((event) => JSON.parse(event.slice(6)).NUMBER)];
}

const tensors = ["INPUT0", "INPUT1"].map((name) => ({ name, shape: [1, 4], datatype: "INT32", data: [1, 2, 3, 4] }));
const scenarios = {
  infer: () => json("/v2/models/addsub/infer", { inputs: tensors }),
  predict: () => json("/v1/models/half_plus_two:predict", { instances: [2.0, 3.0] }),
  refused: () => json("/v2/models/no/infer", { inputs: tensors }),
  binary,
  events,
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
