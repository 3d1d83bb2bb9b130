// The Instance Manager for Node: every service of the proto files, as promises, with the proto_version on every call.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const proto = fileURLToPath(new URL("../../proto/", import.meta.url));
const version = readFileSync(`${proto}proto_version`, "utf8").trim();
// names as in the contract, and 64-bit numbers as text: a double would round them
const reading = { includeDirs: [proto], keepCase: true, longs: String, enums: String, defaults: true };
const load = (file) => grpc.loadPackageDefinition(loader.loadSync(file, reading));
const { instance_manager } = load(["instance_manager.proto", "fleet.proto"]);
const { stats_service } = load("stats_service.proto");

// One client a service; `address` is host:port.
export function connect(address = process.argv[2] ?? "[::1]:50052") {
  const open = (Service) => promised(new Service(address, grpc.credentials.createInsecure()));
  return {
    try: open(instance_manager.TryService),
    get: open(instance_manager.GetService),
    post: open(instance_manager.PostService),
    fleet: open(instance_manager.FleetService),
    stats: open(stats_service.StatsService),
  };
}

// service.Method(request) resolves to the answer, or rejects with the error's code, details and metadata.
function promised(service) {
  const call = (method) => (request) =>
    new Promise((resolve, reject) => {
      const metadata = new grpc.Metadata();
      metadata.set("proto_version", version);
      const options = { deadline: Date.now() + 10_000 };
      service[method](request, metadata, options, (error, answer) => (error ? reject(error) : resolve(answer)));
    });
  return new Proxy({}, { get: (_, method) => (method === "close" ? () => service.close() : call(method)) });
}
