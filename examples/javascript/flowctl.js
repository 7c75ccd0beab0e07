// A flowctl processor in JavaScript, made of the .proto files alone: it registers, sends heartbeats, learns its neighbours, dials its
// upstreams, serves its downstreams, keeps what it sent until that is acknowledged, and acknowledges what is done. No part of flowctl is
// used. `runProcessor(transform)` is all that an author needs; processor.js shows it.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const PROTOCOL = 1;
const WINDOW = { events: 8192, bytes: 8 << 20 }; // what an upstream may have under way to us
const CHUNK_EVENTS = 256; // events in one batch to a downstream at most
const CHUNK_BYTES = 1 << 20;
const RETRY_MS = 200;
const CALL_MS = 5000;
const SUPERSEDED = 75;

const env = process.env;
const protos = env.FLOWCTL_PROTO_DIR ?? join(dirname(fileURLToPath(import.meta.url)), "../../proto");
const { control, data } = Object.fromEntries(
  ["control", "data"].map((name) => [
    name,
    // Positions and times are 64-bit numbers that no JavaScript number holds: they stay text.
    grpc.loadPackageDefinition(
      loadSync(`flowctl/${name}/v1/${name}.proto`, { includeDirs: [protos], keepCase: true, longs: String, enums: String, defaults: true, oneofs: true }),
    ).flowctl[name].v1,
  ]),
);
const me = {
  pipeline: env.FLOWCTL_PIPELINE,
  component: env.FLOWCTL_COMPONENT_ID,
  index: Number(env.FLOWCTL_INSTANCE_INDEX ?? 0),
  incarnation: env.FLOWCTL_INCARNATION ?? "1",
};
const insecure = grpc.credentials.createInsecure();
const options = { "grpc.max_receive_message_length": 5 << 20, "grpc.max_send_message_length": 5 << 20, "grpc.keepalive_time_ms": 5000 };
const log = (level, message) => console.error(JSON.stringify({ level, message, instance: `${me.pipeline}.${me.component}.${me.index}` }));
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const nameOf = (instance) => `${instance.component}.${instance.index}`;
const sizeOf = (event) =>
  Object.entries(event.metadata).reduce((size, [key, value]) => size + Buffer.byteLength(key) + Buffer.byteLength(value), event.payload.length);

// -- events: the columns of a batch as objects, and back ----------------------------------------------------------------------------

function eventsOf(batch) {
  const metadata = new Map(batch.metadata.map((entry) => [entry.event, entry.values]));
  // A column of names has one value for all, or an index per event.
  const column = (values, index) => (n) => values[index.length ? index[n] : 0] ?? "";
  const [origin, type, path] = ["origin", "type", "path"].map((name) => column(batch[`${name}s`], batch[`${name}_index`]));
  return batch.payloads.map((payload, n) => ({
    payload,
    time: batch.times[n] ?? "0",
    position: batch.positions[n] ?? "0",
    origin: origin(n),
    type: type(n),
    path: path(n),
    metadata: metadata.get(n) ?? {},
    json: () => JSON.parse(payload.toString()),
  }));
}

function batchOf(events, firstOffset) {
  const column = (name) => {
    const values = [...new Set(events.map((event) => event[name]))];
    return { [`${name}s`]: values, [`${name}_index`]: values.length > 1 ? events.map((event) => values.indexOf(event[name])) : [] };
  };
  return {
    first_offset: firstOffset,
    payloads: events.map((event) => event.payload),
    times: events.map((event) => event.time),
    positions: events.map((event) => event.position),
    ...column("origin"),
    ...column("type"),
    ...column("path"),
    metadata: events.flatMap((event, n) => (Object.keys(event.metadata).length ? [{ event: n, values: event.metadata }] : [])),
  };
}

// What the author returned for an event: nothing, a payload (bytes, text or JSON), or a list of payloads.
function derive(event, result) {
  const results = result == null ? [] : Array.isArray(result) ? result : [result];
  return results.map((value, ordinal) => {
    const payload = Buffer.isBuffer(value) ? value : Buffer.from(typeof value === "string" ? value : JSON.stringify(value));
    return { ...event, payload, path: `${event.path}/${me.component}.${ordinal}` };
  });
}

// -- downstream: one outbox per instance that receives from us -----------------------------------------------------------------------

class Outbox {
  constructor(key) {
    this.key = key;
    this.entries = []; // unacknowledged batches, oldest first: {events, first, last, size, source}
    this.sent = 0; // how many of them went out on the present stream
    this.next = 0; // the offset of the next event
    this.stream = null;
  }
  add(events, source) {
    this.entries.push({ events, first: this.next, last: this.next + events.length - 1, size: events.reduce((sum, event) => sum + sizeOf(event), 0), source });
    this.next += events.length;
    source.open += 1;
    this.flush();
  }
  attach(stream, credit) {
    this.stream?.end();
    Object.assign(this, { stream, sent: 0, ended: false, events: Number(credit.events), bytes: Number(credit.bytes) });
    stream.write({ welcome: { protocol: PROTOCOL, upstream: me, first_offset: this.entries[0]?.first ?? this.next } });
    this.flush();
  }
  flush() {
    while (this.stream && this.sent < this.entries.length) {
      const { events, first, size } = this.entries[this.sent];
      const alone = events.length === 1 && this.sent === 0;
      if (events.length > this.events || (size > this.bytes && !alone)) return;
      this.events -= events.length;
      this.bytes -= size;
      this.sent += 1;
      this.stream.write({ batch: batchOf(events, first) });
    }
    if (this.stream && !this.ended && inputsEnded()) {
      this.ended = true;
      this.stream.write({ end_of_stream: { next_offset: this.next } });
    }
  }
  acknowledge(upTo) {
    while (this.sent && this.entries[0].last <= upTo) {
      this.sent -= 1;
      settle(this.entries.shift().source);
    }
  }
}

const groups = new Map(); // component -> {outboxes: Map(name -> Outbox), turn}
const outboxes = () => [...groups.values()].flatMap((group) => [...group.outboxes.values()]);

function dispatch(events, source) {
  for (const group of groups.values()) {
    const boxes = [...group.outboxes.values()];
    for (let start = 0, end = 0, size = 0; start < events.length; start = end, size = 0) {
      do size += sizeOf(events[end++]);
      while (end < events.length && end - start < CHUNK_EVENTS && size + sizeOf(events[end]) <= CHUNK_BYTES);
      boxes[group.turn++ % boxes.length].add(events.slice(start, end), source);
    }
  }
}

function subscribe(stream) {
  let outbox;
  stream.on("data", ({ hello, ack, credit }) => {
    if (hello) {
      outbox = groups.get(hello.downstream.component)?.outboxes.get(nameOf(hello.downstream));
      const refusal =
        hello.protocol !== PROTOCOL || hello.downstream.pipeline !== me.pipeline || hello.upstream.component !== me.component || hello.upstream.index !== me.index
          ? [grpc.status.FAILED_PRECONDITION, `this is ${nameOf(me)} of ${me.pipeline}, protocol ${PROTOCOL}`]
          : !outbox && [grpc.status.UNAVAILABLE, `${nameOf(hello.downstream)} is not a downstream (yet)`];
      if (refusal) stream.emit("error", { code: refusal[0], details: refusal[1] });
      else outbox.attach(stream, hello.credit);
    } else if (outbox?.stream === stream && ack) {
      outbox.acknowledge(Number(ack.up_to));
    } else if (outbox?.stream === stream && credit) {
      outbox.events += Number(credit.events);
      outbox.bytes += Number(credit.bytes);
      outbox.flush();
    }
  });
  stream.on("error", () => {}); // the downstream has gone; "end" or "cancelled" follows
  const gone = () => {
    if (outbox?.stream === stream) outbox.stream = null;
    stream.end();
  };
  stream.on("end", gone);
  stream.on("cancelled", gone);
}

// -- upstream: one edge per instance that we receive from -----------------------------------------------------------------------------

// A received batch is done when every batch that came of it is acknowledged (`open` is 0), and acknowledged in the order of arrival.
function settle(source) {
  source.open -= 1;
  const { edge } = source;
  let done;
  while (edge.batches.length && edge.batches[0].open === 0) done = edge.batches.shift();
  if (done && done.sequence === edge.sequence) edge.acknowledge(done.last);
  onSettled();
}

class Edge {
  constructor(upstream) {
    Object.assign(this, { upstream, address: "", sequence: "", next: 0, acked: -1, batches: [], ended: false, completed: false, call: null });
  }
  move({ instance, address, completed }) {
    const moved = address !== this.address || instance.incarnation !== this.upstream.incarnation;
    Object.assign(this, { upstream: instance, address, completed });
    if (moved) this.call ? this.call.cancel() : this.dial();
  }
  dial() {
    if (!this.address || stopping) return;
    const client = new data.EventStream(this.address, insecure, options);
    const call = (this.call = client.Subscribe());
    this.received = []; // batches on this stream whose credit is not given back: [last offset, events, bytes]
    call.write({ hello: { protocol: PROTOCOL, downstream: me, upstream: this.upstream, credit: WINDOW } });
    call.on("data", ({ welcome, batch, end_of_stream }) => {
      if (welcome) this.resume(welcome);
      else if (batch && !stopping) this.take(batch);
      else if (end_of_stream) {
        this.ended = true;
        outboxes().forEach((outbox) => outbox.flush());
      }
    });
    call.on("error", ({ details }) => log("debug", `the stream to ${nameOf(this.upstream)} ended: ${details}`));
    call.on("close", () => {
      client.close();
      if (this.call !== call) return;
      this.call = null;
      if (edges.get(nameOf(this.upstream)) === this && !this.completed) setTimeout(() => this.call ?? this.dial(), RETRY_MS);
    });
  }
  resume({ upstream, epoch, first_offset }) {
    const sequence = `${upstream.incarnation}/${epoch}`;
    this.ended = false;
    if (sequence !== this.sequence || Number(first_offset) > this.next) {
      Object.assign(this, { sequence, next: Number(first_offset), acked: Number(first_offset) - 1 });
    } else if (this.acked >= Number(first_offset)) this.call.write({ ack: { up_to: this.acked } });
  }
  take(batch) {
    const events = eventsOf(batch);
    const first = Number(batch.first_offset);
    const last = first + events.length - 1;
    this.received.push([last, events.length, events.reduce((sum, event) => sum + sizeOf(event), 0)]);
    const skipped = Math.max(0, this.next - first); // received before the stream was cut
    if (skipped >= events.length) return last <= this.acked && this.regrant();
    this.next = last + 1;
    const source = { edge: this, sequence: this.sequence, last, open: 1 };
    this.batches.push(source);
    try {
      dispatch(events.slice(skipped).flatMap((event) => derive(event, transform(event))), source);
    } catch (error) {
      return depart("FAILED", `the processor raised: ${error.stack ?? error}`, 1);
    }
    settle(source);
  }
  acknowledge(upTo) {
    this.acked = upTo;
    this.call?.write({ ack: { up_to: upTo } });
    this.regrant();
  }
  regrant() {
    let [events, bytes] = [0, 0];
    while (this.received?.length && this.received[0][0] <= this.acked) {
      const [, count, size] = this.received.shift();
      events += count;
      bytes += size;
    }
    if (events) this.call?.write({ credit: { events, bytes } });
  }
}

const edges = new Map(); // name -> Edge
const inputsEnded = () => edges.size > 0 && [...edges.values()].every((edge) => edge.ended || edge.completed);
const idle = () => [...edges.values()].every((edge) => edge.batches.length === 0);

// -- the registry ---------------------------------------------------------------------------------------------------------------------

const endpoints = (env.FLOWCTL_ENDPOINT ?? "").split(",");
const registries = endpoints.map((endpoint) => new control.ComponentRegistry(endpoint, insecure, options));
let [current, registration, topology, stopping, leaving, transform] = [0, null, null, false, false, null];

async function call(method, request, lastTry = Infinity) {
  for (;;) {
    try {
      return await new Promise((resolve, reject) =>
        registries[current][method](request, { deadline: Date.now() + CALL_MS }, (error, answer) => (error ? reject(error) : resolve(answer))),
      );
    } catch (error) {
      if (error.code === grpc.status.FAILED_PRECONDITION) process.exit(SUPERSEDED);
      if (error.code === grpc.status.NOT_FOUND || Date.now() > lastTry) throw error;
      current = (current + 1) % registries.length; // the registry being away stops nothing: try the next, again and again
      await pause(RETRY_MS);
    }
  }
}

async function beat(intervalMs) {
  while (!leaving) {
    await pause(intervalMs);
    try {
      const answer = await call("Heartbeat", { instance: me });
      intervalMs = answer.heartbeat_interval_ms || intervalMs;
    } catch {
      await call("RegisterComponent", registration); // the registry does not know us (any more)
    }
  }
}

function watch() {
  const stream = registries[current].WatchTopology({ instance: me });
  stream.on("data", (news) => {
    topology = news;
    for (const upstream of news.upstreams) {
      const name = nameOf(upstream.instance);
      if (!edges.has(name)) edges.set(name, new Edge(upstream.instance));
      edges.get(name).move(upstream);
    }
    for (const { component, instances, partition_by } of news.downstreams) {
      if (partition_by) return depart("FAILED", `this example does not partition, and ${component} asks for ${partition_by}`, 1);
      if (!groups.has(component)) groups.set(component, { outboxes: new Map(), turn: 0 });
      const boxes = groups.get(component).outboxes;
      const names = instances.map(nameOf);
      for (const name of names) if (!boxes.has(name)) boxes.set(name, new Outbox(name));
      for (const [name, box] of boxes) {
        if (names.includes(name)) continue;
        boxes.delete(name); // scaled down: what it had not acknowledged goes to those that stay
        box.stream?.end();
        for (const { events, source } of box.entries) {
          boxes.values().next().value.add(events, source);
          settle(source);
        }
      }
    }
    onSettled();
  });
  stream.on("error", ({ code }) => {
    if (code === grpc.status.FAILED_PRECONDITION) process.exit(SUPERSEDED);
    if (!leaving) setTimeout(watch, RETRY_MS);
  });
  stream.on("end", () => {});
}

// Ends the program when there is nothing left to do: every upstream has completed, or we were asked to stop, and all is acknowledged.
function onSettled() {
  if (leaving || !topology || !idle()) return;
  if (stopping) depart("STOPPED", "", 0);
  else if (topology.upstreams.length && topology.upstreams.every((upstream) => upstream.completed)) depart("COMPLETED", "", 0);
}

async function depart(reason, detail, code) {
  if (leaving) return;
  leaving = true;
  if (detail) log("error", detail);
  // What is completed must be known, whatever it takes; the rest is a courtesy.
  const lastTry = reason === "COMPLETED" ? Infinity : Date.now() + CALL_MS;
  await call("Deregister", { instance: me, reason: `DEREGISTER_REASON_${reason}`, detail }, lastTry).catch(() => {});
  process.exit(code);
}

function serveHealth() {
  const server = createServer((request, response) => {
    response.writeHead(request.url === "/health" ? 200 : 404, { "content-type": "application/json" });
    response.end(JSON.stringify({ status: "healthy", component: nameOf(me) }));
  });
  const [host, port] = split(env.FLOWCTL_HEALTH_LISTEN ?? "127.0.0.1:0");
  return new Promise((resolve) => server.listen(port, host, () => resolve(server.address().port)));
}

const split = (address) => [address.slice(0, address.lastIndexOf(":")).replace(/[[\]]/g, ""), Number(address.slice(address.lastIndexOf(":") + 1))];

/** The component's `config` of the pipeline file. */
export const config = env.FLOWCTL_CONFIG_FILE ? JSON.parse(readFileSync(env.FLOWCTL_CONFIG_FILE, "utf8")) : {};

/** Run `process(event)` on every event until all inputs have completed or SIGTERM comes. It returns null, a payload, or a list of payloads. */
export async function runProcessor(process_, { name = me.component, description = "" } = {}) {
  transform = process_;
  const server = new grpc.Server(options);
  server.addService(data.EventStream.service, { Subscribe: subscribe });
  const listen = env.FLOWCTL_LISTEN ?? "127.0.0.1:0";
  const port = await new Promise((resolve, reject) =>
    server.bindAsync(listen, grpc.ServerCredentials.createInsecure(), (error, bound) => (error ? reject(error) : resolve(bound))),
  );
  const host = env.FLOWCTL_ADVERTISE_HOST || split(listen)[0];
  const healthPort = await serveHealth();
  registration = {
    instance: me,
    kind: "KIND_PROCESSOR",
    address: `${host}:${port}`,
    health_endpoint: `${host}:${healthPort}`,
    metadata: { name, description, version: "1.0.0" },
    boot_id: randomUUID(),
  };
  for (const signal of ["SIGTERM", "SIGINT"]) {
    process.on(signal, () => {
      stopping = true;
      setTimeout(() => depart("STOPPED", "", 0), 1000 * Number(env.FLOWCTL_STOP_TIMEOUT_S ?? 30)).unref();
      onSettled();
    });
  }
  const answer = await call("RegisterComponent", registration);
  log("info", `registered at ${endpoints[current]}, serving on ${host}:${port}`);
  beat(answer.heartbeat_interval_ms || 10_000);
  watch();
}
