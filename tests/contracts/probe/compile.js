// Rebuilds probe.json from Probe.sol: node compile.js (needs the npm package solc 0.8.37).
const fs = require("fs"), path = require("path"), solc = require("solc");
const source = fs.readFileSync(path.join(__dirname, "Probe.sol"), "utf8");
const input = {
  language: "Solidity",
  sources: { "Probe.sol": { content: source } },
  settings: {
    evmVersion: "cancun",
    optimizer: { enabled: true, runs: 200 },
    metadata: { bytecodeHash: "none", appendCBOR: false },
    outputSelection: { "*": { Probe: ["abi", "evm.bytecode.object"] } },
  },
};
const output = JSON.parse(solc.compile(JSON.stringify(input)));
for (const error of output.errors || []) console.error(error.formattedMessage);
const probe = output.contracts["Probe.sol"].Probe;
const artifact = { abi: probe.abi, bytecode: "0x" + probe.evm.bytecode.object };
fs.writeFileSync(path.join(__dirname, "probe.json"), JSON.stringify(artifact, null, 1) + "\n");
