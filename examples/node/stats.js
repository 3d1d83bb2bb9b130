// Uploads the memory of a host, and reads it back: node stats.js [ADDRESS]
import { connect } from "./manager.js";

const { stats } = connect();
const memory = { used_memory_bytes: 1000, total_memory_bytes: 2000, timestamp_ms: Date.now() };
console.log("RESPONSE", await stats.UploadStats({ hostname: "testing", stats: memory }));
console.log("RESPONSE", await stats.GetStats({ hostname: "testing" }));
stats.close();
