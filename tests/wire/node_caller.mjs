// Calls from Node, by the proto files alone: reads [{file, method, request, version}] and writes what became of each.
// Arguments: the server's address, the folder of the proto files, the folder with google/rpc.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import protobuf from "protobufjs";

const [address, proto, google] = process.argv.slice(2);
const reading = { includeDirs: [proto], keepCase: true, longs: String, enums: String, defaults: true };

const root = new protobuf.Root();
root.resolvePath = (_, target) => (protobuf.common.get(target) ? target : join(google, target));
await root.load(["google/rpc/status.proto", "google/rpc/error_details.proto"], { keepCase: true });

function details(error) {
  const [packed] = error.metadata.get("grpc-status-details-bin");
  if (!packed) return [];
  return root.lookupType("google.rpc.Status").decode(packed).details.map(({ type_url, value }) => {
    const name = type_url.split("/").pop();
    const kind = root.lookupType(name);
    return { name, ...kind.toObject(kind.decode(value)) };
  });
}

function call({ file, method, request, version }) {
  const [service, name] = method.split("/");
  const [scope, type] = service.split(".");
  const Client = grpc.loadPackageDefinition(loader.loadSync(file, reading))[scope][type];
  const client = new Client(address, grpc.credentials.createInsecure());
  const metadata = new grpc.Metadata();
  if (version) metadata.set("proto_version", version);
  return new Promise((resolve) => {
    client[name](request, metadata, { deadline: Date.now() + 10_000 }, (error, answer) => {
      client.close();
      resolve(error ? { code: error.code, message: error.details, details: details(error) } : { answer });
    });
  });
}

const outcomes = [];
for (const each of JSON.parse(readFileSync(0, "utf8"))) outcomes.push(await call(each));
console.log(JSON.stringify(outcomes));
