// The handler's contract on the tutorial's stack: the other side of bench/handler.py.
//
// Routes, validation, delivery headers and log lines are those of handler/order_handler with every effect simulated. It
// keeps no dead letters, which no measured request needs: that is less to load, to its advantage.
'use strict';

const express = require('express');

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
  update_inventory: (order) => `Stock for ${order.orderId} updated (simulated)`,
  notify_warehouse: (order) => `Warehouse notified of ${order.orderId} (simulated)`,
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
