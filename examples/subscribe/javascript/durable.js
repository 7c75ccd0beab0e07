// Write every event down exactly once, whatever is killed: a durable consumer, with the NATS packages alone.
//
//   NATS_URL=$(flowctl server status --nats-url) node durable.js audit events.jsonl 'flowctl.journal.>'
//
// How it neither misses nor repeats an event, through its own restart and the server's:
//
// 1. The server remembers for the consumer `audit` what was acknowledged, and sends again what was not.
// 2. An event is acknowledged only when it is on disk, and the acknowledgement is itself confirmed ("double ack").
// 3. The stream sequence stands in the output, beside the event. Killed between writing and acknowledging, the event comes
//    again: then its sequence is not above the last one written, and it is only acknowledged.
// 4. max_ack_pending: 1 keeps the order: with more under way, newer events would overtake one that is sent again, and rule 3
//    would take that one for a repetition.
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, truncateSync, writeSync } from "node:fs";
import { jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connected, pause } from "./connected.js";

const STREAM = "FLOWCTL_JOURNAL";
const ACK_WAIT_MS = 2_000;
const [name, path, subject = "flowctl.journal.>"] = process.argv.slice(2);

// The output: one JSON object a line. A line that a crash cut off will come again.
const whole = existsSync(path) ? readFileSync(path) : Buffer.alloc(0);
const end = whole.lastIndexOf("\n") + 1;
if (end < whole.length) truncateSync(path, end);
let last = end ? JSON.parse(whole.subarray(0, end).toString().trimEnd().split("\n").at(-1)).seq : 0;
const file = openSync(path, "a");

function write(row) {
  writeSync(file, `${JSON.stringify(row)}\n`);
  fsyncSync(file);
  last = row.seq;
}

async function take(message) {
  const { headers } = message;
  if (message.seq > last) {
    write({ seq: message.seq, type: headers.get("ce-type"), id: headers.get("ce-id"), data: message.json() });
  }
  if (!(await message.ackAck())) throw new Error("the acknowledgement is not confirmed");
}

const client = await connected();
client.closed().then(() => closeSync(file));
for (;;) {
  try {
    const manager = await jetstreamManager(client);
    await manager.consumers.add(STREAM, {
      durable_name: name,
      filter_subject: subject,
      deliver_policy: "all",
      ack_policy: "explicit",
      ack_wait: ACK_WAIT_MS * 1e6,
      max_ack_pending: 1,
    }); // changes nothing if it is there
    const consumer = await jetstream(client).consumers.get(STREAM, name);
    for (;;) {
      const message = await consumer.next({ expires: 5_000 });
      if (message) await take(message);
    }
  } catch (error) {
    console.error(`${error.message}: going on after ${last}`); // the server is away: ask again
    await pause(200);
  }
}
