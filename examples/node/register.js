// Registers an instance, looks at it, kills it: node register.js [ADDRESS]
import { randomUUID } from "node:crypto";
import { connect } from "./manager.js";

const manager = connect();
const instance_id = randomUUID();
const service = { service_type: "CHROME_DEBUG_PORT", host: "127.0.0.1", port: 9222 };

const added = await manager.try.TryAddInstance({ instance_id, instance_type: "CHROME_BROWSER", hostname: "host-1" });
console.log("added", added);
console.log("offers", await manager.try.TryAddService({ instance_id, service }));
console.log("check", await manager.try.TryHealthCheck({ instance_id }));
console.log("found", await manager.get.GetInstance({ instance_id }));
console.log("killed", await manager.try.TryKillInstance({ instance_id, note: "the example is over" }));
console.log("check", await manager.try.TryHealthCheck({ instance_id })); // false: the process must terminate
await manager.get.GetInstance({ instance_id }).catch((error) => console.log("gone", error.details));
for (const each of Object.values(manager)) each.close();
