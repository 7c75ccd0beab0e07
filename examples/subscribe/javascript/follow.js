// Know how everything is, then hear of every change: a snapshot, and what follows it without a gap, with the NATS packages alone.
//
//   NATS_URL=$(flowctl server status --nats-url) node follow.js 'flowctl.journal.component.*.*.*.status_changed'
//
// The journal itself is the snapshot: the last entry of each subject says how that thing is now. One consumer delivers these in
// the order of their stream sequences and goes straight on with what is new, so nothing falls between the two. It lives only as
// long as somebody asks it; when it is gone, or skipped something, another one begins after the last sequence that was seen.
import { jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connected, pause } from "./connected.js";

const STREAM = "FLOWCTL_JOURNAL";
const subject = process.argv[2] ?? "flowctl.journal.component.*.*.*.status_changed";
const client = await connected();
const say = (row) => console.log(JSON.stringify(row));
let after; // the last stream sequence that was seen
let phase = "snapshot";
let known = 0;

function complete() {
  if (phase === "snapshot") say({ phase: "complete", seq: after ?? 0, subjects: known });
  phase = "change";
}

for (;;) {
  try {
    const manager = await jetstreamManager(client);
    const info = await manager.consumers.add(STREAM, {
      filter_subject: subject,
      ack_policy: "none",
      mem_storage: true,
      inactive_threshold: 60e9,
      ...(after === undefined
        ? { deliver_policy: "last_per_subject" }
        : { deliver_policy: "by_start_sequence", opt_start_seq: after + 1 }),
    });
    if (info.num_pending === 0) complete();
    const consumer = await jetstream(client).consumers.get(STREAM, info.name);
    let delivered = 0;
    for (;;) {
      const messages = await consumer.fetch({ max_messages: 500, expires: 1_000 });
      let lost = false;
      for await (const message of messages) {
        delivered += 1;
        lost ||= message.info.deliverySequence !== delivered;
        if (lost) continue;
        after = message.seq;
        known += 1;
        say({ phase, seq: after, subject: message.subject, data: message.json() });
        if (message.info.pending === 0) complete();
      }
      if (lost) throw new Error("a message was lost on the way");
      await consumer.info(); // fails if it is gone
    }
  } catch (error) {
    console.error(`${error.message}: going on after ${after}`);
    await pause(200);
  }
}
