// A connection that finds its way back. NATS_URL may carry the credential: nats://user:password@host:port
import { connect } from "@nats-io/transport-node";

export function connected() {
  const url = new URL(process.env.NATS_URL ?? "nats://127.0.0.1:4222");
  return connect({
    servers: url.host,
    ...(url.username && { user: decodeURIComponent(url.username), pass: decodeURIComponent(url.password) }),
    maxReconnectAttempts: -1,
    reconnectTimeWait: 200,
    pingInterval: 5_000,
  });
}

export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
