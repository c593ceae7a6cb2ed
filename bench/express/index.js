// The handler's contract on the tutorial's stack: the other side of bench/handler.py.
//
// Routes, validation, delivery headers and log lines are those of handler/order_handler. On PostgreSQL it runs the
// handler's statements in the handler's transactions, and with WAREHOUSE_URL it notifies a warehouse; else effects are
// simulated. It keeps no dead letters, which no measured request needs: that is less to load, to its advantage.
'use strict';

const { createHash, createHmac, randomUUID } = require('node:crypto');
const express = require('express');
const { Pool } = require('pg');

const DATABASE = process.env.DATABASE_URL;
const pool = DATABASE?.startsWith('postgresql:') && new Pool({ connectionString: DATABASE, max: Number(process.env.DATABASE_POOL) });
const NOW = 'extract(epoch from clock_timestamp())::float8';
const CLAIM = `INSERT INTO effects (order_id, action, token, claimed_until) VALUES ($1, $2, $3, ${NOW} + 30)
  ON CONFLICT (order_id, action) DO UPDATE SET token = excluded.token, claimed_until = excluded.claimed_until
  WHERE effects.done_at IS NULL AND effects.claimed_until <= ${NOW} RETURNING token`;
const RECORD = `INSERT INTO effects (order_id, action, token, claimed_until, done_at) VALUES ($1, $2, $3, ${NOW}, ${NOW})
  ON CONFLICT (order_id, action) DO UPDATE SET done_at = excluded.done_at WHERE effects.done_at IS NULL RETURNING token`;
const LINES = 'SELECT item, quantity FROM order_lines WHERE order_id = $1 ORDER BY item';
const TAKE = 'UPDATE stock SET quantity = quantity - $2 WHERE item = $1 AND quantity >= $2';
// prepared by its name, as the handler's driver does
const query = (client, text, values) => client.query({ name: text.slice(0, 30) + text.length, text, values });

const MAX_ATTEMPTS = Number(process.env.MAX_ATTEMPTS);
const PROJECT = process.env.GOOGLE_CLOUD_PROJECT;

const CLOUD_TRACE = /^([0-9a-fA-F]{32})(?![^/;])/;
const TRACE_PARENT = /^[0-9a-f]{2}-([0-9a-f]{32})-/;
const COUNT = /^[0-9]{1,10}$/;
const PRIVATE = /[^\s<>"'(),;]+@[^\s<>"'(),;]+/g;

const actions = {
  send_confirmation: (order) => {
    if (!order.customerEmail) throw new PermanentError('Missing customerEmail');
    return `Confirmation mail for ${order.orderId} sent (simulated)`;
  },
  update_inventory: async (order) => {
    if (!pool) return `Stock for ${order.orderId} updated (simulated)`;
    const client = await pool.connect();
    try {
      await client.query('BEGIN');
      if (!(await query(client, RECORD, [order.orderId, order.action, randomUUID()])).rowCount) throw new Error('Already processed');
      const lines = await query(client, LINES, [order.orderId]);
      for (const { item, quantity } of lines.rows) {
        if (!(await query(client, TAKE, [item, quantity])).rowCount) throw new PermanentError(`Too little stock of ${item}`);
      }
      await client.query('COMMIT');
    } catch (error) {
      await client.query('ROLLBACK');
      throw error;
    } finally {
      client.release();
    }
    return `Stock for ${order.orderId} updated`;
  },
  notify_warehouse: async (order) => {
    if (!pool || !process.env.WAREHOUSE_URL) return `Warehouse notified of ${order.orderId} (simulated)`;
    const token = randomUUID();
    if (!(await query(pool, CLAIM, [order.orderId, order.action, token])).rowCount) throw new Error('Another run is at it');
    const body = JSON.stringify({ orderId: order.orderId, action: order.action });
    const response = await fetch(process.env.WAREHOUSE_URL, {
      method: 'POST',
      body,
      headers: {
        'Content-Type': 'application/json',
        'Idempotency-Key': createHash('sha256').update(`${order.orderId}\0${order.action}`).digest('hex').slice(0, 32),
        'X-Signature': `sha256=${createHmac('sha256', process.env.WAREHOUSE_SECRET).update(body).digest('hex')}`,
      },
    });
    await response.arrayBuffer();
    if (!response.ok) throw new Error(`The warehouse answered ${response.status}`);
    await query(pool, RECORD, [order.orderId, order.action, token]);
    return `Warehouse notified of ${order.orderId}`;
  },
};

class PermanentError extends Error {}

const app = express();
// what the handler does not send either
app.disable('x-powered-by');
app.disable('etag');
app.use(express.json({ limit: '1mb', type: () => true }));

app.get('/', (request, response) => {
  response.type('text/plain').send('Task handler is running');
});

app.post('/process-order', async (request, response) => {
  const delivery = readDelivery(request);
  try {
    request.order = parse(request.body);
    const message = await processOrder(request.order);
    log('INFO', message, request, delivery, { status: 200 });
    response.json({ status: 'processed', orderId: request.order.orderId });
  } catch (error) {
    fail(error, request, response, delivery);
  }
});

app.use((request, response) => {
  const message = `Not found: ${request.method} ${request.path}`;
  log('WARNING', message, request, readDelivery(request), { status: 404 });
  response.status(404).json({ error: message });
});

app.use((error, request, response, next) => {
  const malformed = new PermanentError(`Malformed order: ${error.message}`);
  fail(malformed, request, response, readDelivery(request));
});

function parse(body) {
  const { orderId, action, customerEmail } = body ?? {};
  for (const value of [orderId ?? '', action ?? '', customerEmail ?? '']) {
    if (typeof value !== 'string') throw new PermanentError('Malformed order: expected text');
  }
  if (!orderId || !action) throw new PermanentError('Missing orderId or action');
  if (orderId.length > 500 || orderId.includes('\0')) {
    throw new PermanentError('orderId is over 500 characters or contains NUL: it cannot be a key');
  }
  return { orderId, action, customerEmail };
}

async function processOrder(order) {
  if (!Object.hasOwn(actions, order.action)) throw new PermanentError(`Unknown action: ${order.action}`);
  return actions[order.action](order);
}

function readDelivery(request) {
  const task = request.get('X-CloudTasks-TaskName');
  if (task === undefined) return null;
  const count = request.get('X-CloudTasks-TaskRetryCount') ?? '';
  const attempt = COUNT.test(count) ? Number(count) + 1 : null;
  return { task, queue: request.get('X-CloudTasks-QueueName'), attempt };
}

function fail(error, request, response, delivery) {
  const permanent = error instanceof PermanentError;
  const status = permanent && !delivery ? 400 : 500;
  log(permanent ? 'WARNING' : 'ERROR', error.message, request, delivery, { status });
  response.status(status).json({ error: permanent ? error.message : 'Internal error' });
}

function log(severity, message, request, delivery, fields) {
  const line = {
    severity,
    message: message.includes('@') ? message.replace(PRIVATE, '***@***') : message,
    time: new Date(),
    ...fields,
    'logging.googleapis.com/trace': trace(request),
  };
  if (delivery) {
    line.task = delivery.task;
    line.queue = delivery.queue;
    line.attempt = `${delivery.attempt ?? '?'} of ${MAX_ATTEMPTS}`;
  }
  if (request.order) {
    line.orderId = request.order.orderId;
    line.action = request.order.action;
  }
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

function trace(request) {
  if (!PROJECT) return undefined;
  const found =
    CLOUD_TRACE.exec(request.get('X-Cloud-Trace-Context') ?? '') ??
    TRACE_PARENT.exec(request.get('traceparent') ?? '');
  return found ? `projects/${PROJECT}/traces/${found[1].toLowerCase()}` : undefined;
}

const server = app.listen(Number(process.env.PORT), process.env.HOST);
server.keepAliveTimeout = 620_000;
process.on('SIGTERM', () => server.close(() => process.exit(0)));
