// Nobody is registered yet: how the first one is.

import { html } from "htm/preact";
import { Copy } from "./parts.js";
import { told } from "./wire.js";

export function Empty() {
  const host = location.hostname.includes(":") ? location.hostname : location.hostname;
  const address = `${host}:${told.grpc_port}`;
  const option = told.grpc_port === 50052 && ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname) ? "" : `--address ${address} `;
  const commands = [
    ["Make any command an instance, alive for as long as it runs:", `imctl run ${option}--type BROWSER_BACKEND -- sleep 1000`],
    ["A browser, which others can find:",
      `imctl run ${option}--type CHROME_BROWSER --service CHROME_DEBUG_PORT=9222 -- chromium --headless --remote-debugging-port=9222 about:blank`],
    ["Or from anything that speaks HTTP; it dies unless its health checks follow:",
      `curl ${location.origin}/instance_manager.TryService/TryAddInstance -H 'content-type: application/json' -H 'proto_version: ${told.proto_version}' -d "{\\"instance_id\\": \\"$(cat /proc/sys/kernel/random/uuid)\\", \\"instance_type\\": \\"CHROME_BROWSER\\"}"`],
  ];
  return html`<section class="empty" aria-labelledby="empty-title">
    <h2 id="empty-title">Nobody is registered yet</h2>
    <p>Only managers are here. Register a first instance, and it appears below as you do:</p>
    <ol>${commands.map(([what, command]) => html`<li><p>${what}</p><div class="command"><pre tabindex="0">${command}</pre><${Copy} text=${command} what="the command" /></div></li>`)}</ol>
  </section>`;
}
