// Hear of events as they happen: a plain NATS subscription, with the NATS packages alone.
//
//   NATS_URL=$(flowctl server status --nats-url) node plain.js 'flowctl.journal.component.*.*.*.exited'
//
// Nobody remembers what was published while this program did not run; durable.js does not miss anything.
import { connected } from "./connected.js";

const subject = process.argv[2] ?? "flowctl.journal.component.*.*.*.exited";
const client = await connected();
const subscription = client.subscribe(subject);
await client.flush();
console.error("listening");
for await (const message of subscription) {
  const { headers } = message;
  console.log(JSON.stringify({ type: headers.get("ce-type"), of: headers.get("ce-subject"), data: message.json() }));
}
