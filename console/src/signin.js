// A manager that asks who calls: the token goes into a session that no script can read, and is forgotten here.

import { html } from "htm/preact";
import { useState } from "preact/hooks";
import { again } from "./fleet.js";
import { Dialog, Problem } from "./parts.js";
import { signedOut } from "./wire.js";

export function SignIn() {
  return signedOut.value && html`<${Ask} />`;
}

function Ask() {
  const [problem, setProblem] = useState("");
  const close = () => (signedOut.value = false); // until the next call is refused

  async function enter(event) {
    event.preventDefault();
    const token = new FormData(event.target).get("token").trim();
    const answer = await fetch("/session", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ token }) })
      .catch(() => null);
    if (!answer) return setProblem("the manager cannot be reached");
    if (!answer.ok) return setProblem((await answer.json().catch(() => ({}))).message || `the manager answered ${answer.status}`);
    close();
    again();
  }

  return html`<${Dialog} title="Who are you?" close=${close}>
    <form onSubmit=${enter}>
      <p>This manager asks for a token. <code>imctl token create NAME --role reader</code> makes one; with the role operator it may kill, too.</p>
      <label>Token <input name="token" type="password" required autocomplete="off" spellcheck=${false} autofocus /></label>
      ${problem && html`<${Problem}>${problem}</${Problem}>`}
      <div class="buttons"><button type="submit">Go on</button></div>
    </form>
  </${Dialog}>`;
}
